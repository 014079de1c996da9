package boltengine

import (
	"bytes"

	"bennu.example/state"
)

// step is what an op does.
type step struct {
	item *storedItem // Nil means that the object has none, not even a deletion.
	key  []byte      // of the item, in the file
	skip bool        // nothing is changed
}

// apply performs an Apply. It changes nothing before it knows that the write succeeds.
func (x *objectsTx) apply(w *write) error {
	o, err := x.object(w, w.object)
	if err != nil {
		return err
	}
	if o == nil && w.tx.Create == state.ModeExisting {
		w.err = state.ErrNotFound
		return nil
	}
	if o != nil {
		before, ok, err := x.find(o, w.tx.ID)
		if err != nil {
			return err
		}
		if ok {
			w.out = before
			return nil
		}
		if w.tx.Create == state.ModeNew {
			w.err = state.ErrExists
			return nil
		}
	}
	steps, err := x.plan(w, o)
	if err != nil || w.err != nil {
		return err
	}
	changes := 0
	for i := range steps {
		if !steps[i].skip {
			changes++
		}
	}
	creates := o == nil
	if creates && changes == 0 && w.tx.Create != state.ModeNew {
		w.out = state.Applied{Revs: make([]uint64, len(w.ops)), Prev: x.s.base, Position: x.s.base}
		return nil
	}
	if creates {
		if o, err = x.create(w.object, w.tx.TTL); err != nil {
			return err
		}
	}
	return x.change(w, o, steps, creates && changes == 0)
}

// plan finds out what the ops do, whether their conditions hold, and whether the object, which may
// be nil, has room. It sets w.err if not.
func (x *objectsTx) plan(w *write, o *openObject) ([]step, error) {
	steps := make([]step, len(w.ops))
	items, size, changes := 0, 0, 0
	for i := range w.ops {
		op, s := &w.ops[i], &steps[i]
		if o != nil {
			var err error
			if s.item, s.key, err = x.item(o, op.Key); err != nil {
				return nil, err
			}
		}
		live := s.item.isLive(x.now)
		if op.If != nil {
			c := state.ConflictError{Op: i, Key: op.Key}
			if live {
				c.Rev, c.Value = s.item.rev, s.item.value
			}
			if c.Rev != *op.If {
				c.Value = bytes.Clone(c.Value)
				w.err = &c
				return nil, nil
			}
		}
		if s.skip = op.Own && (!live || s.item.writer != w.tx.Writer) || op.Delete && !live; s.skip {
			continue
		}
		changes++
		// An item whose time has come counts until it is deleted or replaced.
		if s.item != nil && s.item.deleted == "" {
			items--
			size -= len(op.Key) + len(s.item.value)
		}
		if !op.Delete {
			items++
			size += len(op.Key) + len(op.Value)
		}
	}
	var has object
	if o != nil {
		has = o.object
	}
	switch l := &w.tx.Limits; {
	case items > 0 && has.items+items > l.Items:
		w.err = &state.LimitError{Err: state.ErrQuota, What: "items", Max: l.Items}
	case size > 0 && has.bytes+size > l.Bytes:
		w.err = &state.LimitError{Err: state.ErrQuota, What: "bytes", Max: l.Bytes}
	case has.rev+uint64(changes)+1 > maxRev:
		w.err = &state.LimitError{Err: state.ErrQuota, What: "revisions", Max: changes}
	default:
		if o != nil {
			o.items += items
			o.bytes += size
		}
	}
	return steps, nil
}

// change performs the ops of a write that succeeds.
func (x *objectsTx) change(w *write, o *openObject, steps []step, empty bool) error {
	a := state.Applied{Revs: make([]uint64, len(w.ops)), Prev: o.top}
	for i := range steps {
		op, s := &w.ops[i], &steps[i]
		if s.skip {
			if s.item != nil {
				a.Revs[i] = s.item.rev
			}
			continue
		}
		if s.key == nil { // the object is new
			s.key = numberKey(o.number, op.Key)
			o.items++
			o.bytes += len(op.Key) + len(op.Value)
		}
		it := storedItem{value: op.Value, writer: w.tx.Writer}
		switch {
		case op.Delete:
			it.deleted = state.ReasonDeleted
		case op.TTL != nil && *op.TTL > 0:
			it.expires = after(x.now, *op.TTL)
		case op.TTL == nil && s.item.isLive(x.now):
			it.expires = s.item.expires
		}
		it, err := x.put(o, s.key, op.Key, s.item, it)
		if err != nil {
			return err
		}
		a.Revs[i] = it.rev
		a.Items = append(a.Items, it.export(op.Key, op.Value))
	}
	if empty {
		if err := x.nextRevision(o, "", false); err != nil {
			return err
		}
	}
	changed := empty || len(a.Items) > 0
	o.top = positionOf(o.epoch, o.rev, o.tag)
	a.Position = o.top
	if w.tx.ID != "" {
		if err := x.remember(o, w.tx.ID, a); err != nil {
			return err
		}
	}
	o.keep = w.tx.Limits.Changes
	if err := x.trim(o); err != nil {
		return err
	}
	w.out = a
	if changed {
		w.changes = append(w.changes, state.Change{Object: o.name, Prev: a.Prev, Position: a.Position, Items: a.Items})
	}
	return nil
}
