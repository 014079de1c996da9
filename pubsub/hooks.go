package pubsub

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"bennu.example/internal/safecall"
)

// Hooks are functions that a PubSub calls about its broadcasts and its engine, for metrics and
// traces. Nil functions are not called. See [PubSub.AddHooks].
//
// The functions run on the goroutine that the event belongs to, under no lock, and may run on
// several goroutines at once. That goroutine waits for them, so they must be fast. They must not
// end it. A panic of one is reported to the OnPanic functions and has no other effect.
type Hooks struct {
	// BroadcastStart is called before a broadcast of this node, with the caller's context; that of
	// LocalBroadcast is context.Background. Its result is the context of the broadcast from then on,
	// and must be made from ctx. Nil means ctx.
	BroadcastStart func(ctx context.Context, topic, event string) context.Context
	// BroadcastDone is called after the broadcast, on the same goroutine, with the result of
	// BroadcastStart. The error is the caller's.
	BroadcastDone func(ctx context.Context, topic, event string, err error)
	// Delivered is called when a broadcast of this node or another one was handed to the subscribers
	// of this node, if there are any. A broadcast of this node has the context of BroadcastStart, and
	// Delivered comes before BroadcastDone, except for a recorded broadcast.
	Delivered func(ctx context.Context, d Delivery)

	// Gap is called when broadcasts of other nodes may have been missed. See OnGap.
	Gap func(reason error)
	// Health is called when Health.Connected has changed, and by AddHooks with the current state.
	Health func(h Health)

	// Inject returns a text that travels with a broadcast to the other nodes, such as the ids of a
	// trace. Extract adds it to the context of Delivered there. Empty means nothing, and so does a
	// text of more than 1 KiB. Of several Hooks, those of the first one that has both are called.
	// Recorded broadcasts have no text. Nodes of versions without hooks reject broadcasts that have
	// one: update all nodes before you set Inject.
	Inject  func(ctx context.Context) string
	Extract func(ctx context.Context, text string) context.Context
}

// Delivery is a broadcast that was handed to the subscribers of this node.
type Delivery struct {
	Topic, Event string
	Subscribers  int           // that it was handed to
	Remote       bool          // it comes from another node, or from the log of a recorded topic
	Took         time.Duration // from the first subscriber to the last
}

// origin is what hooks know of a broadcast. It does not change once the broadcast has it.
type origin struct {
	ctx    context.Context // nil if there are no hooks here
	trace  string          // of Hooks.Inject
	remote bool            // it comes from another node, or from a log
}

// maxTrace bounds the text of Inject.
const maxTrace = 1 << 10

// AddHooks adds hooks until off is called. They are called in the order in which they were added,
// and BroadcastDone in the reverse order. A broadcast calls the hooks that there were at its start.
// Add them before the PubSub is used: there is no hook for what happened before.
func (p *PubSub) AddHooks(h *Hooks) (off func()) {
	p.hooksMu.Lock()
	p.hooks.Store(slicesWith(p.hooks.Load(), h))
	p.hooksMu.Unlock()
	if h.Health != nil {
		p.callHook(func() { h.Health(p.Health()) })
	}
	return sync.OnceFunc(func() {
		p.hooksMu.Lock()
		defer p.hooksMu.Unlock()
		left := slices.Clone(*p.hooks.Load())
		at := slices.Index(left, h)
		left = slices.Delete(left, at, at+1)
		if len(left) == 0 {
			p.hooks.Store(nil)
			return
		}
		p.hooks.Store(&left)
	})
}

// slicesWith returns a copy of all with h at its end.
func slicesWith(all *[]*Hooks, h *Hooks) *[]*Hooks {
	if all == nil {
		return &[]*Hooks{h}
	}
	more := append(slices.Clip(*all), h)
	return &more
}

// callHook calls a hook. The caller must hold no lock.
func (p *PubSub) callHook(f func()) {
	p.report(safecall.Do(func() error { f(); return nil }, nil))
}

