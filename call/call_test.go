package call_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/call"
	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/stream"
)

type nobody struct{}

// room accepts every join.
func room(options ...channel.Option[nobody]) *channel.Handler {
	return channel.Define(
		func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }, options...)
}

// bubble runs f in virtual time with a server and a client's channel that is joined.
func bubble(t *testing.T, prepare func(*channel.Client), f func(t *testing.T, c *channeltest.Channel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room": room()}})
		c := server.Connect(t, nil).Channel("room", nil)
		if prepare != nil {
			prepare(c.Channel)
		}
		c.Join(t)
		synctest.Wait()
		f(t, c)
	})
}

func ask(ctx context.Context, c *channeltest.Channel, t *testing.T, event string, question any) (string, error) {
	t.Helper()
	return call.To[string](ctx, c.ServerChannel(t), event, question)
}

// echo answers with the text of the question.
func echo(_ context.Context, q struct{ Text string }) (string, error) { return q.Text, nil }

func TestHandle(t *testing.T) {
	t.Parallel()
	prepare := func(c *channel.Client) {
		call.Handle(c, "echo", echo)
		call.Handle(c, "refuse", func(context.Context, any) (string, error) { return "", push.Reject("never") })
		call.Handle(c, "fail", func(context.Context, any) (string, error) { return "", errors.New("a secret") })
		call.Handle(c, "exit", func(context.Context, any) (string, error) { runtime.Goexit(); return "", nil })
		call.Handle(c, "odd", func(context.Context, any) (chan int, error) { return make(chan int), nil })
		c.Handle("bytes", func(context.Context, serializer.Payload) (any, error) {
			return serializer.Binary([]byte{1, 2}), nil
		})
		c.On("echo", func(serializer.Payload) { t.Error("On received a call") })
		c.OnMessage(func(m serializer.Message) { t.Errorf("OnMessage received %s", m.Event) })
	}
	bubble(t, prepare, func(t *testing.T, c *channeltest.Channel) {
		ctx := t.Context()
		if got, err := ask(ctx, c, t, "echo", map[string]string{"text": "hi"}); got != "hi" || err != nil {
			t.Error(got, err)
		}
		for event, reason := range map[string]string{
			"refuse": "never", "fail": "failed", "exit": "failed", "odd": "failed",
		} {
			if _, err := ask(ctx, c, t, event, nil); !errors.Is(err, push.Reason(reason)) {
				t.Errorf("%s: %v", event, err)
			}
		}
		if _, err := ask(ctx, c, t, "echo", map[string]int{"text": 1}); !errors.Is(err, push.Reason("invalid payload")) {
			t.Error(err)
		}
		if got, err := call.To[[]byte](ctx, c.ServerChannel(t), "bytes", nil); string(got) != "\x01\x02" || err != nil {
			t.Error(got, err)
		}
		if _, err := call.To[int](ctx, c.ServerChannel(t), "echo", map[string]string{"text": "hi"}); err == nil {
			t.Error("a string is an int")
		}
		if _, err := ask(ctx, c, t, "other", nil); !errors.Is(err, channel.ErrNoHandler) {
			t.Error(err)
		}
	})
}

// TestHandleChanges registers and removes handlers while the channel is joined, and while it has no
// connection.
func TestHandleChanges(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, c *channeltest.Channel) {
		ctx := t.Context()
		want := func(event string, is error) {
			t.Helper()
			synctest.Wait()
			if _, err := ask(ctx, c, t, event, nil); !errors.Is(err, is) {
				t.Errorf("%s: %v, want %v", event, err, is)
			}
		}
		want("a", channel.ErrNoHandler)
		offA := call.Handle(c.Channel, "a", echo)
		want("a", nil)
		offB := call.Handle(c.Channel, "b", echo)
		want("b", nil)
		replaced := call.Handle(c.Channel, "a", echo)
		offA() // of a handler that was replaced
		want("a", nil)
		replaced()
		want("a", channel.ErrNoHandler)
		want("b", nil)
		c.Client.Disconnect(t)
		call.Handle(c.Channel, "c", echo)
		offB()
		c.Client.Reconnect(t)
		c.ExpectJoin(t)
		want("b", channel.ErrNoHandler)
		want("c", nil)
	})
}

