package call_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/call"
	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/stream"
)

type number struct{ N int }

func TestWriter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []int
		gate := make(chan struct{}, 1000)
		h := room(channel.On("chunk", func(_ *nobody, ctx context.Context, _ *channel.Channel, p number) (push.Reply, error) {
			select {
			case <-gate:
			case <-ctx.Done():
				return push.NoReply, nil // the client has gone
			}
			if p.N == 50 {
				return push.NoReply, push.Reject("enough")
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, p.N)
			return push.OK(nil), nil
		}))
		c := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room": h}}).Join(t, "room", nil)
		w := call.NewWriter(t.Context(), c.Channel, "chunk", 4)
		written := make(chan error)
		write := func(n int) {
			go func() { written <- w.Write(number{n}) }()
			synctest.Wait()
		}
		for n := range 4 {
			write(n)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
		write(4)
		select {
		case err := <-written:
			t.Fatalf("the fifth did not wait: %v", err)
		default:
		}
		gate <- struct{}{}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		for range 100 {
			gate <- struct{}{}
		}
		if err := w.Close(); err != nil || !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
			t.Errorf("%v, %v", got, err)
		}
		if err := w.Write(number{9}); err == nil {
			t.Error("a Write after Close")
		}

		w = call.NewWriter(t.Context(), c.Channel, "chunk", 0)
		if err := w.Write(number{50}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if err := w.Write(number{51}); !errors.Is(err, push.Reason("enough")) {
			t.Errorf("after an error reply: %v", err)
		}
		if err := w.Close(); !errors.Is(err, push.Reason("enough")) || slices.Contains(got, 51) {
			t.Errorf("%v, %v", got, err)
		}

		for len(gate) > 0 {
			<-gate
		}
		w = call.NewWriter(t.Context(), c.Channel, "chunk", 1)
		if err := w.Write(number{60}); err != nil {
			t.Error(err)
		}
		go func() { written <- w.Write(number{61}) }()
		synctest.Wait()
		c.Client.Network.Cut()
		if err := <-written; !errors.Is(err, push.ErrLost) {
			t.Errorf("after a cut: %v", err)
		}
		if err := w.Close(); !errors.Is(err, push.ErrLost) {
			t.Error(err)
		}
		c.ExpectJoin(t)

		ctx, cancel := context.WithCancel(t.Context())
		w = call.NewWriter(ctx, c.Channel, "chunk", 1)
		if err := w.Write(number{70}); err != nil {
			t.Error(err)
		}
		cancel()
		if err := w.Write(number{71}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := w.Close(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// credited starts a server of a topic that is recorded. The client has a credit of n and is not
// joined yet.
func credited(t *testing.T, n int) (
	ps *pubsub.PubSub, c *channeltest.Channel, s *stream.Stream[serializer.Message],
) {
	t.Helper()
	rules := history.Rules{"room": {Events: []string{"token"}}}
	ps = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room": room()}, PubSub: ps})
	client := server.Connect(t, nil)
	c = &channeltest.Channel{Channel: client.Socket.Channel("room", nil).Credit(n), Client: client}
	s = c.Channel.Stream("token")
	return ps, c, s
}

func joined(t *testing.T, c *channeltest.Channel) {
	t.Helper()
	if _, err := c.Channel.Join().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestClientCredit reads a recorded stream slowly, over cuts. It gets each event once, and never
// holds more than its credit.
func TestClientCredit(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 7, 64} {
		synctest.Test(t, func(t *testing.T) {
			ps, c, s := credited(t, n)
			c.Channel.Resume(channel.ResumeConfig{})
			joined(t, c)
			const all = 100
			for i := range all {
				if err := ps.Broadcast(t.Context(), "room", "token", number{i}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range all {
				synctest.Wait()
				if got := s.Stats().Count; got > 2*n {
					t.Fatalf("%d events wait for a credit of %d", got, n)
				}
				m, err := s.Next(t.Context())
				var got number
				if err != nil || m.Payload.Decode(&got) != nil || got.N != i {
					t.Fatalf("event %d: %+v, %v", i, got, err)
				}
				if i%37 == 36 {
					c.Client.Network.Cut()
				}
			}
		})
	}
}

// TestClientCreditOfCallbacks checks that events count as handled when their callbacks have
// returned.
func TestClientCreditOfCallbacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps, c, s := credited(t, 10)
		s.Discard()
		gate := make(chan struct{})
		handled := 0
		c.Channel.Resume(channel.ResumeConfig{})
		c.Channel.On("token", func(serializer.Payload) { <-gate; handled++ })
		joined(t, c)
		for i := range 100 {
			if err := ps.Broadcast(t.Context(), "room", "token", number{i}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := c.Channel.Stats().Callbacks.Count; got != 10 {
			t.Errorf("%d events wait", got)
		}
		close(gate)
		synctest.Wait()
		if handled != 100 {
			t.Errorf("%d handled", handled)
		}
	})
}

func TestClientEndOfStream(t *testing.T) {
	t.Parallel()
	for name, reason := range map[string]error{"normal": nil, "failed": push.Reason("model")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room": room(
					channel.On("go", func(_ *nobody, ctx context.Context, c *channel.Channel, _ any) (push.Reply, error) {
						for i := range 20 {
							if err := errors.Join(c.Ready(ctx), c.Push("token", number{i})); err != nil {
								return push.NoReply, err
							}
						}
						return push.OK(nil), c.Finish(reason)
					}))}})
				client := server.Connect(t, nil)
				c := client.Socket.Channel("room", nil).Credit(4)
				s := c.Stream("token")
				c.Join()
				c.Push("go", nil)
				var got []int
				var last error
				for m, err := range s.All(t.Context()) {
					if err != nil {
						last = err
						continue
					}
					var n number
					if err := m.Payload.Decode(&n); err != nil {
						t.Fatal(err)
					}
					got = append(got, n.N)
					time.Sleep(time.Second) // virtual: a slow reader
				}
				if len(got) != 20 || (reason == nil) != (last == nil) || reason != nil && !errors.Is(last, reason) {
					t.Errorf("%v, then %v", got, last)
				}
				<-c.Done()
				if state, err := c.State(); state != channel.StateClosed {
					t.Error(fmt.Sprint(state, err))
				}
			})
		})
	}
}
