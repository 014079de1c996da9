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
	// clientWakeTimeout bounds the time until the reply to the heartbeat that is sent after a jump. It
	// is also the time that a timeout gets that ran out while the process was stopped.
	clientWakeTimeout = 5 * time.Second
	// clientWakeEvery is the least time between two effects of Wake.
	clientWakeEvery = time.Second
)

// clientClock detects that the machine or the process was suspended. On Linux and macOS the
// monotonic clock and all timers stop while the machine is suspended, and the wall clock does not.
// A difference between the two clocks is therefore a jump. If the process was stopped, the timers
// are late. It belongs to the loop.
type clientClock struct {
	timer      loop.Timer
	wall       func() time.Time // without a monotonic reading; tests replace it
	mono, last time.Time        // the last comparison, by the monotonic and by the wall clock
	resumed    time.Time        // when the process was last seen to have been stopped before

	woke      time.Time  // when Wake had its last effect
	again     loop.Timer // its next effect, if it was called soon after that
	redial    bool       // the attempt that is under way may fail because of the suspension
	notBefore time.Time  // the server has asked not to be contacted before, by the wall clock
}

func wallClock() time.Time { return time.Now().Round(0) }

// watchClock starts to compare the clocks unless it does already.
func (c *Client) watchClock() {
	if c.cfg.WakeAfter >= 0 && !c.clock.timer.IsArmed() {
		c.clock.mono, c.clock.last = time.Now(), c.clock.wall()
		c.loop.Arm(&c.clock.timer, clientClockCheck)
	}
}

// clockDue compares the clocks while a connection is wanted.
func (c *Client) clockDue() {
	if !c.isWanted() {
		return
	}
	passed := time.Since(c.clock.mono)
	jump := c.clock.wall().Sub(c.clock.last) - passed
	stopped := passed - clientClockCheck
	c.watchClock()
	if stopped > c.cfg.WakeAfter {
		c.clock.resumed = time.Now()
	}
	switch {
	case jump > c.cfg.WakeAfter, stopped > c.cfg.WakeAfter:
		c.cfg.Logger.Info().Dur("jump", jump).Dur("stopped", stopped).Msg("woke after a suspension")
		c.wake()
	case jump.Abs() > clientClockJump:
		c.cfg.Logger.Info().Dur("jump", jump).Msg("clock jumped, checking the connection")
		c.checkAfterJump()
	}
}

// checkAfterJump checks the connection, or makes the next attempt if it is due by the wall clock.
func (c *Client) checkAfterJump() {
	switch until := c.states.load().Until; {
	case c.conn != nil:
		c.checkNow(c.conn)
	case c.retry.IsArmed() && !until.Round(0).After(c.clock.wall()):
		c.loop.Disarm(&c.retry)
		c.retryDue()
	}
}

// Wake tells the client that the machine or the network came back. A client that is connected
// checks the connection by a heartbeat that must be answered within 5 s, and channels that wait for
// their next join send it now. A client that waits for its next attempt makes it now, unless the
// server has asked it to wait longer. An attempt that is under way is repeated at once if it fails.
//
// The client calls Wake itself when it notices that the machine or the process was suspended: see
// ClientConfig.WakeAfter. Wake has an effect at most once a second; a call before that has it
// later.
func (c *Client) Wake() { c.post(clientTask(c.wake)) }

func (c *Client) wake() {
	k := &c.clock
	if !c.isWanted() {
		return
	}
	if wait := clientWakeEvery - time.Since(k.woke); wait > 0 {
		c.loop.Arm(&k.again, wait)
		return
	}
	k.woke = time.Now()
	switch {
	case c.conn != nil:
		c.checkNow(c.conn)
		for _, d := range c.channelList() {
			d.Woke()
		}
	case c.cancelDial != nil:
		k.redial = true
	case c.retry.IsArmed():
		c.attemptAfterWake()
	}
}

// attemptAfterWake makes the next attempt, or waits for the rest of the time that the server has
// asked for.
func (c *Client) attemptAfterWake() {
	if rest := c.clock.notBefore.Sub(c.clock.wall()); rest > 0 {
		c.loop.Arm(&c.retry, rest)
		c.setState(func(s *State) { s.Until = time.Now().Add(rest) }, false)
		return
	}
	c.loop.Disarm(&c.retry)
	c.backoff, c.denials = 0, 0
	c.connect()
}

// takeRedial reports whether an attempt that has failed is to be repeated at once, because a
// suspension may be the reason.
func (c *Client) takeRedial(err error) bool {
	redial := c.clock.redial && c.isWanted() && !isRefusal(err) && adviceOf(err) == 0
	c.clock.redial = false
	return redial
}

// overslept reports whether t ran out while the process was stopped. Then it arms t once more: the
// reply may have been received, and was not read yet.
func (c *Client) overslept(t *loop.Timer) bool {
	due := t.Due()
	if c.cfg.WakeAfter < 0 || time.Since(due) <= c.cfg.WakeAfter && due.After(c.clock.resumed) {
		return false
	}
	c.loop.Arm(t, clientWakeTimeout)
	return true
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
	if c.own.joined { // the clock of the samples may have stopped meanwhile
		c.askTime()
	}
}
