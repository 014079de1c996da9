package channel_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

const limit = 30 * time.Second

var joinCrashed = reply("1", "error", `{"reason":"join crashed"}`)

type joinFunc = func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error)

// joinBy returns a handler's join that calls f.
func joinBy(f func(ctx context.Context, c *channel.Channel) (any, error)) joinFunc {
	return func(_ *room, ctx context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		return f(ctx, c)
	}
}

// joinAfter returns a handler's join that returns when gate is closed.
func joinAfter(gate <-chan struct{}) joinFunc {
	return joinBy(func(context.Context, *channel.Channel) (any, error) { <-gate; return nil, nil })
}

// TestJoinTimeout checks joins that take too long. The client receives the reply "join crashed",
// whatever the callback returns later. The side effects of the callback are cleaned up.
func TestJoinTimeout(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		late     func(c *channel.Channel) (any, error)
		accepted bool
	}{
		"accepted": {func(c *channel.Channel) (any, error) {
			c.Subscribe("other")
			if err := c.Send("hello"); !errors.Is(err, channel.ErrClosed) {
				return nil, err
			}
			return nil, nil
		}, true},
		"refused":                    {func(*channel.Channel) (any, error) { return nil, push.Reject("no") }, false},
		"failed":                     {func(*channel.Channel) (any, error) { return nil, errors.New("db") }, false},
		"panicked":                   {func(*channel.Channel) (any, error) { panic("secret") }, false},
		"exited":                     {func(*channel.Channel) (any, error) { runtime.Goexit(); return nil, nil }, false},
		"reply that does not encode": {func(*channel.Channel) (any, error) { return make(chan int), nil }, true},
		"rejection that panics later": {func(*channel.Channel) (any, error) {
			return nil, push.Reject(panickingJSON{})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var reasons []error
				ended := 0
				gate := make(chan struct{})
				b := start(t, channel.Define(joinBy(func(ctx context.Context, c *channel.Channel) (any, error) {
					c.OnEnd(func() { ended++ })
					<-ctx.Done()
					cause := context.Cause(ctx)
					if !errors.Is(cause, channel.ErrJoinTimeout) || !strings.Contains(cause.Error(), "30s") {
						t.Errorf("cancelled by %v", cause)
					}
					<-gate
					return test.late(c)
				}), ends(&reasons)))
				b.d.Watch(limit)
				time.Sleep(limit - 1)
				b.want()
				time.Sleep(time.Nanosecond)
				b.want(joinCrashed)
				if len(b.ended) != 1 || b.answered != 1 || !strings.Contains(b.log(), "join took too long") {
					t.Errorf("%d ended, %d answered, log: %s", len(b.ended), b.answered, b.log())
				}
				if receive(b.d, serializer.Message{Event: "x"}, 0) {
					t.Error("a message was accepted after the end")
				}
				if len(reasons) != 0 || ended != 0 {
					t.Errorf("while its join runs: terminated with %v, ended %d times", reasons, ended)
				}
				close(gate)
				b.d.Wait()
				b.want()
				if ended != 1 || (len(reasons) == 1) != test.accepted {
					t.Errorf("terminated with %v, ended %d times", reasons, ended)
				}
				if name == "accepted" && !errors.Is(reasons[0], channel.ErrJoinTimeout) {
					t.Errorf("terminated with %v", reasons)
				}
				if b.answered != 1 || b.ps.Subscribers("room:1") != 0 || b.ps.Subscribers("other") != 0 {
					t.Errorf("%d answered, %d and %d subscriptions",
						b.answered, b.ps.Subscribers("room:1"), b.ps.Subscribers("other"))
				}
			})
		})
	}
}

func TestJoinInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) {
			time.Sleep(limit - 1)
			return nil, nil
		}), on("ctx", func(c *channel.Channel, _ note) (push.Reply, error) { return push.NoReply, c.Context().Err() })))
		b.d.Watch(limit)
		time.Sleep(2 * limit)
		b.d.Watch(limit) // has no effect
		time.Sleep(2 * limit)
		b.push("2", "ctx", nil)
		b.want(joinedOK)
		b.d.Close(errors.New("over"))
	})
}

