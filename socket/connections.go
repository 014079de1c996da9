package socket

import (
	"iter"

	"bennu.example/internal/channelhost"
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
		h.mu.Lock()
		all := make([]*session, 0, len(h.sessions))
		for s := range h.sessions {
			all = append(all, s)
		}
		h.mu.Unlock()
		for _, s := range all {
			if s.phase() == phaseRefused {
				continue // it only tells its client so
			}
			c := Connection{Info: s.info(), Transport: s.transportName(), s: s}
			if q, ok := s.conn.(measured); ok {
				c.Queued = q.Queued()
			}
			if !yield(c) {
				return
			}
		}
	}
}

// measured is implemented by connections that report how much waits for their clients.
type measured interface{ Queued() int }

// Channels returns an iterator over the connection's channels, in no order: the topic, and the
// number of bytes that wait in its mailbox or are being handled. See Config.MaxMailbox.
func (c Connection) Channels() iter.Seq2[string, int] {
	return func(yield func(topic string, mailbox int) bool) {
		if c.s == nil {
			return
		}
		c.s.mu.Lock()
		all := make([]channelhost.Channel, 0, len(c.s.channels))
		for topic, ch := range c.s.channels {
			if topic != topicSocket {
				all = append(all, ch)
			}
		}
		c.s.mu.Unlock()
		for _, ch := range all {
			if !yield(ch.Topic(), ch.Queued()) {
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
