package channel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestEnds(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	bye := `["1",null,"room:1","bye",{}]`
	fails := func(r push.Reply, err error) channel.Option[room] {
		return on("end", func(*channel.Channel, note) (push.Reply, error) { return r, err })
	}
	for _, test := range []struct {
		name   string
		option channel.Option[room]
		frames []string
		reason error
	}{
		{"stop", fails(push.NoReply, channel.ErrStop), []string{closed, bye}, channel.ErrStop},
		{"stop wrapped", fails(push.NoReply, fmt.Errorf("enough: %w", channel.ErrStop)),
			[]string{closed, bye}, channel.ErrStop},
		{"stop with a reply", fails(push.OK(nil), channel.ErrStop),
			[]string{reply("2", "ok", "{}"), closed, bye}, channel.ErrStop},
		{"stop with a reason", fails(push.NoReply, channel.Stop("full")), []string{closedFor("full"), bye}, channel.ErrStop},
		{"stop with a reason, wrapped", fails(push.OK(nil), fmt.Errorf("enough: %w", channel.Stop("full"))),
			[]string{reply("2", "ok", "{}"), closedFor("full"), bye}, push.Reason("full")},
		{"stop without a reason", fails(push.NoReply, channel.Stop("")), []string{closed, bye}, channel.ErrStop},
		{"stop with a long reason", fails(push.NoReply, channel.Stop(push.Reason("x"+strings.Repeat("ü", 100)))),
			[]string{closedFor("x" + strings.Repeat("ü", 61)), bye}, push.Reason("x" + strings.Repeat("ü", 61))},
		{"stop with malformed text", fails(push.NoReply, channel.Stop("a\xffb")),
			[]string{closedFor("a\uFFFDb"), bye}, push.Reason("a\uFFFDb")},
		{"error", fails(push.NoReply, boom), []string{bye, crashed}, boom},
		{"error with a reply", fails(push.OK(nil), boom), []string{reply("2", "ok", "{}"), bye, crashed}, boom},
		{"unknown event", on("other", nil), []string{bye, crashed}, nil},
		{"panic", on("end", func(*channel.Channel, note) (push.Reply, error) { panic("secret") }),
			[]string{bye, crashed}, nil},
		{"nil map", on("end", func(*channel.Channel, note) (push.Reply, error) {
			var m map[string]int
			m["x"] = 1
			return push.NoReply, nil
		}), []string{bye, crashed}, nil},
		{"goexit", on("end", func(*channel.Channel, note) (push.Reply, error) { runtime.Goexit(); return push.NoReply, nil }),
			[]string{crashed}, nil},
		{"push of a list", on("end", func(c *channel.Channel, _ note) (push.Reply, error) {
			return push.NoReply, c.Push("list", []int{1})
		}), []string{bye, crashed}, serializer.ErrPayload},
		{"broadcast of a string", on("end", func(c *channel.Channel, _ note) (push.Reply, error) {
			return push.NoReply, c.Broadcast("text", "x")
		}), []string{bye, crashed}, serializer.ErrPayload},
		{"reply that does not encode", fails(push.OK(make(chan int)), nil), []string{bye, crashed}, serializer.ErrPayload},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var reasons []error
				b := start(t, channel.Define((*room).join, test.option, ends(&reasons)))
				b.want(joinedOK)
				b.push("2", "end", nil)
				b.want(test.frames...)
				if len(reasons) != 1 || test.reason != nil && !errors.Is(reasons[0], test.reason) {
					t.Errorf("terminated with %v", reasons)
				}
				if b.ps.Subscribers("room:1") != 0 {
					t.Error("still subscribed")
				}
				if receive(b.d, serializer.Message{Event: "x"}, 0) {
					t.Error("a message was accepted after the end")
				}
				if got := strings.Join(test.frames, ""); strings.Contains(got, "secret") {
					t.Error("the client received the text of the panic")
				}
			})
		})
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		b := start(t, channel.Define((*room).join, ends(&reasons),
			on("end", func(*channel.Channel, note) (push.Reply, error) { panic("secret") })))
		b.push("2", "end", nil)
		b.take()
		var p *channel.PanicError
		if len(reasons) != 1 || !errors.As(reasons[0], &p) || p.Value != "secret" ||
			!bytes.Contains(p.Stack, []byte("server_test.go")) {
			t.Errorf("reasons %v", reasons)
		}
		if !strings.Contains(b.log(), "secret") {
			t.Errorf("log: %s", b.log())
		}
	})
}

func TestLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		b := start(t, channel.Define((*room).join, ends(&reasons)))
		b.take()
		b.d.Leave(serializer.Message{Ref: serializer.StringRef("2")}, 0)
		b.want(reply("2", "ok", "{}"), closed, `["1",null,"room:1","bye",{}]`)
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrLeft) {
			t.Errorf("terminated with %v", reasons)
		}
	})
}

