package channeltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/serializer"
)

// Channel is a client's channel for one topic. [Client.Join] makes it. Its Inbox has the events
// that the client receives, presence_state and presence_diff included.
type Channel struct {
	*Inbox
	// Channel is the client's end, for everything that this package does not wrap.
	Channel *channel.Client
	// Client is the client whose channel this is.
	Client *Client
	// Presence has the list of who is there, if the server pushes one.
	Presence *presence.Client
	// Joined is the join, for [Reply]. It is nil before Join.
	Joined *Push

	joins   []serializer.Payload // replies that were not expected yet; guarded by the Inbox
	crashes []error              // the same for the server's phx_error
	closed  bool                 // permanently, because of the cause
	cause   error
}

// maxKept bounds the joins and crashes that wait to be expected. Beyond it, the oldest are dropped.
const maxKept = 1000

func newChannel(c *Client, topic string, params any) *Channel {
	ch := &Channel{Channel: c.Socket.Channel(topic, params), Client: c}
	ch.Inbox = newInbox(c.server, fmt.Sprintf("%s on %q", c, topic))
	ch.Inbox.channel = ch
	ch.Presence = presence.NewClient(ch.Channel, &presence.ClientConfig{Logger: c.cfg.Logger})
	ch.Channel.OnMessage(func(m serializer.Message) { ch.add(event{m.Event, m.Payload}) })
	ch.Channel.OnJoin(func(reply serializer.Payload) {
		ch.update(func() { ch.joins = kept(ch.joins, reply) })
	})
	ch.Channel.OnError(func(err error) {
		ch.update(func() {
			var remote *channel.RemoteError
			if errors.As(err, &remote) {
				ch.crashes = kept(ch.crashes, err)
			}
		})
	})
	ch.Channel.OnClose(func(cause error) { ch.update(func() { ch.closed, ch.cause = true, cause }) })
	ch.Presence.OnSync(func() { ch.update(func() {}) })
	return ch
}

// kept appends v to a bounded list.
func kept[T any](list []T, v T) []T {
	if len(list) == maxKept {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, v)
}

// Join joins the topic and returns the reply's payload. The test fails if the server refuses the
// join. A channel can be joined once.
func (c *Channel) Join(tb testing.TB) serializer.Payload {
	tb.Helper()
	c.Joined = &Push{Push: c.Channel.Join(), channel: c, what: "join"}
	c.Joined.ExpectOK(tb, nil)
	return c.ExpectJoin(tb)
}

// ExpectJoin waits until the channel has joined again, after its connection was lost or the
// server's channel has crashed, and returns the reply's payload. Each join is returned once.
func (c *Channel) ExpectJoin(tb testing.TB) (reply serializer.Payload) {
	tb.Helper()
	c.expect(tb, "no join", func() bool {
		if len(c.joins) == 0 {
			return false
		}
		reply, c.joins = c.joins[0], c.joins[1:]
		return true
	})
	return reply
}

// ExpectCrash waits until the server's channel has crashed, and returns the client's error, a
// *channel.RemoteError. The client joins again by itself. See [Server.AllowCrashes].
func (c *Channel) ExpectCrash(tb testing.TB) (err error) {
	tb.Helper()
	c.expect(tb, "no phx_error", func() bool {
		if len(c.crashes) == 0 {
			return false
		}
		err, c.crashes = c.crashes[0], c.crashes[1:]
		return true
	})
	return err
}

// ExpectClose waits until the channel is closed and will not be joined again, and returns the
// cause. It is a *channel.RemoteError if the server closed the channel. Use errors.Is to compare it
// with the push.Reason that the server gave.
func (c *Channel) ExpectClose(tb testing.TB) (cause error) {
	tb.Helper()
	c.expect(tb, "it is not closed", func() bool {
		cause = c.cause
		return c.closed
	})
	return cause
}

