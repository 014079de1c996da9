package channel

import (
	"context"
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/safecall"
)

// instrument is channelhost.Instrument. The hooks wrap the callbacks as Around does, so a Handler
// without hooks costs nothing.
func instrument(handler any, hooks *channelhost.Hooks) any {
	h := &Handler{callbacks: handler.(*Handler).callbacks}
	h.hooks = hooks
	h.wrapAll(func(ctx context.Context, c *Channel, cb *Callback, next func(context.Context) error) error {
		ctx, done := hooks.Start(ctx, c, cb)
		defer c.enter(ctx)()
		begun := time.Now()
		err := safecall.Do(func() error { return next(ctx) }, func() { done(ctx, time.Since(begun), safecall.ErrGoexit) })
		done(ctx, time.Since(begun), err)
		return err
	})
	return h
}

// enter makes ctx the context of the channel's broadcasts, until leave is called.
func (c *Channel) enter(ctx context.Context) (leave func()) {
	if c.h.hooks == nil {
		return func() {}
	}
	current := &c.ext.Load().current
	before := current.Swap(&ctx)
	return func() { current.Store(before) }
}

// broadcastContext is the context of a broadcast by a method of the channel.
func (c *Channel) broadcastContext() context.Context {
	if c.h.hooks != nil {
		if current := c.ext.Load().current.Load(); current != nil {
			return *current
		}
	}
	return c.Context()
}

// originContext is the context of a callback that handles a broadcast.
type originContext struct {
	context.Context
	origin context.Context
}

type originKey struct{}

func (c *originContext) Value(key any) any {
	if key == (originKey{}) {
		return c.origin
	}
	return c.Context.Value(key)
}

// withOrigin returns ctx with the context of a broadcast. Nil means that the broadcast has none.
func withOrigin(ctx, origin context.Context) context.Context {
	if origin == nil {
		return ctx
	}
	return &originContext{ctx, origin}
}

func originFrom(ctx context.Context) context.Context {
	origin, _ := ctx.Value(originKey{}).(context.Context)
	return origin
}

// joinNotice is what the hooks are notified of when a join has been answered.
type joinNotice struct {
	recovery bool // the client asked for history
	missed   int
	why      string
}

// joinNotice must be called before the join is answered.
func (c *Channel) joinNotice() (n joinNotice) {
	if c.h.hooks == nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.join != nil && c.join.history != nil {
		h := c.join.history
		n = joinNotice{true, h.missed, h.why}
	}
	return n
}

// notifyJoin notifies the hooks of the outcome of a join that its callback decided.
func (c *Channel) notifyJoin(in *serverInput, n joinNotice) {
	if c.h.hooks == nil {
		return
	}
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	switch {
	case state.joined:
		c.h.hooks.Joined(c)
		if n.recovery {
			c.h.hooks.Recovered(c, n.missed, n.why)
		}
	case in.kind == serverInRefused && state.status == serverRefused:
		c.h.hooks.Refused(c, in.crashed, in.err)
	}
}

// notifyEnd notifies the hooks that a channel has ended that was joined.
func (c *Channel) notifyEnd() {
	if c.h.hooks == nil {
		return
	}
	c.mu.Lock()
	joined := c.state.joined
	c.mu.Unlock()
	if joined {
		c.h.hooks.Left(c, context.Cause(c.Context()))
	}
}