// TestConnectionEnds checks that messages received before the end of the connection are handled.
func TestConnectionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons, seen []error
		var ch *channel.Channel
		b := start(t, channel.Define((*room).join, ends(&reasons), channel.On("work",
			func(_ *room, ctx context.Context, c *channel.Channel, _ note) (push.Reply, error) {
				ch = c
				time.Sleep(time.Second)
				seen = append(seen, ctx.Err())
				return push.NoReply, nil
			})))
		b.take()
		b.push("2", "work", nil)
		b.push("3", "work", nil)
		cause := errors.New("reset")
		b.mu.Lock()
		b.carrier.closed = true
		b.mu.Unlock()
		b.d.Close(cause)
		b.d.Wait()
		if len(seen) != 2 || seen[0] != nil || seen[1] != nil {
			t.Errorf("worked with %v", seen)
		}
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrClosed) || !errors.Is(reasons[0], cause) {
			t.Errorf("terminated with %v", reasons)
		}
		if err := ch.Push("x", nil); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("push after the end: %v", err)
		}
		if err := ch.Broadcast("x", nil); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("broadcast after the end: %v", err)
		}
		if err := ch.Send(1); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("send after the end: %v", err)
		}
		if ch.Context().Err() == nil {
			t.Error("the context is not cancelled")
		}
		if ch.OnEnd(func() {}) {
			t.Error("OnEnd returned true after the end")
		}
	})
}

func TestCancelReachesTheRunningCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		b := start(t, channel.Define((*room).join, ends(&reasons), channel.On("wait",
			func(_ *room, ctx context.Context, _ *channel.Channel, _ note) (push.Reply, error) {
				<-ctx.Done()
				return push.NoReply, ctx.Err()
			})))
		b.push("2", "wait", nil)
		b.push("3", "wait", nil)
		synctest.Wait()
		b.d.Close(errors.New("reset"))
		b.d.Cancel(errors.New("reset"))
		b.d.Wait()
		if len(reasons) != 1 {
			t.Errorf("terminated with %v", reasons)
		}
	})
}

func TestOnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []string
		b := start(t, channel.Define(func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			c.OnEnd(func() { order = append(order, "end 1") })
			c.OnEnd(func() { panic("in OnEnd") })
			c.OnEnd(func() { order = append(order, "end 2") })
			return nil, nil
		}, channel.Terminate(func(*room, context.Context, *channel.Channel, error) { order = append(order, "terminate") })))
		b.take()
		b.d.Leave(serializer.Message{Ref: `"2"`}, 0)
		b.take()
		if !slices.Equal(order, []string{"terminate", "end 1", "end 2"}) {
			t.Errorf("order %q", order)
		}
		if !strings.Contains(b.log(), "in OnEnd") {
			t.Errorf("log: %s", b.log())
		}
	})
}

// TestOnEndThatExits checks that all functions are called at the end, even if some of them panic or
// end their goroutine.
func TestOnEndThatExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []string
		record := func(name string, then func()) func() { return func() { order = append(order, name); then() } }
		b := start(t, channel.Define(joinBy(func(_ context.Context, c *channel.Channel) (any, error) {
			c.OnEnd(record("1", runtime.Goexit))
			c.OnEnd(record("2", func() { panic("in OnEnd") }))
			c.OnEnd(record("3", runtime.Goexit))
			c.OnEnd(record("4", func() {}))
			return nil, nil
		}), channel.Terminate(func(*room, context.Context, *channel.Channel, error) { runtime.Goexit() })))
		b.take()
		b.d.Leave(serializer.Message{Ref: `"2"`}, 0)
		b.d.Wait()
		if !slices.Equal(order, []string{"1", "2", "3", "4"}) {
			t.Errorf("order %q", order)
		}
		if b.gone != 1 {
			t.Errorf("ended %d times", b.gone)
		}
	})
}

func closedFor(reason string) string {
	return fmt.Sprintf(`["1","1","room:1","phx_close",{"reason":%q}]`, reason)
}

// TestReasonRejects checks that a callback that returns a Reason rejects as with push.Reject.
func TestReasonRejects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refusing := channel.Define(func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return nil, fmt.Errorf("join: %w", push.Reason("banned"))
		})
		b := start(t, refusing)
		b.want(`["1","1","room:1","phx_reply",{"status":"error","response":{"reason":"banned"}}]`)
		b = start(t, channel.Define((*room).join, on("ask", func(*channel.Channel, note) (push.Reply, error) {
			return push.NoReply, push.Reason("full")
		})))
		b.want(joinedOK)
		b.push("2", "ask", nil)
		b.want(reply("2", "error", `{"reason":"full"}`))
		if log := b.log(); log != "" {
			t.Errorf("logged %s", log)
		}
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

func TestRemoteErrorIsReason(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("wrapped: %w", &channel.RemoteError{
		Event: "phx_close", Payload: serializer.Value(map[string]string{"reason": "full"}),
	})
	if !errors.Is(err, push.Reason("full")) || errors.Is(err, push.Reason("x")) || errors.Is(err, push.Reason("")) ||
		errors.Is(&channel.RemoteError{Event: "phx_close"}, push.Reason("")) {
		t.Errorf("%v", err)
	}
}
