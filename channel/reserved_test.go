package channel_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

var reservedEvents = []string{
	"phx_reply", "phx_error", "phx_close", "presence_state", "presence_diff",
	"$", "$kick", "$revoke", "$state", "$$", "chan_reply_1", "chan_reply_",
}

// ordinaryEvents are not reserved, but resemble events that are.
var ordinaryEvents = []string{
	"", "phx_", "phx_closed", "phx-close", "PHX_CLOSE", " phx_close", "phx_close ", "presence", "presence_states",
	"a$", "chan_reply", "disconnect", "heartbeat",
}

// relaying returns a handler that relays all events to the other clients. It records the events
// that reach the middleware and the callback.
func relaying(wrapped, called *[]string, more ...channel.Option[room]) *channel.Handler {
	return channel.Define((*room).join, append(more,
		channel.Use[room](func(next channel.Func) channel.Func {
			return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
				*wrapped = append(*wrapped, event)
				return next(ctx, c, event, p)
			}
		}),
		onAny(func(c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
			*called = append(*called, event)
			return push.NoReply, c.BroadcastFrom(event, p)
		}))...)
}

func TestReservedEventsAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wrapped, called []string
		b := start(t, relaying(&wrapped, &called))
		b.want(joinedOK)
		var got []string
		b.ps.Subscribe("room:1", deliverFunc(func(b *pubsub.Broadcast) { got = append(got, b.Event) }))
		for _, event := range reservedEvents {
			b.push("2", event, nil)
			b.want(reply("2", "error", `{"reason":"reserved event"}`))
		}
		if len(wrapped)+len(called)+len(got) != 0 {
			t.Errorf("middleware received %q, the callback %q, subscribers %q", wrapped, called, got)
		}
		if n := strings.Count(b.log(), "reserved event"); n != 1 {
			t.Errorf("%d lines in the log, want 1:\n%s", n, b.log())
		}
		for _, event := range ordinaryEvents {
			b.push("3", event, nil)
			b.want()
		}
		if want := fmt.Sprintf("%q", ordinaryEvents); fmt.Sprintf("%q", called) != want || fmt.Sprintf("%q", got) != want {
			t.Errorf("the callback received %q, subscribers %q, want %s", called, got, want)
		}
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

// TestReservedEventIsAnsweredInOrder checks that the error reply for a reserved event follows
// earlier replies and has the usual refs.
func TestReservedEventIsAnsweredInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wrapped, called []string
		hold := make(chan struct{})
		b := start(t, relaying(&wrapped, &called, on("slow", func(*channel.Channel, note) (push.Reply, error) {
			<-hold
			return push.OK(nil), nil
		})))
		b.want(joinedOK)
		b.push("2", "slow", nil)
		b.push("3", "phx_error", nil)
		b.want()
		close(hold)
		b.want(reply("2", "ok", `{}`), reply("3", "error", `{"reason":"reserved event"}`))
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

// TestReservedEventWithCallback checks that a handler with an On for a reserved event receives it.
func TestReservedEventWithCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wrapped, called []string
		typing := on("$typing", func(*channel.Channel, note) (push.Reply, error) { return push.OK(nil), nil })
		b := start(t, relaying(&wrapped, &called, typing))
		b.want(joinedOK)
		b.push("2", "$typing", nil)
		b.push("3", "$typed", nil)
		b.want(reply("2", "ok", `{}`), reply("3", "error", `{"reason":"reserved event"}`))
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

// TestReservedEventWithoutOnAny checks that a reserved event without a callback ends the channel,
// as any unknown event does and as in Phoenix.
func TestReservedEventWithoutOnAny(t *testing.T) {
	t.Parallel()
	for _, event := range reservedEvents {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, channel.Define((*room).join))
			b.want(joinedOK)
			b.push("2", event, nil)
			b.want(crashed)
			b.d.Close(channel.ErrLeft)
			b.d.Wait()
		})
	}
}

// TestReservedEventsAreNotBroadcast checks that Broadcast rejects reserved events, because their
// names may come from a client. Push and PubSub.Broadcast accept them.
func TestReservedEventsAreNotBroadcast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ch := make(chan *channel.Channel, 1)
		b := start(t, channel.Define(func(_ *room, _ context.Context, c *channel.Channel, _ note) (any, error) {
			ch <- c
			return nil, nil
		}))
		b.want(joinedOK)
		c := <-ch
		for _, event := range append(reservedEvents, "phx_join", "phx_leave") {
			for _, err := range []error{c.Broadcast(event, nil), c.BroadcastFrom(event, nil)} {
				if err == nil || !strings.Contains(err.Error(), "reserved") {
					t.Errorf("broadcast %q: %v", event, err)
				}
			}
		}
		b.want()
		for _, event := range ordinaryEvents {
			if err := c.Broadcast(event, nil); err != nil {
				t.Errorf("broadcast %q: %v", event, err)
			}
		}
		if got := b.take(); len(got) != len(ordinaryEvents) {
			t.Errorf("broadcast %q, got %q", ordinaryEvents, got)
		}
		if err := c.Push("presence_state", nil); err != nil {
			t.Error(err)
		}
		if err := b.ps.Broadcast(t.Context(), "room:1", "presence_diff", nil); err != nil {
			t.Error(err)
		}
		b.want(`["1",null,"room:1","presence_state",{}]`, `[null,null,"room:1","presence_diff",{}]`)
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

type deliverFunc func(b *pubsub.Broadcast)

func (f deliverFunc) Deliver(b *pubsub.Broadcast) error { f(b); return nil }

// TestControlEventsDoNotReachClients checks that a client does not receive events of extensions
// that the server's code broadcasts on its topic, because it did not ask for them.
func TestControlEventsDoNotReachClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define((*room).join))
		b.want(joinedOK)
		for _, event := range []string{"$", "$kick", "$revoke", "$history"} {
			if err := b.ps.Broadcast(t.Context(), "room:1", event, nil); err != nil {
				t.Error(err)
			}
			if err := b.ps.LocalBroadcast("room:1", event, serializer.Binary([]byte{1})); err != nil {
				t.Error(err)
			}
			b.want()
		}
		if err := b.ps.Broadcast(t.Context(), "room:1", "kick", nil); err != nil {
			t.Error(err)
		}
		b.want(`[null,null,"room:1","kick",{}]`)
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

// TestInterceptedControlEvent checks that a handler receives the events that it intercepts,
// whatever their names.
func TestInterceptedControlEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := 0
		b := start(t, channel.Define((*room).join,
			channel.Intercept("$mine", func(*room, context.Context, *channel.Channel, serializer.Payload) error {
				got++
				return nil
			})))
		b.want(joinedOK)
		if err := b.ps.Broadcast(t.Context(), "room:1", "$mine", nil); err != nil {
			t.Error(err)
		}
		b.want()
		if got != 1 {
			t.Errorf("the handler received %d events", got)
		}
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}

// TestPushOfControlEventFails checks that the server's code cannot send a client an event of an
// extension, because the event's name may come from another client.
func TestPushOfControlEventFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var errs []error
		b := start(t, channel.Define((*room).join, on("go", func(c *channel.Channel, _ note) (push.Reply, error) {
			errs = append(errs, c.Push("$kick", nil), c.Push("$", nil), c.Push("presence_state", nil))
			return push.NoReply, nil
		})))
		b.want(joinedOK)
		b.push("2", "go", nil)
		b.want(`["1",null,"room:1","presence_state",{}]`)
		if errs[0] == nil || errs[1] == nil || errs[2] != nil {
			t.Errorf("%v", errs)
		}
		b.d.Close(channel.ErrLeft)
		b.d.Wait()
	})
}
