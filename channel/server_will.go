package channel

import (
	"context"
	"fmt"

	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/will"
)

// AllowWill lets the clients of a topic set last wills: events that the server broadcasts on the
// topic when the client's connection has ended. Without AllowWill, they are refused with the reason
// "forbidden". See docs/presence.md.
//
// The function decides about one will, as the callback of an event does, and may change its
// payload, which must be an object. A will that is set is broadcast as it is, whatever the client's
// rights are by then. An error made by push.Reject, and a push.Reason, refuses the will. Any other
// error is a crash.
//
// A will is broadcast only if its channel lived until the end of the connection. It is deleted if
// the channel ends before, for whatever reason, or if a newer connection of the client joins the
// topic. Such a join is answered when no will of the older connection can be broadcast any more; if
// the store of the wills does not answer, it is refused, reason "unavailable".
func AllowWill[S any](
	f func(s *S, ctx context.Context, c *Channel, event string, p serializer.Payload) (serializer.Payload, error),
) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "AllowWill")
		if h.allowWill != nil {
			panic("channel: two AllowWill callbacks")
		}
		h.allowWill = func(ctx context.Context, c *Channel, event string, p serializer.Payload) (serializer.Payload, error) {
			return f(c.data.(*S), ctx, c, event, p)
		}
	}}
}

// RunWill replaces the broadcast of the topic's wills by f, for example by a write to a database.
// It is used with AllowWill. The connection of the client has ended, so there is no channel: what f
// needs must be in the payload, where AllowWill may put it.
//
// One goroutine of the socket's Handler calls f for one will after another, on the node that has
// claimed the will, which need not be that of the client. F must return when ctx ends, which is
// within seconds. An error made by push.Reject, and a push.Reason, gives the will up. After any
// other error it runs again, as after the end of a node; [will.Will].ID is the same then.
func RunWill[S any](f func(ctx context.Context, w will.Will) error) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "RunWill")
		if h.runWill != nil {
			panic("channel: two RunWill callbacks")
		}
		h.runWill = f
	}}
}

// errForbidden refuses a will.
var errForbidden = push.Reject("forbidden")

// SetWill is part of channelhost.Channel.
func (d *driver) SetWill(w *channelhost.Will) error {
	c := (*Channel)(d)
	if c.h.allowWill == nil || reserved(w.Event) {
		return errForbidden
	}
	noTopic := push.Reject("unmatched topic")
	if !c.OnEnd(func() { w.Ended(context.Cause(c.Context())) }) {
		return noTopic
	}
	// The number of wills of a connection and their sizes are bounded.
	if c.mailbox.EnqueueAlways(item{kind: itemWill, event: w.Event, payload: w.Payload, msg: w}, 0) != nil {
		return noTopic
	}
	return nil
}

func (d *driver) AllowsWills() bool { return d.h.allowWill != nil }

// handleWill asks the handler about a will.
func (c *Channel) handleWill(it *item) {
	w := it.msg.(*channelhost.Will)
	var p serializer.Payload
	err := c.callUser(func() (err error) { p, err = c.h.allowWill(c.context(), c, it.event, it.payload); return err })
	if err == nil {
		w.Set(c.context(), p, nil)
		return
	}
	if rejection, isRejection := asRejection(err); isRejection {
		w.Set(c.context(), p, &push.Error{Payload: serializer.Value(rejection.Payload)})
		return
	}
	w.Set(c.context(), p, errForbidden)
	if !c.status().isMute() {
		c.crash("", fmt.Errorf("channel: will of event %q: %w", it.event, err))
	}
}

// arrive fences the wills of the client's older connections.
func (c *Channel) arrive() error {
	if c.h.allowWill == nil {
		return nil
	}
	return c.up.Arrive(c.context(), c.topic)
}
