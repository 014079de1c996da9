package boltengine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"bennu.example/state"
)

// removeOnce removes an object, unless this was done before with the same ID.
func (x *objectsTx) removeOnce(w *write) error {
	o, err := x.object(w, w.object)
	if err != nil {
		return err
	}
	id := ""
	if w.tx.ID != "" {
		sum := sha256.Sum256([]byte(w.object + "\x00" + w.tx.ID)) // a name may be as long as a key
		id = string(sum[:])
		if err := x.openRemovals(); err != nil {
			return err
		}
		if _, ok, err := x.find(x.removals, id); ok || err != nil {
			return err
		}
	}
	if o == nil {
		w.err = state.ErrNotFound
		return nil
	}
	if id != "" {
		if err := x.remember(x.removals, id, state.Applied{Prev: o.top, Position: x.s.base}); err != nil {
			return err
		}
	}
	return x.remove(w, o, state.ReasonRemoved)
}

// openRemovals opens what remembers the IDs of removals. It is not an object of its own, and the
// number is zero, which no object has. Its entries begin with the one that is forgotten next.
func (x *objectsTx) openRemovals() error {
	if x.removals != nil {
		return nil
	}
	o := &openObject{}
	prefix, end := numberKey(0, "o"), numberKey(0, "p")
	cursor := x.writes.Cursor()
	if k, _ := cursor.Seek(prefix); bytes.HasPrefix(k, prefix) {
		first := k
		last, _ := cursor.Seek(end)
		if last == nil {
			last, _ = cursor.Last()
		} else {
			last, _ = cursor.Prev()
		}
		if len(first) != len(prefix)+8 || len(last) != len(prefix)+8 {
			return fmt.Errorf("%w: malformed number of a removal", errDamaged)
		}
		o.idFirst = binary.BigEndian.Uint64(first[len(prefix):])
		o.idNext = binary.BigEndian.Uint64(last[len(prefix):]) + 1
	}
	x.removals = o
	return nil
}
