package presence_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/presence"
)

// TestAutomaticWindow changes a large topic slowly and fast, with every kind of Window.
func TestAutomaticWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		cfg         presence.Config
		keys, sinks int
		window      time.Duration // zero means that every change is broadcast immediately
	}{
		{name: "a small topic", keys: 200},
		{name: "a large topic", keys: 300, window: 15 * time.Millisecond},
		{name: "a very large topic", keys: 30_000, window: time.Second},
		{name: "few keys and many subscribers", keys: 1, sinks: 399, window: 20 * time.Millisecond},
		{name: "a lower limit", cfg: presence.Config{WindowFrom: 20}, keys: 40, window: 2 * time.Millisecond},
		{name: "turned off", cfg: presence.Config{Window: -1}, keys: 300, sinks: 300},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testWindow(t, c.cfg, c.keys, c.sinks, c.window) })
		})
	}
}

func testWindow(t *testing.T, cfg presence.Config, keys, sinks int, window time.Duration) {
	n := newNode(t, cfg)
	o := new(owner)
	for range sinks {
		defer n.ps.Subscribe(topic, sink{}).Cancel()
	}
	for i := range keys {
		n.track(o, fmt.Sprint(i), nil)
	}
	settle := func() int {
		time.Sleep(2 * time.Second)
		synctest.Wait()
		return len(n.take(&n.names))
	}
	settle()
	// Slow changes are broadcast immediately.
	for range 3 {
		n.UpdateFor(o, topic, "0", nil)
		if got := len(n.take(&n.names)); got != 1 {
			t.Errorf("%d diffs at once for a change after a pause", got)
		}
		time.Sleep(window)
	}
	settle()
	// Of fast changes the first is.
	for range 10 {
		n.UpdateFor(o, topic, "0", nil)
	}
	immediately := 1
	if window == 0 {
		immediately = 10
	}
	if got := len(n.take(&n.names)); got != immediately {
		t.Errorf("%d diffs at once for fast changes, want %d", got, immediately)
	}
	if window > 0 {
		time.Sleep(window - time.Microsecond)
		synctest.Wait()
		if got := len(n.take(&n.names)); got != 0 {
			t.Errorf("%d diffs before the window ended", got)
		}
		if got := settle(); got != 1 {
			t.Errorf("%d diffs for all changes of a window", got)
		}
	}
	n.check()
	o.end()
	if settle(); n.Rooms() > 0 {
		t.Error("the topic is left")
	}
}

// TestWindowOfBusyTopic has changes come while Fetch runs for the diff before them. They are
// collected as well.
func TestWindowOfBusyTopic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fetches atomic.Int64
		n := newNode(t, presence.Config{WindowFrom: 10, Fetch: slowFetch(&fetches, 200*time.Microsecond)})
		o := new(owner)
		for i := range 10 {
			n.track(o, fmt.Sprint(i), nil)
		}
		time.Sleep(time.Second)
		fetches.Store(0)
		for range 50 { // over 5 ms
			n.UpdateFor(o, topic, "0", nil)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		if most := int64(9); fetches.Load() > most { // one per window of 500 µs plus 200 µs for Fetch itself
			t.Errorf("%d diffs, want at most %d", fetches.Load(), most)
		}
		n.check()
		o.end()
		time.Sleep(time.Second)
	})
}

func slowFetch(calls *atomic.Int64, d time.Duration) func(context.Context, string, []string) (map[string]any, error) {
	return func(context.Context, string, []string) (map[string]any, error) {
		calls.Add(1)
		time.Sleep(d)
		return nil, nil
	}
}
