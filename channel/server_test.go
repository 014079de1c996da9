package channel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// carrier is a connection without a network: it keeps the frames that would go out.
type carrier struct {
	ser    serializer.Serializer
	ps     *pubsub.PubSub
	mu     sync.Mutex
	frames []string
	logged []string
	ended  []*channel.Channel
	closed bool
}

func newCarrier(ps *pubsub.PubSub) *carrier { return &carrier{ser: serializer.V2(), ps: ps} }

func (c *carrier) Serializer() serializer.Serializer { return c.ser }
func (c *carrier) PubSub() *pubsub.PubSub            { return c.ps }

func (c *carrier) Send(f *serializer.Frame, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("closed")
	}
	c.frames = append(c.frames, string(f.Data))
	return nil
}

func (c *carrier) End(ch *channel.Channel, frames ...*serializer.Frame) {
	c.mu.Lock()
	c.ended = append(c.ended, ch)
	c.mu.Unlock()
	for _, f := range frames {
		if f != nil {
			c.Send(f, false)
		}
	}
}

func (c *carrier) Log(_ *channel.Channel, message string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logged = append(c.logged, fmt.Sprintf("%s: %v", message, err))
}

// take returns what went out since the last call.
func (c *carrier) take() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.frames
	c.frames = nil
	return got
}

func (c *carrier) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.logged, "\n")
}

// bench is a carrier and one channel under test on the topic "room:1", joined with join_ref and ref "1".
type bench struct {
	*carrier
	t *testing.T
	d channel.Driver
}

func start(t *testing.T, h *channel.Handler) *bench {
	b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
	b.join(h, "1", channel.Driver{})
	return b
}

func (b *bench) join(h *channel.Handler, ref string, before channel.Driver) {
	b.d = channel.Start(context.Background(), b, h, &serializer.Message{
		JoinRef: serializer.StringRef(ref), Ref: serializer.StringRef(ref), Topic: "room:1", Event: serializer.EventJoin,
	}, before, 1<<20)
}

func (b *bench) push(ref, event string, payload any) {
	b.t.Helper()
	m := &serializer.Message{Ref: serializer.StringRef(ref), Topic: "room:1", Event: event, Payload: serializer.Value(payload)}
	if ref == "" {
		m.Ref = ""
	}
	if !b.d.Receive(m, time.Second) {
		b.t.Errorf("channel is gone for %s", event)
	}
}

func (b *bench) want(frames ...string) {
	b.t.Helper()
	if got := b.take(); !slices.Equal(got, frames) {
		b.t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(frames, "\n  "))
	}
}

const (
	joinedOK = `["1","1","room:1","phx_reply",{"status":"ok","response":{}}]`
	closed   = `["1","1","room:1","phx_close",{}]`
	crashed  = `["1","1","room:1","phx_error",{"reason":"channel_crash"}]`
)

func reply(ref, status, response string) string {
	return fmt.Sprintf(`["1","%s","room:1","phx_reply",{"status":"%s","response":%s}]`, ref, status, response)
}

// room records what its callbacks see.
type room struct {
	reasons *[]error
}

func (r *room) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

type note struct {
	Text string `json:"text"`
}

func on(event string, f func(c *channel.Channel, n note) (push.Reply, error)) channel.Option[room] {
	return channel.On(event, func(_ *room, _ context.Context, c *channel.Channel, n note) (push.Reply, error) { return f(c, n) })
}

// ends collects the reasons given to Terminate, which also pushes "bye".
func ends(reasons *[]error) channel.Option[room] {
	return channel.Terminate(func(_ *room, ctx context.Context, c *channel.Channel, reason error) {
		if ctx.Err() != nil {
			reason = fmt.Errorf("terminate's context is cancelled: %w", reason)
		}
		*reasons = append(*reasons, reason)
		c.Push("bye", nil)
	})
}

