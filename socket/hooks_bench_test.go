package socket_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// countingHooks are hooks of every kind that only count.
func countingHooks(n *atomic.Int64) (*socket.Hooks, *pubsub.Hooks) {
	channelEvent := func(context.Context, *socket.ChannelEvent) { n.Add(1) }
	socketEvent := func(context.Context, *socket.SocketEvent) { n.Add(1) }
	return &socket.Hooks{
			ConnectStart: func(ctx context.Context, _ *socket.Request) context.Context { n.Add(1); return ctx },
			ConnectDone:  func(context.Context, *socket.Request, error) { n.Add(1) },
			Refused:      socketEvent, Opened: socketEvent, Closed: socketEvent, Dropped: socketEvent,
			Joined: channelEvent, Recovered: channelEvent, Left: channelEvent, JoinRefused: channelEvent, Crashed: channelEvent,
			CallbackStart: func(ctx context.Context, _ *socket.ChannelEvent) context.Context { n.Add(1); return ctx },
			CallbackDone:  channelEvent,
		}, &pubsub.Hooks{
			BroadcastStart: func(ctx context.Context, _, _ string) context.Context { n.Add(1); return ctx },
			BroadcastDone:  func(context.Context, string, string, error) { n.Add(1) },
			Delivered:      func(context.Context, pubsub.Delivery) { n.Add(1) },
		}
}

// BenchmarkHooks compares a server without hooks with one that has hooks of every kind. A fan-out
// is to 100 clients.
func BenchmarkHooks(b *testing.B) {
	const clients = 100
	body := serializer.Value(map[string]string{"body": "hello"})
	raw := func(b *testing.B, s *server) *wstest.Conn {
		c, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		return c
	}
	exchange := func(b *testing.B, c *wstest.Conn, answers int, frames ...string) {
		for _, f := range frames {
			if err := c.Send([]byte(f)); err != nil {
				b.Fatal(err)
			}
		}
		for range answers {
			if _, err := c.Text(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, what := range []struct {
		name string
		// setUp returns one round, and its number of messages.
		setUp func(b *testing.B, s *server) (round func(), messages int)
	}{
		{"echo", func(b *testing.B, s *server) (func(), int) {
			c := raw(b, s)
			exchange(b, c, 1, `["1","1","room:1","phx_join",{}]`)
			return func() { exchange(b, c, 1, `["1","2","room:1","echo",{"body":"hello"}]`) }, 1
		}},
		{"join", func(b *testing.B, s *server) (func(), int) {
			c := raw(b, s)
			return func() {
				exchange(b, c, 3, `["1","1","room:1","phx_join",{}]`, `["1","2","room:1","phx_leave",{}]`)
			}, 1
		}},
		{"fanout", func(b *testing.B, s *server) (func(), int) {
			crowd := s.crowd(b, clients, 1)
			return func() {
				if err := s.h.PubSub().Broadcast(context.Background(), "room:0", "new_msg", body); err != nil {
					b.Fatal(err)
				}
				crowd.receive(clients)
			}, clients
		}},
	} {
		for _, with := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/hooks=%v", what.name, with), func(b *testing.B) {
				cfg := socket.Config{JoinRate: -1, PubSub: pubsub.New(nil)}
				var calls atomic.Int64
				if with {
					hooks, broadcasts := countingHooks(&calls)
					cfg.Hooks = []*socket.Hooks{hooks}
					defer cfg.PubSub.AddHooks(broadcasts)()
				}
				s := serve(b, cfg)
				round, messages := what.setUp(b, s)
				b.ReportAllocs()
				before := calls.Load()
				begun, n := cputime.Used(), 0
				for b.Loop() {
					round()
					n++
				}
				b.ReportMetric(float64((cputime.Used()-begun)/time.Nanosecond)/float64(n*messages)/1000, "cpu-µs/message")
				b.ReportMetric(float64(calls.Load()-before)/float64(n), "hooks/op")
			})
		}
	}
}
