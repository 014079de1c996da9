package call_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/call"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// worker is a client whose handler counts goroutines.
type worker struct {
	*member
	refuses      bool
	began, ended atomic.Int64
}

func (w *worker) WorkBegan() bool {
	if w.refuses {
		return false
	}
	w.began.Add(1)
	return true
}

func (w *worker) WorkEnded() { w.ended.Add(1) }

// TestGatherIsWaitedFor checks that all goroutines of a node belong to the handler of a channel,
// and that none starts if the handler waits no longer.
func TestGatherIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, refuses := range map[string]bool{"running": false, "after Shutdown": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gatherBubble(t, 1, func(ms *members, ps []*pubsub.PubSub, _ func(int)) {
				w := &worker{member: &member{ps: ps[0], name: "a", answer: named}, refuses: refuses}
				var body serializer.Payload
				if err := body.UnmarshalJSON([]byte(confirms)); err != nil {
					t.Fatal(err)
				}
				var workers mailbox.Workers
				w.d = channelhost.Start(w, channelhost.Join{
					Handler: room(), MaxMailbox: 1 << 20, Workers: &workers,
					Message: serializer.Message{
						JoinRef: `"1"`, Ref: `"1"`, Topic: "room", Event: serializer.EventJoin, Payload: body,
					},
				})
				ms.all = append(ms.all, w.member)
				g := gather(context.Background(), t, ps[0], call.GatherConfig{})
				time.Sleep(time.Minute) // virtual
				want := 1
				if refuses {
					want = 0
				}
				if len(g.answers) != want {
					t.Errorf("%d answers, want %d", len(g.answers), want)
				}
				if began, ended := w.began.Load(), w.ended.Load(); began != ended || (began == 0) != refuses {
					t.Errorf("%d goroutines began, %d ended", began, ended)
				}
			})
		})
	}
}
