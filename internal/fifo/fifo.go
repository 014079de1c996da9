// Package fifo provides the queue of values that mailboxes, worker pools and iterators share.
package fifo

import "slices"

// A Queue is a first-in, first-out queue. The zero Queue is empty and ready to use. A Queue has no
// lock.
//
// Its array does not grow with the number of values that passed through it, even if it is never
// empty. It keeps no reference to a removed value.
type Queue[T any] struct {
	values []T // values[:head] were removed
	head   int
}

// compactFrom is the number of removed values from which the others are moved to the front. Fewer
// are not worth the copy.
const compactFrom = 32

// Push adds v at the end.
func (q *Queue[T]) Push(v T) { q.values = append(q.values, v) }

// Len returns the number of values.
func (q *Queue[T]) Len() int { return len(q.values) - q.head }

// PushFront adds v at the front, as if Pop had not removed it.
func (q *Queue[T]) PushFront(v T) {
	if q.head > 0 {
		q.head--
		q.values[q.head] = v
		return
	}
	q.values = slices.Insert(q.values, 0, v)
}

// Pop removes and returns the oldest value. It panics if the queue is empty.
func (q *Queue[T]) Pop() T {
	var zero T
	v := q.values[q.head]
	q.values[q.head] = zero
	q.head++
	switch rest := q.values[q.head:]; {
	case len(rest) == 0:
		q.values, q.head = q.values[:0], 0
	case q.head >= compactFrom && q.head >= len(rest):
		n := copy(q.values, rest)
		clear(q.values[n:])
		q.values, q.head = q.values[:n], 0
	}
	return v
}

// Last returns a pointer to the newest value, or nil if the queue is empty. The pointer is valid
// until the next call of a method that changes the queue.
func (q *Queue[T]) Last() *T {
	if q.Len() == 0 {
		return nil
	}
	return &q.values[len(q.values)-1]
}

// All returns the values, oldest first. The slice is valid until the next call of a method that
// changes the queue.
func (q *Queue[T]) All() []T { return q.values[q.head:] }

// Filter removes the values for which keep returns false. The others keep their order.
func (q *Queue[T]) Filter(keep func(T) bool) {
	n := q.head
	for _, v := range q.values[q.head:] {
		if keep(v) {
			q.values[n] = v
			n++
		}
	}
	clear(q.values[n:])
	q.values = q.values[:n]
}

// Clear removes all values. It keeps the array for later if that holds at most keep values.
func (q *Queue[T]) Clear(keep int) {
	if cap(q.values) > keep {
		*q = Queue[T]{}
		return
	}
	clear(q.values)
	q.values, q.head = q.values[:0], 0
}

// Cap returns the number of values that the array holds.
func (q *Queue[T]) Cap() int { return cap(q.values) }
