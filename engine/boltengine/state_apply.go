package boltengine

import (
	"bytes"
	"errors"

	"bennu.example/state"
)

// step is what an op does.
type step struct {
	item  *storedItem // Nil means that the object has none, not even a deletion.
	from  *storedItem // of a move
	under []string    // the keys of the items and deletions that an op with Under drops

	dropped growth // the end of the items that an op with Under drops
	live    bool   // the item exists
	below   bool   // items below exist
	skip    bool   // nothing is changed
}

// buries reports whether the step of an op deletes a subtree.
func (s *step) buries(op *state.Op) bool {
	return op.Under && !s.skip && (op.Delete || s.below)
}

// growth is what a write adds to an object.
type growth struct {
	items, bytes, changes int
}

// remove counts the end of an item. One whose time has come counts until it is deleted or replaced.
func (g *growth) remove(key string, it *storedItem) {
	if it != nil && it.deleted == "" {
		g.items--
		g.bytes -= len(key) + len(it.value)
	}
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
	steps, g, err := x.plan(w, o)
	if err == nil {
		err = g.fits(o, &w.tx.Limits)
	}
	if err != nil {
		if errors.Is(err, errDamaged) {
			return err
		}
		w.err = err
		return nil
	}
	empty := o == nil && g.changes == 0
	if empty && w.tx.Create != state.ModeNew {
		w.out = state.Applied{Revs: make([]uint64, len(w.ops)), Prev: x.s.base, Position: x.s.base}
		return nil
	}
	if o == nil {
		if !x.hasRoom() {
			w.err = &state.LimitError{Err: state.ErrQuota, What: "objects", Max: x.s.maxObjects}
			return nil
		}
		if o, err = x.create(w.object, w.tx.TTL); err != nil {
			return err
		}
	}
	o.items += g.items
	o.bytes += g.bytes
	return x.change(w, o, steps, empty)
}

// plan finds out what the ops do to an object, which may be nil, and whether their conditions hold.
func (x *objectsTx) plan(w *write, o *openObject) ([]step, growth, error) {
	steps := make([]step, len(w.ops))
	var g growth
	for i := range w.ops {
		s, op := &steps[i], &w.ops[i]
		if err := x.planOp(w, o, i, s); err != nil {
			return nil, g, err
		}
		if isBelow(w.ops[:i], steps, op.Key) { // what it has and what is below is deleted first
			*s = step{from: s.from, skip: s.skip}
		}
		if s.skip {
			continue
		}
		if s.buries(op) {
			g.items += s.dropped.items
			g.bytes += s.dropped.bytes
			g.changes++
		}
		if op.Under && op.Delete {
			continue
		}
		value := op.Value
		if s.from != nil {
			value = s.from.value
			g.remove(op.From, s.from)
			g.changes++
		}
		g.changes++
		g.remove(op.Key, s.item)
		if !op.Delete {
			g.items++
			g.bytes += len(op.Key) + len(value)
		}
	}
	return steps, g, nil
}

// planOp finds out what an op does, and whether its condition holds.
func (x *objectsTx) planOp(w *write, o *openObject, i int, s *step) (err error) {
	op := &w.ops[i]
	if s.item, err = x.item(o, op.Key); err != nil {
		return err
	}
	s.live = s.item.isLive(x.now)
	owned := s.live && s.item.writer == w.tx.Writer
	if op.Under {
		if owned, err = x.planUnder(w, o, op, s); err != nil {
			return err
		}
	}
	if op.If != nil {
		c := state.ConflictError{Op: i, Key: op.Key}
		if s.live {
			c.Rev, c.Value = s.item.rev, bytes.Clone(s.item.value)
		}
		if c.Rev != *op.If || s.below {
			return &c
		}
	}
	if op.From != "" {
		from, err := x.item(o, op.From)
		switch {
		case err != nil:
			return err
		case from.isLive(x.now):
			s.from, owned = from, from.writer == w.tx.Writer
		case !op.Own:
			return state.ErrNotFound
		default:
			owned = false
		}
	}
	s.skip = op.Own && !owned || op.Delete && !s.live && !s.below
	return nil
}

