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

// State is who is present on a topic: an entry for each key, in the order in which the keys came. As JSON it is the payload of
// presence_state. The zero State is empty. A State is a value which nobody changes, but for UnmarshalJSON: it may be copied, and read
// by several goroutines.
type State struct{ entries ordered[Entry] }

// Entry is what is known of one key: a meta for each time that it is tracked, the latest last.
type Entry struct {
	Metas []Meta
	Extra map[string]json.RawMessage // the fields beside the metas, as the server's Fetch gave them
}

// Meta is one tracked presence.
type Meta struct {
	Ref     string // phx_ref, its identity; another after every update
	PrevRef string // phx_ref_prev: the ref that the last update replaced, or ""
	raw     string // the object, refs included
}

// Diff is what changed on a topic. As JSON it is the payload of presence_diff. An update is a join and a leave of the same key.
type Diff struct {
	Joins  State `json:"joins"`
	Leaves State `json:"leaves"`
}

// Len is the number of keys.
func (s State) Len() int { return s.entries.len() }

// Get is the entry of a key.
func (s State) Get(key string) (Entry, bool) { return s.entries.get(key) }

// Clone is a State that changes to s do not change.
func (s State) Clone() State { return State{s.entries.clone()} }

// All yields the entries in the order in which their keys came.
func (s State) All() iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		for key, e := range s.entries.all() {
			if !yield(key, *e) {
				return
			}
		}
	}
}

// Decode stores the meta in v, phx_ref included, as [serializer.Payload.Decode] does.
func (m Meta) Decode(v any) error {
	if err := exactjson.Unmarshal([]byte(m.raw), v); err != nil {
		return fmt.Errorf("presence: decode meta: %w", err)
	}
	return nil
}

// Metas decodes the metas of an entry, all into one type.
func Metas[M any](e Entry) ([]M, error) {
	metas := make([]M, len(e.Metas))
	for i, m := range e.Metas {
		if err := m.Decode(&metas[i]); err != nil {
			return nil, err
		}
	}
	return metas, nil
}

// Decode stores the whole entry in v, as [serializer.Payload.Decode] does: its fields are "metas" and those of Extra.
func (e Entry) Decode(v any) error {
	if err := exactjson.Unmarshal(e.appendJSON(nil), v); err != nil {
		return fmt.Errorf("presence: decode entry: %w", err)
	}
	return nil
}

// MarshalJSON is the object of the entries by key.
func (s State) MarshalJSON() ([]byte, error) { return s.appendJSON(nil), nil }

// MarshalJSON is the object of the metas and the fields beside them.
func (e Entry) MarshalJSON() ([]byte, error) { return e.appendJSON(nil), nil }

// MarshalJSON is the meta's object, phx_ref included.
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

// merge applies d. Entries that were handed out stay as they are.
func (s *State) merge(d Diff, onJoin, onLeave func(key string, current, changed Entry)) {
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

// without is a new slice of those metas whose refs are not among the others'.
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
