package state

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"bennu.example/internal/ratelimit"
)

// Limits are the bounds of an object. Zero means the default of each field.
type Limits struct {
	Value int // bytes of a value; zero means 64 KiB
	Batch int // ops of a batch; zero means 100. Together their keys and values have at most 256 KiB
	Items int // items of an object; zero means 100,000
	Bytes int // bytes of the keys and values of an object; zero means 16 MiB
	// Changes is how many revisions back a client can continue, and how many deletions of an object
	// are remembered. Zero means 1,000.
	Changes int
	// Rows is how many items a client may receive by a query or by Config.Visible; zero means 10,000.
	// Window is how many it may request by "first" or "last"; zero means 1,000.
	Rows, Window int
	// Rate is how many writes one channel may make in a second, and ObjectRate how many all
	// channels of an object on this node may make. A write counts as 1, and 1 for every 4 KiB of
	// its values. Twice as many may come at once. Zero means no limit.
	Rate, ObjectRate float64
}

const (
	defaultValue   = 64 << 10
	defaultItems   = 100_000
	defaultBytes   = 16 << 20
	defaultBatch   = 100
	defaultChanges = 1000
	defaultRows    = 10_000
	defaultWindow  = 1000

	maxKey        = 256       // bytes of a key
	maxPath       = 1024      // bytes of a key that is a path of several segments
	maxSegments   = 32        // of a path
	maxSegment    = 128       // bytes of a segment of such a path
	maxBatchBytes = 256 << 10 // bytes of all keys and values of a batch
	maxID         = 256       // bytes of Tx.ID
	maxRev        = 1<<53 - 1
)

// WithDefaults returns l with the defaults in place of zeros. It is for implementations of Store.
func (l Limits) WithDefaults() Limits {
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&l.Value, defaultValue)
	or(&l.Items, defaultItems)
	or(&l.Bytes, defaultBytes)
	or(&l.Batch, defaultBatch)
	or(&l.Changes, defaultChanges)
	or(&l.Rows, defaultRows)
	or(&l.Window, defaultWindow)
	return l
}

// Check returns an error if ops and tx cannot be applied to any object. It is for implementations
// of Store. The error is ErrInvalid for two ops on one key, a key that is not UTF-8 or has control
// characters, a value that is not JSON, a TTL that is negative or that belongs to a deletion, and a
// From or an Under that does not fit the rest. It wraps ErrTooLarge for a key of more than 256
// bytes, and for a value or a batch that exceeds tx.Limits.
//
// The byte 0x01 in a key separates the segments of a path, which may have 1 KiB, 32 segments, and
// 128 bytes in each. An op on a key at or below that of an op with Under must be a put without Own
// that comes after it.
func Check(ops []Op, tx Tx) error {
	l := tx.Limits.WithDefaults()
	if len(ops) > l.Batch {
		return &LimitError{Err: ErrTooLarge, What: "batch", Max: l.Batch}
	}
	if len(tx.ID) > maxID || tx.TTL < 0 {
		return invalid("write")
	}
	switch tx.Create {
	case "", ModeOpen, ModeExisting, ModeNew:
	default:
		return invalid("mode")
	}
	size := 0
	for i := range ops {
		if err := checkOp(&ops[i], l); err != nil {
			return err
		}
		if size += len(ops[i].Key) + len(ops[i].Value); size > maxBatchBytes && len(ops) > 1 {
			return &LimitError{Err: ErrTooLarge, What: "batch", Max: maxBatchBytes}
		}
	}
	if hasTwins(ops) || !areNested(ops) {
		return invalid("key")
	}
	return nil
}

func checkOp(op *Op, l Limits) error {
	if err := checkKey(op.Key); err != nil {
		return err
	}
	if op.From != "" {
		if err := checkKey(op.From); err != nil {
			return err
		}
		if op.Delete || op.Under {
			return invalid("from")
		}
	}
	isPut := !op.Delete && op.From == ""
	switch {
	case len(op.Value) > l.Value:
		return &LimitError{Err: ErrTooLarge, What: "value", Max: l.Value}
	case !isPut && op.Value != nil || isPut && !isJSON(op.Value):
		return invalid("value")
	case op.TTL != nil && (op.Delete || *op.TTL < 0):
		return invalid("ttl")
	}
	return nil
}

// checkKey checks a key as stores have it.
func checkKey(key string) error {
	if strings.Contains(key, separator) {
		return checkPath(key)
	}
	switch {
	case len(key) > maxKey:
		return &LimitError{Err: ErrTooLarge, What: "key", Max: maxKey}
	case !isKey(key):
		return invalid("key")
	}
	return nil
}

// checkPath checks a path whose segments are separated as in stores.
func checkPath(path string) error {
	if len(path) > maxPath {
		return &LimitError{Err: ErrTooLarge, What: "path", Max: maxPath}
	}
	n := 0
	for segment := range strings.SplitSeq(path, separator) {
		switch n++; {
		case n > maxSegments:
			return &LimitError{Err: ErrTooLarge, What: "segments", Max: maxSegments}
		case len(segment) > maxSegment:
			return &LimitError{Err: ErrTooLarge, What: "segment", Max: maxSegment}
		case segment == "" || !isKey(segment):
			return invalid("key")
		}
	}
	return nil
}

func isJSON(value []byte) bool { return utf8.Valid(value) && json.Valid(value) }

// isKey reports whether a key is UTF-8 without control characters. The key of a document is empty.
func isKey(key string) bool {
	for i := range len(key) {
		if key[i] < ' ' || key[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(key)
}

// hasTwins reports whether two ops have the same key. A move has two keys.
func hasTwins(ops []Op) bool {
	if len(ops) <= 8 {
		for i := range ops {
			op := &ops[i]
			if op.From == op.Key && op.From != "" {
				return true
			}
			for j := range i {
				if op.Key == ops[j].Key || op.From != "" && (op.From == ops[j].From || op.From == ops[j].Key) ||
					op.Key != "" && op.Key == ops[j].From {
					return true
				}
			}
		}
		return false
	}
	seen, n := make(map[string]struct{}, len(ops)), len(ops)
	for i := range ops {
		seen[ops[i].Key] = struct{}{}
		if ops[i].From != "" {
			seen[ops[i].From] = struct{}{}
			n++
		}
	}
	return len(seen) < n
}

// areNested reports whether each op on a key below that of an op with Under may be there.
func areNested(ops []Op) bool {
	for i := range ops {
		if !ops[i].Under {
			continue
		}
		sub := Subtree(ops[i].Key)
		for j := range ops {
			if op := &ops[j]; j != i && (sub.Has(op.Key) && (j < i || op.Delete || op.Own || op.From != "") ||
				op.From != "" && sub.Has(op.From)) {
				return false
			}
		}
	}
	return true
}

// costSize is how many bytes of values cost as much as one more write.
const costSize = 4 << 10

// take takes what a write costs from a bucket, or returns an error that says how long to wait.
func take(b *ratelimit.Bucket, perSecond, cost float64) error {
	after := b.TakeCost(perSecond, cost)
	if after == 0 {
		return nil
	}
	return &LimitError{Err: ErrQuota, What: "rate", Max: max(int(perSecond), 1), After: after}
}
