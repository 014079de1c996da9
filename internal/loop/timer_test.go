package loop

import "testing"

// A client's heartbeat timer is always armed. After many other timers have been armed and disarmed,
// the heap must release their memory.
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
