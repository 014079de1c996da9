// Package stream provides the streams of packages channel and socket: bounded queues of events, of
// changes and of states, each between a client and one reader. It also describes how much waits in
// a queue of a client or a server.
//
// [bennu.example/channel.Client.Stream] returns a stream of events.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"bennu.example/internal/backlog"
)

// ErrDiscarded is the error of [Stream.Next] after the stream was discarded.
var ErrDiscarded = backlog.ErrDiscarded

// A Stream holds the items that its client has received and its reader has not. A stream gets each
// item that occurs between its creation and its end, once and in order. It is bounded: in place of
// items that did not fit, the reader gets one error with their number. Streams of states and of
// progress drop their oldest items instead.
//
// A reader that is too slow, or that stops reading, costs memory up to the bound of its stream. It
// does not affect the client, its callbacks or other streams.
//
// A stream ends by Drain or Discard, and with its channel or client, as if by Drain. Its methods
// may be called from any goroutine.
type Stream[T any] struct {
	queue   backlog.Queue[T]
	about   Stats
	gap     func(dropped int) error
	allMade atomic.Bool
}

// New returns a stream and its queue. It is for package channel and for package socket. The queue
// has the ID of about, which describes the stream; gap returns the error in place of dropped items.
func New[T any](cfg backlog.Config, about Stats, gap func(dropped int) error) (*Stream[T], *backlog.Queue[T]) {
	s := &Stream[T]{about: about, gap: gap}
	cfg.ID = about.ID
	s.queue.Init(cfg)
	return s, &s.queue
}

// ID returns the stream's number, which is unique in its client and is never used again.
func (s *Stream[T]) ID() uint64 { return s.about.ID }

// Next waits for the next item. It returns io.EOF at the end of a drained stream, ErrDiscarded
// after Discard, and ctx's error if that has ended. Any other error is in place of items that were
// dropped, such as a [*bennu.example/channel.OverflowError], and more items follow.
func (s *Stream[T]) Next(ctx context.Context) (v T, err error) {
	dropped, err := s.queue.Next(ctx, &v)
	if dropped > 0 {
		err = s.gap(dropped)
	}
	return v, err
}

// All returns the sequence of the items, with an error in place of items that were dropped. The
// sequence ends at the end of a drained stream and when ctx ends. If the stream is discarded during
// the loop, the last error is ErrDiscarded. The end of the loop discards the stream. All may be
// called once; a second call panics.
func (s *Stream[T]) All(ctx context.Context) iter.Seq2[T, error] {
	if s.allMade.Swap(true) {
		panic("stream: All was called twice")
	}
	var over atomic.Bool
	return func(yield func(T, error) bool) {
		defer s.Discard()
		defer over.Store(true)
		for !over.Load() { // it is over for a second loop
			v, err := s.Next(ctx)
			if err != nil && (errors.Is(err, io.EOF) || ctx.Err() != nil && errors.Is(err, ctx.Err())) {
				return
			}
			if !yield(v, err) || errors.Is(err, ErrDiscarded) {
				return
			}
		}
	}
}

// Drain ends the stream for new items. The items that it holds can still be read; then Next returns
// io.EOF.
func (s *Stream[T]) Drain() { s.queue.Drain() }

// Discard ends the stream and drops the items that it holds. It frees their memory before it
// returns, and wakes a reader that waits. It has no effect at the end of a drained stream.
func (s *Stream[T]) Discard() { s.queue.Discard() }

// Stats returns what the stream holds now.
func (s *Stream[T]) Stats() Stats {
	now, about := s.queue.Stats(), s.about
	about.Count, about.Bytes, about.Oldest = now.Count, int64(now.Bytes), now.Oldest
	about.Dropped, about.Waiting = now.Dropped, now.Waiting
	about.Events = slices.Clone(about.Events)
	return about
}

// Stats describes a queue of a client or a server at one moment: a stream, the callbacks of a
// client's channel, or what waits for a connection or a channel of a server.
type Stats struct {
	ID     uint64 // of a stream; zero for other queues
	Kind   Kind
	Socket string   // of a server: the id of the connection, as in socket.Info
	Topic  string   // empty if the queue belongs to a socket and not to a channel
	Events []string // the names of the events of a stream; nil means all
	Count  int      // items that wait, including the errors in place of dropped items
	Bytes  int64
	// Oldest is the age of the oldest item that waits. It is zero if there is none, and for kinds
	// Mailbox and Parked, which have no times. For Outgoing it may be up to twice the age.
	Oldest  time.Duration
	Dropped uint64 // items of a stream that were dropped so far because they did not fit
	Waiting bool   // a reader waits in Next or All now
}

// Kind is the kind of a queue.
type Kind uint8

const (
	Events     Kind = iota // a stream of events
	Callbacks              // the events that wait for the callbacks of a client's channel
	Changes                // a stream of changes of channels
	States                 // a stream of states of a client
	Mailbox                // of a server: the messages that wait for a channel's callbacks, or are handled
	Outgoing               // of a server: the frames that wait for a client
	Parked                 // of a server: a channel whose next events are read from the log; not counted
	Calls                  // the calls of the server that a client's channel handles now
	Progresses             // a stream of the progress of a client
)

func (k Kind) String() string {
	names := [...]string{"events", "callbacks", "changes", "states", "mailbox", "outgoing", "parked", "calls", "progress"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", k)
}
