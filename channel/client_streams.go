package channel

import (
	"slices"
	"time"

	"bennu.example/history"
	"bennu.example/internal/backlog"
	"bennu.example/internal/clientlink"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// Stream returns a stream of the events with these names, or of all events if there are no names.
// It collects events from the moment when Stream is called, up to the socket's MaxBacklog in bytes.
// In place of events that did not fit, it has an [*OverflowError]. The end of the channel or of the
// socket drains it.
//
// A socket's channels have at most 1,000 streams. Further ones are returned discarded.
func (c *Client) Stream(events ...string) *stream.Stream[serializer.Message] {
	e := &c.events
	cfg := backlog.Config{Owner: (*streamOwner)(e), MaxBytes: e.max, Gone: e.gone}
	about := stream.Stats{ID: e.total.StreamID.Add(1), Kind: stream.Events, Topic: e.topic, Events: slices.Clone(events)}
	s, queue := stream.New[serializer.Message](cfg, about, func(dropped int) error {
		return &OverflowError{Topic: e.topic, Dropped: dropped}
	})
	e.mu.Lock()
	isClosed := e.closed
	isRefused := e.attached && e.total.Streams.Add(1) > clientlink.MaxStreams
	if isRefused {
		e.total.Streams.Add(-1)
	} else if !isClosed {
		e.streams = append(slices.Clip(e.streams), eventStream{s, queue, about.Events})
	}
	e.mu.Unlock()
	switch {
	case isClosed:
		s.Drain()
	case isRefused:
		s.Discard()
		c.streamRefused()
	}
	return s
}

func (c *Client) streamRefused() {
	c.socket.Log().Warn().Str("topic", c.topic).Int("max", clientlink.MaxStreams).Msg("stream refused: too many streams")
}

// DrainAll drains all streams of the channel, those of changes too. See [stream.Stream.Drain].
func (c *Client) DrainAll() { c.events.stop(0, false) }

// DiscardAll discards all streams of the channel, those of changes too. See
// [stream.Stream.Discard].
func (c *Client) DiscardAll() { c.events.stop(0, true) }

// stop drains or discards the stream with that number, or all if it is zero. It reports whether
// there was one.
func (e *clientEvents) stop(id uint64, discard bool) (found bool) {
	e.mu.Lock()
	streams, changes := e.streams, e.changes
	e.mu.Unlock()
	for i := range streams {
		s := &streams[i]
		if id != 0 && s.queue.ID() != id {
			continue
		}
		if found = true; discard {
			s.queue.Discard()
		} else {
			s.queue.Drain()
		}
	}
	return changes != nil && changes.Stop(id, discard) || found
}

// Consumers is called by the socket, for its own method of that name.
func (d clientChannel) Consumers(list []stream.Stats) []stream.Stats {
	e := &d.c.events
	list = append(list, e.callbackStats())
	if calls := d.c.calls.Load(); calls != nil {
		list = append(list, calls.stats(e.topic))
	}
	e.mu.Lock()
	streams, changes := e.streams, e.changes
	e.mu.Unlock()
	for _, s := range streams {
		list = append(list, s.stream.Stats())
	}
	if changes != nil {
		list = changes.Stats(list)
	}
	return list
}

// StopStreams is called by the socket, for its methods that drain and discard.
func (d clientChannel) StopStreams(id uint64, discard bool) bool { return d.c.events.stop(id, discard) }

// attach counts the streams of a channel that joins. Those of channels that never do are garbage
// when the program drops the channel, and must not count.
func (e *clientEvents) attach() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.attached {
		return
	}
	e.attached = true
	e.total.Streams.Add(int64(len(e.streams)))
	if e.changes != nil {
		e.changes.Count()
	}
}

// streamOwner is the owner of the channel's streams.
type streamOwner clientEvents

func (o *streamOwner) Dropped() { o.total.Dropped.Add(1) }
func (o *streamOwner) Left()    { o.drained() }

// Changed is called on the loop if n is positive.
func (o *streamOwner) Changed(n, bytes int) {
	o.total.Backlog.Add(n, bytes)
	if n > 0 {
		(*clientEvents)(o).arrived(bytes)
	}
}

// Ended removes a stream. A drained stream stays until it is empty, because its records hold up the
// channel's position.
func (o *streamOwner) Ended(id uint64) {
	e := (*clientEvents)(o)
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.streams, func(s eventStream) bool { return s.queue.ID() == id })
	if i < 0 {
		return
	}
	e.streams = slices.Delete(slices.Clone(e.streams), i, i+1)
	if e.attached {
		e.total.Streams.Add(-1)
	}
}

// eventStream is a stream of events with its queue.
type eventStream struct {
	stream *stream.Stream[serializer.Message]
	queue  *backlog.Queue[serializer.Message]
	names  []string // empty means all events
}

func (s *eventStream) wants(event string) bool {
	return len(s.names) == 0 || slices.Contains(s.names, event)
}

func (s *eventStream) put(m *serializer.Message, size int, place *recordPlace) {
	if place == nil { // not an interface with a nil pointer
		s.queue.Put(m, size, nil)
		return
	}
	s.queue.Put(m, size, place)
}

// firstPosition returns the position before the first record in the queue, or nil if there is none.
// If withHeld is true, the first one is that which the reader has and handles.
func (s *eventStream) firstPosition(withHeld bool) *history.Position {
	if place, ok := s.queue.FirstMark(withHeld).(*recordPlace); ok {
		return &place.before
	}
	return nil
}

// callbackStats describes the queue of the callbacks.
func (e *clientEvents) callbackStats() stream.Stats {
	s := stream.Stats{Kind: stream.Callbacks, Topic: e.topic, Dropped: e.dropped.Load()}
	if s.Count, s.Bytes = e.backlog.Load(); s.Count > 0 {
		s.Oldest = backlog.Now() - time.Duration(e.oldest.Load())
	}
	return s
}
