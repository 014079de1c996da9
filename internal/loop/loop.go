// Package loop runs the functions and timers that share a state on one goroutine, one at a time.
package loop

import (
	"sync"
	"time"
)

// keep is the capacity up to which queues are retained when they are nearly empty.
const keep = 16

// Loop calls a function for each posted item, in order, and runs the tasks of timers.
//
// Its goroutine starts with the first Post and exits after Stop. Post, PostWait, Stop and Done are
// safe for concurrent use. Arm and Disarm may only be called on the loop.
type Loop[T any] struct {
	run   func(T)
	after func() // called after each batch

	mu      sync.Mutex
	queue   []T
	room    chan struct{} // closed when the queue is emptied; created by callers that wait for space
	started bool
	stopped bool

	wake   chan struct{}
	done   chan struct{}
	timers timers
}

// New returns a loop that calls run for each item. If after is not nil, the loop calls it whenever
// the queue and the due timers have been processed.
func New[T any](run func(T), after func()) *Loop[T] {
	return &Loop[T]{run: run, after: after, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Post enqueues v. It never blocks. It returns false after Stop, in which case v is discarded.
func (l *Loop[T]) Post(v T) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.post(v)
}

func (l *Loop[T]) post(v T) bool {
	if l.stopped {
		return false
	}
	l.queue = append(l.queue, v)
	if !l.started {
		l.started = true
		go l.serve()
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// PostWait is like Post, but blocks while max or more items are queued. It must not be called on
// the loop.
func (l *Loop[T]) PostWait(v T, max int) bool {
	l.mu.Lock()
	for len(l.queue) >= max && !l.stopped {
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		<-room
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	return l.post(v)
}

// Stop ends the loop after it has processed the items posted before. Timers no longer fire.
func (l *Loop[T]) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	l.stopped = true
	l.wakeWaiters()
	if !l.started {
		close(l.done)
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Done returns a channel that is closed when the loop has ended.
func (l *Loop[T]) Done() <-chan struct{} { return l.done }

func (l *Loop[T]) wakeWaiters() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// dequeueAll replaces the queue by an empty one and returns it. It reports whether the loop was
// stopped.
func (l *Loop[T]) dequeueAll(empty []T) (batch []T, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch, l.queue = l.queue, empty
	l.wakeWaiters()
	return batch, l.stopped
}

func (l *Loop[T]) serve() {
	defer close(l.done)
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	var spare []T
	for {
		if at, ok := l.timers.next(); ok {
			alarm.Reset(time.Until(at))
		} else {
			alarm.Stop()
		}
		select {
		case <-l.wake:
		case <-alarm.C:
		}
		batch, last := l.dequeueAll(spare)
		for i := range batch {
			l.run(batch[i])
		}
		clear(batch)
		if spare = batch[:0]; cap(spare) > keep && len(batch) < cap(spare)/4 {
			spare = nil
		}
		if last {
			return
		}
		l.expire()
		if l.after != nil {
			l.after()
		}
	}
}

// expire runs the due timers.
func (l *Loop[T]) expire() {
	for {
		at, ok := l.timers.next()
		if !ok || time.Until(at) > 0 {
			return
		}
		l.timers.pop().Run()
	}
}

// Arm makes t run its task after d. If t is armed already, its time is replaced.
func (l *Loop[T]) Arm(t *Timer, d time.Duration) {
	l.timers.remove(t)
	t.at = time.Now().Add(max(d, 0))
	l.timers.push(t)
}

// Disarm stops t. It does nothing if t is not armed.
func (l *Loop[T]) Disarm(t *Timer) { l.timers.remove(t) }
