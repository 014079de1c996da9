package channel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// deliveries returns how the frames since the last call were sent.
func (c *carrier) deliveries() []transport.Delivery {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	how := c.how
	c.frames, c.how = nil, nil
	return how
}

// cursor is a payload with a position of a user.
type cursor struct {
	User string `json:"user"`
	At   int    `json:"at"`
}

// TestSlowPolicies checks that an event has its own policy, that of the event "", or the
// connection's. Replies and lifecycle events are never dropped.
func TestSlowPolicies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		topic := func(event string) transport.Delivery {
			return transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("room:1", event, "")}
		}
		by := func(p transport.SlowPolicy) transport.Delivery { return transport.Delivery{Policy: p} }
		pushes := on("push", func(c *channel.Channel, n note) (push.Reply, error) {
			return push.OK(nil), c.Push(n.Text, nil)
		})
		type handler []channel.Option[room]
		for _, test := range []struct {
			h    handler
			want map[string]transport.Delivery // by event
		}{
			{handler{}, map[string]transport.Delivery{"a": by(transport.Inherit)}},
			{handler{
				channel.OnSlow[room]("a", transport.DropOldest),
				channel.OnSlow[room]("b", transport.KeepLatest),
			}, map[string]transport.Delivery{
				"a": by(transport.DropOldest), "b": topic("b"), "c": by(transport.Inherit),
			}},
			{handler{
				channel.OnSlow[room]("", transport.KeepLatest),
				channel.OnSlow[room]("a", transport.Inherit),
				channel.OnSlow[room]("b", transport.Disconnect),
			}, map[string]transport.Delivery{
				"a": by(transport.Inherit), "b": by(transport.Disconnect), "c": topic("c"), "d": topic("d"),
			}},
			{handler{channel.OnSlow[room]("", transport.DropNewest)}, map[string]transport.Delivery{
				"a": by(transport.DropNewest),
			}},
		} {
			b := start(t, channel.Define((*room).join, append(test.h, pushes)...))
			if how := b.deliveries(); !slices.Equal(how, []transport.Delivery{{Answer: true}}) {
				t.Errorf("the join's reply was sent as %+v", how)
			}
			for event, want := range test.want {
				if err := b.ps.Broadcast(t.Context(), "room:1", event, nil); err != nil {
					t.Error(err)
				}
				b.push("2", "push", note{event})
				caused := want
				caused.Caused = true // the push is made while the client's message is handled
				if how := b.deliveries(); !slices.Equal(how, []transport.Delivery{want, caused, {Answer: true, Now: true}}) {
					t.Errorf("%s: broadcast, push and reply were sent as %+v, want %+v", event, how, want)
				}
			}
			b.d.Leave(serializer.Message{Ref: serializer.StringRef("9")}, 0)
			if how := b.deliveries(); !slices.Equal(how, []transport.Delivery{{Answer: true}, {Answer: true}}) {
				t.Errorf("the frames of the end were sent as %+v", how)
			}
		}
	})
}

