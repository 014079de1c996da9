package channel

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"bennu.example/internal/link"
	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
)

// eventOverhead is what an event costs in a backlog besides its payload.
const eventOverhead = 128

// OverflowError says that events were dropped because a backlog was full. It stands where they would have stood: an iterator yields it
// there, and for callbacks OnError is called with it there. The channel itself goes on.
type OverflowError struct {
	Topic   string
	Dropped int
}

func (e *OverflowError) Error() string {
	return fmt.Sprintf("channel: %s: %d events dropped: too many waited to be handled", e.Topic, e.Dropped)
}

// clientEvents are a client channel's listeners, and the queues between them and the loop: one for all callbacks, one for each iterator.
type clientEvents struct {
	topic string
	max   int // bytes of each backlog
	total *link.Totals
	gone  <-chan struct{} // closed with the socket, which does not tell a channel that was never joined

	callbacks mailbox.Mailbox[clientItem]
	backlog   link.Gauge // of events in callbacks
	dropped   atomic.Uint64
	gap       *OverflowError // the last thing in callbacks, if it is one; under mu

	onJoin  clientHooks[serializer.Payload]
	onError clientHooks[error]
	onClose clientHooks[error]

	mu      sync.Mutex
	byEvent map[string][]*clientListener // the slices are never changed, only replaced
	all     []*clientListener
	streams []*clientStream
	ended   bool
}

// clientListener is a function that gets events.
type clientListener struct {
	f   func(serializer.Payload) // of one event
	any func(serializer.Message) // of all
	off atomic.Bool
}

// clientItem is what waits in the callback queue: an event for its listeners, or anything else to do.
type clientItem struct {
	byEvent, all []*clientListener
	payload      serializer.Payload  // for byEvent
	msg          *serializer.Message // for all; nil if there are none
	size         int
	do           func()
}

func (e *clientEvents) init(topic string, max int, up link.Up) {
	e.topic, e.max, e.total, e.gone = topic, max, up.Total(), up.Done()
	e.callbacks.Init(math.MaxInt, link.Callbacks(e.run)) // bounded by backlog; what is not an event always has room
	for _, h := range []interface{ init(*clientEvents) }{&e.onJoin, &e.onError, &e.onClose} {
		h.init(e)
	}
}

// run is the callback queue's function.
func (e *clientEvents) run(it clientItem) {
	defer e.total.Running.Done()
	if it.do != nil {
		it.do()
		return
	}
	defer func() {
		e.backlog.Add(-1, -it.size)
		e.total.Backlog.Add(-1, -it.size)
	}()
	for _, l := range it.byEvent {
		if !l.off.Load() {
			l.f(it.payload)
		}
	}
	for _, l := range it.all {
		if !l.off.Load() {
			l.any(*it.msg)
		}
	}
}

// call queues a callback that is no event's.
func (e *clientEvents) call(f func()) {
	e.total.Running.Add()
	if e.callbacks.Enqueue(clientItem{do: f}, 0) != nil {
		e.total.Running.Done()
	}
}

// deliver gives an event to who listens. It is the loop's, and never waits: who is too slow misses events, and is told.
func (c *Client) deliver(m *serializer.Message) {
	e := &c.events
	msg := *m
	if isNullClientRef(msg.JoinRef) { // to whom a rejoin matters it says which join it came in
		msg.JoinRef = c.joinRef(c.state.joinRef)
	}
	size := eventOverhead + len(msg.Payload.Bytes())
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.streams {
		s.put(&msg, size)
	}
	byEvent, all := e.byEvent[msg.Event], e.all
	if len(byEvent) == 0 && len(all) == 0 {
		return
	}
	if _, used := e.backlog.Load(); used > 0 && used+int64(size) > int64(e.max) {
		e.overflow()
		return
	}
	e.gap = nil
	e.backlog.Add(1, size)
	e.total.Backlog.Add(1, size)
	e.total.Running.Add()
	it := clientItem{byEvent: byEvent, all: all, payload: msg.Payload, size: size}
	if len(all) > 0 {
		whole := msg // so that only this case costs an allocation
		it.msg = &whole
	}
	if e.callbacks.Enqueue(it, size) != nil {
		e.total.Running.Done()
	}
}

// overflow counts an event that finds no room among the callbacks. The caller holds mu.
func (e *clientEvents) overflow() {
	e.dropped.Add(1)
	e.total.Dropped.Add(1)
	if e.gap != nil {
		e.gap.Dropped++
		return
	}
	gap := &OverflowError{Topic: e.topic, Dropped: 1}
	e.gap = gap
	e.call(func() {
		e.mu.Lock()
		err := *gap
		if e.gap == gap {
			e.gap = nil
		}
		e.mu.Unlock()
		e.onError.run(&err)
	})
}