// ExpectPresence waits until the client's list of who is there has exactly these keys, in any
// order. The list itself is in the field Presence.
func (c *Channel) ExpectPresence(tb testing.TB, keys ...string) {
	tb.Helper()
	want := slices.Sorted(slices.Values(keys))
	var got []string
	ctx, cancel := c.server.within()
	defer cancel()
	if c.await(ctx, func() bool {
		got = got[:0]
		for key := range c.Presence.All() {
			got = append(got, key)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	}) != nil {
		text := ""
		if !c.Presence.Synced() {
			text = " (the server has pushed no presence_state since the join)"
		}
		tb.Fatalf("channeltest: %s: present are [%s], want [%s], after %v%s\n%s", c.name, strings.Join(got, " "),
			strings.Join(want, " "), c.server.timeout(), text, c.situation())
	}
}

// expect waits for a condition.
func (c *Channel) expect(tb testing.TB, failure string, ok func() bool) {
	tb.Helper()
	ctx, cancel := c.server.within()
	defer cancel()
	if c.await(ctx, ok) != nil {
		tb.Fatalf("channeltest: %s: %s within %v\n%s", c.name, failure, c.server.timeout(), c.situation())
	}
}

// awaitJoined waits until the channel is joined, unless it is closed or was never joined.
func (c *Channel) awaitJoined(tb testing.TB, ctx context.Context) {
	tb.Helper()
	if c.await(ctx, func() bool {
		state, _ := c.Channel.State()
		return state == channel.StateJoined || state == channel.StateClosed || c.closed
	}) != nil {
		tb.Fatalf("channeltest: %s: it is not joined again within %v\n%s", c.name, c.server.timeout(), c.situation())
	}
}

// Push sends an event. The payload is as for [channel.Client.Push].
func (c *Channel) Push(event string, payload any) *Push {
	return &Push{Push: c.Channel.Push(event, payload), channel: c, what: fmt.Sprintf("push %q", event)}
}

// Leave leaves the topic. When it returns, the server's channel has ended, and so has its Terminate
// callback.
func (c *Channel) Leave(tb testing.TB) {
	tb.Helper()
	(&Push{Push: c.Channel.Leave(), channel: c, what: "leave"}).ExpectOK(tb, nil)
	c.awaitServed(tb, "the server's channel has not ended", func(all []*servedChannel) bool {
		return !slices.ContainsFunc(all, func(k *servedChannel) bool { return !k.ended })
	})
}

// ServerChannel returns the server's end of the channel, for example to send it a message with its
// Send, or to call its BroadcastFrom. After a rejoin it is another one.
func (c *Channel) ServerChannel(tb testing.TB) (of *channel.Channel) {
	tb.Helper()
	c.awaitServed(tb, "the server has no such channel", func(all []*servedChannel) bool {
		for _, k := range slices.Backward(all) {
			if !k.ended {
				of = k.channel
				return true
			}
		}
		return false
	})
	return of
}

// ExpectEnd waits until the server's channel has ended and its callbacks have returned. It returns
// the reason that Terminate was called with, or would have been: see the Err variables of package
// channel. After a rejoin there is another channel. Each call returns the reason of the next one.
func (c *Channel) ExpectEnd(tb testing.TB) (reason error) {
	tb.Helper()
	c.awaitServed(tb, "the server's channel has not ended", func(all []*servedChannel) bool {
		for _, k := range all {
			if !k.expected {
				reason, k.expected = k.reason, k.ended
				return k.ended
			}
		}
		return false
	})
	return reason
}

// awaitServed waits for a condition of the server's channels of this client and topic.
func (c *Channel) awaitServed(tb testing.TB, failure string, ok func([]*servedChannel) bool) {
	tb.Helper()
	id, topic := c.Client.Socket.Info().ClientID, c.Channel.Topic()
	ctx, cancel := c.server.within()
	defer cancel()
	served := c.server.served
	if served.await(ctx, func() bool {
		return ok(served.of(id, func(k *servedChannel) bool { return k.topic == topic }))
	}) != nil {
		tb.Fatalf("channeltest: %s: %s after %v\n%s", c.name, failure, c.server.timeout(), c.situation())
	}
}

// situation describes the channel for a failure message.
func (c *Channel) situation() string {
	text := ""
	if state, err := c.Channel.State(); err != nil {
		text = fmt.Sprintf("\tthe channel is %s: %v\n", state, err)
	} else if state != channel.StateJoined {
		text = fmt.Sprintf("\tthe channel is %s\n", state)
	}
	return text + c.Client.situation()
}
