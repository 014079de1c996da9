package mirror

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"bennu.example/channel"
	"bennu.example/internal/fifo"
)

// Kind is a kind of change.
type Kind uint8

// The kinds of changes.
const (
	Put    Kind = iota // an item was put
	Delete             // an item was deleted
	Move               // an item of a list was moved, and has a new key
	Reset              // the copy was cleared; its new items follow
	Synced             // the copy is complete, at first and after each interruption
)

func (k Kind) String() string { return [...]string{"put", "delete", "move", "reset", "synced"}[k] }

// Change is a change of a copy. Reset and Synced have a Kind only.
type Change[T any] struct {
	Kind   Kind
	Key    string // of the item. It is empty for a document, and a path for a tree
	From   string // of a move: the key before
	After  string // the key of the item before it. Empty means that it is the first one
	Index  int    // the place of the item in the copy afterwards; of a deletion, where it was
	Value  T      // the new value; of a deletion, the zero T
	Old    *T     // the value before, nil if there was none, or none that is a T
	Rev    uint64 // the revision of the change
	Reason string // of a deletion: "deleted", "expired", or "window" if the object still has the item
}

// change is a change before its values are decoded.
type change struct {
	kind   Kind
	item   *item
	old    *item
	after  string
	index  int
	reason string
}

// Changes that wait for one iterator. Beyond these bounds they are dropped.
const (
	maxWaiting      = 1024
	maxWaitingBytes = 4 << 20
)

// stream is an iterator. Its fields are guarded by Mirror.mu.
type stream struct {
	wake    chan struct{}
	begins  bool // the copy is to be yielded
	resets  bool // after a Reset
	ended   bool // by Close
	dropped int
	rest    []*item // what is left of the copy
	index   int     // of the first of rest
	after   string  // the key before it
	synced  bool    // Synced follows the copy
	queue   fifo.Queue[change]
	bytes   int
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// emit gives a change to the iterators. The caller holds mu.
func (m *Mirror) emit(c change) {
	if len(m.streams) == 0 {
		return
	}
	if c.item != nil && c.index > 0 {
		c.after = m.items[c.index-1].remote()
	}
	for _, s := range m.streams {
		s.add(c)
	}
}

func (s *stream) add(c change) {
	if s.dropped > 0 {
		s.dropped++
		return
	}
	if s.begins { // the copy has it
		return
	}
	size := c.item.size() + c.old.size()
	if s.queue.Len() >= maxWaiting || s.queue.Len() > 0 && s.bytes+size > maxWaitingBytes {
		s.dropped = s.queue.Len() + len(s.rest) + 1
		s.queue.Clear(0)
		s.bytes, s.rest = 0, nil
	} else {
		s.queue.Push(c)
		s.bytes += size
	}
	s.signal()
}

// next returns the next change. It returns false at the end.
func (m *Mirror) next(ctx context.Context, s *stream) (c change, err error, ok bool) {
	for {
		if ctx.Err() != nil {
			return c, nil, false //nolint:nilerr // a loop over changes ends with its context
		}
		m.mu.Lock()
		c, err, ok, more := m.poll(s)
		m.mu.Unlock()
		if ok || !more {
			return c, err, ok
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// poll returns the next change if there is one, and otherwise whether there can be more. The caller
// holds mu.
//
//nolint:staticcheck // the error is second, as in a loop
func (m *Mirror) poll(s *stream) (c change, err error, ok, more bool) {
	switch {
	case s.ended:
		return c, nil, false, false
	case s.dropped > 0:
		err = &channel.OverflowError{Topic: m.topic, Dropped: s.dropped}
		s.dropped, s.begins, s.resets = 0, true, true
		return c, err, true, true
	case s.begins:
		s.begins = false
		s.rest, s.index, s.after, s.synced = slices.Clone(m.items), 0, "", m.synced
		if s.resets {
			s.resets = false
			return change{kind: Reset}, nil, true, true
		}
		return m.poll(s)
	case len(s.rest) > 0:
		c = change{kind: Put, item: s.rest[0], index: s.index, after: s.after}
		s.index++
		s.after = s.rest[0].remote()
		s.rest[0] = nil
		s.rest = s.rest[1:]
		return c, nil, true, true
	case s.synced:
		s.synced = false
		return change{kind: Synced}, nil, true, true
	case s.queue.Len() > 0:
		c = s.queue.Pop()
		if s.bytes -= c.item.size() + c.old.size(); s.queue.Len() == 0 {
			s.queue.Clear(maxWaiting)
		}
		return c, nil, true, true
	case m.closed:
		return c, nil, false, false
	case m.ended != nil:
		s.ended = true
		return c, fmt.Errorf("mirror: %s: %w", m.topic, m.ended), true, true
	}
	return c, nil, false, true
}

// endStreams ends all iterators. The caller holds mu.
func (m *Mirror) endStreams() {
	for _, s := range m.streams {
		s.ended = true
		s.signal()
	}
}

// changes is the method Changes of all kinds.
func changes[T any](ctx context.Context, m *Mirror) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		s := &stream{wake: make(chan struct{}, 1), begins: true}
		m.mu.Lock()
		m.streams = append(m.streams, s)
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.streams = slices.DeleteFunc(m.streams, func(x *stream) bool { return x == s })
		}()
		for {
			c, err, ok := m.next(ctx, s)
			if !ok {
				return
			}
			var out Change[T]
			if err == nil {
				out, err = decodeChange[T](c)
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

// decodeChange decodes the values of a change.
func decodeChange[T any](c change) (out Change[T], err error) {
	out = Change[T]{Kind: c.kind, After: c.after, Index: c.index, Reason: c.reason}
	if c.item != nil {
		out.Key, out.Rev = c.item.remote(), c.item.rev
		out.Value, err = decode[T](c.item)
	}
	if c.kind == Move {
		out.From = c.old.key
	}
	if c.old != nil {
		if old, err := decode[T](c.old); err == nil {
			out.Old = &old
		}
	}
	return out, err
}
