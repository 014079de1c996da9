package channel

import (
	"context"
	"time"
)

// channelContext is the context of a channel's callbacks, apart from the values of the connection's
// grant. It has the values of the carrier's context, and is cancelled at the end of the channel.
// A callback that keeps it keeps the Channel and its state in memory.
//
// Few callbacks need to know when that is. For those that do, cancellable makes a context of
// package context, which needs about 100 bytes.
type channelContext Channel

// cancelContext is a context and what cancels it.
type cancelContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

// context returns the context that the callbacks have now. Only their goroutine, or a caller that
// holds mu, may call it.
func (c *Channel) context() context.Context {
	if c.grant != nil {
		return c.grant
	}
	return (*channelContext)(c)
}

// cancel cancels the context of the callbacks. Only the first call has an effect.
func (c *Channel) cancel(cause error) { (*channelContext)(c).cancellable().cancel(cause) }

// cancellable returns the context that cancel cancels, and makes it if there is none.
func (c *channelContext) cancellable() *cancelContext {
	if c.made.Load() == nil {
		ctx, cancel := context.WithCancelCause(c.up.Context())
		c.made.CompareAndSwap(nil, &cancelContext{ctx, cancel})
	}
	return c.made.Load()
}

// Deadline is part of context.Context.
func (c *channelContext) Deadline() (deadline time.Time, ok bool) { return c.up.Context().Deadline() }

// Done is part of context.Context.
func (c *channelContext) Done() <-chan struct{} { return c.cancellable().Done() }

// Err is part of context.Context.
func (c *channelContext) Err() error {
	if made := c.made.Load(); made != nil {
		return made.Err()
	}
	return nil // cancel makes it
}

// Value is part of context.Context. Package context looks up its own key only after it has called
// Done, or if Err is not nil.
func (c *channelContext) Value(key any) any {
	if made := c.made.Load(); made != nil {
		return made.Value(key)
	}
	return c.up.Context().Value(key)
}

// String names the context in what package context prints.
func (c *channelContext) String() string { return "channel.Context(" + c.topic + ")" }
