package socket

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/safecall"
	"bennu.example/key"
	"bennu.example/serializer"
)

// Hooks are functions that a Handler calls about what happens in it, for metrics and traces. Nil
// functions are not called. Broadcasts and the engine have hooks of their own, pubsub.Hooks, and so
// has presence, presence.Hooks. See docs/observability.md.
//
// The functions run on the goroutine that the event belongs to, under no lock, and may run on
// several goroutines at once. That goroutine waits for them, so they must be fast. They must not
// end it by runtime.Goexit, and must not call Shutdown. A panic of one is logged and has no other
// effect: the other hooks are called, and so is the callback.
//
// The context has the values of the event's socket, for [InfoFrom] and [GrantFrom]. An event is
// shared by all hooks: they must not change it, nor use it after they have returned. The channel
// $socket has no hooks.
type Hooks struct {
	// ConnectStart is called on the request's goroutine before Auth.Verify and Config.Connect, even if
	// there are none. Its result is their context, and its values are in the contexts of the socket's
	// callbacks, unless Connect returns a context that is not made from its own. Nil means ctx.
	ConnectStart func(ctx context.Context, r *Request) context.Context
	// ConnectDone is called after them, with the result of ConnectStart.
	ConnectDone func(ctx context.Context, r *Request, err error)
	// Refused is called for every handshake that fails, on the request's goroutine: after ConnectDone,
	// if that was called. Its event has Transport, Reason and Err.
	Refused func(ctx context.Context, e *SocketEvent)
	// Opened is called when a connection is made, before its first message is read, and Closed when it
	// and its channels have ended. Their events have Transport, Info, and for Closed, Took and Err. A
	// connection that only tells a client of its final Refusal has neither.
	Opened func(ctx context.Context, e *SocketEvent)
	Closed func(ctx context.Context, e *SocketEvent)
	// Dropped is called soon after frames for slow clients were dropped, once for several of them, on
	// a goroutine of the Handler. Its event has Transport, Reason and Count.
	Dropped func(ctx context.Context, e *SocketEvent)

	// Joined is called when a join was accepted and answered, before the channel's next callback. Left
	// is called once for each such channel, when its last callback has returned; Err is the reason, as
	// for channel.Terminate. Recovered follows Joined if the client asked for the history of the
	// topic: Missed is the number of records that it receives, and Reason says why it cannot continue
	// from its position, or is empty if it can. All run on the goroutine of the channel's callbacks.
	Joined    func(ctx context.Context, e *ChannelEvent)
	Recovered func(ctx context.Context, e *ChannelEvent)
	Left      func(ctx context.Context, e *ChannelEvent)
	// JoinRefused is called when a join was answered with an error, on any goroutine. Reason is
	// "rejected" or "crashed" for the result of the callback, and otherwise the reason that the client
	// received.
	JoinRefused func(ctx context.Context, e *ChannelEvent)
	// Crashed is called when a callback failed, or the channel was ended because of a bound, on any
	// goroutine. Reason is the message in the log, one of a few.
	Crashed func(ctx context.Context, e *ChannelEvent)

	// CallbackStart is called before each callback of a channel, on its goroutine: see
	// channel.Callback. Its result is the context of the callback, and of the broadcasts that the
	// callback makes by methods of its Channel. It must be made from ctx. Nil means ctx.
	CallbackStart func(ctx context.Context, e *ChannelEvent) context.Context
	// CallbackDone is called after the callback, with the result of CallbackStart and the same event,
	// which now has Took and Err. A panic is a *channel.PanicError. The reply is sent afterwards.
	CallbackDone func(ctx context.Context, e *ChannelEvent)
}

// SocketEvent is an event of a handshake or a socket, for [Hooks].
type SocketEvent struct {
	Transport string // "websocket" or "longpoll"
	Info      Info   // Opened, Closed
	// Reason is one of a few words. Refused: "malformed", "query", "rate", "limit", "origin",
	// "subprotocol", "params", "version", "connect", "panic", "shutdown", or "handshake" if the client
	// did not take the answer. Dropped: "dropped" for the policies DropOldest and DropNewest,
	// "conflated" for KeepLatest, or "ended" for connections that ended.
	Reason string
	Count  uint64        // Dropped: the number of frames, or of connections
	Took   time.Duration // Closed: since the handshake
	Err    error         // Refused, Closed
}

// ChannelEvent is an event of a channel, for [Hooks].
type ChannelEvent struct {
	Route    string           // the pattern in Config.Channels; empty if none matches the topic
	Topic    string           // chosen by the client
	Channel  *channel.Channel // nil if a join was refused before there was one
	Callback *channel.Callback
	Took     time.Duration // CallbackDone
	Missed   int           // Recovered
	Reason   string        // JoinRefused, Crashed, Recovered
	Err      error         // CallbackDone, JoinRefused, Crashed, Left
}

