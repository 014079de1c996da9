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
