//go:build !race

package channel_test

import (
	"context"
	"testing"
)

// TestCallAllocations holds what a call costs beyond a push: the encoded question with and without
// its id. The client of the test makes the name of its answer, which is a third allocation.
func TestCallAllocations(t *testing.T) {
	s, ch, end := startAnswerer(t)
	defer end()
	payload := map[string]int{"n": 1}
	pushed := testing.AllocsPerRun(1000, func() {
		if err := ch.Push("ask", payload); err != nil {
			t.Error(err)
		}
	})
	s.answers = true
	called := testing.AllocsPerRun(1000, func() {
		if _, err := ch.Call(context.Background(), "ask", payload); err != nil {
			t.Error(err)
		}
	})
	if called > pushed+3 {
		t.Errorf("a call makes %v allocations, a push %v", called, pushed)
	}
}
