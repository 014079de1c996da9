package socket

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"bennu.example/channel"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/internal/streamset"
	"bennu.example/stream"
)

// Progress says how much of what a client has to send and to handle is done. Total grows with what
// is added; it may also fall. Done never falls, and is never more than Total.
//
// Up counts the pushes, except joins and leaves: Done of them were answered, and Failed of these
// not by "ok". The bytes are those of the payloads.
//
// Down counts the events that arrive, once for each stream and for the callbacks that want them,
// and the records that channels with Resume miss. Done of them were handled or read. Failed of
// these were dropped, because a backlog was full. The bytes are those of the payloads that have
// arrived.
type Progress struct {
	Up, Down struct {
		Done, Total           int
		DoneBytes, TotalBytes int64
		Failed                int
	}
}

// isDone reports whether nothing is left to do.
func (p *Progress) isDone() bool { return p.Up.Done == p.Up.Total && p.Down.Done == p.Down.Total }

// progressSize is the size in bytes of a Progress in a stream.
const progressSize = 128

// eventOverhead is the size of an event in a backlog without its payload, as in package channel.
const eventOverhead = 128

// Progress returns a stream of the progress. It counts the pushes that were not answered at the
// call and the events that were not handled, and from then on those that are added. The stream has
// a value at once, then at most ten in a second, and one when nothing is left to do. It holds the
// newest 256 values. Close drains it.
//
// If outstanding is true, pushes that are made after the call do not count, and neither do events
// after a moment when none was left. The stream ends when nothing is left to do.
//
// Progress waits for the goroutine that maintains the connection.
func (c *Client) Progress(outstanding bool) *stream.Stream[Progress] {
	made := make(chan *stream.Stream[Progress], 1)
	if c.post(clientTask(func() { made <- c.newProgress(outstanding) })) {
		return <-made
	}
	return c.newProgress(outstanding)
}

// clientProgresses is what the client counts for Progress. It belongs to the loop, except that
// other goroutines may read streams while they hold mu, which the loop holds to change it.
type clientProgresses struct {
	timer   loop.Timer
	pending int   // pushes that were not answered
	bytes   int64 // of their payloads

	mu      sync.Mutex
	streams []*progressStream // replaced, never changed
}

// progressStream is a stream of Progress.
type progressStream struct {
	set         streamset.Set[Progress] // it has one stream at most
	outstanding bool
	until       uint64 // if outstanding: the last push that counts
	isDownDone  bool   // if outstanding: no more events count

	now, sent    Progress
	handled      int    // events that were handled before
	handledBytes int64  // of them
	dropped      uint64 // events that were dropped before
}

// newProgress runs on the loop, or after its end.
func (c *Client) newProgress(outstanding bool) *stream.Stream[Progress] {
	p := &progressStream{outstanding: outstanding, until: c.entered}
	p.set.Init(&c.totals, true)
	p.now.Up.Total, p.now.Up.TotalBytes = c.progresses.pending, c.progresses.bytes
	p.handled, p.handledBytes, _, _ = c.handledEvents()
	p.dropped = c.totals.Dropped.Load()
	c.updateProgress(p)
	p.sent = p.now
	s, isRefused := p.set.New(streamset.Options[Progress]{
		About: stream.Stats{Kind: stream.Progresses}, MaxBytes: math.MaxInt, Latest: true, First: &p.now,
		FirstSize: progressSize,
	})
	switch {
	case isRefused:
		c.streamRefused()
	case c.ended || outstanding && p.now.isDone():
		p.set.End()
	default:
		c.progresses.mu.Lock()
		defer c.progresses.mu.Unlock()
		c.progresses.streams = append(slices.Clip(c.progresses.streams), p)
	}
	return s
}

// handledEvents returns the events that were ever handled, and those that wait, with their bytes.
func (c *Client) handledEvents() (n int, bytes int64, waiting int, waitingBytes int64) {
	waiting, waitingBytes = c.totals.Backlog.Load()
	// The two are not read at the same moment.
	waitingBytes = max(waitingBytes-int64(waiting)*eventOverhead, 0)
	all := &c.totals.Events
	return all.Count - waiting, all.Bytes - int64(all.Count)*eventOverhead - waitingBytes, waiting, waitingBytes
}

// updateProgress brings p.now up to date.
func (c *Client) updateProgress(p *progressStream) {
	if p.isDownDone {
		return
	}
	handled, bytes, waiting, waitingBytes := c.handledEvents()
	for _, d := range c.channelList() {
		waiting += d.(channelProgress).Missing()
	}
	down := &p.now.Down
	down.Failed = int(c.totals.Dropped.Load() - p.dropped)
	down.Done = max(down.Done, handled-p.handled+down.Failed)
	down.DoneBytes = max(down.DoneBytes, bytes-p.handledBytes)
	down.Total, down.TotalBytes = down.Done+waiting, down.DoneBytes+waitingBytes
	p.isDownDone = p.outstanding && waiting == 0
}

