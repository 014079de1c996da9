package socket

import (
	"time"

	"bennu.example/internal/durable"
	"bennu.example/offline"
)

// Undelivered returns the pushes of channel.Client.PushDurable that were not answered, in the order
// in which they were made, including those of earlier processes. The result of each is still to
// come. It is nil without ClientConfig.Offline.
func (c *Client) Undelivered() []offline.Entry {
	if c.outbox == nil {
		return nil
	}
	return c.outbox.Undelivered()
}

// openOutbox opens the outbox, and gives the client the id of the store.
func (c *Client) openOutbox() {
	if c.cfg.Offline == nil {
		return
	}
	c.outbox, c.clientID = durable.New(*c.cfg.Offline, clientOutboxHost{clientSocket{c}}, c.clientID, newClientID)
}

// clientOutboxHost is a Client as seen by its outbox.
type clientOutboxHost struct{ clientSocket }

var _ durable.Host = clientOutboxHost{}

// Clock is like Client.Now, but may go back when the server's time becomes known.
func (h clientOutboxHost) Clock() (now time.Time, offset time.Duration, isServer bool) {
	offset, _, isServer = h.TimeOffset()
	return h.server.local(time.Now()).Add(offset), offset, isServer
}

func (h clientOutboxHost) Call(f func()) { h.call(f) }
func (h clientOutboxHost) Started()      { h.goroutines.Add() }
func (h clientOutboxHost) Stopped()      { h.goroutines.Done() }

// BeginEntry registers an entry for Flush. Close does not wait for it.
func (h clientOutboxHost) BeginEntry(bytes int) uint64 {
	h.Pushed(bytes)
	h.entered++
	h.undelivered++
	return h.entered
}

func (h clientOutboxHost) EndEntry(n uint64, bytes int, ok bool) {
	h.Answered(n, bytes, ok)
	h.undelivered--
	for _, f := range h.flushes {
		if n <= f.until && f != h.draining {
			f.left--
			f.entries--
		}
	}
	h.flushed(false)
}
