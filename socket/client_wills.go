package socket

import (
	"strconv"
	"time"

	"bennu.example/serializer"
)

// clientOwnPush is a push on $socket that has no reply yet.
type clientOwnPush func(m *serializer.Message)

// PushOwn is part of clientlink.Socket.
func (u clientSocket) PushOwn(event string, payload serializer.Payload, done func(m *serializer.Message)) bool {
	o := &u.own
	if u.conn == nil || o.joinRef == 0 {
		return false
	}
	ref := u.nextRef()
	if o.pushes == nil {
		o.pushes = make(map[serializer.Ref]clientOwnPush, 1)
	}
	if done != nil {
		o.pushes[clientRefText(ref)] = done
	}
	u.conn.send(u.ownOut(ref, event, payload))
	return true
}

// Connection is part of clientlink.Socket.
func (u clientSocket) Connection() uint64 { return u.connections.Load() }

// answered passes a reply to the push that it belongs to. It returns false if there is none.
func (o *clientOwn) answered(m *serializer.Message) bool {
	done := o.pushes[m.Ref]
	if done == nil {
		return false
	}
	delete(o.pushes, m.Ref)
	done(m)
	return true
}

// nextOrder returns a number for the next connection, which is greater than those before, also of
// other processes with the same client id if the clock was right.
func (c *Client) nextOrder() string {
	for {
		last := c.ordered.Load()
		next := max(last+1, time.Now().UnixMilli())
		if c.ordered.CompareAndSwap(last, next) {
			return strconv.FormatInt(next, 10)
		}
	}
}
