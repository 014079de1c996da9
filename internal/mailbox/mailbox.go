// Package mailbox is a byte-bounded queue that works its items off in order, on a goroutine that it has only while there is work.
package mailbox

import (
	"errors"
	"runtime"
	"sync"
	"time"
)

var (
	// ErrFull is returned by Post when an item finds no room.
	ErrFull = errors.New("queue full")
	// ErrClosed is returned by Post after Close.
	ErrClosed = errors.New("queue closed")
)

// overhead is what an item costs besides the bytes that its sender counts, so that empty items are bounded as well.
const overhead = 64

// Mailbox runs a function on the items posted to it: in order, one at a time, never on the poster's goroutine. An idle Mailbox has no
// goroutine and no buffer. Its methods may be called from any goroutine, also from its own function (but for Wait). The zero Mailbox
// is not usable: call Init.
type Mailbox[T any] struct {
	mu      sync.Mutex
	run     func(T)
	workers *Workers // nil: a goroutine of its own
	queue   fifo[entry[T]]
	used    int // bytes of what is queued and of what is running
	max     int
	running bool
	begun   bool // the item at the head is as good as running: it is not dropped
	closed  bool
	held    bool          // the running item called Hold
	parked  bool          // the item at the head was held: nothing runs until Resume or Close
	resumed bool          // Resume was called while the current item ran
	changed chan struct{} // closed when an item was done or the mailbox came to rest; made by those who wait
}

type entry[T any] struct {
	v    T
	size int
}

// Init makes b ready. Run must not panic, but it may end its goroutine by runtime.Goexit: the rest is worked off on another one. Max is in
// bytes; an item of any size fits in an empty mailbox.
func (b *Mailbox[T]) Init(max int, run func(T)) { b.max, b.run = max, run }

// InitShared is Init for a mailbox that shares the workers's goroutines.
func (b *Mailbox[T]) InitShared(workers *Workers, max int, run func(T)) {
	b.workers = workers
	b.Init(max, run)
}

// Post queues v, which counts as size bytes. It never blocks.
func (b *Mailbox[T]) Post(v T, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.post(v, size+overhead, b.max)
}

// PostOwn is Post for an item that the mailbox's own function makes: it has room up to ownFactor times the bound. Otherwise those who post
// with PostWait, and keep the mailbox full, would leave no room for it.
func (b *Mailbox[T]) PostOwn(v T, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.post(v, size+overhead, ownFactor*b.max)
}

const ownFactor = 4

func (b *Mailbox[T]) post(v T, size, max int) error {
	if b.closed {
		return ErrClosed
	}
	if b.used > 0 && b.used+size > max {
		return ErrFull
	}
	b.put(v, size)
	return nil
}

// put queues v and sees to it that somebody works it off. The caller holds mu.
func (b *Mailbox[T]) put(v T, size int) {
	b.used += size
	b.queue.push(entry[T]{v, size})
	if !b.running && !b.parked {
		b.running, b.begun = true, true
		b.start()
	}
}

// Hold is called by the mailbox's function to refuse the item that it was given for now: after the function has returned, the item goes
// back to the head of the queue, and the mailbox rests, without a goroutine, until Resume or Close. If Resume was called since the
// function was given the item, it gets the item again at once. Hold reports false, and does nothing, if the mailbox is closed.
func (b *Mailbox[T]) Hold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = !b.closed
	return b.held
}

// Resume ends the rest that Hold began. It does nothing to a mailbox that is not held.
func (b *Mailbox[T]) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resumed = b.running
	b.unpark()
}

// unpark lets a parked mailbox run again. The caller holds mu.
func (b *Mailbox[T]) unpark() {
	if !b.parked {
		return
	}
	b.parked = false
	b.wake()
	if !b.queue.empty() {
		b.running = true
		b.start()
	}
}

func (b *Mailbox[T]) start() {
	if b.workers != nil {
		b.workers.add(b)
	} else {
		go b.work()
	}
}