// TestJoinBehindOneThatTimedOut checks that a topic can be joined again as soon as a join has timed
// out. The end of the old callback does not affect the new channel.
func TestJoinBehindOneThatTimedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		gate := make(chan struct{})
		hangs := true
		h := channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) {
			if hangs {
				<-gate
			}
			return nil, nil
		}), ends(&reasons))
		b := start(t, h)
		b.d.Watch(limit)
		time.Sleep(limit)
		b.want(joinCrashed)
		old := b.d
		hangs = false
		b.join(h, "4", nil)
		b.want(`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		close(gate)
		old.Wait()
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrJoinTimeout) {
			t.Errorf("terminated with %v", reasons)
		}
		if err := b.ps.Broadcast(t.Context(), "room:1", "news", nil); err != nil {
			t.Fatal(err)
		}
		b.want(`[null,null,"room:1","news",{}]`)
		b.d.Close(errors.New("over"))
	})
}

// TestJoinTimeoutOfADuplicate checks that the phx_close of a replaced channel follows the answer to
// the new join, even if that join timed out.
func TestJoinTimeoutOfADuplicate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define((*room).join))
		b.want(joinedOK)
		gate := make(chan struct{})
		b.join(channel.Define(joinAfter(gate)), "4", b.d)
		b.d.Watch(limit)
		time.Sleep(limit)
		b.want(`["4","4","room:1","phx_reply",{"status":"error","response":{"reason":"join crashed"}}]`, closed)
		close(gate)
		b.want()
	})
}

// TestJoinTimeoutBeginsWithTheCallback checks that the timeout does not include the wait for the
// channel that is replaced.
func TestJoinTimeoutBeginsWithTheCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := start(t, channel.Define((*room).join,
			on("wait", func(*channel.Channel, note) (push.Reply, error) { <-gate; return push.NoReply, nil })))
		b.push("2", "wait", nil)
		b.want(joinedOK)
		b.join(channel.Define(joinBy(func(ctx context.Context, _ *channel.Channel) (any, error) {
			time.Sleep(time.Second - 1)
			return nil, ctx.Err()
		})), "4", b.d)
		b.d.Watch(time.Second)
		time.Sleep(10 * time.Second)
		b.want(`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`, closed)
		if !strings.Contains(b.log(), "whose callback does not return") {
			t.Errorf("log: %s", b.log())
		}
		close(gate)
		b.d.Close(errors.New("over"))
	})
}

// TestDuplicateJoinOfAHungJoin checks that a join that hangs is answered when the next join of the
// topic stops waiting for it.
func TestDuplicateJoinOfAHungJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		gate := make(chan struct{})
		b := start(t, channel.Define(joinBy(func(ctx context.Context, _ *channel.Channel) (any, error) {
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, channel.ErrReplaced) {
				t.Errorf("cancelled by %v", cause)
			}
			<-gate
			return nil, nil
		}), ends(&reasons)))
		b.d.Watch(limit)
		old := b.d
		b.join(channel.Define((*room).join), "4", old)
		time.Sleep(5*time.Second - 1)
		b.want()
		time.Sleep(time.Nanosecond)
		b.want(joinCrashed, `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		time.Sleep(limit)
		close(gate)
		old.Wait()
		b.want()
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrReplaced) || b.answered != 2 {
			t.Errorf("terminated with %v, %d answered", reasons, b.answered)
		}
		b.d.Close(errors.New("over"))
	})
}

// TestFullMailboxBehindAJoin checks that a join is answered as crashed if the mailbox fills up
// behind it.
func TestFullMailboxBehindAJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
		h := channel.Define(joinAfter(gate))
		b.d = join(b, channelhost.Join{Handler: h, MaxMailbox: 300})
		for range 10 {
			receive(b.d, serializer.Message{Ref: `"2"`, Event: "x"}, 5*time.Second)
		}
		b.want(joinCrashed)
		close(gate)
		b.want()
	})
}

// TestJoinTimeoutRaces checks that a join that returns as its timeout expires is answered once and
// ends once.
func TestJoinTimeoutRaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inTime := 0
		for range 300 {
			var terminated, ended atomic.Int32
			b := start(t, channel.Define(joinBy(func(_ context.Context, c *channel.Channel) (any, error) {
				c.OnEnd(func() { ended.Add(1) })
				time.Sleep(limit)
				return nil, nil
			}), channel.Terminate(func(*room, context.Context, *channel.Channel, error) { terminated.Add(1) })))
			b.d.Watch(limit)
			time.Sleep(limit)
			got := b.take()
			if len(got) != 1 || got[0] != joinedOK && got[0] != joinCrashed {
				t.Fatalf("answered %q", got)
			}
			if got[0] == joinedOK {
				inTime++
			}
			b.d.Close(errors.New("over"))
			b.d.Wait()
			if terminated.Load() != 1 || ended.Load() != 1 || b.answered != 1 || b.ps.Subscribers("room:1") != 0 {
				t.Fatalf("%q: terminated %d times, ended %d, answered %d", got, terminated.Load(), ended.Load(), b.answered)
			}
		}
		t.Logf("%d of 300 in time", inTime)
	})
}
