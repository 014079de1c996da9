package presence_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"

	"bennu.example/presence"
)

// TestHooks notifies hooks of what is tracked, and of the diffs, also when another hook panics.
func TestHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lines []string
		add := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf(format, args...))
		}
		silent := zerolog.Nop()
		n := newNode(t, presence.Config{Logger: &silent, Hooks: []*presence.Hooks{
			{
				Tracked: func(string, string, string, error) { panic("hook") },
				Diff:    func(string, int, int, int) { panic("hook") },
			},
			{},
			{
				Tracked: func(op, topic, key string, err error) { add("%s %s %v", op, key, err) },
				Diff: func(topic string, joins, leaves, subscribers int) {
					add("diff %d %d to %d", joins, leaves, subscribers)
				},
			},
		}})
		a := new(owner)
		steps := []func(){
			func() { n.track(a, "ann", nil) },
			func() { _, _ = n.TrackFor(a, topic, "ann", nil) },
			func() { _, _ = n.UpdateFor(a, topic, "ann", device{"v": 1}) },
			func() {
				_, _ = presence.ChangeFor(n.Presence, a, topic, "ann", func(m *device) { (*m)["v"] = 2 })
			},
			func() { n.UntrackFor(a, topic, "ann") },
		}
		for _, step := range steps {
			step()
			synctest.Wait()
		}
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(lines)
		if want := slices.Sorted(slices.Values([]string{
			"track ann <nil>", "diff 1 0 to 1",
			fmt.Sprintf("track ann presence: track %q on %s: already tracked", "ann", topic),
			"update ann <nil>", "diff 1 1 to 1", "update ann <nil>", "diff 1 1 to 1", "untrack ann <nil>", "diff 0 1 to 1",
		})); !slices.Equal(lines, want) {
			t.Errorf("got  %q\nwant %q", lines, want)
		}
	})
}
