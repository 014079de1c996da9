package channel

import (
	"fmt"

	"bennu.example/push"
)

// PushNow is Push for an event that is worthless later, such as the position of a pointer. It sends
// the event at once, or fails with [push.ErrOffline]: if the channel is not joined, if more than
// 64 KiB of pushes wait for the network, or if the connection ends before the push is handed to the
// network. ErrOffline means that the server did not receive the push. If the connection ends after
// that, the error is push.ErrLost, as for every push.
func (c *Client) PushNow(event string, payload any) *push.Push {
	p := c.newPush(event, 0, false)
	p.isNow = true
	return c.push(p, payload)
}

// notSent returns the error of a push of PushNow that certainly was not sent.
func notSent(why error) error { return fmt.Errorf("%w: %w", push.ErrOffline, why) }

// lost returns the error of a push in flight whose connection has ended because of err.
func (p *clientPush) lost(err error) error {
	if p.unsent && p.isNow {
		return notSent(err)
	}
	return fmt.Errorf("%w: %w", push.ErrLost, err)
}

// The rest of this file is the part of clientStep about PushNow.

// pushNow sends a push of PushNow, or fails it. A channel that is about to join again sends nothing
// before that join.
func (m *clientMachine) pushNow(p *clientPush, isCongested bool) {
	switch {
	case m.over:
		m.fail(p, notSent(m.closedBy(m.cause)))
	case m.status == StateLeaving:
		m.fail(p, notSent(m.closedBy(ErrLeft)))
	case m.join == nil:
		m.fail(p, notSent(ErrNotJoined))
	case m.status != StateJoined && m.cause != nil:
		m.fail(p, notSent(m.cause))
	case m.status != StateJoined || m.again:
		m.fail(p, fmt.Errorf("%w: the channel is joining", push.ErrOffline))
	case isCongested:
		m.fail(p, fmt.Errorf("%w: too much waits for the network", push.ErrOffline))
	default:
		m.send(p)
	}
}
