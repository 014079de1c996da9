package socket

import "slices"

// clientFlush is a call that waits for the replies to all earlier pushes.
type clientFlush struct {
	until      uint64 // the number of the last push to wait for
	left       int    // pushes without a reply
	unanswered int    // the value of left at the end; to be read after done is closed
	done       chan struct{}
}

// flush adds f to the waiting calls.
func (c *Client) flush(f *clientFlush) {
	f.until, f.left = c.entered, c.unanswered
	if f != c.draining {
		f.left += c.undelivered
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
}

// settle sends a heartbeat when Close waits only for replies that no caller waits for. The server
// replies to it after it has received everything that was sent before.
func (c *Client) settle() {
	isWaiting := c.draining != nil && c.draining.left > 0
	isSettling := !c.barrier.IsNull() || c.settling.IsArmed()
	if isWaiting && !isSettling && c.conn != nil && c.isSettled() {
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

// settled ends the wait of Close after clientSettle. If something was sent after the heartbeat, or
// a caller waits for a reply now, settle sends another heartbeat instead.
func (c *Client) settled() {
	if c.draining != nil && c.barrierAt == c.entered && c.isSettled() {
		c.draining.left = 0
		c.flushed(false)
	}
}

func (c *Client) isSettled() bool {
	for _, d := range c.channelList() {
		if !d.IsSettled() {
			return false
		}
	}
	return true
}
