package channel_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// carrier is a connection without a network. It keeps the frames that a connection would send.
//
// Methods that receive the channel call one of its methods that takes its lock. A test therefore
// blocks forever, which it reports, if the channel calls them while it holds the lock. Send may be
// called under the lock.
type carrier struct {
	ser    serializer.Serializer
	ps     *pubsub.PubSub
	mu     sync.Mutex
	frames []string
	how    []transport.Delivery // of each frame
	logged []string
	ended  []channelhost.Channel
	closed bool

	answered, gone int
}

func newCarrier(ps *pubsub.PubSub) *carrier { return &carrier{ser: serializer.V2(), ps: ps} }

func (c *carrier) Serializer() serializer.Serializer { return c.ser }
func (c *carrier) PubSub() *pubsub.PubSub            { return c.ps }

func (c *carrier) Send(f *serializer.Frame, how transport.Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("closed")
	}
	c.frames = append(c.frames, string(f.Data))
	c.how = append(c.how, how)
	return nil
}

func (c *carrier) Congested(channelhost.Channel) bool    { return false }
func (c *carrier) Batch(f func())                        { f() }
func (c *carrier) Drained(channelhost.Channel) bool      { return true }
func (c *carrier) Context() context.Context              { return context.Background() }
func (c *carrier) ClientID() string                      { return "" }
func (c *carrier) Outgoing() (_, _ int, _ time.Duration) { return 2, 300, time.Second }
func (c *carrier) Identity() (_, _, connection string)   { return "", "", "connection" }

func (c *carrier) End(ch channelhost.Channel, frames ...*serializer.Frame) {
	channel.TakeLock(ch)
	c.mu.Lock()
	c.ended = append(c.ended, ch)
	c.mu.Unlock()
	for _, f := range frames {
		if f != nil {
			c.Send(f, transport.Delivery{Answer: true})
		}
	}
}

func (*carrier) Arrive(context.Context, string) error { return nil }
func (c *carrier) Answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
}

func (c *carrier) Ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone++
}

func (c *carrier) Crashed(ch channelhost.Channel, what string, err error) { c.Log(ch, what, err) }

func (c *carrier) Log(ch channelhost.Channel, message string, err error) {
	channel.TakeLock(ch)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logged = append(c.logged, fmt.Sprintf("%s: %v", message, err))
}

// take returns the frames that were sent since the last call.
func (c *carrier) take() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.frames
	c.frames, c.how = nil, nil
	return got
}

func (c *carrier) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.logged, "\n")
}

// bench is a carrier with one channel under test, which start joins to "room:1" with the ref "1".
type bench struct {
	*carrier
	t *testing.T
	d channelhost.Channel
}

func start(t *testing.T, h *channel.Handler) *bench {
	b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
	b.join(h, "1", nil)
	return b
}

func (b *bench) join(h *channel.Handler, ref string, before channelhost.Channel) {
	b.d = join(b, channelhost.Join{Handler: h, Before: before, Message: joinMessage(ref)})
}

// joinMessage returns a phx_join of "room:1" whose join_ref and ref are ref.
func joinMessage(ref string) serializer.Message {
	r := serializer.StringRef(ref)
	return serializer.Message{JoinRef: r, Ref: r, Topic: "room:1", Event: serializer.EventJoin}
}

// join starts a channel with workers of its own. By default, it joins "room:1" with the ref "1" and
// has a mailbox of 1 MiB.
func join(up channelhost.Carrier, j channelhost.Join) channelhost.Channel {
	if j.Message.Topic == "" {
		j.Message = joinMessage("1")
	}
	j.MaxMailbox = cmp.Or(j.MaxMailbox, 1<<20)
	j.Workers = new(mailbox.Workers)
	return channelhost.Start(up, j)
}

