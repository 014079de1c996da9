package socket_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/websocket"
)

// ownInput returns a channel with all the ways in which a client's message can result in frames for
// this client.
func ownInput() *channel.Handler {
	type delayed struct {
		ref channel.Ref
		p   serializer.Payload
	}
	return channel.Define(joinOK,
		onEvent("reply", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
		onEvent("reject", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, push.Reject(p)
		}),
		onEvent("later", func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.Send(delayed{c.Ref(), p})
		}),
		channel.Info(func(_ *nobody, _ context.Context, c *channel.Channel, d delayed) error {
			return c.Reply(d.ref, push.OK(d.p))
		}),
		onEvent("push", func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Push("pushed", p)
		}),
		onEvent("shout", func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("shout", p)
		}),
		onEvent("whisper", func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("whisper", p)
		}),
		channel.Intercept("whisper", func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) error {
			return c.Push("whispered", p)
		}),
	)
}

// TestOwnInputNeverEndsTheClient checks that a client that sends many pushes at once receives all
// replies with the default bounds. The results of its own messages must never end it.
func TestOwnInputNeverEndsTheClient(t *testing.T) {
	t.Parallel()
	for _, by := range []struct {
		name      string
		transport socket.ClientTransport
	}{{"websocket", socket.TransportWebSocket}, {"longpoll", socket.TransportLongPoll}} {
		for _, test := range []struct {
			event    string
			n, bytes int
		}{
			{"reply", 400, 20_000}, {"reply", 3000, 1000}, {"reply", 100, 60_000}, {"reply", 5000, 300},
			{"reply", 20, 900_000}, {"reject", 700, 9_000}, {"later", 1500, 3_000}, {"push", 300, 30_000},
			{"shout", 2500, 1500}, {"whisper", 900, 7_000},
		} {
			t.Run(fmt.Sprintf("%s/%d %s of %d bytes", by.name, test.n, test.event, test.bytes), func(t *testing.T) {
				t.Parallel()
				s := serve(t, socket.Config{Channels: channel.Routes{"room:*": ownInput()}})
				ctx, cancel := context.WithTimeout(t.Context(), 4*patience) // all subtests run at the same time
				defer cancel()
				c, err := socket.Dial(ctx, s.url+"/socket",
					&socket.ClientConfig{Transport: by.transport, Timeout: 3 * patience, MaxBuffer: 64 << 20, MaxBacklog: 64 << 20})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(ctx)
				room := c.Channel("room:a", nil)
				if _, err := room.Join().Wait(ctx); err != nil {
					t.Fatal(err)
				}
				var received sync.WaitGroup
				for _, event := range []string{"pushed", "shout", "whispered"} {
					if strings.HasPrefix(event, test.event) {
						received.Add(test.n)
						room.On(event, func(serializer.Payload) { received.Done() })
					}
				}
				body := map[string]string{"s": strings.Repeat("x", test.bytes)}
				pushes := make([]*push.Push, test.n)
				for i := range pushes {
					pushes[i] = room.Push(test.event, body)
				}
				for i, p := range pushes {
					_, err := p.Wait(ctx)
					if rejected, _ := errors.AsType[*push.Error](err); (rejected != nil) != (test.event == "reject") ||
						rejected == nil && err != nil {
						t.Fatalf("answer %d: %v", i, err)
					}
				}
				done := make(chan struct{})
				go func() { received.Wait(); close(done) }()
				select {
				case <-done:
				case <-ctx.Done():
					t.Error("some pushes have no broadcast")
				}
				if st := s.h.Stats(); st.WebSocket.Slow+st.LongPoll.Slow != 0 {
					t.Errorf("ended as slow: %d, %d", st.WebSocket.Slow, st.LongPoll.Slow)
				}
			})
		}
	}
}

