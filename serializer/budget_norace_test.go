//go:build !race

package serializer_test

import (
	"testing"

	"bennu.example/serializer"
)

// TestAllocationsOfValues is not run under the race detector, with which a sync.Pool drops items at
// random.
func TestAllocationsOfValues(t *testing.T) {
	dst := make([]byte, 0, 1024)
	for _, s := range serializer.Default() {
		m := serializer.Message{Kind: broadcast, Topic: "room:lobby", Event: "new_msg", Payload: serializer.Value(aChat)}
		budget(t, s.Version()+" Append of a struct", 0, func() error {
			_, _, err := s.Append(dst[:0], &m)
			return err
		})
	}
}

// TestAllocationsOfParams decodes the parameters of a handshake.
func TestAllocationsOfParams(t *testing.T) {
	var params struct {
		UserID string `json:"user_id"`
		Reject any    `json:"reject"`
	}
	p := serializer.Value(map[string]any{"vsn": "2.0.0", "user_id": "7", "reject": "1"})
	budget(t, "Decode of params", 0, func() error {
		params.Reject = nil
		return p.Decode(&params)
	})
}
