package boltengine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/history"
)

const (
	// maxQueued and maxQueuedBytes bound a queue.
	maxQueued      = 4096
	maxQueuedBytes = 16 << 20
	// maxBatch and maxBatchBytes bound one commit.
	maxBatch      = 256
	maxBatchBytes = 4 << 20
	// maxWait bounds how long a commit waits for more items.
	maxWait = 2 * time.Millisecond
)

// request is the part of an item that its queue needs.
type request struct {
	size  int // what it counts in the queue
	state atomic.Int32
	done  chan struct{} // closed when the item has its result
}

func (r *request) base() *request { return r }

// The states of a request.
const (
	requestWaits int32 = iota
	requestTaken       // by the committer
	requestGivenUp
)

// queue has the items that wait for a commit. One goroutine, the committer, takes them in batches,
// so that writers that wait at the same time share one commit and one fsync.
type queue[T interface{ base() *request }] struct {
	items chan T
	bytes atomic.Int64 // of the items that were not answered

	// running guards open: an item is put into the queue only while it is true.
	running sync.RWMutex
	open    bool

	// The committer uses these.
	expected int           // items in the last commit
	took     time.Duration // the last commit
}

func newQueue[T interface{ base() *request }]() *queue[T] {
	return &queue[T]{items: make(chan T, maxQueued)}
}

func (q *queue[T]) setOpen(open bool) {
	q.running.Lock()
	defer q.running.Unlock()
	q.open = open
}

// do puts an item into the queue and waits for the committer. A nil error means that the item has
// its result.
func (q *queue[T]) do(ctx context.Context, it T) error {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	r := it.base()
	r.done = make(chan struct{})
	if err := q.enqueue(it); err != nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	if r.state.CompareAndSwap(requestWaits, requestGivenUp) {
		return unavailable(context.Cause(ctx))
	}
	select {
	case <-r.done: // at the same time
		return nil
	default:
		return fmt.Errorf("%w: %w", history.ErrUncertain, context.Cause(ctx))
	}
}

func (q *queue[T]) enqueue(it T) error {
	q.running.RLock()
	defer q.running.RUnlock()
	if !q.open {
		return unavailable(errNotRunning)
	}
	size := int64(it.base().size)
	if q.bytes.Add(size) > maxQueuedBytes {
		q.bytes.Add(-size)
		return history.ErrFull
	}
	select {
	case q.items <- it:
		return nil
	default:
		q.bytes.Add(-size)
		return history.ErrFull
	}
}

// answer ends the wait for an item.
func (q *queue[T]) answer(it T) {
	q.bytes.Add(-int64(it.base().size))
	close(it.base().done)
}

// work calls round with an item, and sweep when the timer is due, until ctx or the channel closing
// ends it. Then it closes the queue, and calls round with what is left. The goroutine that calls it
// is the committer.
func (q *queue[T]) work(
	ctx context.Context, closing <-chan struct{}, round func(first T), timer <-chan time.Time, sweep func(),
) {
	for working := true; working; {
		select {
		case it := <-q.items:
			round(it)
		case <-timer:
			sweep()
		case <-ctx.Done():
			working = false
		case <-closing:
			working = false
		}
	}
	q.setOpen(false)
	for len(q.items) > 0 { // nothing is added any more
		round(<-q.items)
	}
}

// gather returns items for one commit. It takes those that wait. If the last commit had more, their
// senders have just been answered, and many are about to write again: waiting for them for a part
// of the time that a commit takes makes one large commit of two.
func (q *queue[T]) gather(first T) []T {
	batch := make([]T, 0, max(1, min(q.expected, maxBatch)))
	size := 0
	take := func(it T) {
		r := it.base()
		if r.state.CompareAndSwap(requestWaits, requestTaken) {
			batch = append(batch, it)
			size += r.size
		} else {
			q.bytes.Add(-int64(r.size))
		}
	}
	take(first)
	var late *time.Timer
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case it := <-q.items:
			take(it)
			continue
		default:
		}
		if len(batch) >= q.expected {
			break
		}
		if late == nil {
			late = time.NewTimer(min(maxWait, q.took/2))
			defer late.Stop()
		}
		select {
		case it := <-q.items:
			take(it)
			continue
		case <-late.C:
		}
		break
	}
	return batch
}

// committed notes the commit of a batch that began at some time.
func (q *queue[T]) committed(batch []T, begun time.Time) {
	q.expected, q.took = len(batch), time.Since(begun)
}
