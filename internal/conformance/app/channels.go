package app

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// payload is the payload of events, chosen by a script.
type payload = serializer.Payload

// errNoClause corresponds to the crash of a Phoenix channel whose clauses do not match a payload.
var errNoClause = errors.New("no clause matches")

// member is one client in a room.
type member struct{}

// later is the reply to async. The channel sends it to itself.
type later struct {
	ref     channel.Ref
	payload payload
}

// asyncDelay is the delay of the reply to async.
const asyncDelay = 50 * time.Millisecond

// callback is the type of an event's callback.
type callback = func(*member, context.Context, *channel.Channel, payload) (push.Reply, error)

// reply returns a callback that does not use the member and its context.
func reply(f func(c *channel.Channel, p payload) (push.Reply, error)) callback {
	return func(_ *member, _ context.Context, c *channel.Channel, p payload) (push.Reply, error) { return f(c, p) }
}

// do returns a callback without a reply.
func do(f func(c *channel.Channel, p payload) error) callback {
	return reply(func(c *channel.Channel, p payload) (push.Reply, error) { return push.NoReply, f(c, p) })
}

// room returns the handler of the rooms. The events who and log_in are known if clients
// authenticate.
func room(auth bool) *channel.Handler {
	var options []channel.Option[member]
	if auth {
		options = append(options, channel.On("who",
			func(_ *member, ctx context.Context, _ *channel.Channel, _ payload) (push.Reply, error) {
				answer := map[string]any{"user": nil}
				if g, ok := socket.GrantFrom(ctx); ok {
					answer["user"] = g.ID
				}
				return push.OK(answer), nil
			}), channel.On("log_in",
			func(_ *member, ctx context.Context, _ *channel.Channel, in struct{ User string }) (push.Reply, error) {
				return push.OK(nil), socket.Authenticate(ctx, socket.Grant{ID: in.User, Token: in.User + ".60"})
			}))
	}
	return channel.Define((*member).join, append(options,
		channel.On("echo", reply(func(_ *channel.Channel, p payload) (push.Reply, error) { return push.OK(p), nil })),
		channel.On("fail", do(func(_ *channel.Channel, p payload) error { return push.Reject(p) })),
		channel.On("reply_ok", reply(func(*channel.Channel, payload) (push.Reply, error) { return push.OK(nil), nil })),
		channel.On("noreply", do(func(*channel.Channel, payload) error { return nil })),
		channel.On("shout", do(func(c *channel.Channel, p payload) error { return c.Broadcast("shout", p) })),
		channel.On("shout_from", do(func(c *channel.Channel, p payload) error { return c.BroadcastFrom("shout_from", p) })),
		channel.On("push_me", do(func(c *channel.Channel, p payload) error { return c.Push("pushed", p) })),
		channel.On("async", do(func(c *channel.Channel, p payload) error {
			ref := c.Ref()
			time.AfterFunc(asyncDelay, func() { _ = c.Send(later{ref, p}) }) // fails if the channel has ended
			return nil
		})),
		channel.Info(func(_ *member, _ context.Context, c *channel.Channel, l later) error {
			return c.Reply(l.ref, push.OK(l.payload))
		}),
		channel.On("stop", do(func(*channel.Channel, payload) error { return channel.ErrStop })),
		channel.On("stop_reply", reply(func(_ *channel.Channel, p payload) (push.Reply, error) {
			return push.OK(p), channel.ErrStop
		})),
		channel.On("crash", do(func(*channel.Channel, payload) error { panic("crash on request") })),
		channel.On("binary_echo", reply(func(_ *channel.Channel, p payload) (push.Reply, error) {
			if !p.IsBinary() {
				return push.NoReply, errNoClause
			}
			return push.OK(p), nil
		})),
		channel.On("binary_shout", do(func(c *channel.Channel, p payload) error {
			if !p.IsBinary() {
				return errNoClause
			}
			return c.Broadcast("binary_shout", p)
		})),
		channel.On("filtered", do(func(c *channel.Channel, p payload) error { return c.Broadcast("filtered", p) })),
		channel.Intercept("filtered", (*member).filter),
		channel.AllowWill((*member).allowWill),
	)...)
}

