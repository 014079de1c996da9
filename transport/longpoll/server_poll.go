package longpoll

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"

	"bennu.example/serializer"
)

// poll is a GET that waits for messages.
type poll struct {
	wake     chan struct{} // of capacity 1; nil if the poll does not wait
	aborting chan struct{} // of capacity 1, sent to by abort; nil unless another node writes the answer

	mu      sync.Mutex
	control *http.ResponseController // nil after the answer was written
	aborted bool
}

// begin sets the deadline of the answer. It reports false if the poll was aborted.
func (p *poll) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.aborted {
		return false
	}
	p.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return true
}

// end must be called when writing the answer has ended. After that, abort has no effect on the
// request.
func (p *poll) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = nil
}

// abort makes the answer fail if it was not written yet.
func (p *poll) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aborted = true
	if p.control != nil {
		p.control.SetWriteDeadline(time.Unix(1, 0))
	}
	if p.aborting != nil {
		select {
		case p.aborting <- struct{}{}:
		default:
		}
	}
}

// poll implements pollSession.
func (l *localSession) poll(ctx context.Context, p *poll) (messages []*serializer.Frame, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, true
	}
	l.polled = time.Now()
	l.waiter = p
	if l.ready() {
		return l.take(ctx), false
	}
	p.wake = make(chan struct{}, 1)
	if previous := l.writer; previous != nil {
		// A client that polls again does not read the earlier answer any more. The frames of that
		// answer return to the queue, for this poll.
		l.mu.Unlock()
		previous.abort()
		l.mu.Lock()
	}
	window := time.NewTimer(l.s.cfg.Window)
	defer window.Stop()
	for waiting := true; waiting && (l.waiter != p || !l.ready()); {
		l.mu.Unlock()
		select {
		case <-p.wake:
		case <-window.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-l.done:
			waiting = false
		}
		l.mu.Lock()
	}
	if l.waiter != p {
		return nil, false
	}
	return l.take(ctx), false
}

// take ends the wait of the latest poll. It takes the queued frames if the client is still
// connected. The caller holds mu.
func (l *localSession) take(ctx context.Context) (messages []*serializer.Frame) {
	p := l.waiter
	l.waiter = nil
	if l.ready() && ctx.Err() == nil {
		l.writer = p
		l.queue.Stamp(time.Since(l.created))
		messages = l.queue.Take(make([]*serializer.Frame, 0, l.queue.Count()), math.MaxInt)
		l.taken = len(messages)
	}
	if l.ended {
		l.dropQueue()
	}
	return messages
}

// settle implements pollSession.
func (l *localSession) settle(delivered bool) {
	l.mu.Lock()
	resume := l.settleLocked(delivered)
	hasRoom := l.roomFunc()
	l.mu.Unlock()
	resume()
	hasRoom()
}

// settleLocked is settle for a caller that holds mu, and that must call the returned function after
// it has released mu.
func (l *localSession) settleLocked(delivered bool) (resume func()) {
	resume = func() {}
	l.writer = nil
	if l.queue == nil { // dropped, because the session has ended
		return resume
	}
	if !delivered {
		l.taken = 0
	}
	_, obsolete := l.queue.Written(l.taken, false)
	l.s.slow.Conflated.Add(uint64(obsolete))
	if l.congested && l.s.slow.ResumesReading(l.queue.OwnBytes) {
		resume = l.uncongest()
	}
	if l.queue.Empty() {
		l.dropQueue()
	}
	l.wake()
	return resume
}

// ready reports whether the latest poll may take the queued frames. The caller holds mu.
func (l *localSession) ready() bool { return l.queue != nil && l.writer == nil }

// wake wakes the latest poll if it may take the queued frames. The caller holds mu.
func (l *localSession) wake() {
	if l.waiter == nil || !l.ready() {
		return
	}
	select {
	case l.waiter.wake <- struct{}{}:
	default:
	}
}

// dropQueue drops the queued frames. The caller holds mu.
func (l *localSession) dropQueue() {
	if l.queue != nil {
		l.queue.Free()
		l.queue = nil
	}
}
