// Package listeners keeps the functions that users register for notifications.
package listeners

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A List is a list of user functions in the order in which they were added. Its methods may be
// called from any goroutine, also from a function of the list. The zero List is empty and ready to
// use.
type List[T any] struct {
	mu        sync.Mutex
	listeners []*Listener[T] // never changed, only replaced
}

// A Listener is one function of a List.
type Listener[T any] struct {
	f       func(T)
	removed atomic.Bool
}

// Add adds f and returns a function that removes it again. Once remove has returned, no call of f
// begins. Calling remove twice has no effect.
func (l *List[T]) Add(f func(T)) (remove func()) {
	x := &Listener[T]{f: f}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners = append(slices.Clip(l.listeners), x)
	return func() {
		x.removed.Store(true)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.listeners = slices.DeleteFunc(slices.Clone(l.listeners), func(y *Listener[T]) bool { return y == x })
	}
}

// Snapshot returns the functions that the list has now. The caller must not change the slice.
func (l *List[T]) Snapshot() Snapshot[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listeners
}

// Notify calls the functions that the list has now, in order, on the caller's goroutine. The caller
// must not hold a lock.
func (l *List[T]) Notify(v T) { l.Snapshot().Notify(v) }

// A Snapshot is the functions that a List had at one moment.
type Snapshot[T any] []*Listener[T]

// Notify calls the functions that were not removed since, in order.
func (s Snapshot[T]) Notify(v T) {
	for _, x := range s {
		if !x.removed.Load() {
			x.f(v)
		}
	}
}
