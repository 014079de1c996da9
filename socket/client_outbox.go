package socket

import (
	"context"
	"errors"
	"fmt"
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

// OfflineData returns the mirrors of this identity: what the store has of topics, or will have
// within a second. They are in the order of Topic and Kind. It is nil without ClientConfig.Offline.
func (c *Client) OfflineData() []offline.Mirror {
	if c.outbox == nil {
		return nil
	}
	return c.outbox.Mirrors()
}

// Persist stores at once what mirrors have changed, as a program does before it lets the system
// suspend it. It waits until that and all earlier changes are stored, or ctx ends. Close stores
// them as well.
//
// The error wraps offline.ErrStore if the store does not work, or if there is none. The changes are
// stored again later.
func (c *Client) Persist(ctx context.Context) error {
	if c.outbox == nil {
		return fmt.Errorf("socket: persist: %w: ClientConfig.Offline is not set", offline.ErrStore)
	}
	if err := c.outbox.Persist(ctx); err != nil {
		return fmt.Errorf("socket: persist: %w", err)
	}
	return nil
}

// CleanOffline removes the mirrors of topics, or all mirrors if there are no topics, and waits
// until they are removed or ctx ends. A mirror of a topic that is joined is stored again when it
// changes: see channel.Client.Keep. Pushes that wait in the outbox stay. Without
// ClientConfig.Offline it does nothing.
//
// The error wraps offline.ErrStore if the store does not work. They are removed later then.
func (c *Client) CleanOffline(ctx context.Context, topics ...string) error {
	if c.outbox == nil {
		return nil
	}
	if err := c.outbox.CleanMirrors(ctx, topics); err != nil {
		return fmt.Errorf("socket: clean: %w", err)
	}
	return nil
}

// Restore opens the mirrors of earlier processes that have the policy offline.KeepUpdating, so that
// they are updated before the program uses them. Those are shared objects, see Options.Keep of
// package state/mirror, which the program must import. The function params returns what a topic's
// join needs in addition to the object's own params, such as a map, or nil. It may be nil.
//
// Restore joins the topics and does not wait for the network. A program that opens one of them
// later takes it over. The error wraps offline.ErrStore if the store does not work, or is ctx's.
// Without ClientConfig.Offline it does nothing.
func (c *Client) Restore(ctx context.Context, params func(topic string) any) error {
	if c.outbox == nil {
		return nil
	}
	if err := c.outbox.Restore(ctx, c, params); err != nil {
		return fmt.Errorf("socket: restore: %w", err)
	}
	return nil
}

// forgetIfDenied removes all mirrors if the server has denied the client, for another reason than
// the age of its token.
func (c *Client) forgetIfDenied(s Status, err error) {
	if c.outbox == nil || s != StatusDenied || errors.Is(err, ErrTokenExpired) || errors.Is(err, errLoggedOut) {
		return
	}
	c.outbox.ForgetAll()
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
