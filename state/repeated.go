package state

import (
	"context"
	"encoding/json"
	"errors"

	"bennu.example/history"
)

// firstSent takes the position of the client when it first sent a push with an id, which it repeats
// now. Nil means that the push has none. The zero position means that the client had none.
func (m members) firstSent(id string) (*history.Position, error) {
	raw, found := m.value("$pos")
	if !found {
		return nil, nil
	}
	var pos history.Position
	var text *string
	err := json.Unmarshal(raw, &text)
	if err == nil && text != nil {
		pos, err = history.ParsePosition(*text)
	}
	if err != nil || id == "" {
		return nil, invalid("$pos")
	}
	return &pos, nil
}

// repeatRevs is how many revisions an object may have had since a write was first sent, if the
// repeated write is applied. A store remembers at least the last 750 ids of writes that have
// revisions, so others may come between the check and the write. The id of a write that changed
// nothing may be forgotten earlier; such a write has had no effect yet.
const repeatRevs = 500

// mayBeForgotten reports whether the store may have applied a repeated write and forgotten its id.
func (w *write) mayBeForgotten(waiting context.Context) (bool, error) {
	if w.first == nil {
		return false, nil
	}
	top, err := w.h.o.top(waiting, w.topic)
	if err != nil {
		return false, err
	}
	first := *w.first
	if first.IsZero() || first.IsBeginning() { // the write may have made the object
		return top.Offset() > repeatRevs, nil
	}
	return top.Epoch() != first.Epoch() || top.Offset() < first.Offset() || top.Offset()-first.Offset() > repeatRevs, nil
}

// top returns the position of an object in the store.
func (o *Objects) top(ctx context.Context, topic string) (history.Position, error) {
	tops, err := o.store.Tops(ctx, []string{topic})
	if err != nil {
		return history.Position{}, storeError(ctx, err)
	}
	return tops[0], nil
}

// repeated is called if the ops cannot be made from the current object, or may have been applied
// before. If the store remembers the write, it returns what was applied, and the error otherwise.
func (w *write) repeated(waiting context.Context, err error) (Applied, error) {
	if w.id == "" || errors.Is(err, history.ErrUnavailable) {
		return Applied{}, err
	}
	never := uint64(maxRev) // no item has it, so that this writes nothing
	ops := []Op{{Key: "never", Delete: true, If: &never}}
	a, again := w.h.o.Apply(waiting, w.topic, ops, w.tx())
	if again == nil && a.Repeated && len(a.Revs) == len(w.ops) {
		return a, nil
	}
	return Applied{}, err
}

// mayRemoveAgain returns an error if the removal of an object is repeated, and the object is
// another one than when it was first sent.
func (h *handler) mayRemoveAgain(waiting context.Context, topic string, first *history.Position) error {
	if first == nil || first.IsZero() || first.IsBeginning() {
		return nil
	}
	top, err := h.o.top(waiting, topic)
	if err == nil && !top.IsBeginning() && top.Epoch() != first.Epoch() {
		err = errForgotten
	}
	return err
}
