package socket

import (
	"time"

	"bennu.example/internal/loop"
)

const (
	// clientClockCheck is how often the clocks are compared.
	clientClockCheck = 5 * time.Second
	// clientClockJump is by how much one clock must have gone further than the other. Clocks that are slewed differ by
	// less than 0.5 %.
	clientClockJump = 2 * time.Second
	// clientWakeTimeout is how long a connection may take to show that it survived a jump.
	clientWakeTimeout = 5 * time.Second
)

// clientClock notices that the machine was suspended. The monotonic clock stands still meanwhile on Linux and macOS, and
// all timers with it, but the wall clock goes on: a difference between the two is a jump. The loop owns it.
type clientClock struct {
	timer      loop.Timer
	wall       func() time.Time // without a monotonic reading; tests replace it
	mono, last time.Time        // of the last comparison: with a monotonic reading, and by the wall clock
}

func wallClock() time.Time { return time.Now().Round(0) }

// watchClock starts to compare the clocks, if that is not done already.
func (c *Client) watchClock() {
	if !c.clock.timer.IsArmed() {
		c.clock.mono, c.clock.last = time.Now(), c.clock.wall()
		c.loop.Arm(&c.clock.timer, clientClockCheck)
	}
}

// clockDue compares the clocks, for as long as a connection is wanted.
func (c *Client) clockDue() {
	if !c.isWanted() {
		return
	}
	jump := c.clock.wall().Sub(c.clock.last) - time.Since(c.clock.mono)
	c.watchClock()
	if jump.Abs() > clientClockJump {
		c.cfg.Logger.Info().Dur("jump", jump).Msg("socket: the clock jumped, checking the connection")
		c.woke()
	}
}

// woke checks the connection at once, or makes the next attempt if its time has come by the wall clock.
func (c *Client) woke() {
	switch until := c.states.load().Until; {
	case c.conn != nil:
		c.checkNow(c.conn)
	case c.retry.IsArmed() && !until.Round(0).After(c.clock.wall()):
		c.loop.Disarm(&c.retry)
		c.retryDue()
	}
}

// checkNow has the connection answer a heartbeat, or the one that is under way, sooner than usual.
func (c *Client) checkNow(k *clientConn) {
	h := &k.heartbeat
	if h.ref.IsNull() {
		c.sendHeartbeat(k)
	}
	h.bytes, _ = k.t.Bytes()
	h.patience = clientHeartbeatGrace
	h.timeout = min(c.cfg.HeartbeatTimeout, clientWakeTimeout)
	c.loop.Arm(&h.timer, h.timeout)
}
