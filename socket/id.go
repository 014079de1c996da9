package socket

import (
	"sync/atomic"

	"bennu.example/pubsub"
	"bennu.example/transport"
)

// A broadcast of eventDisconnect on the control topic made of disconnectPrefix and an id ends the
// sockets of that id. Package pubsub knows both, so that server code may also broadcast
// "disconnect" on the id itself, as in Phoenix.
const (
	eventDisconnect  = "disconnect"
	eventRevoke      = "revoke"      // the payload is a revocation
	eventReauthorize = "reauthorize" // asks the channels, without a change
	disconnectPrefix = "bennu:disconnect:"
)

// idWatch is a socket's subscription to its id. It begins before the client is notified that it is
// connected, so that every connected client can be disconnected.
type idWatch struct {
	id      string // Request.ID
	on      *pubsub.Subscription
	ends    atomic.Bool             // Disconnect was called
	revoked atomic.Pointer[string]  // the reason, when Revoke was called
	asks    atomic.Bool             // Reauthorize was called, and its task has not begun
	tasked  atomic.Bool             // the task of revoked was enqueued
	session atomic.Pointer[session] // nil until the session is open
	client  atomic.Pointer[string]  // of clientOf; nil until it was called
}

// watch subscribes to an id. It returns nil if id is empty.
func (h *Handler) watch(id string) *idWatch {
	if id == "" {
		return nil
	}
	w := &idWatch{id: id}
	w.on = h.cfg.PubSub.Control().Subscribe(disconnectPrefix+id, w)
	return w
}

// Deliver is part of pubsub.Subscriber.
func (w *idWatch) Deliver(b *pubsub.Broadcast) error {
	switch b.Event {
	case eventDisconnect:
		w.ends.Store(true)
	case eventRevoke:
		var r revocation
		_ = b.Payload.Decode(&r) // without a reason if it is of a later version
		w.revoke(r.Reason)
	case eventReauthorize:
		w.asks.Store(true)
	default:
		return nil
	}
	w.check()
	return nil
}

// revoke notes that Revoke was called.
func (w *idWatch) revoke(reason string) {
	w.revoked.CompareAndSwap(nil, &reason)
	w.check()
}

// opened sets the session, which ends when Disconnect is called, or now if that was called already.
func (w *idWatch) opened(s *session) {
	w.session.Store(s)
	w.check()
}

// check is called after each store, so that the later caller finds both values.
func (w *idWatch) check() {
	s := w.session.Load()
	if s == nil {
		return
	}
	if s.id.Load() != w { // the client has logged out
		if reason := w.revoked.Load(); reason != nil && !w.tasked.Swap(true) {
			s.h.later(func() { s.revokeFormer(w, *reason) })
		}
		return
	}
	if w.ends.Load() {
		s.conn.Close(transport.CodeGoingAway, "")
	}
	if reason := w.revoked.Load(); reason != nil && !w.tasked.Swap(true) {
		s.h.later(func() { s.revokeBy(w, *reason) })
	}
	if w.asks.Swap(false) {
		s.h.later(s.reauthorize)
	}
}
