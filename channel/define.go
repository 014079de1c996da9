package channel

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/will"
)

// Handler defines a kind of channel. Define makes it, and Routes mount it. It is immutable and safe
// for concurrent use.
type Handler struct {
	callbacks
	warned atomic.Bool // of a slow rule that does not apply to records
}

// callbacks are what a Handler was made from.
type callbacks struct {
	types       channelhost.Types // for package tsgen
	newState    func() any
	join        func(ctx context.Context, c *Channel, p serializer.Payload) (any, error)
	events      map[string]eventFunc
	any         eventFunc // Nil means that an unknown event crashes the channel.
	run         Func      // events behind their middleware
	wrap        []func(Func) Func
	around      []aroundFunc
	hooks       *channelhost.Hooks // nil means none
	once        *once              // nil without Once
	out         map[string]outFunc
	info        map[reflect.Type]infoFunc
	infoIface   []infoIface // for message types that are interfaces, in the order of definition
	terminate   func(ctx context.Context, c *Channel, reason error) error
	slow        map[string]slowRule // by event, "" for all others. Nil means the connection's policy.
	preparer    preparer            // computes their keys; nil if no rule needs one
	reach       func(ctx context.Context, c *Channel) (time.Time, error)
	pages       func(ctx context.Context, c *Channel) error // Nil means no pages.
	reauthorize func(ctx context.Context, c *Channel) error // Nil means that channels stay.
	// Nil means no wills.
	allowWill func(ctx context.Context, c *Channel, event string, p serializer.Payload) (serializer.Payload, error)
	runWill   func(ctx context.Context, w will.Will) error // Nil means that wills are broadcast.
}

type (
	eventFunc func(ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error)
	outFunc   func(ctx context.Context, c *Channel, p serializer.Payload) error
	infoFunc  func(ctx context.Context, c *Channel, msg any) error
	infoIface struct {
		typ reflect.Type
		f   infoFunc
	}
)

// Func handles an event of any name. Middleware wraps it: see Use.
type Func func(ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error)

// Option is a callback of a handler whose state is S.
type Option[S any] struct{ apply func(*Handler) }

// Define makes a handler. Each join has a state of its own, a zero S, which is passed to all
// callbacks of that channel.
//
// Join decides about a join. Its parameters are decoded from the join's payload, as in On. If the
// error is nil, the client is joined and receives reply; nil means an empty object. An error made
// by push.Reject refuses the join, and the client receives its payload. Any other error, and a
// panic, is logged, and the client receives "join crashed". The reply's type R may be any. Package
// tsgen describes other types to pages.
//
// The channel's subscription to its topic begins after join has returned, just before the reply.
// The client receives every broadcast after its reply. A callback that loads a history misses the
// broadcasts between its query and that moment, except on a recorded topic: the client receives the
// recorded events since before the callback was called. See pubsub.NewRecorded and
// [Channel.Resume].
//
// A join that takes longer than socket.Config.JoinTimeout (30 s) has failed. Its context is
// cancelled by ErrJoinTimeout, the client receives "join crashed", and it may join the topic
// again while the callback still runs. Its result is ignored, but its side effects are cleaned
// up: the OnEnd functions run, and so does Terminate if it returned nil. The same applies to a
// join that has not returned 5 s after the client joined the topic again; then the cause is
// ErrReplaced.
//
// Define panics if there are two callbacks for one event or message type, or if a callback is nil.
func Define[S, P, R any](
	join func(s *S, ctx context.Context, c *Channel, params P) (reply R, err error), options ...Option[S],
) *Handler {
	must(join != nil, "join")
	decode, payload := decoder[P](), payloadOf[R]()
	h := &Handler{callbacks: callbacks{
		types:    channelhost.Types{Params: reflect.TypeFor[P](), Reply: reflect.TypeFor[R]()},
		newState: func() any { return new(S) },
		join: func(ctx context.Context, c *Channel, p serializer.Payload) (any, error) {
			params, err := decode(p)
			if err != nil {
				return nil, err
			}
			reply, err := join(c.data.(*S), ctx, c, params)
			return payload(reply), err
		},
		events: make(map[string]eventFunc),
		out:    make(map[string]outFunc),
		info:   make(map[reflect.Type]infoFunc),
	}}
	for _, o := range options {
		o.apply(h)
	}
	h.run = h.dispatch
	if h.once != nil {
		h.once.check(h)
		h.run = h.once.wrap(h.run)
	}
	for i := len(h.wrap) - 1; i >= 0; i-- {
		h.run = h.wrap[i](h.run)
	}
	for i := len(h.around) - 1; i >= 0; i-- {
		h.wrapAll(h.around[i])
	}
	return h
}

// On handles the client's pushes of one event. The payload is decoded into P: a serializer.Payload
// is passed unchanged, []byte accepts binary payloads, and other types are decoded by their json
// tags. A payload that cannot be decoded gets an error reply, reason "invalid payload".
//
// F returns a push.Reply, or a value of any other type R, which is the payload of an ok reply. Such
// a value is not sent if there is an error other than ErrStop.
//
// The reply is sent first, unless it is push.NoReply. If the error is nil, the channel goes on. An
// error made by push.Reject becomes an error reply. ErrStop ends the channel normally. The error of
// a recorded broadcast (see pubsub.NewRecorded) is logged, and an error reply replaces the reply.
// Any other error, and a panic, is a crash: it is logged, and the client receives phx_error and
// rejoins.
func On[S, P, R any](event string, f func(s *S, ctx context.Context, c *Channel, p P) (R, error)) Option[S] {
	decode := decoder[P]()
	return Option[S]{func(h *Handler) {
		must(f != nil, "On")
		call := replying(f)
		if _, ok := h.events[event]; ok {
			panic(fmt.Sprintf("channel: two callbacks for event %q", event))
		}
		h.events[event] = func(ctx context.Context, c *Channel, _ string, p serializer.Payload) (push.Reply, error) {
			v, err := decode(p)
			if err != nil {
				return push.NoReply, err
			}
			return call(c.data.(*S), ctx, c, v)
		}
		h.types.AddEvent(event, reflect.TypeFor[P](), reflect.TypeFor[R]())
	}}
}

