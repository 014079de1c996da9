package channel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/internal/durable"
	"bennu.example/internal/promise"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

// errNoOutbox is the error of PushDurable without socket.ClientConfig.Offline.
var errNoOutbox = fmt.Errorf("%w: ClientConfig.Offline is not set", offline.ErrStore)

// PushDurable stores a push in the client's outbox (socket.ClientConfig.Offline), from which it is
// sent when the channel is joined. The error is nil when the push is stored. Then its result
// comes, in this process or in a later one: the reply, or [offline.ErrExpired]. A process that
// ends does not lose the push: offline.Config.OnDelivered is called at least once for it. See
// docs/client.md for the whole contract.
//
// The push is sent with an id, the member "$id" of its payload, and after a lost connection again
// with the same id. If the server's handler has [Once], it is handled once. Otherwise it is
// handled at least once. The id is a new UUID, unless the payload has one. The payload must be an
// object.
//
// PushDurable waits for the store, but not for the network. It may be called before Join. If it
// returns an error, nothing is stored: [offline.ErrStore], [push.ErrFull] if the outbox is full,
// serializer.ErrPayload, ErrClosed after the socket's Close, or ctx's error if that ends before
// the store has begun.
//
// Cancel of the push does nothing. If the socket is closed first, the push fails with ErrClosed,
// and the program's next process sends it.
func (c *Client) PushDurable(ctx context.Context, event string, payload any) (*push.Push, error) {
	p := &clientDurable{c: c, event: event}
	p.handle.Init(p, false)
	err := errNoOutbox
	if closed := c.socket.Closing(); closed != nil {
		err = fmt.Errorf("%w: %w", ErrClosed, closed)
	} else if c.cfg.Outbox != nil {
		err = c.cfg.Outbox.Add(ctx, c.topic, event, payload, p.answer)
	}
	if err != nil {
		return nil, p.wrap(err)
	}
	return (*push.Push)(&p.handle), nil
}

// clientDurable is the handle of a push of PushDurable.
type clientDurable struct {
	handle promise.Promise
	c      *Client
	event  string
}

// Call is part of promise.Owner.
func (p *clientDurable) Call(f func(serializer.Payload), payload serializer.Payload) {
	p.c.events.enqueue(func() { f(payload) })
}

// Cancel is part of promise.Owner. The push is stored, and may be on its way.
func (p *clientDurable) Cancel() {}

func (p *clientDurable) wrap(err error) error {
	return (&clientPush{event: p.event}).wrap(p.c.topic, err)
}

// answer resolves the push, on the loop or after its end.
func (p *clientDurable) answer(r promise.Result) {
	if r.Err != nil {
		if closed := p.c.socket.Closing(); closed != nil && errors.Is(r.Err, closed) {
			r.Err = fmt.Errorf("%w: %w", ErrClosed, r.Err)
		}
		r.Err = p.wrap(r.Err)
		p.c.recordFailure(r.Err)
	} else if r.Status != push.StatusOK {
		p.c.recordFailure(p.wrap(&push.Error{Status: r.Status, Payload: r.Payload}))
	}
	p.handle.Resolve(r)
}

// The methods of Client below run on the loop.

// SendDurable is part of durable.Sender: it sends a push like PushNow.
func (d clientChannel) SendDurable(a *durable.Attempt) {
	p := d.c.newPush(a.Event, 0, false)
	p.isNow, p.attempt, p.payload = true, a, a.Payload
	p.number = d.c.socket.BeginPush()
	d.c.feed(clientInput{kind: inPushNow, push: p})
}

// attemptDone passes the result of an attempt to the outbox.
func (c *Client) attemptDone(p *clientPush, r promise.Result) {
	if p.ref != 0 && r.Err != nil { // if it is still enqueued, the next attempt must not overtake it
		c.socket.Withdraw(p.ref)
	}
	var end *RemoteError
	p.attempt.Done(r, errors.As(r.Err, &end) && end.Event == serializer.EventError)
}

// onceParams returns the params of a join with the question for the window of the server's Once.
// Params that are not an object stay as they are.
func (c *Client) onceParams(params serializer.Payload) serializer.Payload {
	if c.cfg.Outbox == nil || params.IsBinary() {
		return params
	}
	if _, err := params.HasReserved(); err != nil || mayHave(params, memberOnce) {
		return params
	}
	return params.With(memberOnce, struct{}{})
}

// startDurable lets the outbox send on the channel, which has been joined.
func (c *Client) startDurable(reply serializer.Payload) {
	if c.cfg.Outbox == nil {
		return
	}
	var r struct {
		Once struct {
			Window int64 `json:"window"`
		} `json:"$once"`
	}
	if mayHave(reply, memberOnce) {
		_ = reply.Decode(&r) // a reply without it is that of a server without Once
	}
	c.cfg.Outbox.Joined(c.topic, clientChannel{c}, time.Duration(r.Once.Window)*time.Millisecond)
}

func (c *Client) stopDurable() {
	if c.cfg.Outbox != nil {
		c.cfg.Outbox.Left(c.topic, clientChannel{c})
	}
}
