// Package objectplan finds out what a write changes of an object of package state. It is for stores
// that read the items first, and then write the result.
package objectplan

import (
	"bytes"
	"time"

	"bennu.example/state"
)

// MaxRev is the largest revision.
const MaxRev = 1<<53 - 1

// View reads an object. An object that does not exist has no items.
type View interface {
	// Item returns an item, or a deletion that is remembered. It reports false if there is none.
	Item(key string) (it state.Item, ok bool, err error)
	// Under calls f with the items and deletions at a key and below, in their order.
	Under(key string, f func(it state.Item)) error
}

// Object is what the plan needs to know of an object in addition to its items. Zero is an object
// that does not exist.
type Object struct {
	Rev   uint64 // the newest revision
	Items int    // without deletions
	Bytes int    // of their keys and values
}

// Write is what a write changes. The changes take the revisions after the object's, in their order.
// A change with Under is the end of all items at its key and below.
type Write struct {
	Items []state.Item
	Revs  []uint64 // of the items of the ops, as in state.Applied
	After Object   // the object afterwards
}

// planner is a plan that is being made.
type planner struct {
	view   View
	ops    []state.Op
	writer string
	now    time.Time
	buried []bool // the ops that delete a subtree
	grown  Object // what the write adds, which may be negative
	write  Write
	rev    uint64
}

// step is what an op does.
type step struct {
	item   state.Item
	known  bool // the object has the item, or its deletion
	live   bool // the item exists
	below  bool // items below exist
	from   *state.Item
	buries bool
	lost   Object // the items that a deletion of the subtree ends
}

// IsDue reports whether what expires at a time has expired.
func IsDue(expires, now time.Time) bool { return !expires.IsZero() && !expires.After(now) }

// IsLive reports whether an item can be read.
func IsLive(it *state.Item, now time.Time) bool { return it.Deleted == "" && !IsDue(it.Expires, now) }

// After returns when a lifetime ends, in whole milliseconds and never too early.
func After(now time.Time, ttl time.Duration) time.Time {
	at := now.Add(ttl)
	ms := at.Truncate(time.Millisecond)
	if ms.Before(at) {
		ms = ms.Add(time.Millisecond)
	}
	return time.UnixMilli(ms.UnixMilli())
}

// New returns what the ops change of an object. They have passed state.Check, and the limits of tx
// are filled in. The error is state.ErrNotFound, a *state.ConflictError, a *state.LimitError, or
// one of the view.
func New(v View, has Object, ops []state.Op, tx *state.Tx, now time.Time) (Write, error) {
	p := planner{
		view: v, ops: ops, writer: tx.Writer, now: now, buried: make([]bool, len(ops)), rev: has.Rev,
		write: Write{Revs: make([]uint64, len(ops))},
	}
	for i := range ops {
		if err := p.plan(i); err != nil {
			return Write{}, err
		}
	}
	l := &tx.Limits
	switch {
	case p.grown.Items > 0 && has.Items+p.grown.Items > l.Items:
		return Write{}, &state.LimitError{Err: state.ErrQuota, What: "items", Max: l.Items}
	case p.grown.Bytes > 0 && has.Bytes+p.grown.Bytes > l.Bytes:
		return Write{}, &state.LimitError{Err: state.ErrQuota, What: "bytes", Max: l.Bytes}
	case p.rev+1 > MaxRev:
		return Write{}, &state.LimitError{Err: state.ErrQuota, What: "revisions", Max: len(p.write.Items)}
	}
	p.write.After = Object{Rev: p.rev, Items: has.Items + p.grown.Items, Bytes: has.Bytes + p.grown.Bytes}
	return p.write, nil
}

