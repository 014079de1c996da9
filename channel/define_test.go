package channel_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestIntercept(t *testing.T) {
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

func TestInfo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ch *channel.Channel
		b := start(t, channel.Define(
			func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
				ch = c
				c.Subscribe("news")
				return nil, nil
			},
			channel.Info(func(_ *room, _ context.Context, c *channel.Channel, n int) error {
				return c.Push("int", map[string]int{"n": n})
			}),
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
		b.want(`["1",null,"room:1","int",{"n":1}]`, `["1",null,"room:1","shape",{"sides":4}]`,
			`["1",null,"room:1","int",{"n":2}]`, `["1",null,"room:1","headline",{"text":"hi"}]`)
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
			onAny(func(_ *channel.Channel, event string, _ serializer.Payload) (push.Reply, error) {
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

func TestDefinePanicsOnMistakes(t *testing.T) {
	t.Parallel()
	event := on("x", nil)
	info := channel.Info(func(*room, context.Context, *channel.Channel, int) error { return nil })
	out := channel.Intercept("x", func(*room, context.Context, *channel.Channel, note) error { return nil })
	end := channel.Terminate(func(*room, context.Context, *channel.Channel, error) {})
	rest := onAny(func(*channel.Channel, string, serializer.Payload) (push.Reply, error) { return push.NoReply, nil })
	for name, o := range map[string]channel.Option[room]{
		"On": event, "Info": info, "Intercept": out, "Terminate": end, "OnAny": rest,
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Define accepts two %s", name)
				}
			}()
			channel.Define((*room).join, o, o)
		}()
	}
}

// TestDefinePanicsOnNil checks that nil callbacks are found when the handler is made.
func TestDefinePanicsOnNil(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]channel.Option[room]{
		"On":        channel.On[room, note, push.Reply]("x", nil),
		"OnAny":     channel.OnAny[room](nil),
		"Intercept": channel.Intercept[room, note]("x", nil),
		"Info":      channel.Info[room, int](nil),
		"Terminate": channel.Terminate[room](nil),
		"join":      {},
	} {
		func() {
			defer func() {
				if v, _ := recover().(string); v != "channel: nil callback for "+name {
					t.Errorf("%s: %v", name, v)
				}
			}()
			if name == "join" {
				channel.Define[room, note, any](nil)
				return
			}
			channel.Define((*room).join, o)
		}()
	}
}
