package presence

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"

	"bennu.example/internal/exactjson"
	"bennu.example/serializer"
)

// The events of presence, as Phoenix names them.
const (
	EventState = "presence_state" // the payload is a State; pushed after a join
	EventDiff  = "presence_diff"  // the payload is a Diff; broadcast when it changes
)

// State is the set of presences on a topic: an entry for each key, in the order in which the keys
// joined. Its JSON form is the payload of presence_state. The zero value is empty.
//
// A State may be copied and read concurrently. Only UnmarshalJSON modifies it.
type State struct{ entries ordered[Entry] }

// Entry is the presence of one key. It has a meta for each time that the key is tracked, the latest
// last.
type Entry struct {
	Metas []Meta
	Extra map[string]json.RawMessage // the other fields of the entry, from the server's Fetch
}

// Meta is one tracked presence.
type Meta struct {
	Ref     string // phx_ref, its identity, which changes with every update
	PrevRef string // phx_ref_prev, the ref that the last update replaced, or empty
	raw     string // the object, refs included
}

// Diff is a change of a topic's state. Its JSON form is the payload of presence_diff. An update is
// a join and a leave of the same key.
type Diff struct {
	Joins  State `json:"joins"`
	Leaves State `json:"leaves"`
}

// Len returns the number of keys.
func (s State) Len() int { return s.entries.len() }

// Get returns the entry of a key.
func (s State) Get(key string) (Entry, bool) { return s.entries.get(key) }

// Clone returns a copy of s that is independent of s.
func (s State) Clone() State { return State{s.entries.clone()} }

// All iterates over the entries in the order in which their keys joined.
func (s State) All() iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		for key, e := range s.entries.all() {
			if !yield(key, *e) {
				return
			}
		}
	}
}

// Decode decodes the meta into v, as [serializer.Payload.Decode] does. The value includes phx_ref.
func (m Meta) Decode(v any) error {
	if err := exactjson.Unmarshal([]byte(m.raw), v); err != nil {
		return fmt.Errorf("presence: decode meta: %w", err)
	}
	return nil
}

// Metas decodes all metas of an entry.
func Metas[M any](e Entry) ([]M, error) {
	metas := make([]M, len(e.Metas))
	for i, m := range e.Metas {
		if err := m.Decode(&metas[i]); err != nil {
			return nil, err
		}
	}
	return metas, nil
}

// Decode decodes the whole entry into v, as [serializer.Payload.Decode] does. Its fields are
// "metas" and those of Extra.
func (e Entry) Decode(v any) error {
	if err := exactjson.Unmarshal(e.appendJSON(nil), v); err != nil {
		return fmt.Errorf("presence: decode entry: %w", err)
	}
	return nil
}

// MarshalJSON returns an object with the entries by key.
func (s State) MarshalJSON() ([]byte, error) { return s.appendJSON(nil), nil }

// MarshalJSON returns an object with the metas and the extra fields.
func (e Entry) MarshalJSON() ([]byte, error) { return e.appendJSON(nil), nil }

// MarshalJSON returns the meta's object. It includes phx_ref.
func (m Meta) MarshalJSON() ([]byte, error) { return m.appendJSON(nil), nil }

func (s *State) set(key string, e Entry) {
	at, _ := s.entries.at(key)
	*at = e
}

func (s *State) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	first := true
	for key, e := range s.entries.all() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = serializer.AppendString(dst, key)
		dst = append(dst, ':')
		dst = e.appendJSON(dst)
	}
	return append(dst, '}')
}

func (e *Entry) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"metas":[`...)
	for i, m := range e.Metas {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = m.appendJSON(dst)
	}
	dst = append(dst, ']')
	if len(e.Extra) > 0 {
		for _, name := range slices.Sorted(maps.Keys(e.Extra)) {
			dst = append(dst, ',')
			dst = serializer.AppendString(dst, name)
			dst = append(dst, ':')
			dst = append(dst, e.Extra[name]...)
		}
	}
	return append(dst, '}')
}

func (m *Meta) appendJSON(dst []byte) []byte {
	if m.raw == "" {
		return append(dst, "{}"...)
	}
	return append(dst, m.raw...)
}

func (d *Diff) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"joins":`...)
	dst = d.Joins.appendJSON(dst)
	dst = append(dst, `,"leaves":`...)
	dst = d.Leaves.appendJSON(dst)
	return append(dst, '}')
}

// merge applies d to s. It does not modify entries that were returned earlier.
func (s *State) merge(d Diff, onJoin, onLeave func(key string, current, changed Entry)) {
	if s.entries.items == nil && d.Joins.Len() > few { // copying the index is faster than making it
		s.entries = d.Joins.entries.clone()
		if onJoin != nil {
			for key, joined := range d.Joins.All() {
				onJoin(key, Entry{}, joined)
			}
		}
		d.Joins = State{}
	}
	for key, joined := range d.Joins.All() {
		at, _ := s.entries.at(key)
		current := *at
		next := joined
		if len(current.Metas) > 0 {
			next.Metas = append(without(current.Metas, joined.Metas), joined.Metas...)
		}
		*at = next
		if onJoin != nil {
			onJoin(key, current, joined)
		}
	}
	for key, left := range d.Leaves.All() {
		i := s.entries.find(key)
		if i < 0 {
			continue
		}
		current := s.entries.items[i].value
		current.Metas = without(current.Metas, left.Metas)
		if len(current.Metas) == 0 {
			s.entries.remove(key)
		} else {
			s.entries.items[i].value = current
		}
		if onLeave != nil {
			onLeave(key, current, left)
		}
	}
}

// without returns a new slice with the metas whose refs are not among those of others.
func without(metas, others []Meta) []Meta {
	left := make([]Meta, 0, len(metas))
	if len(others) > few {
		refs := make(map[string]struct{}, len(others))
		for _, m := range others {
			refs[m.Ref] = struct{}{}
		}
		for _, m := range metas {
			if _, ok := refs[m.Ref]; !ok {
				left = append(left, m)
			}
		}
		return left
	}
	for _, m := range metas {
		if !slices.ContainsFunc(others, func(o Meta) bool { return o.Ref == m.Ref }) {
			left = append(left, m)
		}
	}
	return left
}