// TestOwnInputOfDeafClientIsBounded has a client that sends messages with replies and never reads.
// Its memory is bounded, the server stops reading from it, and the write timeout ends it.
func TestOwnInputOfDeafClientIsBounded(t *testing.T) {
	pad := strings.Repeat("x", 2000)
	for _, test := range []struct {
		name     string
		channels int
		frame    func(i int) []byte
	}{
		{"one channel", 1, func(int) []byte { return fmt.Appendf(nil, `["0","7","room:0","reply",{"s":"%s"}]`, pad) }},
		{"50 channels", 50, func(i int) []byte {
			return fmt.Appendf(nil, `["%d","7","room:%d","reply",{"s":"%s"}]`, i%50, i%50, pad)
		}},
		{"own broadcasts", 1, func(int) []byte { return fmt.Appendf(nil, `["0","7","room:0","shout",{"s":"%s"}]`, pad) }},
		{"later", 3, func(i int) []byte {
			return fmt.Appendf(nil, `["%d","7","room:%d","later",{"s":"%s"}]`, i%3, i%3, pad)
		}},
		{"heartbeats", 0, func(int) []byte { return []byte(`[null,"7","phoenix","heartbeat",{}]`) }},
		{"a topic that is not joined", 0, func(int) []byte { return []byte(`["1","7","room:1","reply",{}]`) }},
		{"a topic without a handler", 0, func(int) []byte { return []byte(`["1","7","nothing","phx_join",{}]`) }},
		{"leaves of nothing", 0, func(int) []byte { return []byte(`["1","7","room:9","phx_leave",{}]`) }},
		{"leaves and joins", 0, func(i int) []byte {
			return fmt.Appendf(nil, `["%d","7","room:1","%s",{}]`, i/2, [...]string{"phx_join", "phx_leave"}[i%2])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			const queue, mailbox = 256 << 10, 64 << 10
			s := serve(t, socket.Config{
				Channels: channel.Routes{"room:*": ownInput()}, MaxQueue: queue, MaxMailbox: mailbox, JoinRate: -1,
				MaxMessage: 64 << 10,
				// On a busy machine, a client may send nothing for a while before it is congested.
				// That it does not count as idle afterwards is shown by TestWebSocketCongestedNotIdle.
				WebSocket: websocket.Config{WriteTimeout: 1500 * time.Millisecond, IdleTimeout: patience},
			})
			c, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for i := range test.channels {
				if err := c.Send(fmt.Appendf(nil, `["%d","%d","room:%d","phx_join",{}]`, i, i, i)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Text(); err != nil {
					t.Fatal(err)
				}
			}
			// HeapAlloc includes the garbage since the collection began, which is much on a busy machine:
			// the least of several is nearest to what is in use.
			heap := func() int {
				least := math.MaxInt
				for range 3 {
					var m runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&m)
					least = min(least, int(m.HeapAlloc))
				}
				return least
			}
			before, peak := heap(), 0
			ended := make(chan int)
			go func() { // until the server has closed the connection
				sent := 0
				for i := 0; ; i++ {
					f := test.frame(i)
					if c.Send(f) != nil {
						break
					}
					sent += len(f)
				}
				ended <- sent
			}()
			for tick := time.NewTicker(50 * time.Millisecond); ; {
				select {
				case <-tick.C:
					peak = max(peak, heap()-before)
					continue
				case sent := <-ended:
					tick.Stop()
					// The two budgets of the queue, the mailboxes, one message being handled by each channel, and
					// one being read. Text is kept once as the client's, and once as the answer; JSON has an
					// overhead.
					bound := 2*queue + test.channels*(mailbox+4*len(pad)) + 2<<20
					t.Logf("sent %d bytes, peak %d of %d", sent, peak, bound)
					if peak > bound {
						t.Errorf("%d bytes of heap, more than %d", peak, bound)
					}
				}
				break
			}
			for late := time.Now().Add(patience); s.h.Stats().Sockets > 0; runtime.Gosched() {
				if time.Now().After(late) {
					t.Fatal("the socket has not ended")
				}
			}
			if st := s.h.Stats().WebSocket; st.Slow != 1 || st.Idle != 0 {
				t.Errorf("ended as slow %d, idle %d", st.Slow, st.Idle)
			}
		})
	}
}
