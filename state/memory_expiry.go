package state

import (
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// expireEvery is the time between two sweeps for what has expired, and expireMax bounds one. Items
	// that have expired are not read, whether they were swept or not.
	expireEvery = time.Second
	expireMax   = 4096
	// expireBatch bounds the items of one change.
	expireBatch = defaultBatch
)

// memoryDue is when an item, or a whole object, expires.
type memoryDue struct {
	at     time.Time
	object *memoryObject
	item   *memoryItem // Nil means the object.
	place  int         // in the heap, or -1
}

// isDue reports whether the time has come. Nil means never.
func (d *memoryDue) isDue(now time.Time) bool { return d != nil && !d.at.After(now) }

// memoryExpiry is the agenda of all that expires, with one timer. Its lock comes after those of
// objects.
type memoryExpiry struct {
	m *Memory

	mu    sync.Mutex
	heap  dueHeap
	timer *time.Timer // Nil means that nothing has expired yet.
	at    time.Time   // when the timer fires; zero if it does not
	swept time.Time   // the end of the last sweep
}

// add adds an item or an object whose lock is held.
func (x *memoryExpiry) add(o *memoryObject, it *memoryItem, at time.Time) *memoryDue {
	d := &memoryDue{at: at, object: o, item: it}
	x.mu.Lock()
	defer x.mu.Unlock()
	heap.Push(&x.heap, d)
	if d.place == 0 {
		x.arm()
	}
	return d
}

// remove removes what has not expired. It does nothing if d is nil or not there.
func (x *memoryExpiry) remove(d *memoryDue) {
	if d == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if d.place >= 0 {
		heap.Remove(&x.heap, d.place)
	}
}

// arm sets the timer for the first of the heap. The caller holds mu.
func (x *memoryExpiry) arm() {
	if len(x.heap) == 0 {
		return
	}
	at := x.heap[0].at
	if soonest := x.swept.Add(expireEvery); at.Before(soonest) {
		at = soonest
	}
	if !x.at.IsZero() && !at.Before(x.at) {
		return // it fires earlier, and arms again
	}
	x.at = at
	wait := max(time.Until(at), 0)
	if x.timer == nil {
		x.timer = time.AfterFunc(wait, x.sweep)
	} else {
		x.timer.Reset(wait)
	}
}

func (x *memoryExpiry) sweep() {
	n := expireMax
	for n >= expireMax { // there may be more
		n, _ = x.m.Expire(context.Background(), expireMax) // it never fails
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.at, x.swept = time.Time{}, time.Now()
	x.arm()
}

// Expire is part of Store.
func (m *Memory) Expire(_ context.Context, limit int) (n int, err error) {
	now := time.Now()
	due := m.expiry.take(limit, now)
	// Stable, so that the items of an object expire in order.
	slices.SortStableFunc(due, func(a, b *memoryDue) int { return strings.Compare(a.object.name, b.object.name) })
	for len(due) > 0 {
		o := due[0].object
		same := 1
		for same < len(due) && same < expireBatch && due[same].object == o {
			same++
		}
		n += o.expireDue(due[:same], now)
		due = due[same:]
	}
	return n, nil
}

// take removes at most limit entries whose time has come from the heap.
func (x *memoryExpiry) take(limit int, now time.Time) (due []*memoryDue) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(due) < limit && len(x.heap) > 0 && x.heap[0].isDue(now) {
		due = append(due, heap.Pop(&x.heap).(*memoryDue))
	}
	return due
}

// expireDue deletes items of an object, or the whole object.
func (o *memoryObject) expireDue(due []*memoryDue, now time.Time) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return 0
	}
	if o.expiry.isDue(now) {
		o.remove(ReasonExpired)
		return 1
	}
	return o.expire(due, now)
}

// dueHeap is a heap by time.
type dueHeap []*memoryDue

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push is part of heap.Interface.
func (h *dueHeap) Push(v any) {
	d := v.(*memoryDue)
	d.place = len(*h)
	*h = append(*h, d)
}

// Pop is part of heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	d := old[last]
	old[last] = nil
	*h = old[:last]
	d.place = -1
	return d
}
