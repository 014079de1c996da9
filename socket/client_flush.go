package socket

import "slices"

// clientFlush is a call that waits for the replies to all earlier pushes.
type clientFlush struct {
	until      uint64 // the number of the last push to wait for
	left       int    // pushes without a reply, and entries of the outbox
	entries    int    // of these, the entries
	unanswered int    // the value of left at the end; to be read after done is closed
	done       chan struct{}
}

// flush adds f to the waiting calls.
func (c *Client) flush(f *clientFlush) {
	f.until, f.left = c.entered, c.unanswered
	if f != c.draining {
		f.left, f.entries = f.left+c.undelivered, c.undelivered
	}
	c.flushes = append(c.flushes, f)
	c.flushed(c.ended)
}

// flushed ends the waiting calls whose pushes have replies, or all of them.
func (c *Client) flushed(all bool) {
	c.flushes = slices.DeleteFunc(c.flushes, func(f *clientFlush) bool {
		if f.left > 0 && !all {
			return false
		}
		f.unanswered = f.left
		close(f.done)
		return true
	})
	if len(c.flushes) == 0 { // the next call needs a later heartbeat
		c.barrier = ""
		c.loop.Disarm(&c.settling)
	}
}

// settle sends a heartbeat when a call waits only for replies that no caller waits for. The server
// replies to it after it has received everything that was sent before.
func (c *Client) settle() {
	if len(c.flushes) == 0 || c.conn == nil || !c.barrier.IsNull() || c.settling.IsArmed() {
		return
	}
	if slices.ContainsFunc(c.flushes, c.isSettled) {
		ref := c.nextRef()
		c.barrier, c.barrierAt = clientRefText(ref), c.entered
		c.conn.send(heartbeatOut(ref))
	}
}

// settleSoon handles the reply to that heartbeat. Replies that arrive within clientSettle still
// count.
func (c *Client) settleSoon() {
	c.barrier = ""
	c.loop.Arm(&c.settling, clientSettle)
}

// settled ends the waits after clientSettle. If a call waits for pushes after the heartbeat, or a
// caller waits for a reply now, settle sends another heartbeat instead.
func (c *Client) settled() {
	for _, f := range c.flushes {
		if f.until <= c.barrierAt && c.isSettled(f) {
			f.left = 0
		}
	}
	c.flushed(false)
}

// isSettled reports whether f waits only for replies that no caller waits for.
func (c *Client) isSettled(f *clientFlush) bool {
	if f.left <= 0 || f.entries > 0 {
		return false
	}
	for _, d := range c.channelList() {
		if !d.IsSettled(f.until) {
			return false
		}
	}
	return true
}
