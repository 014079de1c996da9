package socket

import (
	"iter"

	"bennu.example/transport"
)

// Connection describes an open connection of a Handler at one moment, for programs that watch a
// server. See [Handler.Connections].
type Connection struct {
	Info
	Transport string // "websocket" or "longpoll"
	// Queued is the number of bytes that wait for the client, frames that are being written included.
	// It is large for a client that reads slowly: see Config.MaxQueue.
	Queued int

	s *session
}

// Connections returns an iterator over the handler's open connections, in no order. One that ends
// meanwhile may still be among them. It takes a moment for each connection of this node, and no
// lock is held while the loop's body runs.
func (h *Handler) Connections() iter.Seq[Connection] {
	return func(yield func(Connection) bool) {
		for _, s := range h.everySession() {
			if s.phase() == phaseRefused {
				continue // it only tells its client so
			}
			c := Connection{Info: s.info(), Transport: s.transportName(), s: s}
			_, c.Queued, _ = s.Outgoing()
			if !yield(c) {
				return
			}
		}
	}
}

// everySession returns the sessions that are not completely ended, in no order.
func (h *Handler) everySession() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*session, 0, len(h.sessions))
	for s := range h.sessions {
		all = append(all, s)
	}
	return all
}

// Channels returns an iterator over the connection's channels, in no order: the topic, and the
// number of bytes that wait in its mailbox or are being handled. See Config.MaxMailbox.
func (c Connection) Channels() iter.Seq2[string, int] {
	return func(yield func(topic string, mailbox int) bool) {
		if c.s == nil {
			return
		}
		for _, ch := range c.s.others() {
			if _, bytes := ch.Queued(); !yield(ch.Topic(), bytes) {
				return
			}
		}
	}
}

// Disconnect ends the connection as Handler.Disconnect does: its client reconnects, and Connect may
// refuse it then. It does not wait.
func (c Connection) Disconnect() {
	if c.s != nil {
		c.s.conn.Close(transport.CodeGoingAway, "")
	}
}
