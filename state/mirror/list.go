package mirror

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
)

// List is a mirror of a list: values in an order that the clients determine. An item keeps its key
// until it is moved.
type List[T any] struct{ Mirror }

// OpenList opens a list, as OpenMap opens a map.
func OpenList[T any](ctx context.Context, o Opener, topic string, opt *Options) (*List[T], error) {
	l := new(List[T])
	if err := l.open(ctx, o, "list", topic, opt); err != nil {
		return nil, err
	}
	return l, nil
}

// Len returns how many items the copy has.
func (l *List[T]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.items)
}

// At returns the key and the value of the item at a place, or an empty key if there is none. A
// value that cannot be decoded is the zero T; Changes returns the error.
func (l *List[T]) At(i int) (key string, v T) {
	l.mu.Lock()
	if i < 0 || i >= len(l.items) {
		l.mu.Unlock()
		return "", v
	}
	it := l.items[i]
	l.mu.Unlock()
	v, _ = decode[T](it)
	return it.key, v
}

// All returns the keys and values that the copy has when the loop begins, in their order.
func (l *List[T]) All() iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		l.mu.Lock()
		items := slices.Clone(l.items)
		l.mu.Unlock()
		for _, it := range items {
			v, _ := decode[T](it) // Changes reports the error
			if !yield(it.key, v) {
				return
			}
		}
	}
}

// Append inserts an item at the end. The server makes its key, which Append returns. Otherwise it
// is like Map.Set.
func (l *List[T]) Append(ctx context.Context, v T) (key string, err error) {
	return l.insert(ctx, nil, v)
}

// Insert inserts an item behind the one with a key, or at the beginning if the key is empty. If
// that item was deleted or moved meanwhile, the error is ErrNotFound. Otherwise it is like Append.
func (l *List[T]) Insert(ctx context.Context, after string, v T) (key string, err error) {
	return l.insert(ctx, behind(after), v)
}

func (l *List[T]) insert(ctx context.Context, after json.RawMessage, v T) (key string, err error) {
	text, err := l.encode(v)
	if err != nil {
		return "", err
	}
	w, err := l.write(ctx, "insert", "", op{ID: l.newID(), Value: text, After: after})
	return w.Key, err
}

// behind returns the member "after" of a push.
func behind(key string) json.RawMessage {
	if key == "" {
		return json.RawMessage("null")
	}
	text, _ := json.Marshal(key) // a string
	return text
}

// Set replaces the value of an item, which must exist: otherwise the error is ErrNotFound. It is
// like Map.Set in other respects.
func (l *List[T]) Set(ctx context.Context, key string, v T) error { return l.set(ctx, key, v, nil) }

// Move moves an item behind another one, or to the beginning if after is empty. It returns the new
// key of the item. If one of the two does not exist, the error is ErrNotFound. Otherwise it is like
// Map.Set.
func (l *List[T]) Move(ctx context.Context, key, after string) (newKey string, err error) {
	w, err := l.write(ctx, "move", "", op{ID: l.newID(), Key: key, After: behind(after)})
	return w.Key, err
}

// Delete deletes an item. Deleting an absent item is not an error. Otherwise it is like Map.Set.
func (l *List[T]) Delete(ctx context.Context, key string) error {
	_, err := l.write(ctx, "del", key, op{ID: l.newID(), Key: key})
	return err
}

// Changes returns a sequence of changes that makes the same copy, as Map.Changes does. A move is
// one change, unless it happened during an interruption: then it is a Delete and a Put.
func (l *List[T]) Changes(ctx context.Context) iter.Seq2[Change[T], error] {
	return changes[T](ctx, &l.Mirror)
}