func TestHandleBusy(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	prepare := func(c *channel.Client) {
		call.Handle(c, "slow", func(ctx context.Context, _ any) (string, error) {
			select {
			case <-gate:
				return "done", nil
			case <-ctx.Done():
				return "", push.Reject("ended")
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		gate = make(chan struct{})
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room": room()}})
		c := server.Connect(t, nil).Channel("room", nil)
		var off func()
		prepare(c.Channel)
		off = call.Handle(c.Channel, "off", func(ctx context.Context, _ any) (string, error) {
			<-ctx.Done()
			return "", push.Reject("ended")
		})
		c.Join(t)
		results, listed := make(chan error, 16), 0
		begin := func(event string) {
			go func() {
				_, err := ask(t.Context(), c, t, event, nil)
				results <- err
			}()
			synctest.Wait()
		}
		for range 15 {
			begin("slow")
		}
		begin("off")
		if _, err := ask(t.Context(), c, t, "slow", nil); !errors.Is(err, push.Reason("busy")) {
			t.Errorf("the 17th call: %v", err)
		}
		time.Sleep(time.Second) // virtual
		for _, s := range c.Client.Socket.Consumers() {
			if s.Kind != stream.Calls {
				continue
			}
			if s.Topic != "room" || s.Count != 16 || s.Bytes < 32 || s.Oldest != time.Second ||
				!slices.Equal(s.Events, []string{"off", "slow"}) {
				t.Errorf("calls that are handled: %+v", s)
			}
			listed++
		}
		if listed != 1 {
			t.Errorf("%d entries of calls", listed)
		}
		off()
		if err := <-results; !errors.Is(err, push.Reason("ended")) {
			t.Errorf("the handler that was removed: %v", err)
		}
		close(gate)
		for range 15 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if _, err := ask(t.Context(), c, t, "slow", nil); err != nil {
			t.Error(err)
		}
	})
}

// TestCallUnderCuts breaks the connection before the question, between it and the answer, and after
// the answer. The call ends once, and the context of the handler ends.
func TestCallUnderCuts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		delay, cut time.Duration
		asked, ok  bool
	}{
		"before the question arrives": {time.Second, 500 * time.Millisecond, false, false},
		"before the answer":           {time.Second, 2 * time.Second, true, false},
		"while the answer is sent":    {time.Second, 4500 * time.Millisecond, true, false},
		"after the answer":            {time.Second, 6 * time.Second, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			asked, ended := 0, 0
			prepare := func(c *channel.Client) {
				call.Handle(c, "slow", func(ctx context.Context, _ any) (string, error) {
					mu.Lock()
					asked++
					mu.Unlock()
					select {
					case <-time.After(3 * time.Second):
					case <-ctx.Done():
						mu.Lock()
						ended++
						mu.Unlock()
					}
					return "answer", nil
				})
			}
			bubble(t, prepare, func(t *testing.T, c *channeltest.Channel) {
				old := c.ServerChannel(t)
				c.Client.Network.Delay(test.delay)
				results := make(chan error, 2)
				go func() {
					_, err := call.To[string](t.Context(), old, "slow", nil)
					results <- err
				}()
				time.Sleep(test.cut) // virtual: what is under way is lost
				c.Client.Network.Restore()
				c.Client.Network.Cut()
				err := <-results
				if test.ok && err != nil || !test.ok && !errors.Is(err, channel.ErrClosed) {
					t.Errorf("the call ended with %v", err)
				}
				time.Sleep(time.Minute) // virtual
				c.ExpectJoin(t)
				mu.Lock()
				if (asked == 1) != test.asked || asked > 1 {
					t.Errorf("asked %d times", asked)
				}
				mu.Unlock()
				if _, err := call.To[string](t.Context(), old, "slow", nil); !errors.Is(err, channel.ErrClosed) {
					t.Errorf("the old channel: %v", err)
				}
				if got, err := ask(t.Context(), c, t, "slow", nil); got != "answer" || err != nil {
					t.Errorf("the new channel: %s, %v", got, err)
				}
				if len(results) != 0 {
					t.Error("the call ended twice")
				}
			})
		})
	}
}

// TestCallsOverCuts calls at random while the connection is cut at random. Each call ends once,
// with its own answer or a typed error, and no goroutine is left.
func TestCallsOverCuts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		prepare := func(c *channel.Client) {
			call.Handle(c, "wait", func(ctx context.Context, q struct{ N, MS int }) (int, error) {
				select {
				case <-time.After(time.Duration(q.MS) * time.Millisecond):
				case <-ctx.Done():
				}
				return q.N, nil
			})
		}
		bubble(t, prepare, func(t *testing.T, c *channeltest.Channel) {
			r := rand.New(rand.NewPCG(seed, 7))
			c.Client.Network.Delay(20 * time.Millisecond)
			var wg sync.WaitGroup
			var mu sync.Mutex
			answers, failures := 0, 0
			on := c.ServerChannel(t)
			for n := range 150 {
				if r.IntN(15) == 0 {
					c.Client.Network.Cut()
					c.ExpectJoin(t)
					on = c.ServerChannel(t)
				}
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) // virtual
				timeout := time.Duration(r.IntN(200)) * time.Millisecond
				question := map[string]int{"N": n, "MS": r.IntN(100)}
				ch := on
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					got, err := call.To[int](ctx, ch, "wait", question)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil && got == n:
						answers++
					case errors.Is(err, channel.ErrClosed), errors.Is(err, context.DeadlineExceeded),
						errors.Is(err, push.Reason("busy")), errors.Is(err, channel.ErrTooManyCalls):
						failures++
					default:
						t.Errorf("call %d: %d, %v", n, got, err)
					}
				})
			}
			wg.Wait()
			if answers == 0 || failures == 0 || answers+failures != 150 {
				t.Error(fmt.Sprint(answers, " answers, ", failures, " failures"))
			}
		})
	}
}