// TestLatest checks that the key of a payload is computed once for all subscribers, and also for
// broadcasts that Intercept handles.
func TestLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		ps := pubsub.New(nil)
		h := channel.Define((*room).join,
			channel.Latest[room]("moved", func(c cursor) string {
				calls.Add(1)
				ps.Subscribe("room:1", nil).Cancel() // no lock is held
				return c.User
			}),
			channel.Latest[room]("seen", func(c cursor) string { return c.User }),
			channel.Intercept("seen", func(_ *room, _ context.Context, c *channel.Channel, m cursor) error {
				return c.Push("seen", m)
			}),
		)
		var all []*bench
		for range 5 {
			b := &bench{carrier: newCarrier(ps), t: t}
			b.join(h, "1", nil)
			b.want(joinedOK)
			all = append(all, b)
		}
		for _, test := range []struct {
			event   string
			payload any
			key     transport.Key
		}{
			{"moved", cursor{"ann", 1}, transport.NewKey("room:1", "moved", "ann")},
			{"moved", map[string]string{"user": "bob"}, transport.NewKey("room:1", "moved", "bob")},
			{"moved", nil, transport.NewKey("room:1", "moved", "")},
			{"moved", map[string]int{"user": 1}, transport.Key{}},
			{"moved", serializer.Binary([]byte("ann")), transport.Key{}},
			{"seen", cursor{"ann", 2}, transport.NewKey("room:1", "seen", "ann")},
		} {
			if err := ps.Broadcast(t.Context(), "room:1", test.event, test.payload); err != nil {
				t.Error(err)
			}
			for _, b := range all {
				if how := b.deliveries(); !slices.Equal(how, []transport.Delivery{{Policy: transport.KeepLatest, Key: test.key}}) {
					t.Errorf("%s of %v was sent as %+v", test.event, test.payload, how)
				}
			}
		}
		if n := calls.Load(); n != 3 {
			t.Errorf("%d calls for 3 broadcasts to 5 subscribers", n)
		}
		for _, b := range all {
			b.d.Close(errors.New("over"))
		}
	})
}

// TestLatestPanics checks that a key function that panics affects only the broadcaster.
func TestLatestPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reasons []error
		b := start(t, channel.Define((*room).join, ends(&reasons),
			channel.Latest[room]("moved", func(cursor) string { panic("secret") }),
			on("push", func(c *channel.Channel, _ note) (push.Reply, error) { return push.NoReply, c.Push("moved", nil) }),
		))
		b.want(joinedOK)
		err := b.ps.Broadcast(t.Context(), "room:1", "moved", nil)
		if p, ok := errors.AsType[*channel.PanicError](err); !ok || p.Value != "secret" {
			t.Errorf("Broadcast: %v", err)
		}
		b.want(`[null,null,"room:1","moved",{}]`)
		b.push("2", "push", nil)
		b.want(`["1",null,"room:1","bye",{}]`, crashed)
		if len(reasons) != 1 || !strings.Contains(reasons[0].Error(), "secret") {
			t.Errorf("ended by %v", reasons)
		}
	})
}

// TestLatestOfTwoHandlers checks that handlers of one topic have their own keys.
func TestLatestOfTwoHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		byUser := channel.Latest[room]("moved", func(c cursor) string { return c.User })
		byPlace := channel.Latest[room]("moved", func(c cursor) string { return fmt.Sprint(c.At) })
		var all []*bench
		for _, options := range [][]channel.Option[room]{{byUser}, {byPlace}, nil} {
			b := &bench{carrier: newCarrier(ps), t: t}
			b.join(channel.Define((*room).join, options...), "1", nil)
			b.want(joinedOK)
			all = append(all, b)
		}
		if err := ps.Broadcast(t.Context(), "room:1", "moved", cursor{"ann", 7}); err != nil {
			t.Error(err)
		}
		for i, want := range []transport.Delivery{
			{Policy: transport.KeepLatest, Key: transport.NewKey("room:1", "moved", "ann")},
			{Policy: transport.KeepLatest, Key: transport.NewKey("room:1", "moved", "7")},
			{},
		} {
			if how := all[i].deliveries(); !slices.Equal(how, []transport.Delivery{want}) {
				t.Errorf("%d: sent as %+v, want %+v", i, how, want)
			}
			all[i].d.Close(errors.New("over"))
		}
	})
}

func TestSlowPolicyMistakes(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]channel.Option[room]{
		"twice": {channel.OnSlow[room]("a", transport.DropOldest), channel.OnSlow[room]("a", transport.DropNewest)},
		"both": {
			channel.OnSlow[room]("a", transport.DropOldest),
			channel.Latest[room]("a", func(cursor) string { return "" }),
		},
		"unknown": {channel.OnSlow[room]("a", 17)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			channel.Define((*room).join, options...)
		}()
	}
}
