package socket

import (
	"time"

	"bennu.example/internal/loop"
)

const (
	// clientClockCheck is the time between two comparisons of the clocks.
	clientClockCheck = 5 * time.Second
	// clientClockJump is the least difference between the clocks that counts as a jump. The clocks
	// differ by less than 0.5 % while the wall clock is slewed.
	clientClockJump = 2 * time.Second
	// clientWakeTimeout bounds the time until the reply to the heartbeat that is sent after a jump.
	clientWakeTimeout = 5 * time.Second
)

// clientClock detects that the machine was suspended. On Linux and macOS the monotonic clock and
// all timers stop while the machine is suspended, and the wall clock does not. A difference between
// the two clocks is therefore a jump. It belongs to the loop.
type clientClock struct {
	timer      loop.Timer
	wall       func() time.Time // without a monotonic reading; tests replace it
	mono, last time.Time        // the last comparison, by the monotonic and by the wall clock
}

func wallClock() time.Time { return time.Now().Round(0) }

// watchClock starts to compare the clocks unless it does already.
func (c *Client) watchClock() {
	if !c.clock.timer.IsArmed() {
		c.clock.mono, c.clock.last = time.Now(), c.clock.wall()
		c.loop.Arm(&c.clock.timer, clientClockCheck)
	}
}

// clockDue compares the clocks while a connection is wanted.
func (c *Client) clockDue() {
	if !c.isWanted() {
		return
	}
	jump := c.clock.wall().Sub(c.clock.last) - time.Since(c.clock.mono)
	c.watchClock()
	if jump.Abs() > clientClockJump {
		c.cfg.Logger.Info().Dur("jump", jump).Msg("clock jumped, checking the connection")
		c.checkAfterWake()
	}
}

// checkAfterWake checks the connection, or makes the next attempt if it is due by the wall clock.
func (c *Client) checkAfterWake() {
	switch until := c.states.load().Until; {
	case c.conn != nil:
		c.checkNow(c.conn)
		if c.own.joined { // the clock of the samples has stopped meanwhile
			c.askTime()
		}
	case c.retry.IsArmed() && !until.Round(0).After(c.clock.wall()):
		c.loop.Disarm(&c.retry)
		c.retryDue()
	}
}

// checkNow sends a heartbeat unless one is under way, and shortens the time for its reply.
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
