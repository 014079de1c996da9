package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"bennu.example/history"
)

// saved is a copy as Save returns it.
type saved struct {
	Version  int              `json:"version"`
	Topic    string           `json:"topic"`
	Kind     string           `json:"kind"`
	Keys     keyRange         `json:"keys"`
	Query    *query           `json:"query,omitempty"`
	ID       string           `json:"id"`
	Position history.Position `json:"position"`
	Items    []savedItem      `json:"items"`
}

type savedItem struct {
	Key   string          `json:"key"`
	Rev   uint64          `json:"rev"`
	Value json.RawMessage `json:"value"`
}

const savedVersion = 1

// Save returns the copy with its position, for Options.Restore. It is JSON text. A program may
// store it when it ends, or from time to time.
func (m *Mirror) Save() ([]byte, error) {
	m.mu.Lock()
	s, items := m.copyLocked()
	m.mu.Unlock()
	return s.encode(items)
}

// copyLocked returns the copy, without its items, and these. The caller holds mu.
func (m *Mirror) copyLocked() (saved, []*item) {
	return saved{savedVersion, m.topic, m.kind, m.keys, m.params.Query, m.id, m.pos, nil}, slices.Clone(m.items)
}

func (s *saved) encode(items []*item) ([]byte, error) {
	s.Items = make([]savedItem, len(items))
	for i, it := range items {
		s.Items[i] = savedItem{it.remote(), it.rev, it.value}
	}
	return json.Marshal(s)
}

// isSame reports whether two queries, which may be nil, are the same.
func (q *query) isSame(r *query) bool {
	if q == nil || r == nil {
		return q == r
	}
	return q.Name == r.Name && bytes.Equal(q.Args, r.Args)
}

var errOtherCopy = errors.New("the saved copy is of another object or of other keys")

// restore makes the copy what Save has returned.
func (m *Mirror) restore(text []byte) error {
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if s.Version != savedVersion || s.Topic != m.topic || s.Kind != m.kind || s.Keys != m.keys ||
		!s.Query.isSame(m.params.Query) {
		return fmt.Errorf("restore: %w", errOtherCopy)
	}
	m.pos, m.id, m.complete = s.Position, s.ID, true
	for _, it := range s.Items {
		m.put(it.Key, it.Rev, it.Value)
	}
	return nil
}
