// Package backlog provides the bounded queue of a stream.Stream. The producer puts items into the
// queue and never waits. One reader, or several, take them out.
package backlog

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"bennu.example/internal/fifo"
)

// ErrDiscarded is the error of Next after Discard. Package stream exports it.
var ErrDiscarded = errors.New("stream: discarded")

// An Owner is the producer's side of queues, which the queues notify.
type Owner interface {
	// Changed adds to the number and to the bytes of the items that the owner's queues hold. It is
	// called with the queue locked: it must be quick and call nothing.
	Changed(n, bytes int)
	// Dropped counts an item that did not fit. The same rules apply.
	Dropped()
	// Left is called after items have left a queue, without a lock.
	Left()
	// Ended is called once for each queue, without a lock, when it takes no more items and has none.
	Ended(id uint64)
}

// Config configures a Queue.
type Config struct {
	ID       uint64
	Owner    Owner
	MaxBytes int  // the bound of the items' sizes; an item of any size fits in an empty queue
	MaxItems int  // zero means no bound
	Latest   bool // a full queue drops its oldest item instead of the new one, and has no gaps
	// Gone, if not nil, is closed when no more items follow, although nobody drained the queue.
	Gone <-chan struct{}
}

// A Queue is a bounded queue between a producer and its readers. Its methods may be called from any
// goroutine, but not by its Owner while that is called with the queue locked.
type Queue[T any] struct {
	cfg Config

	mu        sync.Mutex
	items     fifo.Queue[item[T]]
	used      int
	dropped   uint64
	waiting   int           // readers that wait
	wake      chan struct{} // has room for one; made for the first reader that waits
	ended     bool          // takes no more items
	discarded bool
	cause     error // of the end; returned once, before io.EOF
	removed   bool  // Owner.Ended was called, or is about to be
	held      any   // the mark of the last item taken, until the next Next
}

// item is an item, or the number of items that were dropped in its place.
type item[T any] struct {
	v    T
	size int
	mark any
	gap  int
	at   time.Duration
}

// kept is the number of items for which an empty queue keeps its array.
const kept = 64

var epoch = time.Now()

// Now returns the time of the stamps from which ages are computed.
func Now() time.Duration { return time.Since(epoch) }

// Init makes q ready.
func (q *Queue[T]) Init(cfg Config) { q.cfg = cfg }

// ID returns the queue's number.
func (q *Queue[T]) ID() uint64 { return q.cfg.ID }

// Put adds an item, unless the queue has ended. If there is no room, the item is dropped and
// becomes part of a gap. The mark, which may be nil, is for FirstMark.
func (q *Queue[T]) Put(v *T, size int, mark any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if q.isFull(size) {
		q.dropped++
		q.cfg.Owner.Dropped()
		if !q.cfg.Latest {
			if last := q.items.Last(); last != nil && last.gap > 0 {
				last.gap++
				return
			}
			q.items.Push(item[T]{gap: 1, at: Now()})
			q.signal()
			return
		}
		old := q.items.Pop()
		q.used -= old.size
		q.cfg.Owner.Changed(-1, -old.size)
	}
	q.used += size
	q.cfg.Owner.Changed(1, size)
	q.items.Push(item[T]{v: *v, size: size, mark: mark, at: Now()})
	q.signal()
}

func (q *Queue[T]) isFull(size int) bool {
	return q.used > 0 && q.used+size > q.cfg.MaxBytes || q.cfg.MaxItems > 0 && q.items.Len() >= q.cfg.MaxItems
}

