package state

import (
	"sync"
	"time"

	"bennu.example/internal/fifo"
)

// removal is the removal of an object with an ID.
type removal struct{ object, id string }

// size is what a remembered removal counts.
func (r removal) size() int { return 2*(len(r.object)+len(r.id)) + 200 }

// memoryRemovals are the removals that a Memory remembers. The lock is taken after that of an
// object.
type memoryRemovals struct {
	mu    sync.Mutex
	at    map[removal]time.Time
	order fifo.Queue[removal] // oldest first, each once
}

// has reports whether a removal is remembered.
func (x *memoryRemovals) has(r removal, now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ok := x.at[r]
	return ok && now.Sub(at) < idAge
}

// add remembers a removal, and forgets the oldest. It returns the bytes by which the store has
// grown, which may be negative.
func (x *memoryRemovals) add(r removal, now time.Time) (grown int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at == nil {
		x.at = make(map[removal]time.Time)
	}
	for x.order.Len() > 0 {
		old := x.order.All()[0]
		if x.order.Len() < maxIDs && now.Sub(x.at[old]) < idAge {
			break
		}
		x.order.Pop()
		delete(x.at, old)
		grown -= old.size()
	}
	if _, ok := x.at[r]; !ok {
		x.order.Push(r)
		grown += r.size()
	}
	x.at[r] = now
	return grown
}
