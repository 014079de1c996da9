//go:build !race

package channel_test

import (
	"context"
	"testing"

	"bennu.example/history"
	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
)

// TestRejoinAllocations holds what a join with the newest position costs beyond one without
// history: the position, the request, the reply's member, and a place in the log. It is not run
// under the race detector, with which a sync.Pool drops items at random.
func TestRejoinAllocations(t *testing.T) {
	ps := recordedTopic(history.Keep{})
	pos, err := ps.Append(t.Context(), "room:1", "msg", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	watcher := crowd(t, ps, serializer.Payload{}, 1) // the topic stays in use
	defer watcher()
	allocs := func(params serializer.Payload) float64 {
		h, w := plainRoom(), new(mailbox.Workers)
		return testing.AllocsPerRun(200, func() {
			c := newSink(ps).join(h, w, params)
			c.Close(context.Canceled)
			c.Wait()
		})
	}
	if plain, top := allocs(serializer.Payload{}), allocs(ask(t, pos.String())); top > plain+4 {
		t.Errorf("%v allocations with a position, %v without: the budget is 4 more", top, plain)
	}
}
