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

// A join that returns just when it is killed is answered all the same, by its ref.
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

// slowEnd is a carrier that takes its time with an end.
type slowEnd struct {
	*carrier
	gate chan struct{}
}

func (s slowEnd) End(c channelhost.Channel, frames ...*serializer.Frame) {
	<-s.gate
	s.carrier.End(c, frames...)
}

// The end of a channel that a broadcast killed is told before its topic's next join is answered, and the channel ends no earlier.
func TestKilledChannelIsToldFirst(t *testing.T) {
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
			t.Error("the channel ended before its end was told")
		}
		close(up.gate)
		b.want(crashed, `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		b.d.Close(errors.New("over"))
		b.d.Wait()
	})
}

// Terminate is called once also if it ends its goroutine where the join's reply turned out to be none.
func TestTerminateOfAJoinThatExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		b := start(t, channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) { return func() {}, nil }),
			channel.Terminate(func(*room, context.Context, *channel.Channel, error) { calls++; runtime.Goexit() })))
		b.want(joinCrashed)
		b.d.Wait()
		if calls != 1 {
			t.Errorf("terminated %d times", calls)
		}
	})
}

// mute is an error whose text cannot be had.
type mute struct{ inner error }

func (m mute) Error() string { return m.inner.Error() }

// speaking is a carrier that reads the errors that it is told, as a log does.
type speaking struct{ *carrier }

func (s speaking) Crashed(c channelhost.Channel, what string, err error) {
	_ = err.Error()
	s.carrier.Crashed(c, what, err)
}

func TestJoinWhoseErrorPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{carrier: newCarrier(pubsub.New(nil)), t: t}
		b.d = join(speaking{b.carrier}, channelhost.Join{
			Handler: channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) { return nil, mute{} })),
		})
		b.want(joinCrashed)
		if b.d.Receive(&serializer.Message{Event: "x"}, time.Second) {
			t.Error("took a message after its end")
		}
	})
}

// What waits behind a join that is given up is answered with it, as on a topic that was never joined, and once.
func TestMessagesBehindAJoinThatIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := start(t, channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) { <-gate; return nil, nil })))
		b.d.Watch(limit)
		b.push("2", "x", nil)
		b.push("3", "y", nil)
		b.d.Leave(&serializer.Message{JoinRef: serializer.StringRef("1"), Ref: serializer.StringRef("4")}, 0)
		time.Sleep(limit)
		b.want(joinCrashed, noTopic("2"), noTopic("3"), reply("4", "ok", "{}"))
		close(gate)
		b.want()
		b.d.Wait()
	})
}

// A message that finds no room ends its channel, and is one on a topic that is not joined any more.
func TestMessageThatFindsNoRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := start(t, channel.Define(joinBy(func(context.Context, *channel.Channel) (any, error) { <-gate; return nil, nil })))
		b.d.Watch(limit)
		large := serializer.Binary(make([]byte, 1<<20))
		if b.d.Receive(&serializer.Message{Ref: serializer.StringRef("2"), Event: "x", Payload: large}, time.Second) {
			t.Error("taken by a channel that has ended")
		}
		b.want(joinCrashed)
		close(gate)
		b.d.Wait()
	})
}

// What waits behind a join that is refused is answered also if the topic was joined anew meanwhile.
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
		b.want(reply("1", "error", `{"reason":"no"}`), noTopic("2"), `["4","4","room:1","phx_reply",{"status":"ok","response":{}}]`)
		b.d.Close(errors.New("over"))
	})
}

func noTopic(ref string) string {
	return `[null,"` + ref + `","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`
}
