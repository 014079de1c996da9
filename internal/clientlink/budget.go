package clientlink

import (
	"runtime"
	"sync/atomic"
)

// Budget limits the bytes of a channel's pushes that are neither written nor answered.
type Budget struct {
	Max   int
	Gauge Gauge
	Total *Gauge
}

// Reserve reserves size bytes and reports whether they were available. If nothing is reserved, a
// reservation of any size succeeds.
func (b *Budget) Reserve(size int) bool {
	for {
		used := b.Gauge.bytes.Load()
		if used > 0 && used+int64(size) > int64(b.Max) {
			return false
		}
		if b.Gauge.bytes.CompareAndSwap(used, used+int64(size)) {
			b.Gauge.count.Add(1)
			b.Total.Add(1, size)
			return true
		}
	}
}

// Release returns a reservation of size bytes.
func (b *Budget) Release(size int) { b.add(-1, -size) }

func (b *Budget) add(n, size int) {
	b.Gauge.Add(n, size)
	b.Total.Add(n, size)
}

// Hold is one push's reservation in a Budget. It is released by the loop when the push is answered,
// or by the connection's writer when the push is written, whichever is first. The zero value holds
// nothing.
type Hold struct {
	budget *Budget
	size   atomic.Int64
}

// Take reserves size bytes of b and reports whether they were available.
func (h *Hold) Take(b *Budget, size int) bool {
	if !b.Reserve(size) {
		return false
	}
	h.budget = b
	h.size.Store(int64(size))
	return true
}

// Retake reserves size bytes again if the reservation was released. It ignores the limit.
func (h *Hold) Retake(size int) {
	if h.budget != nil && h.size.CompareAndSwap(0, int64(size)) {
		h.budget.add(1, size)
	}
}

// IsHeld reports whether there is a reservation to release.
func (h *Hold) IsHeld() bool { return h.size.Load() > 0 }

// releasing is the size of a Hold whose reservation is being released.
const releasing = -1

// Release releases the reservation, if there is one. When it returns, the budget has the bytes,
// even if another goroutine released them: a push that follows an answer must find room.
func (h *Hold) Release() {
	for {
		switch n := h.size.Load(); {
		case n == 0:
			return
		case n == releasing:
			runtime.Gosched()
		case h.size.CompareAndSwap(n, releasing):
			h.budget.Release(int(n))
			h.size.Store(0)
			return
		}
	}
}

// Gauge counts items and their bytes.
type Gauge struct{ count, bytes atomic.Int64 }

// Add adds n items of size bytes in total. Both may be negative.
func (g *Gauge) Add(n, size int) {
	g.count.Add(int64(n))
	g.bytes.Add(int64(size))
}

// Load returns the number of items and their bytes.
func (g *Gauge) Load() (n int, bytes int64) { return int(g.count.Load()), g.bytes.Load() }
