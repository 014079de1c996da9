package channel_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// TestJoinsLeaveNothingBehind joins 100,000 topics with positions that name nothing, as an attacker
// does. Neither the topics nor the positions may cost memory afterwards.
func TestJoinsLeaveNothingBehind(t *testing.T) {
	const joins, budget = floodJoins, 512 << 10 // 5 bytes each
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
	h, w := plainRoom(), new(mailbox.Workers)
	s := newSink(ps)
	join := func(n int) {
		params, err := serializer.Value(map[string]any{"$history": map[string]any{
			"since": fmt.Sprintf("forged%d-%d-0m0a", n%1000, n), "last": 1_000_000,
		}}).Encoded()
		if err != nil {
			t.Fatal(err)
		}
		c := channelhost.Start(s, channelhost.Join{
			Handler: h, MaxMailbox: 1 << 20, Workers: w,
			Message: serializer.Message{
				JoinRef: `"1"`, Ref: `"1"`, Topic: fmt.Sprint("room:", n), Event: serializer.EventJoin, Payload: params,
			},
		})
		<-s.answered
		c.Close(context.Canceled)
		c.Wait()
	}
	inUse := func() int64 {
		var m runtime.MemStats
		for range 3 { // pools release memory one collection later
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for n := range 1000 {
		join(n)
	}
	before := inUse()
	for n := range joins {
		join(1000 + n)
	}
	grown := inUse() - before
	t.Logf("%d joins left %d bytes", joins, grown)
	if grown > budget {
		t.Errorf("%d joins left %d bytes, budget %d", joins, grown, budget)
	}
	if n := s.frames.Load(); n != joins+1000 {
		t.Errorf("%d frames, want a reply to each of %d joins", n, joins+1000)
	}
}
