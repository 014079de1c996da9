package mirror

import (
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
	s := saved{savedVersion, m.topic, m.kind, m.keys, m.id, m.pos, make([]savedItem, len(m.items))}
	items := slices.Clone(m.items)
	m.mu.Unlock()
	for i, it := range items {
		s.Items[i] = savedItem{it.remote(), it.rev, it.value}
	}
	return json.Marshal(s)
}

var errOtherCopy = errors.New("the saved copy is of another object or of other keys")

// restore makes the copy what Save has returned.
func (m *Mirror) restore(text []byte) error {
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if s.Version != savedVersion || s.Topic != m.topic || s.Kind != m.kind || s.Keys != m.keys {
		return fmt.Errorf("restore: %w", errOtherCopy)
	}
	m.pos, m.id = s.Position, s.ID
	for _, it := range s.Items {
		m.put(it.Key, it.Rev, it.Value)
	}
	return nil
}