// signal wakes a reader that waits. The caller must hold mu.
func (q *Queue[T]) signal() {
	if q.waiting == 0 {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// HasRoom reports whether an item of that size would fit. A queue that has ended has room, because
// it holds up no producer.
func (q *Queue[T]) HasRoom(size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ended || !q.isFull(size)
}

// FirstMark returns the first mark in the queue that is not nil, or nil. If withHeld is true, the
// last item that was taken is in the queue until Next is called again.
func (q *Queue[T]) FirstMark(withHeld bool) any {
	q.mu.Lock()
	defer q.mu.Unlock()
	if withHeld && q.held != nil {
		return q.held
	}
	for i := range q.items.All() {
		if mark := q.items.All()[i].mark; mark != nil {
			return mark
		}
	}
	return nil
}

// Drain makes the queue take no more items. Readers still get those that it holds.
func (q *Queue[T]) Drain() { q.End(nil) }

// End is Drain with an error that Next returns once after the last item, before io.EOF. Nil means
// none.
func (q *Queue[T]) End(cause error) {
	q.mu.Lock()
	if !q.ended {
		q.ended, q.cause = true, cause
	}
	q.signal()
	over := q.isOver()
	q.mu.Unlock()
	if over {
		q.cfg.Owner.Ended(q.cfg.ID)
	}
}

// isOver reports, once, that the queue has ended and is empty. The caller must hold mu, and must
// then call Owner.Ended without it.
func (q *Queue[T]) isOver() bool {
	over := q.ended && !q.removed && q.items.Len() == 0
	q.removed = q.removed || over
	return over
}

// Discard makes the queue take no more items, and drops those that it holds. It has no effect on a
// queue that has ended and is empty.
func (q *Queue[T]) Discard() {
	q.mu.Lock()
	if q.removed {
		q.mu.Unlock()
		return
	}
	q.ended, q.discarded, q.removed = true, true, true
	n := 0
	for i := range q.items.All() {
		if q.items.All()[i].gap == 0 {
			n++
		}
	}
	q.cfg.Owner.Changed(-n, -q.used)
	q.items.Clear(0)
	q.used = 0
	q.signal()
	q.mu.Unlock()
	q.cfg.Owner.Ended(q.cfg.ID)
	q.cfg.Owner.Left()
}

// Next waits for the next item and stores it in v, or returns the number of items that were dropped
// in its place. The error is that of ctx, which is checked even if there are items, io.EOF at the
// end of a drained queue, or ErrDiscarded.
func (q *Queue[T]) Next(ctx context.Context, v *T) (gap int, err error) {
	q.mu.Lock()
	if q.held != nil {
		q.held = nil
		q.mu.Unlock()
		q.cfg.Owner.Left()
		q.mu.Lock()
	}
	for {
		if err := ctx.Err(); err != nil {
			q.pass()
			q.mu.Unlock()
			return 0, err
		}
		switch {
		case q.items.Len() > 0:
			return q.take(v), nil
		case q.ended:
			switch {
			case q.discarded:
				err = ErrDiscarded
			case q.cause != nil:
				err, q.cause = q.cause, nil
			default:
				err = io.EOF
			}
			q.pass()
			q.mu.Unlock()
			return 0, err
		}
		q.wait(ctx)
	}
}

// wait waits for a signal. The caller must hold mu, which wait releases meanwhile.
func (q *Queue[T]) wait(ctx context.Context) {
	if q.wake == nil {
		q.wake = make(chan struct{}, 1)
	}
	q.waiting++
	q.mu.Unlock()
	select {
	case <-q.wake:
	case <-q.cfg.Gone:
		q.Drain()
	case <-ctx.Done():
	}
	q.mu.Lock()
	q.waiting--
}

// pass wakes another reader if there is something for it: this one may have taken its signal. The
// caller must hold mu.
func (q *Queue[T]) pass() {
	if q.items.Len() > 0 || q.ended {
		q.signal()
	}
}

// take removes the first item. The caller must hold mu, which take releases.
func (q *Queue[T]) take(v *T) (gap int) {
	it := q.items.Pop()
	q.held = it.mark
	if q.items.Len() == 0 {
		q.items.Clear(kept)
	}
	if it.gap == 0 {
		*v = it.v
		q.used -= it.size
		q.cfg.Owner.Changed(-1, -it.size)
	}
	q.pass()
	over := q.isOver()
	q.mu.Unlock()
	if over {
		q.cfg.Owner.Ended(q.cfg.ID)
	}
	q.cfg.Owner.Left()
	return it.gap
}

// Stats is what a queue holds at one moment.
type Stats struct {
	Count, Bytes int
	Oldest       time.Duration // the age of the oldest item; 0 if there is none
	Dropped      uint64
	Waiting      bool
}

// Stats returns what the queue holds now.
func (q *Queue[T]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{Count: q.items.Len(), Bytes: q.used, Dropped: q.dropped, Waiting: q.waiting > 0}
	if s.Count > 0 {
		s.Oldest = Now() - q.items.All()[0].at
	}
	return s
}
