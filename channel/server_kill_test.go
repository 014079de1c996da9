package channel_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestJoinKilledWhenItReturns checks that a join that is killed as its callback returns is answered
// once, with its ref.
func TestJoinKilledWhenItReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		flood := serializer.Binary(make([]byte, 1<<19))
		for range 200 {
			b := &bench{carrier: newCarrier(ps), t: t}
			b.join(channel.Define(joinBy(func(_ context.Context, c *channel.Channel) (any, error) {
				c.Subscribe("other")
				for range 3 {
					if err := ps.LocalBroadcast("other", "news", flood); err != nil {
						t.Error(err)
					}
				}
				return nil, nil
			})), "1", nil)
			b.want(joinCrashed)
			b.d.Wait()
			if b.answered != 1 || b.gone != 1 {
				t.Fatalf("answered %d times, ended %d", b.answered, b.gone)
			}
		}
	})
}

// slowEnd is a carrier whose End blocks until gate is closed.
type slowEnd struct {
	*carrier
	gate chan struct{}
}

func (s slowEnd) End(c channelhost.Channel, frames ...*serializer.Frame) {
	<-s.gate
	s.carrier.End(c, frames...)
}

// TestKilledChannelEndsFirst checks a channel that a broadcast killed. Its phx_error is sent before
// the next join of the topic is answered, and the channel does not end earlier.
func TestKilledChannelEndsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := slowEnd{newCarrier(pubsub.New(nil)), make(chan struct{})}
		leave := make(chan struct{})
		h := channel.Define((*room).join,
			on("wait", func(*channel.Channel, note) (push.Reply, error) { <-leave; return push.NoReply, nil }),
			channel.Intercept("news", func(*room, context.Context, *channel.Channel, note) error { return nil }))
		b := &bench{carrier: up.carrier, t: t, d: join(up, channelhost.Join{Handler: h})}
		b.want(joinedOK)
		b.push("2", "wait", nil)
		synctest.Wait()
		for range 3 {
			if err := b.ps.Broadcast(t.Context(), "room:1", "news", serializer.Binary(make([]byte, 1<<19))); err != nil {
				t.Fatal(err)
			}
		}
		b.d = join(up, channelhost.Join{Handler: h, Before: b.d, Message: joinMessage("4")})
		close(leave)
		b.want()
		if b.gone != 0 {
			t.Error("the channel ended before phx_error was sent")
		}
		close(up.gate)
		b.want(crashed, `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		b.d.Close(errors.New("over"))
		b.d.Wait()
	})
}

// TestTerminateThatExitsAfterAnInvalidReply checks that Terminate is called once if the join's
// reply cannot be encoded and Terminate ends its goroutine.
func TestTerminateThatExitsAfterAnInvalidReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		invalid := joinBy(func(context.Context, *channel.Channel) (any, error) { return func() {}, nil })
		b := start(t, channel.Define(invalid,
			channel.Terminate(func(*room, context.Context, *channel.Channel, error) { calls++; runtime.Goexit() })))
		b.want(joinCrashed)
		b.d.Wait()
		if calls != 1 {
			t.Errorf("terminated %d times", calls)
		}
	})
}

// panickingError is an error whose Error method panics.
type panickingError struct{ inner error }

func (e panickingError) Error() string { return e.inner.Error() }

// readingCarrier is a carrier that reads the text of errors, as a log does.
type readingCarrier struct{ *carrier }

func (s readingCarrier) Crashed(c channelhost.Channel, what string, err error) {
	_ = err.Error()
	s.carrier.Crashed(c, what, err)
}

func TestJoinWhoseErrorPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
		fails := joinBy(func(context.Context, *channel.Channel) (any, error) { return nil, panickingError{} })
		b.d = join(readingCarrier{b.carrier}, channelhost.Join{Handler: channel.Define(fails)})
		b.want(joinCrashed)
		if receive(b.d, serializer.Message{Event: "x"}, time.Second) {
			t.Error("a message was accepted after the end")
		}
	})
}

// TestMessagesBehindAJoinThatIsGivenUp checks that messages behind a join that timed out are
// answered once, as messages on a topic that is not joined.
func TestMessagesBehindAJoinThatIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := start(t, channel.Define(joinAfter(gate)))
		b.d.Watch(limit)
		b.push("2", "x", nil)
		b.push("3", "y", nil)
		b.d.Leave(serializer.Message{JoinRef: serializer.StringRef("1"), Ref: serializer.StringRef("4")}, 0)
		time.Sleep(limit)
		b.want(joinCrashed, noTopic("2"), noTopic("3"), reply("4", "ok", "{}"))
		close(gate)
		b.want()
		b.d.Wait()
	})
}

// TestMessageBeyondTheMailbox checks that a message for which the mailbox has no room ends the
// channel and is not accepted.
func TestMessageBeyondTheMailbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := start(t, channel.Define(joinAfter(gate)))
		b.d.Watch(limit)
		large := serializer.Binary(make([]byte, 1<<20))
		if receive(b.d, serializer.Message{Ref: serializer.StringRef("2"), Event: "x", Payload: large}, time.Second) {
			t.Error("the channel accepted the message")
		}
		b.want(joinCrashed)
		close(gate)
		b.d.Wait()
	})
}

// TestMessagesBehindARefusedJoinThatIsReplaced checks that messages behind a refused join are
// answered even if the topic was joined again.
func TestMessagesBehindARefusedJoinThatIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) {
			time.Sleep(time.Second)
			return nil, push.Reject("no")
		})))
		b.push("2", "x", nil)
		b.join(channel.Define((*room).join), "4", b.d)
		time.Sleep(time.Second)
		b.want(reply("1", "error", `{"reason":"no"}`), noTopic("2"),
			`["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		b.d.Close(errors.New("over"))
	})
}

func noTopic(ref string) string {
	return `[null,"` + ref + `","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`
}
