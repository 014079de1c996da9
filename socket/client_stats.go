package socket

import (
	"math/bits"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/loop"
)

// ClientStats counts what a client has done and what waits at one moment.
type ClientStats struct {
	State State

	Unanswered   int   // pushes that wait for a reply
	Queued       int   // of these, the pushes that were not handed to the network
	QueuedBytes  int64 // the bytes of Queued
	Backlog      int   // events that wait for callbacks or iterators
	BacklogBytes int64
	Dropped      uint64 // events dropped because a backlog was full

	Connections         uint64 // opened so far
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
	Garbage             uint64        // malformed frames
	LastFrame           time.Time     // when the last frame arrived, or zero
	RTT                 time.Duration // of the last heartbeat, or zero

	Channels []channel.ClientStats // channels that are joined, joining or leaving
}

// Stats returns the counters. It may be called at any time.
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
	for _, d := range c.channelList() {
		cs := d.(interface{ Stats() channel.ClientStats }).Stats()
		s.Unanswered += cs.Unanswered
		s.Channels = append(s.Channels, cs)
	}
	return s
}

// malformed counts a malformed frame. The counts that are powers of two are logged.
func (c *Client) malformed(err error) {
	if n := c.garbage.Add(1); bits.OnesCount64(n) == 1 {
		c.cfg.Logger.Warn().Err(err).Uint64("frames", n).Msg("malformed frame")
	}
}

const (
	progressEvery = 100 * time.Millisecond
	progressIdle  = time.Second // if nothing changed
)

// clientProgress calls OnProgress while a backlog drains. It belongs to the loop, except for busy.
type clientProgress struct {
	timer  loop.Timer
	active bool
	was    [2]int64
	busy   atomic.Bool // a call waits in the queue
}

// watchProgress starts the calls of OnProgress when a backlog has become large.
func (c *Client) watchProgress() {
	p := &c.progress
	if c.cfg.OnProgress == nil || p.active || c.ended {
		return
	}
	if now := c.backlogs(); max(now[0], now[1]) > int64(c.cfg.ProgressOver) {
		p.active = true
		c.notifyProgress(false)
		c.loop.Arm(&p.timer, progressEvery)
	}
}

func (c *Client) progressDue() {
	p := &c.progress
	now := c.backlogs()
	if now == [2]int64{} {
		c.notifyProgress(true)
		return
	}
	every := progressEvery
	if now == p.was {
		every = progressIdle
	} else {
		c.notifyProgress(false)
	}
	c.loop.Arm(&p.timer, every)
}

// notifyProgress enqueues a call unless one waits. The last call is always made.
func (c *Client) notifyProgress(last bool) {
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

// backlogs returns the bytes that wait to be sent and those that wait for callbacks.
func (c *Client) backlogs() [2]int64 {
	_, out := c.totals.Queued.Load()
	_, in := c.totals.Backlog.Load()
	return [2]int64{out, in}
}
