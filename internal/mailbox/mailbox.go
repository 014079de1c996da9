// Package mailbox provides a queue, bounded in bytes, whose items are handled in order. It has a
// goroutine only while there is work.
package mailbox

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"bennu.example/internal/fifo"
)

var (
	// ErrFull is returned by Enqueue if there is no room for the item.
	ErrFull = errors.New("queue full")
	// ErrClosed is returned by Enqueue after Close.
	ErrClosed = errors.New("queue closed")
)

// overhead is added to the size of each item, so that empty items are bounded too.
const overhead = 64

// A Mailbox runs a function on the items enqueued: in order, one at a time, and not on the
// goroutine that enqueues, unless that calls Work. An idle Mailbox has no goroutine and no buffer.
//
// Its methods may be called from any goroutine. Its own function may call all of them except Wait
// and WaitFor. The zero Mailbox is not usable: call Init.
type Mailbox[T any] struct {
	mu      sync.Mutex
	run     func(T)
	workers *Workers // Nil means a goroutine of its own.
	queue   fifo.Queue[entry[T]]
	used    int // bytes of the items that are queued or running
	max     int
	running bool
	begun   bool // the first item counts as running: it is not dropped
	closed  bool
	held    bool          // the running item called Hold
	parked  bool          // the first item was held: nothing runs until Resume or Close
	resumed bool          // Resume was called while the current item ran
	changed chan struct{} // closed when an item is done or the mailbox is idle; made by watch
}

type entry[T any] struct {
	v    T
	size int
}

// Init makes b ready. The function run must not panic. It may end its goroutine by runtime.Goexit:
// the rest of the queue is then handled on another goroutine. The bound max is in bytes; an item of
// any size fits in an empty mailbox.
func (b *Mailbox[T]) Init(max int, run func(T)) { b.max, b.run = max, run }

// InitShared is like Init, for a mailbox that runs on the goroutines of workers.
func (b *Mailbox[T]) InitShared(workers *Workers, max int, run func(T)) {
	b.workers = workers
	b.Init(max, run)
}

// Enqueue adds v, which counts as size bytes. It never blocks.
func (b *Mailbox[T]) Enqueue(v T, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.enqueue(v, size+overhead, b.max)
}

// EnqueueOwn is like Enqueue, for an item that the mailbox's own function produces. Such an item
// has room up to ownFactor times the bound. Otherwise callers of EnqueueWait could keep the mailbox
// full and leave no room for it.
func (b *Mailbox[T]) EnqueueOwn(v T, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.enqueue(v, size+overhead, ownFactor*b.max)
}

// EnqueueAlways is like Enqueue, without regard to the bound. The caller must bound how many items
// there are.
func (b *Mailbox[T]) EnqueueAlways(v T, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if b.add(v, size+overhead) {
		b.Start()
	}
	return nil
}

const ownFactor = 4

func (b *Mailbox[T]) enqueue(v T, size, max int) error {
	pending, err := b.tryAdd(v, size, max)
	if pending {
		b.Start()
	}
	return err
}

// tryAdd is add, if the mailbox is open and has room.
func (b *Mailbox[T]) tryAdd(v T, size, max int) (pending bool, err error) {
	if b.closed {
		return false, ErrClosed
	}
	if b.used > 0 && b.used+size > max {
		return false, ErrFull
	}
	return b.add(v, size), nil
}

// add appends v to the queue. If the mailbox was idle, it is pending: it counts as running, but the
// caller must start it. The caller holds mu.
func (b *Mailbox[T]) add(v T, size int) (pending bool) {
	b.used += size
	b.queue.Push(entry[T]{v, size})
	if b.running || b.parked {
		return false
	}
	b.running, b.begun = true, true
	return true
}

// Hold postpones the item that the mailbox's function is running; only that function may call it.
// Once the function has returned, the item goes back to the head of the queue, and the mailbox
// stops. It keeps no goroutine until Resume or Close is called.
//
// If Resume was called after the function received the item, the function receives the item again
// immediately. If the mailbox is closed, Hold does nothing and returns false.
func (b *Mailbox[T]) Hold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = !b.closed
	return b.held
}

// Resume restarts a mailbox that stopped because of Hold. The function receives the held item
// again. While an item is running, Resume only cancels a Hold of that item, whether it is called
// before or after Hold. It does nothing to an idle mailbox.
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
	if b.queue.Len() > 0 {
		b.running = true
		b.Start()
	}
}

