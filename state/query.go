package state

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"bennu.example/channel"
	"bennu.example/history"
)

// QueryDef is a query that clients may name. Query makes it.
type QueryDef struct {
	name string
	bind func(args json.RawMessage) (matcher, error)
}

// matcher reports whether an item is in the result of a query.
type matcher func(key string, v value) bool

// Query defines a query for Config.Queries: the items whose key and value match. A client names it
// in its join, and receives the items that match, and every change of the result; or in a push. It
// sends the args as JSON. An item whose value is not a T does not match.
//
// The function must depend on its arguments only, and must not change them: the value is decoded
// once for all channels. It is called for each item of the object when a client joins, and then for
// each change, on the goroutine of the channel and under no lock.
func Query[A, T any](name string, match func(args A, key string, value T) bool) QueryDef {
	if name == "" || match == nil {
		panic("state: a query needs a name and a function")
	}
	return QueryDef{name, func(raw json.RawMessage) (matcher, error) {
		var args A
		if raw != nil {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, invalid("args")
			}
		}
		return func(key string, v value) bool {
			t, ok := decodeAs[T](v)
			return ok && match(args, wireKey(key), t)
		}, nil
	}}
}

// checkQueries panics if two queries have the same name.
func checkQueries(all []QueryDef) {
	for i, q := range all {
		for _, other := range all[:i] {
			if q.name == other.name {
				panic(fmt.Sprintf("state: two queries %q", q.name))
			}
		}
	}
}

// query takes a query with its args, if there is one.
func (m members) query(all []QueryDef) (matcher, error) {
	raw, found := m["query"]
	if !found {
		return nil, nil
	}
	delete(m, "query")
	var in members
	if json.Unmarshal(raw, &in) != nil || in == nil {
		return nil, invalid("query")
	}
	match, err := in.named(all)
	if err != nil {
		return nil, err
	}
	return match, in.rest()
}

// named takes the name and the args of a query.
func (m members) named(all []QueryDef) (matcher, error) {
	var name string
	if found, err := m.take("name", &name); err != nil || !found {
		return nil, invalid("name")
	}
	args, _ := m.value("args")
	for _, q := range all {
		if q.name == name {
			return q.bind(args)
		}
	}
	return nil, invalid("query")
}

// shared is a change as the window sessions of an object receive it. Its frames and decoded values
// are made once for all of them.
type shared struct {
	topic string
	items []Item
	pos   history.Position

	mu     sync.Mutex
	frames map[int]frame
	values map[valueType]any
}

// valueType names the value of an item as a Go type.
type valueType struct {
	item int
	t    reflect.Type
}

// frame returns the event of one item, without a position.
func (s *shared) frame(i int) frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.frames[i]
	if !ok {
		f = changeFrame(s.topic, s.items[i:i+1], history.Position{})
		if s.frames == nil {
			s.frames = make(map[int]frame, 1)
		}
		s.frames[i] = f
	}
	return f
}

// value is the value of an item, which is decoded when it is needed.
type value struct {
	text []byte
	s    *shared // nil means that nobody else needs it
	item int     // in s
}

// decodeAs decodes a value, unless another session has done so.
func decodeAs[T any](v value) (out T, ok bool) {
	if v.s == nil {
		ok = json.Unmarshal(v.text, &out) == nil
		return out, ok
	}
	key := valueType{v.item, reflect.TypeFor[T]()}
	v.s.mu.Lock()
	known, found := v.s.values[key]
	v.s.mu.Unlock()
	if found {
		p, _ := known.(*T)
		if p == nil {
			return out, false
		}
		return *p, true
	}
	p := new(T)
	if json.Unmarshal(v.text, p) != nil { // under no lock, because it may be code of the user
		p = nil
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.s.values == nil {
		v.s.values = make(map[valueType]any, 1)
	}
	v.s.values[key] = p
	if p == nil {
		return out, false
	}
	return *p, true
}

// hasView reports whether the channels of a handler see only what Config.Visible permits.
func (h *handler) hasView() bool { return h.cfg.Visible != nil }

// shows reports whether a channel may see an item.
func (h *handler) shows(ctx context.Context, c *channel.Channel, it *Item) bool {
	if h.cfg.Visible == nil {
		return true
	}
	shown := *it
	shown.Key = wireKey(it.Key)
	return h.cfg.Visible(ctx, c, shown)
}
