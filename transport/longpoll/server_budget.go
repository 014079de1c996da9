package longpoll

import (
	"slices"
	"sync"
	"time"
)

// budget is a number of bytes that several goroutines share. They receive bytes in the order of
// their requests.
type budget struct {
	mu      sync.Mutex
	free    int64
	waiting []*budgetWaiter
}

type budgetWaiter struct {
	n     int64
	ready chan struct{} // closed when the waiter has its bytes
}

// take takes n bytes. If they are not free, it waits until the given time or until done is closed.
// It reports whether it took them.
func (b *budget) take(n int64, until time.Time, done <-chan struct{}) bool {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return true
	}
	w := &budgetWaiter{n: n, ready: make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()

	timeout := time.NewTimer(time.Until(until))
	defer timeout.Stop()
	select {
	case <-w.ready:
		return true
	case <-timeout.C:
	case <-done:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, w)
	if i < 0 {
		return true // grant was faster
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	b.grant() // the waiters behind this one may need less
	return false
}

// tryTake takes n bytes if they are free and nobody waits. It reports whether it took them.
func (b *budget) tryTake(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grant()
}

// grant gives the free bytes to waiters. The caller holds mu.
func (b *budget) grant() {
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		w := b.waiting[0]
		b.waiting = slices.Delete(b.waiting, 0, 1)
		b.free -= w.n
		close(w.ready)
	}
	if len(b.waiting) == 0 {
		b.waiting = nil
	}
}