// end tells that the channel is closed: after all that came before.
func (e *clientEvents) end(err error) {
	e.onClose.call(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	for _, s := range e.streams {
		s.end()
	}
	e.streams = nil
}

// listen adds l to the listeners of an event, or of all.
func (e *clientEvents) listen(event string, l *clientListener) (off func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.any != nil {
		e.all = append(slices.Clip(e.all), l)
	} else {
		if e.byEvent == nil {
			e.byEvent = make(map[string][]*clientListener)
		}
		e.byEvent[event] = append(slices.Clip(e.byEvent[event]), l)
	}
	return func() {
		if l.off.Swap(true) {
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if l.any != nil {
			e.all = withoutListener(e.all, l)
		} else if rest := withoutListener(e.byEvent[event], l); len(rest) > 0 {
			e.byEvent[event] = rest
		} else {
			delete(e.byEvent, event)
		}
	}
}

// withoutListener copies list but for x.
func withoutListener[T comparable](list []T, x T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(y T) bool { return y == x })
}

// clientHooks are callbacks for one kind of thing.
type clientHooks[T any] struct {
	e    *clientEvents
	list []*clientHook[T] // never changed, only replaced; under e.mu
}

type clientHook[T any] struct {
	f   func(T)
	off atomic.Bool
}

func (h *clientHooks[T]) init(e *clientEvents) { h.e = e }

func (h *clientHooks[T]) add(f func(T)) (off func()) {
	hook := &clientHook[T]{f: f}
	h.e.mu.Lock()
	defer h.e.mu.Unlock()
	h.list = append(slices.Clip(h.list), hook)
	return func() {
		hook.off.Store(true)
		h.e.mu.Lock()
		defer h.e.mu.Unlock()
		h.list = withoutListener(h.list, hook)
	}
}

// call queues the callbacks that are there now.
func (h *clientHooks[T]) call(v T) {
	h.e.mu.Lock()
	list := h.list
	h.e.mu.Unlock()
	if len(list) > 0 {
		h.e.call(func() { runClientHooks(list, v) })
	}
}

// run runs them here, in the callback queue.
func (h *clientHooks[T]) run(v T) {
	h.e.mu.Lock()
	list := h.list
	h.e.mu.Unlock()
	runClientHooks(list, v)
}

func runClientHooks[T any](list []*clientHook[T], v T) {
	for _, hook := range list {
		if !hook.off.Load() {
			hook.f(v)
		}
	}
}

// clientStream is the queue of one iterator.
type clientStream struct {
	e     *clientEvents
	names []string // nil: all

	mu      sync.Mutex
	queue   []streamItem
	head    int
	used    int
	dropped uint64
	ended   bool
	wake    chan struct{}
}

// streamItem is an event, or where some were dropped.
type streamItem struct {
	msg  serializer.Message
	size int
	gap  int
}

func (e *clientEvents) stream(names []string) *clientStream {
	s := &clientStream{e: e, names: slices.Clone(names), wake: make(chan struct{}, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		s.ended = true
		return s
	}
	e.streams = append(slices.Clip(e.streams), s)
	return s
}

func (s *clientStream) put(m *serializer.Message, size int) {
	if len(s.names) > 0 && !slices.Contains(s.names, m.Event) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if s.used > 0 && s.used+size > s.e.max {
		s.dropped++
		s.e.total.Dropped.Add(1)
		if last := len(s.queue) - 1; last >= s.head && s.queue[last].gap > 0 {
			s.queue[last].gap++
			return
		}
		s.queue = append(s.queue, streamItem{gap: 1})
	} else {
		s.used += size
		s.e.total.Backlog.Add(1, size)
		s.queue = append(s.queue, streamItem{msg: *m, size: size})
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end lets the iterator finish what it has.
func (s *clientStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stop unsubscribes and forgets what is queued.
func (s *clientStream) stop() {
	s.e.mu.Lock()
	s.e.streams = withoutListener(s.e.streams, s)
	s.e.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, it := range s.queue[s.head:] {
		if it.gap == 0 {
			s.e.total.Backlog.Add(-1, -it.size)
		}
	}
	s.queue, s.head, s.used = nil, 0, 0
}

// next takes the next item without waiting. More reports whether there may be some later.
func (s *clientStream) next() (it streamItem, ok, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == len(s.queue) {
		return it, false, !s.ended
	}
	it = s.queue[s.head]
	s.queue[s.head] = streamItem{}
	s.head++
	switch {
	case s.head == len(s.queue) && s.head > 64:
		s.queue, s.head = nil, 0
	case s.head == len(s.queue):
		s.queue, s.head = s.queue[:0], 0
	case s.head >= 64 && s.head*2 >= len(s.queue):
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	if it.gap == 0 {
		s.used -= it.size
		s.e.total.Backlog.Add(-1, -it.size)
	}
	return it, true, true
}

func (s *clientStream) all(ctx context.Context) iter.Seq2[serializer.Message, error] {
	return func(yield func(serializer.Message, error) bool) {
		defer s.stop()
		for ctx.Err() == nil { // also if events go on coming
			it, ok, more := s.next()
			switch {
			case ok && it.gap > 0:
				if !yield(serializer.Message{}, &OverflowError{Topic: s.e.topic, Dropped: it.gap}) {
					return
				}
			case ok:
				if !yield(it.msg, nil) {
					return
				}
			case !more:
				return
			default:
				select {
				case <-s.wake:
				case <-s.e.gone:
					s.end()
				case <-ctx.Done():
				}
			}
		}
	}
}

func (s *clientStream) stats() ClientBacklog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ClientBacklog{Events: s.names, Count: len(s.queue) - s.head, Bytes: int64(s.used), Dropped: s.dropped}
}
