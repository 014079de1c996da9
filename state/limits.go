package state

import (
	"encoding/json"
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

	maxKey        = 256       // bytes of a key
	maxBatchBytes = 256 << 10 // bytes of all keys and values of a batch
	maxID         = 256       // bytes of Tx.ID
	maxRev        = 1<<53 - 1
)

func (l Limits) filled() Limits {
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
	return l
}

// Check returns an error if ops and tx cannot be applied to any object. It is for implementations
// of Store. The error is ErrInvalid for two ops on one key, a key that is longer than 256 bytes, is
// not UTF-8 or has control characters, a value that is not JSON, and for a TTL that is negative or
// that belongs to a deletion. It wraps ErrTooLarge for a value or a batch that exceeds tx.Limits.
func Check(ops []Op, tx Tx) error {
	l := tx.Limits.filled()
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
	if hasTwins(ops) {
		return invalid("key")
	}
	return nil
}

func checkOp(op *Op, l Limits) error {
	switch {
	case len(op.Key) > maxKey:
		return &LimitError{Err: ErrTooLarge, What: "key", Max: maxKey}
	case !isKey(op.Key):
		return invalid("key")
	case len(op.Value) > l.Value:
		return &LimitError{Err: ErrTooLarge, What: "value", Max: l.Value}
	case op.Delete && op.Value != nil || !op.Delete && !isJSON(op.Value):
		return invalid("value")
	case op.TTL != nil && (op.Delete || *op.TTL < 0):
		return invalid("ttl")
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

// hasTwins reports whether two ops have the same key.
func hasTwins(ops []Op) bool {
	if len(ops) <= 8 {
		for i := range ops {
			for j := range i {
				if ops[i].Key == ops[j].Key {
					return true
				}
			}
		}
		return false
	}
	seen := make(map[string]struct{}, len(ops))
	for i := range ops {
		seen[ops[i].Key] = struct{}{}
	}
	return len(seen) < len(ops)
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