func TestReplies(t *testing.T) { // F123, F124, F126, F137
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var later channel.Ref
		var ch *channel.Channel
		b := start(t, channel.Define((*room).join,
			on("ok", func(_ *channel.Channel, n note) (push.Reply, error) { return push.OK(n), nil }),
			on("empty", func(*channel.Channel, note) (push.Reply, error) { return push.OK(nil), nil }),
			on("maybe", func(*channel.Channel, note) (push.Reply, error) { return push.Reply{Status: "maybe"}, nil }),
			on("none", func(*channel.Channel, note) (push.Reply, error) { return push.NoReply, nil }),
			on("no", func(*channel.Channel, note) (push.Reply, error) { return push.NoReply, push.Reject("not you") }),
			on("wrapped", func(*channel.Channel, note) (push.Reply, error) {
				return push.NoReply, fmt.Errorf("while looking: %w", push.Reject(note{"structured"}))
			}),
			on("later", func(c *channel.Channel, _ note) (push.Reply, error) {
				later, ch = c.Ref(), c
				return push.NoReply, nil
			}),
		))
		b.want(joinedOK)
		b.push("2", "ok", note{"hi"})
		b.push("3", "empty", nil)
		b.push("4", "maybe", nil)
		b.push("5", "none", nil)
		b.push("6", "no", nil)
		b.push("7", "wrapped", nil)
		b.push("8", "later", nil)
		b.want(reply("2", "ok", `{"text":"hi"}`), reply("3", "ok", "{}"), reply("4", "maybe", "{}"),
			reply("6", "error", `{"reason":"not you"}`), reply("7", "error", `{"text":"structured"}`))
		for range 2 { // F139: nothing prevents a second one
			if err := ch.Reply(later, push.OK(note{"at last"})); err != nil {
				t.Error(err)
			}
		}
		b.want(reply("8", "ok", `{"text":"at last"}`), reply("8", "ok", `{"text":"at last"}`))
		if err := ch.Reply(channel.Ref{}, push.OK(nil)); !errors.Is(err, channel.ErrNoRef) {
			t.Errorf("reply to nothing: %v", err)
		}
		if err := ch.Reply(ch.Ref(), push.OK(nil)); !errors.Is(err, channel.ErrNoRef) { // F138
			t.Errorf("reply outside of a callback: %v", err)
		}
		b.push("9", "ok", "not an object")
		b.want(reply("9", "error", `{"reason":"invalid payload"}`))
		b.push("10", "ok", note{"still here"})
		b.want(reply("10", "ok", `{"text":"still here"}`))
		b.d.Close(errors.New("over"))
	})
}

func TestEnds(t *testing.T) { // F127 to F135, B57, B58
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
		{"stop wrapped", fails(push.NoReply, fmt.Errorf("enough: %w", channel.ErrStop)), []string{closed, bye}, channel.ErrStop},
		{"stop with a reply", fails(push.OK(nil), channel.ErrStop), []string{reply("2", "ok", "{}"), closed, bye}, channel.ErrStop},
		{"error", fails(push.NoReply, boom), []string{bye, crashed}, boom},
		{"error with a reply", fails(push.OK(nil), boom), []string{reply("2", "ok", "{}"), bye, crashed}, boom},
		{"unknown event", on("other", nil), []string{bye, crashed}, nil},
		{"panic", on("end", func(*channel.Channel, note) (push.Reply, error) { panic("secret") }), []string{bye, crashed}, nil},
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
				if b.d.Receive(&serializer.Message{Event: "x"}, 0) {
					t.Error("took a message after its end")
				}
				if got := strings.Join(test.frames, ""); strings.Contains(got, "secret") {
					t.Error("the panic's text went out")
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
		if len(reasons) != 1 || !errors.As(reasons[0], &p) || p.Value != "secret" || !bytes.Contains(p.Stack, []byte("server_test.go")) {
			t.Errorf("reasons %v", reasons)
		}
		if !strings.Contains(b.log(), "secret") {
			t.Errorf("log: %s", b.log())
		}
	})
}

func TestJoinOutcomes(t *testing.T) { // D97 to D101, D105
	t.Parallel()
	for _, test := range []struct {
		name   string
		join   func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error)
		frame  string
		joined bool
	}{
		{"ok", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }, joinedOK, true},
		{"reply", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return []int{1, 2}, nil },
			reply("1", "ok", "[1,2]"), true},
		{"refused", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, push.Reject("full") },
			reply("1", "error", `{"reason":"full"}`), false},
		{"error", func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, errors.New("db") },
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
			d := channel.Start(context.Background(), c, h, &m, channel.Driver{}, 1<<20)
			if got := c.take(); len(got) != 1 || got[0] != want {
				t.Errorf("%s: got %q", payload, got)
			}
			d.Close(errors.New("over"))
		}
	})
}

// The join's answer precedes whatever is broadcast meanwhile, and nothing that is broadcast after it is missed (D102).
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
		b.join(h, "1", channel.Driver{})
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

func TestNotBeforeTheJoinIsAnswered(t *testing.T) { // D104
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

func TestLeave(t *testing.T) { // E118, F134, F135
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		b := start(t, channel.Define((*room).join, ends(&reasons)))
		b.take()
		b.d.Leave(&serializer.Message{Ref: serializer.StringRef("2")}, 0)
		b.want(reply("2", "ok", "{}"), closed, `["1",null,"room:1","bye",{}]`)
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrLeft) {
			t.Errorf("terminated with %v", reasons)
		}
	})
}

