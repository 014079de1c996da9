package channel_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestJoinOutcomes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		join   func() (any, error)
		frame  string
		joined bool
	}{
		{"ok", func() (any, error) { return nil, nil }, joinedOK, true},
		{"reply", func() (any, error) { return []int{1, 2}, nil }, reply("1", "ok", "[1,2]"), true},
		{"refused", func() (any, error) { return nil, push.Reject("full") },
			reply("1", "error", `{"reason":"full"}`), false},
		{"error", func() (any, error) { return nil, errors.New("db") }, joinCrashed, false},
		{"panic", func() (any, error) { panic("x") }, joinCrashed, false},
		{"goexit", func() (any, error) { runtime.Goexit(); return nil, nil }, joinCrashed, false},
		{"reply that does not encode", func() (any, error) { return make(chan int), nil }, joinCrashed, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var reasons []error
				join := joinBy(func(context.Context, *channel.Channel) (any, error) { return test.join() })
				b := start(t, channel.Define(join, ends(&reasons)))
				b.want(test.frame)
				if got := b.ps.Subscribers("room:1") == 1; got != test.joined {
					t.Errorf("subscribed: %v", got)
				}
				if got := len(b.ended) == 0; got != test.joined {
					t.Errorf("still registered: %v", got)
				}
				b.d.Close(errors.New("over"))
				b.d.Wait()
				wantEnds := 0
				if test.joined || test.name == "reply that does not encode" {
					wantEnds = 1
				}
				if len(reasons) != wantEnds {
					t.Errorf("terminated with %v", reasons)
				}
			})
		})
	}
}

func TestJoinParams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := channel.Define(func(_ *room, _ context.Context, _ *channel.Channel, n note) (any, error) { return n, nil })
		for payload, want := range map[string]string{
			`{"text":"hi"}`: reply("1", "ok", `{"text":"hi"}`),
			`{"text":5}`:    reply("1", "error", `{"reason":"invalid payload"}`),
			`null`:          reply("1", "ok", `{"text":""}`),
		} {
			c := newCarrier(pubsub.New(nil))
			data := []byte(`["1","1","room:1","phx_join",` + payload + `]`)
			m, err := c.ser.Parse(serializer.OpText, data)
			if err != nil {
				t.Fatal(err)
			}
			d := join(c, channelhost.Join{Handler: h, Message: m})
			if got := c.take(); len(got) != 1 || got[0] != want {
				t.Errorf("%s: got %q", payload, got)
			}
			d.Close(errors.New("over"))
		}
	})
}

// TestJoinIsAnsweredFirst checks that the reply to a join precedes broadcasts that are made at the
// same time, and that the client receives all broadcasts after it.
func TestJoinIsAnsweredFirst(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	stop := make(chan struct{})
	var noise sync.WaitGroup
	for range 2 {
		noise.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := ps.Broadcast(context.Background(), "room:1", "noise", nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	h := channel.Define((*room).join)
	for i := range 500 {
		c := newCarrier(ps)
		b := &bench{carrier: c, t: t}
		b.join(h, "1", nil)
		for len(framesOf(c)) == 0 {
			runtime.Gosched()
		}
		if err := ps.Broadcast(context.Background(), "room:1", "after", nil); err != nil {
			t.Fatal(err)
		}
		got := framesOf(c)
		if got[0] != joinedOK {
			t.Fatalf("join %d: the first frame is %s", i, got[0])
		}
		if !slices.Contains(got, `[null,null,"room:1","after",{}]`) {
			t.Fatalf("join %d: missed a broadcast after the reply", i)
		}
		b.d.Close(errors.New("over"))
		b.d.Wait()
	}
	close(stop)
	noise.Wait()
}

func framesOf(c *carrier) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

func TestNothingIsSentBeforeTheJoinReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type hello struct{}
		b := start(t, channel.Define(joinBy(func(_ context.Context, c *channel.Channel) (any, error) {
			for name, err := range map[string]error{
				"push": c.Push("x", nil), "broadcast": c.Broadcast("x", nil), "reply": c.Reply(c.Ref(), push.OK(nil)),
			} {
				if !errors.Is(err, channel.ErrNotJoined) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return nil, c.Send(hello{})
		}), channel.Info(func(_ *room, _ context.Context, c *channel.Channel, _ hello) error {
			return c.Push("welcome", nil)
		})))
		b.want(joinedOK, `["1",null,"room:1","welcome",{}]`)
		b.d.Close(errors.New("over"))
	})
}

func TestDuplicateJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		started := make(chan struct{}, 1)
		h := channel.Define((*room).join, ends(&reasons), channel.On("wait",
			func(_ *room, ctx context.Context, c *channel.Channel, _ note) (push.Reply, error) {
				started <- struct{}{}
				<-ctx.Done()
				if cause := context.Cause(ctx); !errors.Is(cause, channel.ErrReplaced) {
					t.Errorf("cancelled by %v", cause)
				}
				c.Push("late", nil)
				return push.OK(nil), nil
			}))
		b := start(t, h)
		b.want(joinedOK)
		b.push("2", "wait", nil)
		b.push("3", "wait", nil)
		<-started
		old := b.d
		b.join(h, "4", old)
		b.want(`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`, closed)
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrReplaced) {
			t.Errorf("terminated with %v", reasons)
		}
		if n := b.ps.Subscribers("room:1"); n != 1 {
			t.Errorf("%d subscriptions", n)
		}
		b.d.Close(errors.New("over"))
	})
}

// TestDuplicateJoinOfAStuckChannel checks that a join waits at most 5 s for a callback of the
// channel that it replaces. Phoenix kills that channel after 5 s.
func TestDuplicateJoinOfAStuckChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var reasons []error
		h := channel.Define((*room).join, ends(&reasons), on("wait", func(c *channel.Channel, _ note) (push.Reply, error) {
			<-gate
			c.Push("late", nil)
			return push.OK(nil), nil
		}))
		b := start(t, h)
		b.want(joinedOK)
		b.push("2", "wait", nil)
		synctest.Wait()
		begun := time.Now()
		b.join(h, "4", b.d)
		if got := b.take(); len(got) != 0 {
			t.Errorf("sent immediately: %q", got)
		}
		time.Sleep(5 * time.Second)
		b.want(`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`, closed)
		if d := time.Since(begun); d != 5*time.Second {
			t.Errorf("replied after %v", d)
		}
		close(gate)
		b.want() // the old channel sends nothing
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrReplaced) {
			t.Errorf("terminated with %v", reasons)
		}
		b.d.Close(errors.New("over"))
	})
}

func TestDuplicateJoinWhileEnding(t *testing.T) {
	t.Parallel()
	joinAgain := `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`
	slowly := func(err error) joinFunc {
		return joinBy(func(context.Context, *channel.Channel) (any, error) {
			time.Sleep(time.Second)
			return nil, err
		})
	}
	for _, test := range []struct {
		name string
		join joinFunc
		end  func(b *bench)
		want []string
	}{
		{"leaving", (*room).join, func(b *bench) {
			b.d.Leave(serializer.Message{Ref: serializer.StringRef("2")}, 0)
		}, []string{joinedOK, reply("2", "ok", "{}"), closed, joinAgain}},
		{"still joining", slowly(nil), func(*bench) {}, []string{joinedOK, joinAgain, closed}},
		{"leaving while joining", slowly(nil), func(b *bench) {
			b.d.Leave(serializer.Message{Ref: serializer.StringRef("2")}, 0)
		}, []string{joinedOK, reply("2", "ok", "{}"), closed, joinAgain}},
		{"refused while replaced", slowly(push.Reject("no")), func(*bench) {}, []string{
			reply("1", "error", `{"reason":"no"}`),
			`["4","4","room:1","phx_reply",{"status":"error","response":{"reason":"no"}}]`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := channel.Define(test.join)
				b := start(t, h)
				test.end(b)
				b.join(h, "4", b.d)
				time.Sleep(10 * time.Second)
				b.want(test.want...)
				b.d.Close(errors.New("over"))
			})
		})
	}
}

// TestPipelinedBehindARefusedJoin checks that messages behind a refused join are answered as
// messages on a topic that is not joined.
func TestPipelinedBehindARefusedJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define(func(_ *room, _ context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
			time.Sleep(time.Second)
			return nil, push.Reject("no")
		}))
		b.push("2", "x", nil)
		b.d.Leave(serializer.Message{Ref: serializer.StringRef("3")}, 0)
		b.d.Leave(serializer.Message{JoinRef: serializer.StringRef("1"), Ref: serializer.StringRef("4")}, 0)
		time.Sleep(time.Second)
		b.want(reply("1", "error", `{"reason":"no"}`),
			`[null,"2","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
			`[null,"3","room:1","phx_reply",{"status":"ok","response":{}}]`, reply("4", "ok", "{}"))
	})
}