// eachHook calls f with all hooks.
func (p *PubSub) eachHook(f func(h *Hooks)) {
	if all := p.hooks.Load(); all != nil {
		for _, h := range *all {
			p.callHook(func() { f(h) })
		}
	}
}

// observed is a broadcast with hooks.
type observed struct {
	hooks []*Hooks
	ctx   context.Context
}

// begin notifies the hooks of the begin of a broadcast. It returns the context of the broadcast,
// and nil if there are no hooks. Control topics have none.
func (p *PubSub) begin(ctx context.Context, to address, event string) (context.Context, *observed) {
	all := p.hooks.Load()
	if all == nil || strings.HasPrefix(to.key, controlPrefix) {
		return ctx, nil
	}
	for _, h := range *all {
		if h.BroadcastStart == nil {
			continue
		}
		p.callHook(func() {
			if made := h.BroadcastStart(ctx, to.name, event); made != nil {
				ctx = made //nolint:fatcontext // each of few hooks adds to it
			}
		})
	}
	return ctx, &observed{*all, ctx}
}

// done notifies the hooks of the end of a broadcast.
func (p *PubSub) done(o *observed, to address, event string, err error) {
	if o == nil {
		return
	}
	for _, h := range slices.Backward(o.hooks) {
		if h.BroadcastDone != nil {
			p.callHook(func() { h.BroadcastDone(o.ctx, to.name, event, err) })
		}
	}
}

// attach gives the context of the hooks to b, and the text for other nodes.
func (p *PubSub) attach(o *observed, b *Broadcast) {
	if o == nil {
		return
	}
	from := &origin{ctx: o.ctx}
	if h := propagator(o.hooks); h != nil && p.adapter != nil {
		p.callHook(func() { from.trace = h.Inject(o.ctx) })
		if len(from.trace) > maxTrace {
			from.trace = ""
		}
	}
	b.origin = from
}

// propagator returns the hooks that send a text to other nodes, or nil.
func propagator(hooks []*Hooks) *Hooks {
	for _, h := range hooks {
		if h.Inject != nil && h.Extract != nil {
			return h
		}
	}
	return nil
}

// accept gives a context to a broadcast that comes from elsewhere, if there are hooks.
func (p *PubSub) accept(b *Broadcast) {
	all := p.hooks.Load()
	if all == nil {
		return
	}
	from := &origin{ctx: context.Background(), remote: true}
	if h := propagator(*all); h != nil && b.trace() != "" {
		from.trace = b.trace()
		p.callHook(func() {
			if made := h.Extract(from.ctx, from.trace); made != nil {
				from.ctx = made
			}
		})
	}
	b.origin = from
}

// trace returns the text of Hooks.Inject.
func (b *Broadcast) trace() string {
	if b.origin == nil {
		return ""
	}
	return b.origin.trace
}

// notifyDelivered notifies the hooks of a delivery. The caller must hold no lock.
func (p *PubSub) notifyDelivered(d *delivery) {
	from := d.b.origin
	if from == nil || from.ctx == nil || d.subscribers == 0 {
		return
	}
	p.eachHook(func(h *Hooks) {
		if h.Delivered != nil {
			h.Delivered(from.ctx, Delivery{d.b.Topic, d.b.Event, d.subscribers, from.remote, d.took})
		}
	})
}

// notifyGap notifies the hooks and the OnGap functions.
func (p *PubSub) notifyGap(reason error) {
	p.eachHook(func(h *Hooks) {
		if h.Gap != nil {
			h.Gap(reason)
		}
	})
	p.onGap.Notify(reason)
}

// notifyHealth notifies the hooks of the adapter's state.
func (p *PubSub) notifyHealth() {
	p.eachHook(func(h *Hooks) {
		if h.Health != nil {
			h.Health(p.Health())
		}
	})
}