// PostWait is Post, but waits up to d for room. The time during which the mailbox is held does not count.
func (b *Mailbox[T]) PostWait(v T, size int, d time.Duration) error {
	size += overhead
	b.mu.Lock()
	err := b.post(v, size, b.max)
	if err != ErrFull {
		b.mu.Unlock()
		return err
	}
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		changed, parked := b.watch(), b.parked
		b.mu.Unlock()
		late := false
		select {
		case <-changed:
		case <-timeout.C:
			late = true
		}
		b.mu.Lock()
		if parked || b.parked {
			timeout.Reset(d)
		} else if late {
			b.mu.Unlock()
			return ErrFull
		}
		if err = b.post(v, size, b.max); err != ErrFull {
			b.mu.Unlock()
			return err
		}
	}
}

// Close refuses further items. With keep, what is queued is still worked off; otherwise it is dropped. Last, if given, is run after
// that whatever the bound. Of several calls the first one's last counts, and it is never dropped.
func (b *Mailbox[T]) Close(keep bool, last ...T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !keep {
		b.drop()
	}
	if !b.closed {
		for _, v := range last {
			b.put(v, 0)
		}
		b.closed = true
	}
	b.unpark()
	b.wake()
}

// drop forgets what is queued, but for an earlier Close's last.
func (b *Mailbox[T]) drop() {
	q := &b.queue
	n := q.head
	if b.begun {
		n++
	}
	for _, e := range q.all[n:] {
		if e.size == 0 {
			q.all[n] = e
			n++
		} else {
			b.used -= e.size
		}
	}
	clear(q.all[n:])
	q.all = q.all[:n]
}

// Wait returns once the mailbox is closed and at rest. It must not be called from the mailbox's own function.
func (b *Mailbox[T]) Wait() { b.wait(nil) }

// WaitFor is Wait for at most d. It reports whether the mailbox came to rest.
func (b *Mailbox[T]) WaitFor(d time.Duration) bool {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	return b.wait(timeout.C)
}

func (b *Mailbox[T]) wait(timeout <-chan time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed || b.running {
		changed := b.watch()
		b.mu.Unlock()
		select {
		case <-changed:
			b.mu.Lock()
		case <-timeout:
			b.mu.Lock()
			return b.closed && !b.running
		}
	}
	return true
}

// Used is the bytes of what is queued and running.
func (b *Mailbox[T]) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *Mailbox[T]) watch() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

func (b *Mailbox[T]) wake() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// turn is how many items a mailbox may run before others have their turn, if its queue never empties. The scheduler alone would let it go on for 10 ms.
const turn = 16

// work works the queue off.
func (b *Mailbox[T]) work() {
	exited := true
	size := 0
	defer func() {
		if exited { // Goexit
			b.mu.Lock()
			b.used -= size
			b.held = false
			b.wake()
			b.start()
			b.mu.Unlock()
		}
	}()
	var v T
	for n := 1; ; n++ {
		var ok bool
		if v, size, ok = b.next(v, size); !ok {
			break
		}
		b.run(v)
		if n%turn == 0 {
			runtime.Gosched()
		}
	}
	exited = false
}

// next counts out the item that was done, unless it was held, and takes the one to run now. Without one the mailbox is at rest.
func (b *Mailbox[T]) next(last T, done int) (v T, size int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held {
		b.held = false
		if b.resumed || b.closed {
			b.resumed = false
			return last, done, true
		}
		b.queue.unpop(entry[T]{last, done})
		b.begun, b.running, b.parked = false, false, true
		return v, 0, false
	}
	b.used -= done
	b.resumed = false
	b.begun = false
	b.wake()
	if b.queue.empty() {
		b.queue = fifo[entry[T]]{}
		b.running = false
		return v, 0, false
	}
	e := b.queue.pop()
	return e.v, e.size, true
}