// planUnder finds what is below the key of an op, and counts it. It reports whether the op's writer
// is the last writer of everything there.
func (x *objectsTx) planUnder(w *write, o *openObject, op *state.Op, s *step) (owned bool, err error) {
	if o == nil {
		return false, nil
	}
	sub := state.Subtree(op.Key)
	owned = true
	prefix := numberKey(o.number, "")
	cursor := x.items.Cursor()
	for k, v := cursor.Seek(numberKey(o.number, op.Key)); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		key := string(k[8:])
		if !sub.Has(key) {
			break
		}
		it, err := parseItem(k, v)
		if err != nil {
			return false, err
		}
		if it.isLive(x.now) {
			owned = owned && it.writer == w.tx.Writer
			s.below = s.below || key != op.Key
		}
		if op.Delete || key != op.Key {
			s.under = append(s.under, key)
			s.dropped.remove(key, &it)
		}
	}
	return owned && (s.live || s.below), nil
}

// isBelow reports whether the item of a key is deleted by one of the ops, which were planned.
func isBelow(ops []state.Op, steps []step, key string) bool {
	for i := range ops {
		if steps[i].buries(&ops[i]) && state.Subtree(ops[i].Key).Has(key) {
			return true
		}
	}
	return false
}

// fits returns an error if an object, which may be nil, has no room.
func (g *growth) fits(o *openObject, l *state.Limits) error {
	var has object
	if o != nil {
		has = o.object
	}
	switch {
	case g.items > 0 && has.items+g.items > l.Items:
		return &state.LimitError{Err: state.ErrQuota, What: "items", Max: l.Items}
	case g.bytes > 0 && has.bytes+g.bytes > l.Bytes:
		return &state.LimitError{Err: state.ErrQuota, What: "bytes", Max: l.Bytes}
	case has.rev+uint64(g.changes)+1 > maxRev:
		return &state.LimitError{Err: state.ErrQuota, What: "revisions", Max: g.changes}
	}
	return nil
}

// change performs the ops of a write that succeeds. If empty is true, it only creates the object.
func (x *objectsTx) change(w *write, o *openObject, steps []step, empty bool) error {
	a := state.Applied{Revs: make([]uint64, len(w.ops)), Prev: o.top}
	for i := range steps {
		s := &steps[i]
		if s.skip {
			if s.item != nil {
				a.Revs[i] = s.item.rev
			}
			continue
		}
		items, err := x.changeItem(w, o, &w.ops[i], s)
		if err != nil {
			return err
		}
		a.Items = append(a.Items, items...)
		a.Revs[i] = items[len(items)-1].Rev
	}
	if empty {
		if err := x.nextRevision(o, revision{}); err != nil {
			return err
		}
	}
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
	if a.Position != a.Prev {
		w.changes = append(w.changes, state.Change{Object: o.name, Prev: a.Prev, Position: a.Position, Items: a.Items})
	}
	return nil
}

// changeItem performs one op. It returns the items that have changed, that of the op last.
func (x *objectsTx) changeItem(w *write, o *openObject, op *state.Op, s *step) (items []state.Item, err error) {
	if s.buries(op) {
		for _, key := range s.under {
			if err := x.drop(o, key); err != nil {
				return nil, err
			}
		}
		if err := x.nextRevision(o, revision{key: op.Key, under: true}); err != nil {
			return nil, err
		}
		items = append(items, state.Item{
			Key: op.Key, Rev: o.rev, Deleted: state.ReasonDeleted, Under: true, Writer: w.tx.Writer,
		})
		if op.Delete {
			return items, nil
		}
	}
	it := storedItem{value: op.Value, writer: w.tx.Writer}
	lasts := s.item // has the expiry that is kept
	if s.from != nil {
		it.value, lasts = bytes.Clone(s.from.value), s.from
		dead, err := x.put(o, op.From, s.from, storedItem{deleted: state.ReasonDeleted, writer: w.tx.Writer})
		if err != nil {
			return nil, err
		}
		items = append(items, dead.export(op.From, nil))
	}
	switch {
	case op.Delete:
		it.deleted = state.ReasonDeleted
	case op.TTL != nil && *op.TTL > 0:
		it.expires = after(x.now, *op.TTL)
	case op.TTL == nil && lasts.isLive(x.now):
		it.expires = lasts.expires
	}
	value := it.value
	if it, err = x.put(o, op.Key, s.item, it); err != nil {
		return nil, err
	}
	e := it.export(op.Key, value)
	e.From = op.From
	return append(items, e), nil
}

// drop deletes an item, or a deletion, below a key that is deleted.
func (x *objectsTx) drop(o *openObject, key string) error {
	it, err := x.item(o, key)
	if err != nil || it == nil {
		return err
	}
	if it.expires != 0 {
		if err := x.due.Delete(dueKey(it.expires, o.number, dueItem, key)); err != nil {
			return err
		}
	}
	return x.items.Delete(numberKey(o.number, key))
}