// progressStreams returns the streams. Some of them may have ended.
func (c *Client) progressStreams() []*progressStream {
	c.progresses.mu.Lock()
	defer c.progresses.mu.Unlock()
	return c.progresses.streams
}

// dropProgress removes the streams that have ended. It runs on the loop.
func (c *Client) dropProgress() {
	isEnded := func(p *progressStream) bool { return p.set.IsEmpty() }
	if slices.ContainsFunc(c.progresses.streams, isEnded) {
		kept := slices.DeleteFunc(slices.Clone(c.progresses.streams), isEnded)
		c.progresses.mu.Lock()
		defer c.progresses.mu.Unlock()
		c.progresses.streams = kept
	}
}

// Pushed is part of clientlink.Socket.
func (u clientSocket) Pushed(bytes int) {
	all := &u.progresses
	all.pending++
	all.bytes += int64(bytes)
	for _, p := range all.streams {
		if !p.outstanding {
			p.now.Up.Total++
			p.now.Up.TotalBytes += int64(bytes)
		}
	}
}

// Answered is part of clientlink.Socket.
func (u clientSocket) Answered(n uint64, bytes int, ok bool) {
	all := &u.progresses
	all.pending--
	all.bytes -= int64(bytes)
	for _, p := range all.streams {
		if p.outstanding && n > p.until {
			continue
		}
		p.now.Up.Done++
		p.now.Up.DoneBytes += int64(bytes)
		if !ok {
			p.now.Up.Failed++
		}
	}
}

// sendProgress sends values to the streams, unless it did so less than progressEvery ago. It runs
// after each batch of the loop: what is handled later is found when the timer fires, which is armed
// while something is left to do.
func (c *Client) sendProgress() {
	if len(c.progresses.streams) == 0 || c.progresses.timer.IsArmed() || c.ended {
		return
	}
	isArmed := false
	c.dropProgress()
	for _, p := range c.progresses.streams {
		c.updateProgress(p)
		isDone := p.now.isDone()
		isArmed = isArmed || !isDone || p.now != p.sent
		if p.now != p.sent {
			p.send()
		}
		if isDone && p.outstanding {
			p.set.End()
		}
	}
	if isArmed {
		c.loop.Arm(&c.progresses.timer, progressEvery)
	}
}

func (p *progressStream) send() {
	p.sent = p.now
	p.set.Put(&p.now, progressSize)
}

// endProgress ends all streams.
func (c *Client) endProgress() {
	c.loop.Disarm(&c.progresses.timer)
	for _, p := range c.progresses.streams {
		c.updateProgress(p)
		if p.now != p.sent {
			p.send()
		}
		p.set.End()
	}
}

// channelProgress is implemented by the channels of package channel.
type channelProgress interface {
	Missing() int
	Resumes() bool
	Handle() *channel.Client
}

// maxCatchUps bounds the channels that CatchUp asks at the same time.
const maxCatchUps = 64

// CatchUp calls CatchUp of every channel with Resume that is joined or joining, and returns their
// errors, joined. It waits for joins, and over reconnects, until ctx ends. It does not wait for
// records that are appended after the call. The error wraps history.ErrNoRule if the server does
// not record one of the topics. CatchUp must not be called from a callback of such a channel, nor
// on the goroutine that reads one of its streams.
func (c *Client) CatchUp(ctx context.Context) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	turns := make(chan struct{}, maxCatchUps)
	list := make(chan []clientlink.Channel, 1) // made by the loop, after earlier calls of Join
	if !c.post(clientTask(func() { list <- c.channelList() })) {
		return fmt.Errorf("socket: catch up: %w", ErrClosed)
	}
	for _, d := range <-list {
		ch := d.(channelProgress)
		if !ch.Resumes() {
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			room := ch.Handle()
			if status, _ := room.State(); status == channel.StateLeaving || status == channel.StateClosed {
				return
			}
			if err := room.CatchUp(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// FlushError is the error of [Client.Flush] if pushes failed: they got no reply, or one whose
// status is not "ok". The errors are found by errors.Is and errors.As.
type FlushError struct {
	Failed int     // pushes that failed
	Errors []error // of the first 16 of them
}

// Error returns the texts of the errors, one in a line, and the number of the others.
func (e *FlushError) Error() string {
	list := slices.Clone(e.Errors)
	if more := e.Failed - len(list); more > 0 {
		list = append(list, fmt.Errorf("and %d more pushes failed", more))
	}
	return errors.Join(list...).Error()
}

// Unwrap returns the errors.
func (e *FlushError) Unwrap() []error { return e.Errors }
