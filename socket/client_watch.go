package socket

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// watched keeps a value of a client and notifies its watchers of changes.
type watched[T any] struct {
	call func(func()) // enqueues a callback

	mu      sync.Mutex
	now     T
	hooks   []*stateHook[T] // replaced, never changed
	streams []*stateStream[T]
	ended   bool
}

type stateHook[T any] struct {
	f   func(T)
	off atomic.Bool
}

// statesKept bounds the values that wait for an iterator. The oldest are dropped.
const statesKept = 64

// stateStream is the queue of one iterator.
type stateStream[T any] struct {
	states *watched[T]
	queue  []T // guarded by states.mu, as is ended
	ended  bool
	wake   chan struct{}
}

func (s *watched[T]) load() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// set replaces the value by the result of next, which also reports whether it differs, and notifies
// the watchers. If last is true, no change follows, and the watchers are notified in any case.
func (s *watched[T]) set(next func(T) (T, bool), last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, changed := next(s.now)
	if !changed && !last {
		return
	}
	s.now = now
	hooks := s.hooks
	for _, st := range s.streams {
		if len(st.queue) == statesKept {
			st.queue = slices.Delete(st.queue, 0, 1)
		}
		st.queue = append(st.queue, now)
		st.ended = last
		st.signal()
	}
	if len(hooks) > 0 {
		s.call(func() {
			for _, h := range hooks {
				if !h.off.Load() {
					h.f(now)
				}
			}
		})
	}
	if last {
		s.streams, s.ended = nil, true
	}
}

func (st *stateStream[T]) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

func (s *watched[T]) on(f func(T)) (off func()) {
	h := &stateHook[T]{f: f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(slices.Clip(s.hooks), h)
	return func() {
		h.off.Store(true)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks = slices.DeleteFunc(slices.Clone(s.hooks), func(x *stateHook[T]) bool { return x == h })
	}
}

func (s *watched[T]) stream() *stateStream[T] {
	st := &stateStream[T]{states: s, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.queue = append(st.queue, s.now)
	if st.ended = s.ended; !s.ended {
		s.streams = append(s.streams, st)
	}
	return st
}

func (st *stateStream[T]) stop() {
	s := st.states
	s.mu.Lock()
	defer s.mu.Unlock()
	st.queue, st.ended = nil, true
	s.streams = slices.DeleteFunc(s.streams, func(x *stateStream[T]) bool { return x == st })
}

func (st *stateStream[T]) next() (now T, ok, more bool) {
	st.states.mu.Lock()
	defer st.states.mu.Unlock()
	if len(st.queue) == 0 {
		return now, false, !st.ended
	}
	now = st.queue[0]
	st.queue = slices.Delete(st.queue, 0, 1)
	return now, true, true
}

func (st *stateStream[T]) all(ctx context.Context) iter.Seq[T] {
	return func(yield func(T) bool) {
		defer st.stop()
		for {
			now, ok, more := st.next()
			switch {
			case ok:
				if !yield(now) {
					return
				}
			case !more:
				return
			default:
				select {
				case <-st.wake:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}
