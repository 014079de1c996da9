package presence_test

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

var crowdSize = flag.Int("crowd", 3000, "clients of BenchmarkCrowd")

// crowd has size clients join one room at once. It waits until each lists all of them, and returns
// the number of diffs that they received and what the server counted.
func crowd(tb testing.TB, size int, cfg presence.Config, limit time.Duration) (diffs int64, stats socket.Stats) {
	ps := pubsub.New(nil)
	p := presence.New(ps, cfg)
	handler := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": members(p)}})
	server := httptest.NewServer(handler)
	defer server.Close()
	defer p.Close(context.Background())
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	var received atomic.Int64
	var clients, settled sync.WaitGroup
	for i := range size {
		settled.Add(1)
		clients.Go(func() {
			var once sync.Once
			done := func() { once.Do(settled.Done) }
			defer done()
			c, err := socket.Dial(ctx, server.URL, nil)
			if err != nil {
				tb.Errorf("client %d: %v", i, err)
				return
			}
			defer c.Close(context.Background())
			room := c.Channel(topic, map[string]string{"user": fmt.Sprintf("user-%05d", i)})
			list := presence.NewClient(room, nil)
			room.On(presence.EventDiff, func(serializer.Payload) { received.Add(1) })
			all := make(chan struct{})
			known := 0 // no key leaves
			list.OnJoin(func(_ string, current, _ presence.Entry) {
				if len(current.Metas) > 0 {
					return
				}
				if known++; known == size {
					close(all)
				}
			})
			room.Join()
			select {
			case <-all:
				done()
				settled.Wait() // a client that left would change the lists of the others
			case <-ctx.Done():
				tb.Errorf("client %d lists %d of %d: %v", i, list.List().Len(), size, ctx.Err())
			}
		})
	}
	settled.Wait()
	diffs, stats = received.Load(), handler.Stats()
	clients.Wait()
	return diffs, stats
}

func checkCrowd(tb testing.TB, stats socket.Stats) {
	tb.Helper()
	if ws := stats.WebSocket; ws.Slow+ws.Idle > 0 {
		tb.Errorf("%d clients ended as slow and %d as idle", ws.Slow, ws.Idle)
	}
}

// TestCrowd has enough clients join one room at once that their diffs are collected.
func TestCrowd(t *testing.T) {
	const size = 100
	diffs, stats := crowd(t, size, presence.Config{WindowFrom: 10}, time.Minute)
	checkCrowd(t, stats)
	if every := int64(size * size / 2); diffs >= every {
		t.Errorf("%d diffs, as many as without collecting them (%d)", diffs, every)
	}
}

// BenchmarkCrowd measures how long a crowd takes to settle. Run it with -benchtime 1x.
func BenchmarkCrowd(b *testing.B) {
	for _, c := range []struct {
		name   string
		window time.Duration
	}{{"collected", 0}, {"each diff", -1}} {
		b.Run(c.name, func(b *testing.B) {
			var diffs int64
			var ended uint64
			for b.Loop() {
				n, stats := crowd(b, *crowdSize, presence.Config{Window: c.window}, 5*time.Minute)
				diffs += n
				ended += stats.WebSocket.Slow + stats.WebSocket.Idle
			}
			b.ReportMetric(float64(diffs)/float64(b.N), "diffs/op")
			b.ReportMetric(float64(ended)/float64(b.N), "ends/op")
		})
	}
}