func (b *bench) push(ref, event string, payload any) {
	b.t.Helper()
	m := serializer.Message{
		Ref: serializer.StringRef(ref), Topic: "room:1", Event: event, Payload: serializer.Value(payload),
	}
	if ref == "" {
		m.Ref = ""
	}
	if !receive(b.d, m, time.Second) {
		b.t.Errorf("the channel did not accept %s", event)
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

// room is the state of most channels in tests.
type room struct{}

func (r *room) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

type note struct {
	Text string `json:"text"`
}

func on(event string, f func(c *channel.Channel, n note) (push.Reply, error)) channel.Option[room] {
	return channel.On(event, func(_ *room, _ context.Context, c *channel.Channel, n note) (push.Reply, error) {
		return f(c, n)
	})
}

func onAny(f func(c *channel.Channel, event string, p serializer.Payload) (push.Reply, error)) channel.Option[room] {
	return channel.OnAny(func(
		_ *room, _ context.Context, c *channel.Channel, event string, p serializer.Payload,
	) (push.Reply, error) {
		return f(c, event, p)
	})
}

// ends returns a Terminate that appends its reason to reasons and pushes "bye".
func ends(reasons *[]error) channel.Option[room] {
	return channel.Terminate(func(_ *room, ctx context.Context, c *channel.Channel, reason error) {
		if ctx.Err() != nil {
			reason = fmt.Errorf("terminate's context is cancelled: %w", reason)
		}
		*reasons = append(*reasons, reason)
		c.Push("bye", nil)
	})
}

func TestReplies(t *testing.T) {
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
		for range 2 { // a second reply is sent too
			if err := ch.Reply(later, push.OK(note{"at last"})); err != nil {
				t.Error(err)
			}
		}
		b.want(reply("8", "ok", `{"text":"at last"}`), reply("8", "ok", `{"text":"at last"}`))
		if err := ch.Reply(channel.Ref{}, push.OK(nil)); !errors.Is(err, channel.ErrNoRef) {
			t.Errorf("reply to nothing: %v", err)
		}
		if err := ch.Reply(ch.Ref(), push.OK(nil)); !errors.Is(err, channel.ErrNoRef) {
			t.Errorf("reply outside of a callback: %v", err)
		}
		b.push("9", "ok", "not an object")
		b.want(reply("9", "error", `{"reason":"invalid payload"}`))
		b.push("11", "ok", []int{1})
		b.want(reply("11", "error", `{"reason":"invalid payload"}`))
		if n := strings.Count(b.log(), "invalid payload"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		b.push("10", "ok", note{"still here"})
		b.want(reply("10", "ok", `{"text":"still here"}`))
		b.d.Close(errors.New("over"))
	})
}

// TestFullMailbox checks that a callback that does not return delays its socket for 5 s at most.
// Then its channel ends.
func TestFullMailbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var reasons []error
		b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
		h := channel.Define((*room).join, ends(&reasons),
			on("wait", func(*channel.Channel, note) (push.Reply, error) { <-gate; return push.OK(nil), nil }))
		b.d = join(b, channelhost.Join{Handler: h, MaxMailbox: 300})
		b.take()
		begun := time.Now()
		wait := serializer.Message{Ref: `"2"`, Event: "wait"}
		for range 10 {
			receive(b.d, wait, 5*time.Second)
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

func BenchmarkEvent(b *testing.B) {
	done := make(chan struct{})
	h := channel.Define((*room).join, channel.On("echo",
		func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			done <- struct{}{}
			return push.NoReply, nil
		}))
	c := newCarrier(pubsub.New(nil))
	d := join(c, channelhost.Join{Handler: h})
	m := serializer.Message{Ref: `"2"`, Event: "echo"}
	b.ReportAllocs()
	for b.Loop() {
		receive(d, m, time.Second)
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
		d := join(c, channelhost.Join{Handler: h})
		d.Leave(serializer.Message{Ref: `"2"`}, time.Second)
		d.Wait()
		c.frames, c.ended = c.frames[:0], c.ended[:0]
	}
}
