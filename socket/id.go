package socket

import (
	"sync/atomic"

	"bennu.example/pubsub"
	"bennu.example/transport"
)

// eventDisconnect, broadcast on the control topic of disconnectPrefix and a socket's id, ends the socket. Package
// pubsub knows both: server code may also broadcast "disconnect" on the id itself, as it would in Phoenix.
const (
	eventDisconnect  = "disconnect"
	disconnectPrefix = "bennu:disconnect:"
)

// idWatch is a socket's subscription to its id. It holds from before the client is told that it is connected, so that who was told can be
// disconnected.
type idWatch struct {
	on      *pubsub.Subscription
	ends    atomic.Bool             // it was disconnected
	session atomic.Pointer[session] // nil until it is open
}

// watch subscribes to an id; nil if there is none.
func (h *Handler) watch(id string) *idWatch {
	if id == "" {
		return nil
	}
	w := new(idWatch)
	w.on = h.cfg.PubSub.Control().Subscribe(disconnectPrefix+id, w)
	return w
}

// Deliver is part of pubsub.Subscriber.
func (w *idWatch) Deliver(b *pubsub.Broadcast) error {
	if b.Event == eventDisconnect {
		w.ends.Store(true)
		w.check()
	}
	return nil
}

// opened has the session ended if that is due, now or later.
func (w *idWatch) opened(s *session) {
	w.session.Store(s)
	w.check()
}

// check is called after each of the two was stored, so that one of the callers finds both.
func (w *idWatch) check() {
	if s := w.session.Load(); s != nil && w.ends.Load() {
		s.conn.Close(transport.CodeGoingAway, "")
	}
}