// Pending is a Mailbox that has work and no goroutine. Its holder must call one of the methods, and
// once only: Work to handle the items, or Start to let another goroutine do so.
type Pending interface {
	Workable
	Start()
}

// Started starts next, unless it is nil, and returns ok.
func Started(next Pending, ok bool) bool {
	if next != nil {
		next.Start()
	}
	return ok
}

// Start is part of Pending.
func (b *Mailbox[T]) Start() {
	if b.workers != nil {
		b.workers.Add(b)
	} else {
		go b.Work()
	}
}

// EnqueueWait is like Enqueue, but waits for room, for at most d. The time during which the mailbox
// is held does not count.
func (b *Mailbox[T]) EnqueueWait(v T, size int, d time.Duration) error {
	pending, err := b.EnqueuePending(v, size, d)
	if pending {
		b.Start()
	}
	return err
}

// EnqueuePending is like EnqueueWait, but does not start a mailbox that was idle. Then it returns
// true, and the mailbox is Pending: the caller holds it.
func (b *Mailbox[T]) EnqueuePending(v T, size int, d time.Duration) (pending bool, err error) {
	size += overhead
	b.mu.Lock()
	pending, err = b.tryAdd(v, size, b.max)
	if err != ErrFull {
		b.mu.Unlock()
		return pending, err
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
			return false, ErrFull
		}
		if pending, err = b.tryAdd(v, size, b.max); err != ErrFull {
			b.mu.Unlock()
			return pending, err
		}
	}
}

// Close makes further calls of Enqueue fail. If keep is true, the queued items are still run;
// otherwise they are dropped. The items in last are run after that, regardless of the bound.
//
// Close may be called again, for example to drop items that an earlier call kept. Only the first
// call's last is run, and it is never dropped.
func (b *Mailbox[T]) Close(keep bool, last ...T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !keep {
		b.drop()
	}
	if !b.closed {
		for _, v := range last {
			if b.add(v, 0) {
				b.Start()
			}
		}
		b.closed = true
	}
	b.unpark()
	b.wake()
}

// drop removes the queued items, except the last items of an earlier Close, whose size is 0.
func (b *Mailbox[T]) drop() {
	begun := b.begun
	b.queue.Filter(func(e entry[T]) bool {
		if begun || e.size == 0 {
			begun = false
			return true
		}
		b.used -= e.size
		return false
	})
}

// Wait returns once the mailbox is closed and idle. The mailbox's own function must not call it.
func (b *Mailbox[T]) Wait() { b.wait(nil) }

// WaitFor is like Wait, but waits for at most d. It reports whether the mailbox is closed and idle.
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

// Used returns the bytes of the items that are queued or running.
func (b *Mailbox[T]) Used() int {
	_, bytes := b.Load()
	return bytes
}

// Load returns the number and the bytes of the items that are queued or running.
func (b *Mailbox[T]) Load() (items, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items = b.queue.Len()
	if b.running && !b.begun {
		items++
	}
	return items, b.used
}

// HasNext reports whether an item waits behind the one that is running.
func (b *Mailbox[T]) HasNext() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.Len() > 0
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

// turn is the number of items after which a mailbox that is never empty yields to other goroutines.
// The scheduler alone would preempt it only after 10 ms.
const turn = 16

// Work is part of Pending. It handles the queued items until none is left or one is held. If
// anybody but the holder called it, two goroutines would run the mailbox's function at once.
func (b *Mailbox[T]) Work() {
	exited := true
	var e entry[T]
	defer func() {
		if exited { // Goexit
			b.mu.Lock()
			b.used -= e.size
			b.held = false
			b.wake()
			b.Start()
			b.mu.Unlock()
		}
	}()
	for n := 1; b.next(&e); n++ {
		b.run(e.v)
		if n%turn == 0 {
			runtime.Gosched()
		}
	}
	exited = false
}

// next subtracts the size of the item e that was run, unless it was held, and replaces it by the
// next one. It returns false if there is nothing to run. The caller must return then.
//
// The item is not returned by value: copies of a large T would be on the stack during run.
func (b *Mailbox[T]) next(e *entry[T]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held {
		b.held = false
		if b.resumed || b.closed {
			b.resumed = false
			return true
		}
		b.queue.PushFront(*e)
		b.begun, b.running, b.parked = false, false, true
		return false
	}
	b.used -= e.size
	b.resumed = false
	b.begun = false
	b.wake()
	if b.queue.Len() == 0 {
		b.queue.Clear(0)
		b.running = false
		return false
	}
	*e = b.queue.Pop()
	return true
}
