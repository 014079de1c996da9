package socket

import (
	"context"
	"iter"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/streamset"
	"bennu.example/stream"
)

// watched keeps a value of a client and notifies its watchers of changes.
type watched[T any] struct {
	call func(func()) // enqueues a callback

	mu      sync.Mutex
	now     T
	hooks   []*stateHook[T]  // replaced, never changed
	streams streamset.Set[T] // its mutex is acquired after mu
	ended   bool
}

type stateHook[T any] struct {
	f   func(T)
	off atomic.Bool
}

// statesKept bounds the values that wait in a stream. The oldest are dropped.
const statesKept = streamset.MaxItems

func (s *watched[T]) init(total *clientlink.Totals, call func(func())) {
	s.call = call
	s.streams.Init(total, true)
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
	s.streams.Put(&now, stateSize)
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
		s.streams.End()
		s.ended = true
	}
}

// stateSize is the size in bytes of a state in a stream.
const stateSize = 256

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

// stream returns a stream of the value and its changes. One of the client's own does not count.
func (s *watched[T]) stream(isOwn bool) (st *stream.Stream[T], isRefused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, isRefused = s.streams.New(streamset.Options[T]{
		About: stream.Stats{Kind: stream.States}, MaxBytes: math.MaxInt, Latest: true, First: &s.now, FirstSize: stateSize,
		IsOwn: isOwn,
	})
	if s.ended {
		st.Drain()
	}
	return st, isRefused
}

// values returns the sequence of a stream of states. Those that wait already are in it even if ctx
// has ended.
func values[T any](ctx context.Context, st *stream.Stream[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		defer st.Discard()
		for {
			wait := ctx
			if st.Stats().Count > 0 {
				wait = context.WithoutCancel(ctx)
			}
			now, err := st.Next(wait)
			if err != nil || !yield(now) { // a stream of states has no gaps
				return
			}
		}
	}
}