// OnAny handles the events that have no On. Without OnAny they crash the channel, as in Phoenix.
//
// A push of a reserved event does not reach OnAny and gets an error reply, reason "reserved
// event". Reserved are phx_reply, phx_error, phx_close, presence_state, presence_diff, and events
// that begin with "$" or "chan_reply_". The client chooses the event's name, and OnAny often
// passes it on. Other clients would take a phx_close for the end of their channel, or a
// presence_diff for a change of their list. A handler that needs such an event from its clients
// has an On for it.
func OnAny[S any](
	f func(s *S, ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error),
) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "OnAny")
		if h.any != nil {
			panic("channel: two OnAny callbacks")
		}
		h.any = func(ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error) {
			return f(c.data.(*S), ctx, c, event, p)
		}
	}}
}

// Intercept handles the broadcasts of one event on the channel's topic. They are not sent to the
// client by themselves: f pushes them, changed or not, or drops them. Each client costs an
// encoding.
//
// Errors are those of On, except that an error made by push.Reject is a crash, because there is no
// message to reply to.
func Intercept[S, P any](event string, f func(s *S, ctx context.Context, c *Channel, p P) error) Option[S] {
	decode := decoder[P]()
	return Option[S]{func(h *Handler) {
		must(f != nil, "Intercept")
		if _, ok := h.out[event]; ok {
			panic(fmt.Sprintf("channel: two Intercept callbacks for event %q", event))
		}
		h.out[event] = func(ctx context.Context, c *Channel, p serializer.Payload) error {
			v, err := decode(p)
			if err != nil {
				return err
			}
			return f(c.data.(*S), ctx, c, v)
		}
	}}
}

// Info handles the messages of type M that the server's own code sends to the channel: by
// Channel.Send, and as *pubsub.Broadcast those of topics that the channel subscribed to. A message
// whose type has no callback is logged and dropped. Errors are those of Intercept.
func Info[S, M any](f func(s *S, ctx context.Context, c *Channel, msg M) error) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "Info")
		typ := reflect.TypeFor[M]()
		call := func(ctx context.Context, c *Channel, msg any) error { return f(c.data.(*S), ctx, c, msg.(M)) }
		if typ.Kind() == reflect.Interface {
			h.infoIface = append(h.infoIface, infoIface{typ, call})
			return
		}
		if _, ok := h.info[typ]; ok {
			panic(fmt.Sprintf("channel: two Info callbacks for %v", typ))
		}
		h.info[typ] = call
	}}
}

// Terminate is called once for every channel whose join was accepted, when the channel ends. The
// Err variables list the reasons. Its context is not cancelled. Pushes from it reach the client
// after phx_close, but before phx_error.
func Terminate[S any](f func(s *S, ctx context.Context, c *Channel, reason error)) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "Terminate")
		if h.terminate != nil {
			panic("channel: two Terminate callbacks")
		}
		h.terminate = func(ctx context.Context, c *Channel, reason error) error {
			f(c.data.(*S), ctx, c, reason)
			return nil
		}
	}}
}

// Use wraps every event in middleware, but not joins and other callbacks: see [Around]. The first
// middleware is the outermost. It is written Use[room](…), and serves logging and limits.
func Use[S any](middleware ...func(next Func) Func) Option[S] {
	return Option[S]{func(h *Handler) { h.wrap = append(h.wrap, middleware...) }}
}

// must panics if a callback is nil.
func must(present bool, what string) {
	if !present {
		panic("channel: nil callback for " + what)
	}
}

// dispatch is the innermost Func: it calls the event's callback.
func (h *Handler) dispatch(ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error) {
	if f, ok := h.events[event]; ok {
		return f(ctx, c, event, p)
	}
	if h.any != nil {
		return h.any(ctx, c, event, p)
	}
	return push.NoReply, noCallback(event)
}

// infoFor returns the callback for a message: the one for its type, or else the one for the first
// interface that it implements.
func (h *Handler) infoFor(msg any) infoFunc {
	typ := reflect.TypeOf(msg)
	if f, ok := h.info[typ]; ok {
		return f
	}
	for _, i := range h.infoIface {
		if typ != nil && typ.Implements(i.typ) {
			return i.f
		}
	}
	return nil
}

// decoder returns the function that decodes a payload into a P. Raw payloads need no reflection.
func decoder[P any]() func(serializer.Payload) (P, error) {
	raw := func(p serializer.Payload) (serializer.Payload, error) { return p, nil }
	if f, ok := any(raw).(func(serializer.Payload) (P, error)); ok {
		return f
	}
	return func(p serializer.Payload) (v P, err error) {
		if err := p.Decode(&v); err != nil {
			return v, &payloadError{reflect.TypeFor[P](), err}
		}
		return v, nil
	}
}

// intercepts reports whether broadcasts of b's event go through the channel's mailbox.
func (h *Handler) intercepts(b *pubsub.Broadcast) bool {
	if len(h.out) == 0 {
		return false
	}
	_, ok := h.out[b.Event]
	return ok
}
