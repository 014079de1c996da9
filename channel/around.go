package channel

import (
	"context"
	"maps"
	"reflect"
	"time"

	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Callback is a call of one of a handler's callbacks: see [Around], and Hooks in package socket.
type Callback struct {
	// Kind is the option that defined the callback: "join", "event", "intercept", "info", "terminate",
	// "reauthorize", "will", "reach" or "pages".
	Kind string
	// Name is the event of On or Intercept, or the type of Info. It is "*" for OnAny, and otherwise
	// empty. Clients cannot choose it, so it suits the label of a metric.
	Name string
	// Event is the event of an On, an OnAny, an Intercept or a will. A client may have chosen it.
	Event string
	// Payload is the payload of that event, or the parameters of a join. It must not be changed.
	Payload serializer.Payload
	// Message is the message of an Info.
	Message any
	// Origin is the context of the broadcast that an Intercept or an Info handles, if that has hooks:
	// see pubsub.Hooks. Otherwise it is nil.
	Origin context.Context
}

// aroundFunc is the function of Around, with any state.
type aroundFunc func(ctx context.Context, c *Channel, cb *Callback, next func(context.Context) error) error

// Around wraps all callbacks of a handler: joins, events with their middleware, intercepted
// broadcasts, messages of the server's own code, and all others that return a result. OnEnd
// functions are not wrapped. The function calls next once, with ctx or a context made from it, and
// returns the error of next or another one. That error counts as the callback's: see Define and On.
// The Callback is valid until the function returns.
//
// Use wraps only events, and sees their replies. The first Around is the outermost.
func Around[S any](
	f func(s *S, ctx context.Context, c *Channel, cb *Callback, next func(context.Context) error) error,
) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "Around")
		h.around = append(h.around,
			func(ctx context.Context, c *Channel, cb *Callback, next func(context.Context) error) error {
				return f(c.data.(*S), ctx, c, cb, next)
			})
	}}
}

// wrapAll wraps all callbacks in f. The maps are replaced, not changed, because copies of a Handler
// share them.
func (h *callbacks) wrapAll(f aroundFunc) {
	join := h.join
	h.join = func(ctx context.Context, c *Channel, p serializer.Payload) (reply any, err error) {
		err = f(ctx, c, &Callback{Kind: "join", Payload: p}, func(ctx context.Context) (err error) {
			reply, err = join(ctx, c, p)
			return err
		})
		return reply, err
	}
	run, events, others := h.run, h.events, h.any != nil
	h.run = func(ctx context.Context, c *Channel, event string, p serializer.Payload) (reply push.Reply, err error) {
		cb := &Callback{Kind: "event", Event: event, Payload: p}
		if _, ok := events[event]; ok {
			cb.Name = event
		} else if others {
			cb.Name = "*"
		}
		err = f(ctx, c, cb, func(ctx context.Context) (err error) {
			reply, err = run(ctx, c, event, p)
			return err
		})
		return reply, err
	}
	h.out = maps.Clone(h.out)
	for event, out := range h.out {
		h.out[event] = func(ctx context.Context, c *Channel, p serializer.Payload) error {
			cb := &Callback{Kind: "intercept", Name: event, Event: event, Payload: p, Origin: originFrom(ctx)}
			return f(ctx, c, cb, func(ctx context.Context) error { return out(ctx, c, p) })
		}
	}
	wrapInfo := func(typ reflect.Type, info infoFunc) infoFunc {
		name := typ.String()
		return func(ctx context.Context, c *Channel, msg any) error {
			cb := &Callback{Kind: "info", Name: name, Message: msg}
			if b, ok := msg.(*pubsub.Broadcast); ok {
				cb.Origin = b.Context()
			}
			return f(ctx, c, cb, func(ctx context.Context) error { return info(ctx, c, msg) })
		}
	}
	h.info = maps.Clone(h.info)
	for typ, info := range h.info {
		h.info[typ] = wrapInfo(typ, info)
	}
	h.infoIface = append([]infoIface(nil), h.infoIface...)
	for i := range h.infoIface {
		h.infoIface[i].f = wrapInfo(h.infoIface[i].typ, h.infoIface[i].f)
	}
	h.wrapRare(f)
}

// wrapRare is the part of wrapAll for callbacks that a handler may not have.
func (h *callbacks) wrapRare(f aroundFunc) {
	if terminate := h.terminate; terminate != nil {
		h.terminate = func(ctx context.Context, c *Channel, reason error) error {
			return f(ctx, c, &Callback{Kind: "terminate"}, func(ctx context.Context) error {
				return terminate(ctx, c, reason)
			})
		}
	}
	wrapCheck := func(kind string, check func(context.Context, *Channel) error) func(context.Context, *Channel) error {
		if check == nil {
			return nil
		}
		return func(ctx context.Context, c *Channel) error {
			return f(ctx, c, &Callback{Kind: kind}, func(ctx context.Context) error { return check(ctx, c) })
		}
	}
	h.pages = wrapCheck("pages", h.pages)
	h.reauthorize = wrapCheck("reauthorize", h.reauthorize)
	if reach := h.reach; reach != nil {
		h.reach = func(ctx context.Context, c *Channel) (t time.Time, err error) {
			err = f(ctx, c, &Callback{Kind: "reach"}, func(ctx context.Context) (err error) {
				t, err = reach(ctx, c)
				return err
			})
			return t, err
		}
	}
	if allow := h.allowWill; allow != nil {
		h.allowWill = func(
			ctx context.Context, c *Channel, event string, p serializer.Payload,
		) (allowed serializer.Payload, err error) {
			cb := &Callback{Kind: "will", Event: event, Payload: p}
			err = f(ctx, c, cb, func(ctx context.Context) (err error) {
				allowed, err = allow(ctx, c, event, p)
				return err
			})
			return allowed, err
		}
	}
}
