// Package streamset keeps the streams that one producer feeds with the same items.
package streamset

import (
	"slices"
	"sync"

	"bennu.example/internal/backlog"
	"bennu.example/internal/clientlink"
	"bennu.example/stream"
)

// MaxItems bounds the items that wait in a stream of a Set.
const MaxItems = 256

// A Set is the streams of one kind. Its methods may be called from any goroutine.
type Set[T any] struct {
	total *clientlink.Totals

	mu      sync.Mutex  // acquired before the mutex of a stream's queue
	streams []member[T] // never modified, only replaced
	counts  bool        // the streams count in total
}

type member[T any] struct {
	stream *stream.Stream[T]
	queue  *backlog.Queue[T]
	isOwn  bool // one of the client's own, which is not shown and not counted
}

// Init makes s ready. If counts is false, the streams do not count in total until Count.
func (s *Set[T]) Init(total *clientlink.Totals, counts bool) { s.total, s.counts = total, counts }

// Count counts the streams from now on.
func (s *Set[T]) Count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = true
	s.count(s.streams, 1)
}

// count adds n to the total for each of the streams. The caller must hold mu.
func (s *Set[T]) count(streams []member[T], n int64) {
	for i := range streams {
		if s.counts && !streams[i].isOwn {
			s.total.Streams.Add(n)
		}
	}
}

// Options describe a new stream.
type Options[T any] struct {
	About     stream.Stats
	MaxBytes  int
	Latest    bool            // the stream keeps the newest items, without gaps
	Gone      <-chan struct{} // see backlog.Config
	Gap       func(dropped int) error
	First     *T // the first item, unless it is nil
	FirstSize int
	IsOwn     bool // the stream is one of the client's own, which is not shown and not counted
}

// New returns a new stream. If there are too many, it is discarded already.
func (s *Set[T]) New(o Options[T]) (st *stream.Stream[T], isRefused bool) {
	o.About.ID = s.total.StreamID.Add(1)
	cfg := backlog.Config{Owner: s, MaxBytes: o.MaxBytes, MaxItems: MaxItems, Latest: o.Latest, Gone: o.Gone}
	st, queue := stream.New[T](cfg, o.About, o.Gap)
	s.mu.Lock()
	if s.counts && !o.IsOwn && s.total.Streams.Load() >= clientlink.MaxStreams {
		s.mu.Unlock()
		st.Discard()
		return st, true
	}
	defer s.mu.Unlock()
	s.streams = append(slices.Clip(s.streams), member[T]{st, queue, o.IsOwn})
	s.count(s.streams[len(s.streams)-1:], 1)
	if o.First != nil {
		queue.Put(o.First, o.FirstSize, nil)
	}
	return st, false
}

// IsEmpty reports whether there are no streams.
func (s *Set[T]) IsEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) == 0
}

// Put adds an item of that size to all streams.
func (s *Set[T]) Put(v *T, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.streams {
		s.streams[i].queue.Put(v, size, nil)
	}
}

// End drains all streams and removes them.
func (s *Set[T]) End() {
	s.mu.Lock()
	streams := s.streams
	s.streams = nil
	s.count(streams, -1)
	s.mu.Unlock()
	for _, m := range streams {
		m.queue.Drain()
	}
}

// Stop drains or discards the stream with that number, or all if it is zero. It reports whether
// there was one.
func (s *Set[T]) Stop(id uint64, discard bool) (found bool) {
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	for _, m := range streams {
		if m.isOwn || id != 0 && m.queue.ID() != id {
			continue
		}
		if found = true; discard {
			m.queue.Discard()
		} else {
			m.queue.Drain()
		}
	}
	return found
}

// Stats appends the Stats of all streams to list.
func (s *Set[T]) Stats(list []stream.Stats) []stream.Stats {
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	for _, m := range streams {
		if !m.isOwn {
			list = append(list, m.stream.Stats())
		}
	}
	return list
}

// Changed is part of backlog.Owner, as the methods below.
func (s *Set[T]) Changed(int, int) {}

// Dropped is part of backlog.Owner.
func (s *Set[T]) Dropped() {}

// Left is part of backlog.Owner.
func (s *Set[T]) Left() {}

// Ended is part of backlog.Owner.
func (s *Set[T]) Ended(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.streams, func(m member[T]) bool { return m.queue.ID() == id })
	if i < 0 {
		return
	}
	s.count(s.streams[i:i+1], -1)
	s.streams = slices.Delete(slices.Clone(s.streams), i, i+1)
}
