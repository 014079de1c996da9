package socket

import (
	"container/heap"
	"sync"
	"time"
)

const (
	// expiryUnit is the resolution of the times in expiry.
	expiryUnit = 250 * time.Millisecond
	// expiryBatch sessions are handled at once, and the rest after expiryPause. Sessions whose grants
	// have expired refuse messages meanwhile.
	expiryBatch = 1000
	expiryPause = 100 * time.Millisecond
)

// expiry is the times at which the sessions of a handler have to be looked at, with one timer. Its
// lock is taken last.
type expiry struct {
	base    time.Time // the times in the heap are relative to it, by the monotonic clock
	running sync.WaitGroup

	mu    sync.Mutex
	heap  expiryHeap
	due   []*session  // taken from heap and not handled yet; entries may be out of date
	timer *time.Timer // nil until the first set
	ended bool
}

type expiryEntry struct {
	due time.Duration
	s   *session
}

// expiryHeap implements heap.Interface. Each session knows its index.
type expiryHeap []expiryEntry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].s.auth.index, h[j].s.auth.index = i, j
}

func (h *expiryHeap) Push(x any) {
	e := x.(expiryEntry)
	e.s.auth.index = len(*h)
	*h = append(*h, e)
}

func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = expiryEntry{}
	*h = (*h)[:last]
	e.s.auth.index = -1
	return e
}

// set moves the session's entry. The zero time removes it.
func (x *expiry) set(s *session, at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := s.auth.index; i >= 0 {
		heap.Remove(&x.heap, i)
	}
	if at.IsZero() || x.ended {
		return
	}
	due := at.Sub(x.base)
	due = (due + expiryUnit - 1) / expiryUnit * expiryUnit
	heap.Push(&x.heap, expiryEntry{due, s})
	if s.auth.index == 0 && len(x.due) == 0 {
		x.arm(due - time.Since(x.base))
	}
}

// arm sets the timer. The caller holds mu.
func (x *expiry) arm(d time.Duration) {
	if x.timer == nil {
		x.timer = time.AfterFunc(d, x.run)
	} else {
		x.timer.Reset(d)
	}
}

// run handles the sessions that are due.
func (x *expiry) run() {
	x.mu.Lock()
	if x.ended {
		x.mu.Unlock()
		return
	}
	x.running.Add(1)
	defer x.running.Done()
	now := time.Since(x.base)
	handled := len(x.due)
	for len(x.heap) > 0 && x.heap[0].due <= now {
		x.due = append(x.due, heap.Pop(&x.heap).(expiryEntry).s)
	}
	added := x.due[handled:]
	batch := x.due[:min(len(x.due), expiryBatch)]
	if x.due = x.due[len(batch):]; len(x.due) == 0 {
		x.due = nil
	}
	switch {
	case len(x.due) > 0:
		x.arm(expiryPause)
	case len(x.heap) > 0:
		pause := x.heap[0].due - now
		if len(batch) == expiryBatch {
			pause = max(pause, expiryPause)
		}
		x.arm(pause)
	}
	x.mu.Unlock()
	for _, s := range added {
		s.expireNow()
	}
	for _, s := range batch {
		s.authDue()
	}
}

// end stops the timer and waits for run.
func (x *expiry) end() {
	x.mu.Lock()
	x.ended = true
	if x.timer != nil {
		x.timer.Stop()
	}
	x.mu.Unlock()
	x.running.Wait()
}
