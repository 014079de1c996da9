package boltengine

import (
	"bytes"
	"errors"

	"bennu.example/engine/internal/objectplan"
	"bennu.example/state"
)

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
	var has objectplan.Object
	if o != nil {
		has = objectplan.Object{Rev: o.rev, Items: o.items, Bytes: o.bytes}
	}
	plan, err := objectplan.New(objectView{x, o}, has, w.ops, &w.tx, timeOf(x.now))
	if err != nil {
		if errors.Is(err, errDamaged) {
			return err
		}
		w.err = err
		return nil
	}
	empty := o == nil && len(plan.Items) == 0
	if empty && w.tx.Create != state.ModeNew {
		w.out = state.Applied{Revs: plan.Revs, Prev: x.s.base, Position: x.s.base}
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
	return x.change(w, o, &plan, empty)
}

// objectView is the objectplan.View of an object, which may be nil. Values are valid until the end
// of the transaction.
type objectView struct {
	x *objectsTx
	o *openObject
}

// Item is part of objectplan.View.
func (v objectView) Item(key string) (state.Item, bool, error) {
	it, err := v.x.item(v.o, key)
	if err != nil || it == nil {
		return state.Item{}, false, err
	}
	return it.export(key, it.value), true, nil
}

// Under is part of objectplan.View.
func (v objectView) Under(key string, f func(it state.Item)) error {
	if v.o == nil {
		return nil
	}
	return v.x.under(v.o, key, func(key string, it *storedItem) { f(it.export(key, it.value)) })
}

// under calls f with the items and deletions of an object at a key and below.
func (x *objectsTx) under(o *openObject, key string, f func(key string, it *storedItem)) error {
	sub, prefix := state.Subtree(key), numberKey(o.number, "")
	cursor := x.items.Cursor()
	for k, v := cursor.Seek(numberKey(o.number, key)); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		if !sub.Has(string(k[8:])) {
			return nil
		}
		it, err := parseItem(k, v)
		if err != nil {
			return err
		}
		f(string(k[8:]), &it)
	}
	return nil
}

// change makes the changes of a write that succeeds. If empty is true, it only creates the object.
func (x *objectsTx) change(w *write, o *openObject, plan *objectplan.Write, empty bool) error {
	a := state.Applied{Revs: plan.Revs, Prev: o.top, Items: plan.Items}
	for i := range a.Items {
		if it := &a.Items[i]; it.From != "" {
			it.Value = bytes.Clone(it.Value) // it is that of an item in the file
		}
	}
	for i := range a.Items {
		if err := x.changeItem(o, &a.Items[i]); err != nil {
			return err
		}
	}
	o.items, o.bytes = plan.After.Items, plan.After.Bytes
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

// changeItem makes the next change of an object.
func (x *objectsTx) changeItem(o *openObject, it *state.Item) error {
	if it.Under {
		if err := x.drop(o, it.Key); err != nil {
			return err
		}
		return x.nextRevision(o, revision{key: it.Key, under: true})
	}
	old, err := x.item(o, it.Key)
	if err != nil {
		return err
	}
	_, err = x.put(o, it.Key, old, storedItem{
		deleted: it.Deleted, expires: stampOf(it.Expires), writer: it.Writer, value: it.Value,
	})
	return err
}

// drop deletes all items and deletions at a key and below.
func (x *objectsTx) drop(o *openObject, key string) error {
	type dropped struct {
		key     string
		expires int64
	}
	var all []dropped
	err := x.under(o, key, func(key string, it *storedItem) { all = append(all, dropped{key, it.expires}) })
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.expires != 0 {
			if err := x.due.Delete(dueKey(d.expires, o.number, dueItem, d.key)); err != nil {
				return err
			}
		}
		if err := x.items.Delete(numberKey(o.number, d.key)); err != nil {
			return err
		}
	}
	return nil
}
