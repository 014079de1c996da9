package channel

import (
	"context"

	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Reauthorize is called when the grant of the connection has changed: its token was refreshed, or
// its client logged in or out. See socket.Auth. The context has the new grant.
//
// Nil keeps the channel. An error made by push.Reject or Stop, and a push.Reason, ends it: the
// client receives phx_close with the reason, and does not rejoin. Any other error is a crash. A
// channel whose handler has no Reauthorize stays, except that it ends when its client logs out,
// reason "deauthenticated".
func Reauthorize[S any](f func(s *S, ctx context.Context, c *Channel) error) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "Reauthorize")
		if h.reauthorize != nil {
			panic("channel: two Reauthorize callbacks")
		}
		h.reauthorize = func(ctx context.Context, c *Channel) error { return f(c.data.(*S), ctx, c) }
	}}
}

// valuesContext has the values of another context before its own. The other one must not be
// cancellable, so that contexts made from this one find its own cancellation.
type valuesContext struct {
	context.Context
	values context.Context
}

func (c *valuesContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// grantSize is the size of an itemGrant.
const grantSize = 64

func (d *driver) Regrant(g *channelhost.Regrant) {
	// A closed mailbox calls no further callback that could see the grant. There is one item for each
	// push of a token, whose rate is bounded.
	_ = d.mailbox.EnqueueAlways(item{kind: itemGrant, msg: g}, grantSize)
}

// setValues sets the values of the grant in the context of the callbacks.
func (c *Channel) setValues(values context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant = &valuesContext{(*channelContext)(c), values}
}

// handleGrant handles a change of the grant.
func (c *Channel) handleGrant(it *item) {
	g := it.msg.(*channelhost.Regrant)
	c.setValues(g.Values)
	if c.h.reauthorize == nil {
		if g.Otherwise != "" {
			c.feed(serverInput{kind: serverInStopped, err: Stop(push.Reason(g.Otherwise))})
		}
		return
	}
	err := c.callUser(func() error { return c.h.reauthorize(c.context(), c) })
	if err == nil || c.status().isMute() {
		return
	}
	if reply, isRejection := asRejection(err); isRejection {
		err = Stop(push.Reason((&push.Error{Payload: serializer.Value(reply.Payload)}).Reason()))
	}
	c.fail(it, err, false)
}