// What was sent before the connection ended is still handled.
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
			t.Error("its context lives on")
		}
		if ch.OnEnd(func() {}) {
			t.Error("took an OnEnd after the end")
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

func TestDuplicateJoin(t *testing.T) { // D108 to D110
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

// The join is not held up for ever by a callback that does not return (D109: Phoenix kills it after 5 s).
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
		time.Sleep(time.Second)
		b.want(reply("1", "error", `{"reason":"no"}`),
			`[null,"2","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
			reply("3", "ok", "{}"))
	})
}

func TestIntercept(t *testing.T) { // G151 to G153
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define((*room).join,
			channel.Intercept("filtered", func(_ *room, _ context.Context, c *channel.Channel, n note) error {
				switch n.Text {
				case "drop":
					return nil
				case "stop":
					return channel.ErrStop
				}
				return c.Push("filtered", note{n.Text + "!"})
			})))
		b.take()
		for _, text := range []string{"a", "drop", "b"} {
			if err := b.ps.Broadcast(t.Context(), "room:1", "filtered", note{text}); err != nil {
				t.Fatal(err)
			}
		}
		b.want(`["1",null,"room:1","filtered",{"text":"a!"}]`, `["1",null,"room:1","filtered",{"text":"b!"}]`)
		if err := b.ps.Broadcast(t.Context(), "room:1", "plain", note{"c"}); err != nil {
			t.Fatal(err)
		}
		b.want(`[null,null,"room:1","plain",{"text":"c"}]`)
		if err := b.ps.Broadcast(t.Context(), "room:1", "filtered", note{"stop"}); err != nil {
			t.Fatal(err)
		}
		b.want(closed)
	})
}

type shape interface{ sides() int }
type square struct{}

func (square) sides() int { return 4 }

func TestInfo(t *testing.T) { // F140, F141, F143
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ch *channel.Channel
		b := start(t, channel.Define(
			func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
				ch = c
				c.Subscribe("news")
				return nil, nil
			},
			channel.Info(func(_ *room, _ context.Context, c *channel.Channel, n int) error { return c.Push("int", map[string]int{"n": n}) }),
			channel.Info(func(_ *room, _ context.Context, c *channel.Channel, s shape) error {
				return c.Push("shape", map[string]int{"sides": s.sides()})
			}),
			channel.Info(func(_ *room, _ context.Context, c *channel.Channel, n *pubsub.Broadcast) error {
				return c.Push(n.Event, n.Payload)
			}),
			channel.Info(func(_ *room, _ context.Context, _ *channel.Channel, err error) error { return err }),
		))
		b.take()
		for _, m := range []any{1, square{}, "no callback", nil, 2} {
			if err := ch.Send(m); err != nil {
				t.Error(err)
			}
		}
		if err := b.ps.Broadcast(t.Context(), "news", "headline", note{"hi"}); err != nil {
			t.Fatal(err)
		}
		b.want(`["1",null,"room:1","int",{"n":1}]`, `["1",null,"room:1","shape",{"sides":4}]`, `["1",null,"room:1","int",{"n":2}]`,
			`["1",null,"room:1","headline",{"text":"hi"}]`)
		if log := b.log(); strings.Count(log, "message dropped") != 2 {
			t.Errorf("log: %s", log)
		}
		if err := ch.Send(channel.ErrStop); err != nil {
			t.Error(err)
		}
		b.want(closed)
		if n := b.ps.Subscribers("news"); n != 0 {
			t.Errorf("%d subscriptions to another topic are left", n)
		}
	})
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tag := func(name string) func(channel.Func) channel.Func {
			return func(next channel.Func) channel.Func {
				return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
					if event == "blocked" {
						return push.NoReply, push.Reject(name)
					}
					if err := c.Push(name, nil); err != nil {
						return push.NoReply, err
					}
					return next(ctx, c, event, p)
				}
			}
		}
		b := start(t, channel.Define((*room).join, channel.Use[room](tag("outer"), tag("inner")),
			channel.OnAny(func(_ *room, _ context.Context, _ *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
				return push.OK(map[string]string{"event": event}), nil
			})))
		b.take()
		b.push("2", "anything", nil)
		b.push("3", "blocked", nil)
		b.want(`["1",null,"room:1","outer",{}]`, `["1",null,"room:1","inner",{}]`, reply("2", "ok", `{"event":"anything"}`),
			reply("3", "error", `{"reason":"outer"}`))
		b.d.Close(errors.New("over"))
	})
}

// A callback that takes too long holds its socket up for a moment, and then its channel ends so that the others go on.
func TestFullMailbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var reasons []error
		b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
		b.d = channel.Start(context.Background(), b, channel.Define((*room).join, ends(&reasons),
			on("wait", func(*channel.Channel, note) (push.Reply, error) { <-gate; return push.OK(nil), nil })),
			&serializer.Message{JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1"}, channel.Driver{}, 300)
		b.take()
		begun := time.Now()
		wait := &serializer.Message{Ref: `"2"`, Event: "wait"}
		for range 10 {
			b.d.Receive(wait, 5*time.Second)
		}
		if d := time.Since(begun); d != 5*time.Second {
			t.Errorf("the reader was held up for %v", d)
		}
		b.want(crashed)
		close(gate)
		b.want()
		if len(reasons) != 1 || !errors.Is(reasons[0], channel.ErrFull) {
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
		b.d.Leave(&serializer.Message{Ref: `"2"`}, 0)
		b.take()
		if !slices.Equal(order, []string{"terminate", "end 1", "end 2"}) {
			t.Errorf("order %q", order)
		}
		if !strings.Contains(b.log(), "in OnEnd") {
			t.Errorf("log: %s", b.log())
		}
	})
}

func TestRoutes(t *testing.T) { // D92 to D94
	t.Parallel()
	h := func() *channel.Handler { return channel.Define((*room).join) }
	rooms, special, foods, foo, all := h(), h(), h(), h(), h()
	r, err := channel.Routes{"room:*": rooms, "room:special": special, "foo*": foo, "food*": foods}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]*channel.Handler{
		"room:": rooms, "room:a:b": rooms, "room": nil, "Room:1": nil, "room:special": special, "room:special2": rooms, "room:*": rooms,
		"foot": foo, "food": foods, "foods": foods, "": nil, "phoenix": nil,
	} {
		if r.Match(topic) != want {
			t.Errorf("%q", topic)
		}
	}
	if r, err = (channel.Routes{"*": all}).Compile(); err != nil || r.Match("") != all || r.Match("x") != all {
		t.Errorf("everything: %v", err)
	}
	for pattern, h := range map[string]*channel.Handler{"a*b": rooms, "**": rooms, "*a": rooms, "x": nil} {
		if _, err := (channel.Routes{pattern: h}).Compile(); err == nil {
			t.Errorf("route %q was taken", pattern)
		}
	}
}

func TestDefinePanicsOnMistakes(t *testing.T) {
	t.Parallel()
	event := on("x", nil)
	info := channel.Info(func(*room, context.Context, *channel.Channel, int) error { return nil })
	out := channel.Intercept("x", func(*room, context.Context, *channel.Channel, note) error { return nil })
	end := channel.Terminate(func(*room, context.Context, *channel.Channel, error) {})
	rest := channel.OnAny(func(*room, context.Context, *channel.Channel, string, serializer.Payload) (push.Reply, error) {
		return push.NoReply, nil
	})
	for name, o := range map[string]channel.Option[room]{"On": event, "Info": info, "Intercept": out, "Terminate": end, "OnAny": rest} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("two %s were taken", name)
				}
			}()
			channel.Define((*room).join, o, o)
		}()
	}
}

func BenchmarkEvent(b *testing.B) {
	done := make(chan struct{})
	h := channel.Define((*room).join, channel.On("echo",
		func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			done <- struct{}{}
			return push.NoReply, nil
		}))
	c := newCarrier(pubsub.New(nil))
	d := channel.Start(context.Background(), c, h, &serializer.Message{JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1"}, channel.Driver{}, 1<<20)
	m := &serializer.Message{Ref: `"2"`, Event: "echo"}
	b.ReportAllocs()
	for b.Loop() {
		d.Receive(m, time.Second)
		<-done
	}
	d.Close(errors.New("over"))
	d.Wait()
}

func BenchmarkJoinLeave(b *testing.B) {
	h := channel.Define((*room).join)
	c := newCarrier(pubsub.New(nil))
	b.ReportAllocs()
	for b.Loop() {
		d := channel.Start(context.Background(), c, h, &serializer.Message{JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1"}, channel.Driver{}, 1<<20)
		d.Leave(&serializer.Message{Ref: `"2"`}, time.Second)
		d.Wait()
		c.frames, c.ended = c.frames[:0], c.ended[:0]
	}
}