// plan finds out what an op changes.
func (p *planner) plan(i int) error {
	op := &p.ops[i]
	s, skip, err := p.look(i)
	if err != nil {
		return err
	}
	if p.isBuried(i) { // what it has and what is below is deleted first
		s = step{from: s.from}
	}
	if skip {
		p.write.Revs[i] = s.item.Rev
		return nil
	}
	if s.buries {
		p.buried[i] = true
		p.grown.Items += s.lost.Items
		p.grown.Bytes += s.lost.Bytes
		p.change(state.Item{Key: op.Key, Deleted: state.ReasonDeleted, Under: true})
	}
	if !op.Under || !op.Delete {
		p.put(op, &s)
	}
	p.write.Revs[i] = p.rev
	return nil
}

// change adds a change.
func (p *planner) change(it state.Item) {
	p.rev++
	it.Rev, it.Writer = p.rev, p.writer
	p.write.Items = append(p.write.Items, it)
}

// put adds the change of the op's own item, after that of an item that is moved.
func (p *planner) put(op *state.Op, s *step) {
	it := state.Item{Key: op.Key, From: op.From, Value: op.Value}
	last := &s.item // has the lifetime that is kept
	if s.from != nil {
		it.Value, last = s.from.Value, s.from
		p.grown.remove(s.from)
		p.change(state.Item{Key: op.From, Deleted: state.ReasonDeleted})
	}
	if s.known {
		p.grown.remove(&s.item)
	}
	switch {
	case op.Delete:
		it.Deleted, it.Value = state.ReasonDeleted, nil
	case op.TTL != nil && *op.TTL > 0:
		it.Expires = After(p.now, *op.TTL)
	case op.TTL == nil && (s.live || s.from != nil):
		it.Expires = last.Expires
	}
	if !op.Delete {
		p.grown.Items++
		p.grown.Bytes += len(it.Key) + len(it.Value)
	}
	p.change(it)
}

// remove counts the end of an item. One whose time has come counts until it is deleted or replaced.
func (o *Object) remove(it *state.Item) {
	if it.Deleted == "" {
		o.Items--
		o.Bytes -= len(it.Key) + len(it.Value)
	}
}

// look reads what an op is about, and checks its condition. It reports whether the op is skipped.
func (p *planner) look(i int) (s step, skip bool, err error) {
	op := &p.ops[i]
	if s.item, s.known, err = p.view.Item(op.Key); err != nil {
		return s, false, err
	}
	s.live = s.known && IsLive(&s.item, p.now)
	owned := s.live && s.item.Writer == p.writer
	if op.Under {
		if owned, err = p.lookUnder(op, &s); err != nil {
			return s, false, err
		}
	}
	if op.If != nil {
		c := state.ConflictError{Op: i, Key: op.Key}
		if s.live {
			c.Rev, c.Value = s.item.Rev, bytes.Clone(s.item.Value)
		}
		if c.Rev != *op.If || s.below {
			return s, false, &c
		}
	}
	if op.From != "" {
		from, ok, err := p.view.Item(op.From)
		switch {
		case err != nil:
			return s, false, err
		case ok && IsLive(&from, p.now):
			s.from, owned = &from, from.Writer == p.writer
		case !op.Own:
			return s, false, state.ErrNotFound
		default:
			owned = false
		}
	}
	skip = op.Own && !owned || op.Delete && !s.live && !s.below
	s.buries = op.Under && !skip && (op.Delete || s.below)
	return s, skip, nil
}

// lookUnder reads what is below the key of an op. It reports whether the op's writer is the last
// writer of everything there.
func (p *planner) lookUnder(op *state.Op, s *step) (owned bool, err error) {
	owned = true
	err = p.view.Under(op.Key, func(it state.Item) {
		if IsLive(&it, p.now) {
			owned = owned && it.Writer == p.writer
			s.below = s.below || it.Key != op.Key
		}
		if op.Delete || it.Key != op.Key {
			s.lost.remove(&it)
		}
	})
	return owned && (s.live || s.below), err
}

// isBuried reports whether the item of an op is deleted by an op before it.
func (p *planner) isBuried(i int) bool {
	for j := range i {
		if p.buried[j] && state.Subtree(p.ops[j].Key).Has(p.ops[i].Key) {
			return true
		}
	}
	return false
}
