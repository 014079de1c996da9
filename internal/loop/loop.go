// Package loop is a goroutine that owns a state: what is posted to it and the timers armed on it run there, one at a time.
package loop

import (
	"sync"
	"time"
)

// keep is how many items' room a loop holds on to when it needs less.
const keep = 16

// Loop runs a function on the items posted to it, in order, and the tasks of its timers. Its goroutine starts with the first Post and
// ends after Stop. Post, PostWait, Stop and Done may be called from any goroutine; Arm and Disarm only from the loop.
type Loop[T any] struct {
	run   func(T)
	after func() // run after each batch

	mu      sync.Mutex
	queue   []T
	room    chan struct{} // closed when the queue was taken; made by those who wait for room
	started bool
	stopped bool

	wake   chan struct{}
	done   chan struct{}
	timers heap
}

// New returns a loop that runs run on each item, and after, if not nil, whenever it is about to rest.
func New[T any](run func(T), after func()) *Loop[T] {
	return &Loop[T]{run: run, after: after, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Post queues v. It never blocks, and reports false after Stop, when v will not be run.
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

// PostWait is Post, but waits while max items or more are queued. It must not be called from the loop.
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

// Stop ends the loop once it has run what was posted before. Timers do not fire any more after that.
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

// Done is closed when the loop has ended.
func (l *Loop[T]) Done() <-chan struct{} { return l.done }

func (l *Loop[T]) wakeWaiters() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// take swaps the queue for an empty one and reports whether this was the last of it.
func (l *Loop[T]) take(empty []T) (batch []T, last bool) {
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
		batch, last := l.take(spare)
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

// expire runs the timers that are due.
func (l *Loop[T]) expire() {
	for {
		at, ok := l.timers.next()
		if !ok || time.Until(at) > 0 {
			return
		}
		l.timers.pop().Run()
	}
}

// Arm has t run its task after d. An armed timer is armed anew.
func (l *Loop[T]) Arm(t *Timer, d time.Duration) {
	l.timers.remove(t)
	t.at = time.Now().Add(max(d, 0))
	l.timers.push(t)
}

// Disarm keeps t from running. An idle timer is left alone.
func (l *Loop[T]) Disarm(t *Timer) { l.timers.remove(t) }
