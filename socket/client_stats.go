package socket

import (
	"math/bits"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/loop"
)

// ClientStats is what a client has done so far and what waits at one moment.
type ClientStats struct {
	State State

	Unanswered   int   // pushes without an answer yet
	Queued       int   // those of them that were not handed to the network yet
	QueuedBytes  int64 // and their bytes
	Backlog      int   // events that wait for callbacks or iterators
	BacklogBytes int64
	Dropped      uint64 // events so far, for want of room

	Connections         uint64 // so far
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
	Garbage             uint64        // frames that were none
	LastFrame           time.Time     // when the last came; zero: never
	RTT                 time.Duration // of the last heartbeat; zero: none

	Channels []channel.ClientStats // those that are joined or on their way
}

// Stats may be called at any time.
func (c *Client) Stats() ClientStats {
	s := ClientStats{
		State:       c.State(),
		Dropped:     c.totals.Dropped.Load(),
		Connections: c.connections.Load(),
		FramesIn:    c.framesIn.Load(),
		FramesOut:   c.framesOut.Load(),
		BytesIn:     c.bytesIn.Load(),
		BytesOut:    c.bytesOut.Load(),
		Garbage:     c.garbage.Load(),
		RTT:         time.Duration(c.rtt.Load()),
	}
	s.Queued, s.QueuedBytes = c.totals.Queued.Load()
	s.Backlog, s.BacklogBytes = c.totals.Backlog.Load()
	if k := c.current.Load(); k != nil {
		in, out := k.t.Bytes()
		s.BytesIn += in
		s.BytesOut += out
	}
	if at := c.lastFrame.Load(); at != 0 {
		s.LastFrame = time.Unix(0, at)
	}
	for _, d := range c.downs() {
		cs := d.(interface{ Stats() channel.ClientStats }).Stats()
		s.Unanswered += cs.Unanswered
		s.Channels = append(s.Channels, cs)
	}
	return s
}

// malformed counts a frame that was none. It is logged less and less often.
func (c *Client) malformed(err error) {
	if n := c.garbage.Add(1); bits.OnesCount64(n) == 1 {
		c.cfg.Logger.Warn().Err(err).Uint64("frames", n).Msg("socket: server sent garbage")
	}
}

const (
	progressEvery = 100 * time.Millisecond
	progressIdle  = time.Second // while nothing changes
)

// clientProgress tells OnProgress how a backlog drains. The loop's, but for busy.
type clientProgress struct {
	timer  loop.Timer
	active bool
	was    [2]int64
	busy   atomic.Bool // a call waits or runs
}

// watchProgress starts telling when a backlog has become large.
func (c *Client) watchProgress() {
	p := &c.progress
	if c.cfg.OnProgress == nil || p.active || c.ended {
		return
	}
	if now := c.backlogs(); max(now[0], now[1]) > int64(c.cfg.ProgressOver) {
		p.active = true
		c.tellProgress(false)
		c.loop.Arm(&p.timer, progressEvery)
	}
}

func (c *Client) progressDue() {
	p := &c.progress
	now := c.backlogs()
	if now == [2]int64{} {
		c.tellProgress(true)
		return
	}
	every := progressEvery
	if now == p.was {
		every = progressIdle
	} else {
		c.tellProgress(false)
	}
	c.loop.Arm(&p.timer, every)
}

// tellProgress queues a call, unless one waits. The last is always made.
func (c *Client) tellProgress(last bool) {
	p := &c.progress
	if !p.active {
		return
	}
	p.was = c.backlogs()
	p.active = !last
	if p.busy.Swap(true) && !last {
		return
	}
	c.call(func() {
		p.busy.Store(false)
		c.cfg.OnProgress(c.Stats())
	})
}

// backlogs are the bytes that wait in either direction.
func (c *Client) backlogs() [2]int64 {
	_, out := c.totals.Queued.Load()
	_, in := c.totals.Backlog.Load()
	return [2]int64{out, in}
}
