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
		join   func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error)
		frame  string
		joined bool
	}{
		{"ok", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }, joinedOK, true},
		{"reply", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return []int{1, 2}, nil
		},
			reply("1", "ok", "[1,2]"), true},
		{"refused", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return nil, push.Reject("full")
		},
			reply("1", "error", `{"reason":"full"}`), false},
		{"error", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return nil, errors.New("db")
		},
			reply("1", "error", `{"reason":"join crashed"}`), false},
		{"panic", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { panic("x") },
			reply("1", "error", `{"reason":"join crashed"}`), false},
		{"goexit", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			runtime.Goexit()
			return nil, nil
		}, reply("1", "error", `{"reason":"join crashed"}`), false},
		{"reply that does not encode", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return make(chan int), nil
		}, reply("1", "error", `{"reason":"join crashed"}`), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var reasons []error
				b := start(t, channel.Define(test.join, ends(&reasons)))
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
			d := join(c, channelhost.Join{Handler: h, Message: &m})
			if got := c.take(); len(got) != 1 || got[0] != want {
				t.Errorf("%s: got %q", payload, got)
			}
			d.Close(errors.New("over"))
		}
	})
}

// The join's answer precedes whatever is broadcast meanwhile, and nothing that is broadcast after it is missed.
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
			t.Fatalf("join %d: first is %s", i, got[0])
		}
		if !slices.Contains(got, `[null,null,"room:1","after",{}]`) {
			t.Fatalf("join %d: missed what was broadcast after the answer", i)
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

func TestNotBeforeTheJoinIsAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type hello struct{}
		b := start(t, channel.Define(func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			for name, err := range map[string]error{
				"push": c.Push("x", nil), "broadcast": c.Broadcast("x", nil), "reply": c.Reply(c.Ref(), push.OK(nil)),
			} {
				if !errors.Is(err, channel.ErrNotJoined) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return nil, c.Send(hello{})
		}, channel.Info(func(_ *room, _ context.Context, c *channel.Channel, _ hello) error { return c.Push("welcome", nil) })))
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

// The join is not held up for ever by a callback that does not return (Phoenix kills it after 5 s).
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
			t.Errorf("at once: %q", got)
		}
		time.Sleep(5 * time.Second)
		b.want(`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`, closed)
		if d := time.Since(begun); d != 5*time.Second {
			t.Errorf("after %v", d)
		}
		close(gate)
		b.want() // nothing of the old one
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrReplaced) {
			t.Errorf("terminated with %v", reasons)
		}
		b.d.Close(errors.New("over"))
	})
}

func TestDuplicateJoinWhileEnding(t *testing.T) {
	t.Parallel()
	joinAgain := `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`
	slowJoin := func(_ *room, _ context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		time.Sleep(time.Second)
		return nil, nil
	}
	for _, test := range []struct {
		name string
		join func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error)
		end  func(b *bench)
		want []string
	}{
		{"leaving", (*room).join, func(b *bench) {
			b.d.Leave(&serializer.Message{Ref: serializer.StringRef("2")}, 0)
		}, []string{joinedOK, reply("2", "ok", "{}"), closed, joinAgain}},
		{"still joining", slowJoin, func(*bench) {}, []string{joinedOK, joinAgain, closed}},
		{"leaving while joining", slowJoin, func(b *bench) {
			b.d.Leave(&serializer.Message{Ref: serializer.StringRef("2")}, 0)
		}, []string{joinedOK, reply("2", "ok", "{}"), closed, joinAgain}},
		{"refused meanwhile", func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (any, error) {
			time.Sleep(time.Second)
			return nil, push.Reject("no")
		}, func(*bench) {}, []string{reply("1", "error", `{"reason":"no"}`), `["4","4","room:1","phx_reply",{"status":"error","response":{"reason":"no"}}]`}},
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

// Messages behind a join that is refused are answered as on an unjoined topic.
func TestPipelinedBehindARefusedJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define(func(_ *room, _ context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
			time.Sleep(time.Second)
			return nil, push.Reject("no")
		}))
		b.push("2", "x", nil)
		b.d.Leave(&serializer.Message{Ref: serializer.StringRef("3")}, 0)
		b.d.Leave(&serializer.Message{JoinRef: serializer.StringRef("1"), Ref: serializer.StringRef("4")}, 0)
		time.Sleep(time.Second)
		b.want(reply("1", "error", `{"reason":"no"}`),
			`[null,"2","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
			`[null,"3","room:1","phx_reply",{"status":"ok","response":{}}]`, reply("4", "ok", "{}"))
	})
}