func (*member) join(_ context.Context, c *channel.Channel, p payload) (any, error) {
	switch c.Topic() {
	case "room:forbidden":
		return nil, push.Reject("forbidden")
	case "room:crash_join":
		panic("crash on request")
	case "room:echo_join":
		return p, nil
	}
	return nil, nil
}

// allowWill allows wills, except for the event forbidden. It adds the user's id.
func (*member) allowWill(ctx context.Context, _ *channel.Channel, event string, p payload) (payload, error) {
	if event == "forbidden" {
		return p, push.Reject("forbidden")
	}
	info, _ := socket.InfoFrom(ctx)
	if p.IsZero() {
		p = serializer.Value(struct{}{})
	}
	return p.With("user", info.Subject), nil
}

// filter adds a field to the payloads that it forwards, and drops those that request it.
func (*member) filter(_ context.Context, c *channel.Channel, p payload) error {
	var fields map[string]json.RawMessage
	if err := p.Decode(&fields); err != nil {
		return err
	}
	if string(fields["drop"]) == "true" {
		return nil
	}
	fields["seen"] = json.RawMessage("true")
	return c.Push("filtered", fields)
}

// operator is a client on the topic admin.
type operator struct{}

func admin(
	ps *pubsub.PubSub, kick func(ctx context.Context, topic, connection, reason string) error,
) *channel.Handler {
	join := func(*operator, context.Context, *channel.Channel, payload) (any, error) { return nil, nil }
	type order struct {
		ID      *string         `json:"id"`
		Topic   *string         `json:"topic"`
		Event   *string         `json:"event"`
		Payload json.RawMessage `json:"payload"`
		Reason  *string         `json:"reason"`
		Socket  string          `json:"socket"`
	}
	parse := func(p payload) (o order, err error) {
		if p.IsBinary() || p.Decode(&o) != nil {
			return o, errNoClause
		}
		return o, nil
	}
	return channel.Define(join,
		channel.On("disconnect", func(_ *operator, ctx context.Context, _ *channel.Channel, p payload) (push.Reply, error) {
			o, err := parse(p)
			if err != nil || o.ID == nil {
				return push.NoReply, errNoClause
			}
			return push.OK(nil), ps.Broadcast(ctx, *o.ID, "disconnect", nil)
		}),
		channel.On("broadcast", func(_ *operator, ctx context.Context, _ *channel.Channel, p payload) (push.Reply, error) {
			o, err := parse(p)
			if err != nil || o.Topic == nil || o.Event == nil || o.Payload == nil {
				return push.NoReply, errNoClause
			}
			return push.OK(nil), ps.Broadcast(ctx, *o.Topic, *o.Event, o.Payload)
		}),
		channel.On("kick", func(_ *operator, ctx context.Context, _ *channel.Channel, p payload) (push.Reply, error) {
			o, err := parse(p)
			if err != nil || o.Topic == nil || o.Reason == nil {
				return push.NoReply, errNoClause
			}
			return push.OK(nil), kick(ctx, *o.Topic, o.Socket, *o.Reason)
		}),
	)
}

// loader is a client of a benchmark.
type loader struct{}

func bench() *channel.Handler {
	join := func(*loader, context.Context, *channel.Channel, payload) (any, error) { return nil, nil }
	return channel.Define(join,
		channel.On("pub", func(_ *loader, _ context.Context, c *channel.Channel, p payload) (push.Reply, error) {
			return push.NoReply, c.Broadcast("msg", p)
		}),
		channel.On("echo", func(_ *loader, _ context.Context, _ *channel.Channel, p payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
	)
}
