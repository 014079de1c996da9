package loop

import "testing"

// TestHeapShrinks checks that the heap releases memory although it is never empty: a client's
// heartbeat timer is always armed.
func TestHeapShrinks(t *testing.T) {
	t.Parallel()
	var ts timers
	ts.push(new(Timer))
	list := make([]Timer, 10_000)
	for i := range list {
		ts.push(&list[i])
	}
	for i := range list {
		ts.remove(&list[i])
	}
	if n := cap(ts.heap); len(ts.heap) != 1 || n > 4*keep {
		t.Fatalf("%d timers, capacity %d", len(ts.heap), n)
	}
}
