package loop

import "testing"

// One timer is always armed, as a client's heartbeat is: after many others the heap does not keep their room.
func TestHeapShrinks(t *testing.T) {
	t.Parallel()
	var h heap
	h.push(new(Timer))
	timers := make([]Timer, 10_000)
	for i := range timers {
		h.push(&timers[i])
	}
	for i := range timers {
		h.remove(&timers[i])
	}
	if n := cap(h.list); len(h.list) != 1 || n > 4*keep {
		t.Fatalf("room for %d timers, for %d", n, len(h.list))
	}
}
