package channel

import (
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	// eventDiff is presence's event. It is the only one that waits for a reply.
	eventDiff = "presence_diff"
	// maxHold is how long diffs wait for the reply of a callback.
	maxHold = time.Second
	// maxHeld is how many bytes of diffs wait for the reply of a callback.
	maxHeld = 64 << 10
)

// heldDiffs are presence_diffs that were delivered while an event's callback was running. They are
// sent after its reply: Phoenix computes diffs in another process, so its reply goes first. The
// other subscribers received them when they were delivered.
type heldDiffs struct {
	frames []heldFrame
	size   int
	timer  *time.Timer
}

type heldFrame struct {
	frame *serializer.Frame
	how   transport.Delivery
}

// noDiffs means that a callback is running and that no diff waits for its reply yet.
var noDiffs = new(heldDiffs)

// holdDiff reports whether the diff waits for the reply of the callback that is running. If it must
// not wait, the caller sends it without a lock of this channel. The diffs stay in order because the
// lock of the topic serializes their deliveries.
func (c *Channel) holdDiff(f *serializer.Frame, how transport.Delivery) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.held
	if h == nil {
		return false
	}
	if h.size+len(f.Data) > maxHeld {
		c.sendHeld()
		return false
	}
	if h == noDiffs {
		h = new(heldDiffs)
		h.timer = time.AfterFunc(maxHold, func() { c.holdExpired(h) })
		c.held = h
	}
	h.frames = append(h.frames, heldFrame{f, how})
	h.size += len(f.Data)
	return true
}

// holdExpired sends h if its callback is still running.
func (c *Channel) holdExpired(h *heldDiffs) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == h {
		c.sendHeld()
	}
}

// sendHeld sends the diffs that waited. Until the next callback begins, none waits any more. A
// channel that has ended drops them. The caller holds mu, so that a diff that is delivered at the
// same time cannot overtake them.
func (c *Channel) sendHeld() {
	h := c.held
	c.held = nil
	if h == nil || h == noDiffs {
		return
	}
	h.timer.Stop() // if it fails, holdExpired finds other diffs in c.held, or none
	if c.state.status != serverJoined {
		return
	}
	for _, d := range h.frames {
		_ = c.up.Send(d.frame, d.how) // an error means that the connection has ended, and the channel with it
	}
}