// eachHook calls f with all hooks. The caller must hold no lock.
func (h *Handler) eachHook(f func(k *Hooks)) {
	for _, k := range h.cfg.Hooks {
		h.callHook(func() { f(k) })
	}
}

// callHook calls a hook, and logs its panic.
func (h *Handler) callHook(f func()) {
	err := safecall.Do(func() error { f(); return nil }, nil)
	if p, ok := err.(*safecall.PanicError); ok { //nolint:errorlint // as Do returned it
		const crashed = "hook crashed"
		withError(h.log(zerolog.ErrorLevel, crashed), err).Bytes("stack", p.Stack).Msg(crashed)
	}
}

// startHook calls hooks that make a context, one after the other.
func (h *Handler) startHook(
	ctx context.Context, f func(ctx context.Context, k *Hooks) context.Context,
) context.Context {
	for _, k := range h.cfg.Hooks {
		h.callHook(func() {
			if made := f(ctx, k); made != nil {
				ctx = made //nolint:fatcontext // each of few hooks adds to it
			}
		})
	}
	return ctx
}

// notify calls one hook of all Hooks with an event.
func notify[E any](h *Handler, ctx context.Context, e *E, of func(k *Hooks) func(context.Context, *E)) {
	h.eachHook(func(k *Hooks) {
		if f := of(k); f != nil {
			f(ctx, e)
		}
	})
}

// connectStart and connectDone notify the hooks of the decision about a handshake.
func (h *Handler) connectStart(ctx context.Context, r *Request) context.Context {
	return h.startHook(ctx, func(ctx context.Context, k *Hooks) context.Context {
		if k.ConnectStart == nil {
			return ctx
		}
		return k.ConnectStart(ctx, r)
	})
}

func (h *Handler) connectDone(ctx context.Context, r *Request, err error) {
	for _, k := range slices.Backward(h.cfg.Hooks) {
		if k.ConnectDone != nil {
			h.callHook(func() { k.ConnectDone(ctx, r, err) })
		}
	}
}

// The reasons of Hooks.Refused.
const (
	refusedMalformed   = "malformed"
	refusedQuery       = "query"
	refusedRate        = "rate"
	refusedLimit       = "limit"
	refusedOrigin      = "origin"
	refusedSubprotocol = "subprotocol"
	refusedParams      = "params"
	refusedVersion     = "version"
	refusedConnect     = "connect"
	refusedPanic       = "panic"
	refusedShutdown    = "shutdown"
	refusedHandshake   = "handshake"
)

// notifyRefused notifies the hooks of a handshake that failed.
func (h *Handler) notifyRefused(r *http.Request, reason string, err error) {
	if len(h.cfg.Hooks) == 0 {
		return
	}
	by := byLongPoll
	if matches(r, h.cfg.WebSocket.Path) {
		by = byWebSocket
	}
	e := &SocketEvent{Transport: by, Reason: reason, Err: err}
	ctx := context.WithoutCancel(r.Context())
	notify(h, ctx, e, func(k *Hooks) func(context.Context, *SocketEvent) { return k.Refused })
}

// parent returns the parent of the contexts of a socket's callbacks, if Connect does not make one.
func (h *Handler) parent(ctx context.Context) context.Context {
	if len(h.cfg.Hooks) == 0 {
		return context.Background()
	}
	return context.WithoutCancel(ctx) // it has the values of the hooks
}

// transportName is the value of Request.Transport.
func (s *session) transportName() string {
	if s.isLongPoll {
		return byLongPoll
	}
	return byWebSocket
}

// notifyOpened and notifyClosed notify the hooks of the begin and the end of a session. One that
// only tells its client that it was refused has neither.
func (s *session) notifyOpened() {
	if len(s.h.cfg.Hooks) == 0 {
		return
	}
	e := &SocketEvent{Transport: s.transportName(), Info: s.info()}
	notify(s.h, &s.ctx, e, func(k *Hooks) func(context.Context, *SocketEvent) { return k.Opened })
}

func (s *session) notifyClosed(err error) {
	if len(s.h.cfg.Hooks) == 0 || s.phase() == phaseRefused {
		return
	}
	e := &SocketEvent{Transport: s.transportName(), Info: s.info(), Err: err}
	if begun, err := key.Time(s.connectionID); err == nil {
		e.Took = max(0, time.Since(begun))
	}
	notify(s.h, &s.ctx, e, func(k *Hooks) func(context.Context, *SocketEvent) { return k.Closed })
}

