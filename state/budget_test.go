//go:build !race

package state_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"bennu.example/state"
)

// TestBudget has the memory and the allocations that the design permits.
func TestBudget(t *testing.T) { // not parallel: it measures the whole process
	if size := unsafe.Sizeof(state.Session{}); size > 192 {
		t.Errorf("a session has %d bytes", size)
	}
	if size := unsafe.Sizeof(state.Session{}) + state.WindowSize; size > 256 {
		t.Errorf("a session with a window has %d bytes", size)
	}
	t.Logf("%d bytes for a session, and %d more for a window", unsafe.Sizeof(state.Session{}), state.WindowSize)
	const n = 100_000
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key%06d", i)
	}
	before := heap()
	m := state.NewMemory(state.MemoryConfig{})
	fill(t, m, keys)
	perItem := float64(heap()-before) / n // without their keys and their value, which are those of the test
	t.Logf("%.0f bytes for each item, in addition to its key and value", perItem)
	if perItem > 120 {
		t.Errorf("%.0f bytes for each item", perItem)
	}
	runtime.KeepAlive(m)

	ops := []state.Op{{Key: keys[7], Value: []byte(`2`)}}
	allocs := testing.AllocsPerRun(1000, func() {
		if _, err := m.Apply(t.Context(), simTopic, ops, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	})
	if t.Logf("%.1f allocations for each put", allocs); allocs > 5 {
		t.Errorf("%.1f allocations for each put", allocs)
	}

	allocs = testing.AllocsPerRun(1000, rejoiner(t))
	if t.Logf("%.0f allocations for a join without changes", allocs); allocs > 36 {
		t.Errorf("%.0f allocations for a join without changes", allocs)
	}

	change := func(clients int, params string, frames int64) float64 {
		o := state.New(state.NewMemory(state.MemoryConfig{}))
		first := []state.Op{{Key: "a", Value: []byte(`1`)}}
		if _, err := o.Apply(t.Context(), simTopic, first, state.Tx{}); err != nil {
			t.Fatal(err)
		}
		a := gatherBy(t, o.Maps(state.Config{}), clients, params, 2)
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := o.Apply(t.Context(), simTopic, ops, state.Tx{}); err != nil {
				t.Fatal(err)
			}
		})
		if got := a.sinks[0].frames.Load(); got != frames {
			t.Errorf("%d frames, want the reply, synced and the changes: %d", got, frames)
		}
		return allocs
	}
	one, many := change(1, `{}`, 203), change(500, `{}`, 203)
	t.Logf("%.1f allocations for a change with 1 client, %.1f with 500", one, many)
	if many > one+1 {
		t.Errorf("%.1f allocations for a change with 1 client, %.1f with 500", one, many)
	}
	outside := change(500, `{"keys":{"first":1}}`, 2)
	t.Logf("%.1f allocations for a change outside of 500 windows", outside)
	if outside > one+1 {
		t.Errorf("%.1f allocations for a change outside of 500 windows", outside)
	}
}

// TestFanOutCost compares what it costs to send a change to 1,000 clients with a plain broadcast.
// Only the fastest of several rounds counts, because other processes may run.
func TestFanOutCost(t *testing.T) { // not parallel: it measures time
	const most = 1.2
	broadcast, change := fanOut(t, 1000)
	round := func(f func()) time.Duration {
		began := time.Now()
		for range 20 {
			f()
		}
		return time.Since(began)
	}
	plain, shared := round(broadcast), round(change)
	for n := 1; ; n++ {
		plain, shared = min(plain, round(broadcast)), min(shared, round(change))
		switch ratio := float64(shared) / float64(plain); {
		case n < 10:
		case ratio <= most:
			t.Logf("a change costs %.2f times a broadcast, after %d rounds", ratio, n)
			return
		case n == 200:
			t.Fatalf("a change costs %.2f times a broadcast, at most %v is permitted", ratio, most)
		}
	}
}
