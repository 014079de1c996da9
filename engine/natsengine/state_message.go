package natsengine

import (
	"math"
	"time"

	"bennu.example/engine/internal/fields"
	"bennu.example/history"
	"bennu.example/state"
)

// The kinds of messages in the log of an object.
const (
	kindChange byte = iota + 1
	// kindGone is stored in place of everything that the log had before, when the object is removed.
	kindGone
)

// logVersion is the first byte of a message in the log of an object.
const logVersion = 1

// entry is a message in the log of an object: a write, or the end of the object. It follows the
// entry whose revision it names. A write that follows revision zero creates the object.
type entry struct {
	seq  uint64 // of the stream
	size int    // of the message

	kind     byte
	nonce    uint64 // differs for all messages, so that a writer finds its own
	at       time.Time
	epoch    string
	prev     uint64 // the revision of the object before
	prevTag  string
	tags     []string // of the changes; with none, that of the object, which may have been created
	reason   string   // of the end
	removals removals // of the end: those that are remembered, with that of this end
	expires  time.Time
	keep     int // Limits.Changes of the write
	id       string
	revs     []uint64     // of the ops
	items    []state.Item // without revisions in the message
	revision uint64       // of the object afterwards
}

// creates reports whether the entry creates the object.
func (e *entry) creates() bool { return e.kind == kindChange && e.prev == 0 }

// earliest returns when the first item, or the object, expires. Zero means never.
func (e *entry) earliest() time.Time {
	at := e.expires
	for i := range e.items {
		if it := &e.items[i]; !it.Expires.IsZero() && (at.IsZero() || it.Expires.Before(at)) {
			at = it.Expires
		}
	}
	return at
}

// tag returns the tag of the object after a write.
func (e *entry) tag() string { return e.tags[len(e.tags)-1] }

// position returns the object's position after a write.
func (e *entry) position() history.Position {
	p, _ := history.NewPosition(e.epoch, e.revision, e.tag()) // the parts were checked
	return p
}

// previous returns the object's position before. The base is that of objects that do not exist.
func (e *entry) previous(base history.Position) history.Position {
	if e.prev == 0 {
		return base
	}
	p, _ := history.NewPosition(e.epoch, e.prev, e.prevTag) // the parts were checked
	return p
}

// change returns the change that the entry is.
func (e *entry) change(object string, base history.Position) state.Change {
	c := state.Change{Object: object, Prev: e.previous(base), Position: base, Gone: e.reason}
	if e.kind == kindChange {
		c.Position, c.Items = e.position(), e.items
	}
	return c
}

func milliseconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli()) //nolint:gosec // no time is before 1970
}

func timeOf(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)) //nolint:gosec // it was checked, or is any time
}

// The reasons of deletions in messages.
const (
	notDeleted = iota
	byDelete
	byExpiry
	deletedUnder // everything below, too
)

// appendItem appends an item without its revision.
func appendItem(w *fields.Writer, it *state.Item) {
	w.Text(it.Key)
	w.Text(it.From)
	w.Text(it.Writer)
	switch {
	case it.Under:
		w.Number(deletedUnder)
	case it.Deleted == state.ReasonExpired:
		w.Number(byExpiry)
	case it.Deleted != "":
		w.Number(byDelete)
	default:
		w.Number(notDeleted)
		w.Number(milliseconds(it.Expires))
		w.Bytes(it.Value)
	}
}

// readItem reads what appendItem has appended. The value is a part of the message.
func readItem(r *fields.Reader) state.Item {
	it := state.Item{Key: r.Text(), From: r.Text(), Writer: r.Text()}
	switch r.Number() {
	case notDeleted:
		it.Expires, it.Value = timeOf(r.Number()), r.Bytes()
	case byDelete:
		it.Deleted = state.ReasonDeleted
	case byExpiry:
		it.Deleted = state.ReasonExpired
	case deletedUnder:
		it.Deleted, it.Under = state.ReasonDeleted, true
	default:
		r.Fail()
	}
	return it
}

// encode returns the message.
func (e *entry) encode() []byte {
	size := 128 + len(e.id) + 8*len(e.revs)
	for i := range e.items {
		it := &e.items[i]
		size += len(it.Key) + len(it.From) + len(it.Writer) + len(it.Value) + 24
	}
	w := append(make(fields.Writer, 0, size), logVersion, e.kind)
	w.Number(e.nonce)
	w.Number(milliseconds(e.at))
	w.Text(e.epoch)
	w.Number(e.prev)
	w.Text(e.prevTag)
	if e.kind == kindGone {
		w.Text(e.reason)
		e.removals.encode(&w)
		return w
	}
	w.Number(milliseconds(e.expires))
	w.Number(uint64(e.keep)) //nolint:gosec // a limit is positive
	w.Text(e.id)
	w.Number(uint64(len(e.revs)))
	for _, rev := range e.revs {
		w.Number(rev)
	}
	w.Number(uint64(len(e.tags)))
	for _, tag := range e.tags {
		w.Text(tag)
	}
	w.Number(uint64(len(e.items)))
	for i := range e.items {
		appendItem(&w, &e.items[i])
	}
	return w
}

// parseEntry decodes a message. It reports false if the message is malformed.
func parseEntry(seq uint64, data []byte) (*entry, bool) {
	if len(data) < 2 || data[0] != logVersion || data[1] != kindChange && data[1] != kindGone {
		return nil, false
	}
	r := fields.NewReader(data[2:])
	e := &entry{
		seq: seq, size: len(data), kind: data[1], nonce: r.Number(), at: timeOf(r.Number()), epoch: r.Text(),
		prev: r.Number(), prevTag: r.Text(),
	}
	if e.prev > 0 {
		if _, err := history.NewPosition(e.epoch, e.prev, e.prevTag); err != nil {
			return nil, false
		}
	}
	if e.kind == kindGone {
		e.reason, e.removals = r.Text(), readRemovals(r)
		return e, r.Err() == nil && e.reason != ""
	}
	e.expires, e.keep, e.id = timeOf(r.Number()), int(r.Number()&math.MaxInt32), r.Text() //nolint:gosec // it fits
	e.revs = make([]uint64, r.Count())
	for i := range e.revs {
		e.revs[i] = r.Number()
	}
	e.tags = make([]string, r.Count())
	for i := range e.tags {
		e.tags[i] = r.Text()
	}
	e.items = make([]state.Item, r.Count())
	e.revision = e.prev
	for i := range e.items {
		e.items[i] = readItem(r)
		e.revision++
		e.items[i].Rev = e.revision
	}
	if len(e.items) == 0 && e.prev == 0 {
		e.revision = 1 // the creation
	}
	return e, r.Err() == nil && e.hasTags()
}

// hasTags reports whether an entry has a valid tag for each revision.
func (e *entry) hasTags() bool {
	if len(e.tags) != max(len(e.items), 1) {
		return false
	}
	for i, tag := range e.tags {
		if _, err := history.NewPosition(e.epoch, e.revision-uint64(len(e.tags)-1-i), tag); err != nil {
			return false
		}
	}
	return true
}
