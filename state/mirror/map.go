package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"
)

// Map is a mirror of a map: values by keys.
type Map[T any] struct{ Mirror }

// OpenMap opens a map, or a part of it, and waits until the copy is complete, the server has
// refused it, or ctx ends. Nil options mean the defaults. A topic can be open once per client.
func OpenMap[T any](ctx context.Context, o Opener, topic string, opt *Options) (*Map[T], error) {
	m := new(Map[T])
	if err := m.open(ctx, o, "map", topic, opt); err != nil {
		return nil, err
	}
	return m, nil
}

// Get returns the value of a key and its revision, which is zero if there is none. A value that
// cannot be decoded is the zero T; Changes and Update return the error.
func (m *Map[T]) Get(key string) (v T, rev uint64) { return value[T](&m.Mirror, key) }

// Len returns how many items the copy has.
func (m *Map[T]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items)
}

// All returns the items that the copy has when the loop begins, in the order of their keys.
func (m *Map[T]) All() iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		m.mu.Lock()
		items := slices.Clone(m.items)
		m.mu.Unlock()
		for _, it := range items {
			v, _ := decode[T](it) // Changes reports the error
			if !yield(it.key, v) {
				return
			}
		}
	}
}

// Set puts a value, whatever the key has. When it returns, the copy has the write, unless the key
// is not mirrored. If ctx ends first, the write may still happen. The error is one of the reasons
// of this package, or wraps history.ErrUncertain or channel.ErrClosed.
func (m *Map[T]) Set(ctx context.Context, key string, v T) error { return m.set(ctx, key, v, nil) }

// SetIf is Set if the item has this revision. Zero means that there must be no item. Otherwise the
// error is a *ConflictError.
func (m *Map[T]) SetIf(ctx context.Context, key string, rev uint64, v T) error {
	return m.set(ctx, key, v, &rev)
}

// Update changes the value of a key by f, as Document.Update does. A key that is not mirrored is
// read from the server by the first attempt, which calls f with the zero T.
func (m *Map[T]) Update(ctx context.Context, key string, f func(*T) error) error {
	return update(ctx, &m.Mirror, key, f)
}

// Delete deletes an item. Deleting an absent item is not an error. Otherwise it is like Set.
func (m *Map[T]) Delete(ctx context.Context, key string) error {
	_, err := m.write(ctx, "del", key, op{ID: m.newID(), Key: key})
	return err
}

// Add puts a value under a new key, which the server makes and Add returns. Keys that were made
// later sort later. Otherwise it is like Set.
func (m *Map[T]) Add(ctx context.Context, v T) (key string, err error) {
	text, err := m.encode(v)
	if err != nil {
		return "", err
	}
	w, err := m.write(ctx, "add", "", op{ID: m.newID(), Value: text})
	return w.Key, err
}

// Op is one write of a batch.
type Op[T any] struct {
	Key    string // of the item. Empty means that the server makes it
	Value  T
	Delete bool           // delete the item; Value and TTL do not count
	If     *uint64        // the revision that the item must have, zero if there must be none. Nil means any
	TTL    *time.Duration // after which the item is deleted; zero removes it. Nil means that it stays
}

// Batch writes several items, all or none. The keys must differ. It returns the keys of all ops.
// Otherwise it is like Set; a *ConflictError names the item.
func (m *Map[T]) Batch(ctx context.Context, ops ...Op[T]) (keys []string, err error) {
	if len(ops) == 0 {
		return nil, nil
	}
	body, size := batch{ID: m.newID(), Ops: make([]op, len(ops))}, 0
	for i := range ops {
		if body.Ops[i], err = m.op(&ops[i]); err != nil {
			return nil, fmt.Errorf("op %d: %w", i, err)
		}
		size += len(body.Ops[i].Key) + len(body.Ops[i].Value)
	}
	m.mu.Lock()
	most := m.limits.Batch
	m.mu.Unlock()
	switch {
	case most > 0 && len(ops) > most:
		return nil, &LimitError{Err: ErrTooLarge, Max: most}
	case size > maxBatch && len(ops) > 1:
		return nil, &LimitError{Err: ErrTooLarge, Max: maxBatch}
	}
	w, err := m.write(ctx, "batch", "", body)
	return w.Keys, err
}

func (m *Map[T]) op(in *Op[T]) (out op, err error) {
	out = op{Op: "put", Key: in.Key, If: in.If}
	switch {
	case in.Delete:
		out.Op = "del"
		return out, nil
	case in.Key == "":
		out.Op = "add"
	}
	switch {
	case in.TTL == nil:
	case *in.TTL == 0:
		out.TTL = json.RawMessage("null")
	default:
		out.TTL = strconv.AppendFloat(nil, in.TTL.Seconds(), 'f', -1, 64)
	}
	out.Value, err = m.encode(in.Value)
	return out, err
}

// Changes returns a sequence of changes that makes the same copy. It begins with a Put for each
// item that the copy has, then Synced, and continues until ctx or the mirror ends. Document.Changes
// says what happens if the loop is too slow, and which errors the sequence has.
func (m *Map[T]) Changes(ctx context.Context) iter.Seq2[Change[T], error] {
	return changes[T](ctx, &m.Mirror)
}