// notifyDenied notifies the hooks of a join that the socket refused.
func (s *session) notifyDenied(m *serializer.Message, reason string) {
	if len(s.h.cfg.Hooks) == 0 || m.Event != serializer.EventJoin {
		return
	}
	e := &ChannelEvent{Route: s.h.routes.pattern(m.Topic), Topic: m.Topic, Reason: reason}
	notify(s.h, &s.ctx, e, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.JoinRefused })
}

// instrument adds the hooks to the handlers of the routes.
func (h *Handler) instrument() {
	if len(h.cfg.Hooks) == 0 {
		return
	}
	r := h.routes
	for pattern, handler := range r.exact {
		r.exact[pattern] = h.instrumented(pattern, handler)
	}
	for i := range r.prefixes {
		p := &r.prefixes[i]
		p.handler = h.instrumented(p.prefix+"*", p.handler)
	}
}

// instrumented returns a copy of a route's handler that calls the hooks.
func (h *Handler) instrumented(route string, handler *channel.Handler) *channel.Handler {
	tell := func(c any, e *ChannelEvent, of func(k *Hooks) func(context.Context, *ChannelEvent)) {
		e.Route, e.Channel = route, c.(*channel.Channel)
		e.Topic = e.Channel.Topic()
		notify(h, e.Channel.Context(), e, of)
	}
	return channelhost.Instrument(handler, &channelhost.Hooks{
		Start: func(ctx context.Context, c, cb any) (context.Context, func(context.Context, time.Duration, error)) {
			e := &ChannelEvent{Route: route, Channel: c.(*channel.Channel), Callback: cb.(*channel.Callback)}
			e.Topic = e.Channel.Topic()
			ctx = h.startHook(ctx, func(ctx context.Context, k *Hooks) context.Context {
				if k.CallbackStart == nil {
					return ctx
				}
				return k.CallbackStart(ctx, e)
			})
			return ctx, func(ctx context.Context, took time.Duration, err error) {
				e.Took, e.Err = took, err
				for _, k := range slices.Backward(h.cfg.Hooks) {
					if k.CallbackDone != nil {
						h.callHook(func() { k.CallbackDone(ctx, e) })
					}
				}
			}
		},
		Joined: func(c any) {
			tell(c, &ChannelEvent{}, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.Joined })
		},
		Recovered: func(c any, missed int, why string) {
			e := &ChannelEvent{Missed: missed, Reason: why}
			tell(c, e, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.Recovered })
		},
		Refused: func(c any, crashed bool, err error) {
			e := &ChannelEvent{Reason: "rejected", Err: err}
			if crashed {
				e.Reason = "crashed"
			}
			tell(c, e, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.JoinRefused })
		},
		Crashed: func(c any, what string, err error) {
			e := &ChannelEvent{Reason: what, Err: err}
			tell(c, e, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.Crashed })
		},
		Left: func(c any, reason error) {
			tell(c, &ChannelEvent{Err: reason}, func(k *Hooks) func(context.Context, *ChannelEvent) { return k.Left })
		},
	}).(*channel.Handler)
}

// drops notifies the hooks of frames that the transports dropped. The transports report them under
// their locks, so it calls the hooks on a goroutine of its own.
type drops struct {
	h       *Handler
	in      mailbox.Mailbox[struct{}]
	pending atomic.Bool         // an item waits
	told    map[dropKind]uint64 // owned by the mailbox's goroutine
}

type dropKind struct{ transport, reason string }

func (d *drops) begin(h *Handler) {
	d.h, d.told = h, make(map[dropKind]uint64)
	d.in.Init(0, d.handle)
}

// dropped is websocket.Config.OnDrop, and that of longpoll.
func (d *drops) dropped() {
	if !d.pending.Swap(true) {
		_ = d.in.EnqueueAlways(struct{}{}, 0) // after Shutdown nobody wants to know
	}
}

func (d *drops) end() { d.in.Close(true); d.in.Wait() }

// handle notifies the hooks of what was dropped since the last call.
func (d *drops) handle(struct{}) {
	d.pending.Store(false) // a later drop is reported by the next item at the latest
	ws, lp := d.h.websocket.Stats(), d.h.longpoll.Stats()
	for kind, n := range map[dropKind]uint64{
		{byWebSocket, "dropped"}: ws.Dropped, {byWebSocket, "conflated"}: ws.Conflated, {byWebSocket, "ended"}: ws.Slow,
		{byLongPoll, "dropped"}: lp.Dropped, {byLongPoll, "conflated"}: lp.Conflated, {byLongPoll, "ended"}: lp.Slow,
	} {
		if more := n - d.told[kind]; more > 0 {
			d.told[kind] = n
			e := &SocketEvent{Transport: kind.transport, Reason: kind.reason, Count: more}
			notify(d.h, context.Background(), e, func(k *Hooks) func(context.Context, *SocketEvent) { return k.Dropped })
		}
	}
}
