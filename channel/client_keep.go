package channel

import (
	"errors"

	"bennu.example/history"
	"bennu.example/internal/durable"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

// kindPosition is the Kind of a mirror that has the position of a recorded topic, and no value.
const kindPosition = "history"

// Keep makes the store of socket.ClientConfig.Offline keep the position of a channel with Resume.
// Then the channel's first join in a later process continues there: it receives the records that
// came meanwhile, or OnReset is called. ResumeConfig.Since takes precedence over what is stored.
// Keep may be called at any time; to continue at a stored position, it must be called before Join.
// Without Offline, or without Resume, it does nothing.
//
// The position that is stored is that of the last record whose callbacks have returned, and for
// which the reader of every open stream that wants it has asked for the next one. It is stored
// within a second, or by socket.Client.Persist. A process that is killed therefore loses no record,
// but receives those of its last second again.
//
// The policy is offline.Forget by default: the position is removed when the channel is closed. With
// offline.Keep it stays. offline.KeepUpdating is for values, and is like Keep here: a position
// without a program that handles the records must not move. The policy applies when the channel is
// left, when the server closes it, and when the socket is closed.
//
// If the server closes the channel with a reason, or a refused join ends it, its rights have ended,
// and the position is removed whatever the policy. A callback of OnClose can prevent that: it calls
// Keep.
func (c *Client) Keep(p offline.Policy) {
	c.mu.Lock()
	c.policy = p
	c.mu.Unlock()
	h := c.resume.Load()
	if c.cfg.Outbox == nil || h == nil {
		return
	}
	h.mu.Lock()
	h.forgets = false
	m := h.mirror
	h.mu.Unlock()
	if m != nil {
		m.SetPolicy(p)
	} else {
		c.socket.Post((*clientKeepTask)(c))
	}
}

// clientKeepTask opens the mirror of a channel that is joined.
type clientKeepTask Client

func (t *clientKeepTask) Run() {
	if c := (*Client)(t); c.state.isLive() {
		c.openMirror()
	}
}

// positionSource is the source of the channel's mirror.
type positionSource Client

// Snapshot is part of durable.Source.
func (s *positionSource) Snapshot() (value []byte, pos history.Position, err error) {
	return nil, (*Client)(s).position(true), nil
}

// openMirror opens the mirror, if the channel is to have one. A life that begins continues at the
// stored position. It runs on the loop.
func (c *Client) openMirror() {
	h := c.resume.Load()
	if h == nil || c.cfg.Outbox == nil {
		return
	}
	c.mu.Lock()
	policy := c.policy
	c.mu.Unlock()
	h.mu.Lock()
	isOpen := h.mirror != nil
	h.mu.Unlock()
	if isOpen || policy == offline.Forget {
		return
	}
	m, stored := c.cfg.Outbox.OpenMirror(c.topic, kindPosition, (*positionSource)(c), policy)
	h.mu.Lock()
	h.mirror = m
	if stored != nil && h.received.IsZero() && !c.state.isLive() {
		h.received = stored.Position
	}
	h.mu.Unlock()
	m.Changed()
}

// keepAgain makes a join end the effect of a denial on the mirror.
func (c *Client) keepAgain(h *clientResume) {
	h.mu.Lock()
	m := h.mirror
	h.mu.Unlock()
	if m != nil {
		m.Allow()
	}
}

// rightsEnded reports whether the cause of the end of a life means that the client may not have
// what the channel had.
func rightsEnded(cause error) bool {
	if end, ok := errors.AsType[*RemoteError](cause); ok {
		return end.Event == serializer.EventClose && (&push.Error{Payload: end.Payload}).Reason() != ""
	}
	_, isRefused := errors.AsType[*push.Error](cause)
	return isRefused
}

// closed notifies of the end of a life, and then ends its mirror.
func (c *Client) closed(cause error) {
	h := c.resume.Load()
	if c.cfg.Outbox == nil || c.follower != nil {
		h = nil
	}
	if h != nil && rightsEnded(cause) {
		c.events.enqueue(func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.forgets = true
		})
	}
	notify(&c.events, &c.events.onClose, cause)
	switch {
	case h != nil:
		c.events.enqueue(func() { c.endMirror(h) })
	case c.cfg.Outbox != nil && c.follower == nil:
		c.cfg.Outbox.ForgetUnused(c.topic) // of an earlier process
	}
}

// endMirror ends the mirror of a life, after the callbacks of OnClose. If the next life has begun,
// it opens another one.
func (c *Client) endMirror(h *clientResume) {
	h.mu.Lock()
	m, forgets := h.mirror, h.forgets
	h.mirror, h.forgets = nil, false
	h.mu.Unlock()
	if m == nil {
		c.cfg.Outbox.ForgetUnused(c.topic)
		return
	}
	if forgets {
		m.SetPolicy(offline.Forget)
	}
	m.End()
	c.socket.Post((*clientKeepTask)(c))
}

var _ durable.Source = (*positionSource)(nil)
