package channel

import (
	"context"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/durable"
	"bennu.example/internal/safecall"
	"bennu.example/pubsub"
	"bennu.example/transport"
	"bennu.example/will"
)

// init gives package socket what users do not call. See channelhost for why this is not done by
// exported functions.
func init() {
	channelhost.Start = start
	channelhost.NewClient = func(socket clientlink.Socket, topic string, params any, cfg channelhost.ClientConfig) any {
		return newClient(socket, topic, params, cfg)
	}
	channelhost.Follow = func(c any, f channelhost.Follower) { c.(*Client).follower = f }
	channelhost.Outbox = func(c any) *durable.Outbox { return c.(*Client).cfg.Outbox }
	channelhost.RightsEnded = rightsEnded
	channelhost.Forward = func(c any, b *pubsub.Broadcast, how transport.Delivery) error {
		return c.(*Channel).forward(b, how)
	}
	channelhost.Post = func(c, msg any) { c.(*Channel).post(item{kind: itemInfo, msg: msg}) }
	channelhost.Drained = func(c, msg any) bool {
		return c.(*Channel).up.Drained(drainWaiter{(*driver)(c.(*Channel)), msg})
	}
	channelhost.Lose = func(c any) { c.(*Channel).post(item{kind: itemLost}) }
	channelhost.Observe = observe
	channelhost.TypesOf = func(handler any) channelhost.Types { return handler.(*Handler).typesOf() }
	channelhost.PubSub = func(c any) *pubsub.PubSub { return c.(*Channel).up.PubSub() }
	channelhost.Instrument = instrument
	channelhost.CheckCall = checkCall
	channelhost.OnceStore = func(handler any) any {
		if o := handler.(*Handler).once; o != nil {
			return o.store
		}
		return nil
	}
	channelhost.RunWill = func(ctx context.Context, handler any, w will.Will) (runs, final bool, err error) {
		if handler.(*Handler).runWill == nil {
			return false, false, nil
		}
		err = callAlone(func() error { return handler.(*Handler).runWill(ctx, w) })
		_, rejected := asRejection(err)
		return true, rejected, err
	}
	channelhost.Log = func(c any, message string, err error) {
		c.(*Channel).up.Log(c.(*Channel).driver(), message, err)
	}
}

// callAlone calls f on a goroutine of its own, so that Goexit ends no other, and waits for it.
func callAlone(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- safecall.Do(f, func() { done <- safecall.ErrGoexit }) }()
	return <-done
}

// forward is channelhost.Forward.
func (c *Channel) forward(b *pubsub.Broadcast, how transport.Delivery) error {
	switch s := c.status(); {
	case s.isBeforeJoin():
		return ErrNotJoined
	case s.isMute():
		return ErrClosed
	}
	f, err := b.Frame(c.up.Serializer())
	if err != nil {
		return err
	}
	how.Caused = c.handling.Load() && !how.IfRoom
	switch err := c.up.Send(f, how); err {
	case nil, transport.ErrNoRoom:
		return err
	}
	return ErrClosed
}

// post puts an item into the mailbox, even if it is full. A closed mailbox drops it.
func (c *Channel) post(it item) { _ = c.mailbox.EnqueueAlways(it, infoSize) }

// drainWaiter is a channel that waits until its connection has drained, and then posts a message to
// itself. It does not read the topic's history.
type drainWaiter struct {
	*driver
	msg any
}

func (w drainWaiter) ReadOn() { (*Channel)(w.driver).post(item{kind: itemInfo, msg: w.msg}) }
