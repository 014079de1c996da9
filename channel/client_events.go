package channel

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/backlog"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/listeners"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/streamset"
	"bennu.example/serializer"
)

// eventOverhead is the size in bytes of an event in a backlog without its payload.
const eventOverhead = 128

// OverflowError reports that events were dropped because a backlog was full. It takes their place
// in the order of events: an iterator yields it, and for callbacks the functions of OnError are
// called with it. The channel is not affected otherwise.
type OverflowError struct {
	Topic   string // empty in a stream of the changes of all channels
	Dropped int
}

func (e *OverflowError) Error() string {
	if e.Topic == "" {
		return fmt.Sprintf("channel: %d changes dropped: backlog is full", e.Dropped)
	}
	return fmt.Sprintf("channel: %s: %d events dropped: backlog is full", e.Topic, e.Dropped)
}

// clientEvents holds the listeners of a client's channel and the queues between them and the loop:
// one for all callbacks, and one for each stream.
type clientEvents struct {
	topic string
	max   int // size of each backlog in bytes
	total *clientlink.Totals
	gone  <-chan struct{} // closed with the socket, which does not notify channels that were never joined

	callbacks mailbox.Mailbox[clientItem]
	backlog   clientlink.Gauge // the events in callbacks
	oldest    atomic.Int64     // when the event that is being handled, or is the first, was enqueued
	dropped   atomic.Uint64
	gap       *OverflowError // the last item in callbacks, if it is an overflow; guarded by mu

	onJoin  listeners.List[serializer.Payload]
	onError listeners.List[error]
	onClose listeners.List[error]
	all     listeners.List[serializer.Message]

	mu       sync.Mutex // acquired before the mutex of a list or of a stream
	byEvent  map[string]*listeners.List[serializer.Payload]
	streams  []eventStream          // never modified, only replaced
	changes  *streamset.Set[Change] // nil until needed
	attached bool                   // the streams count in total
	closed   bool                   // the life has ended
	life     uint64                 // the number of the last Join

	drained func() // called after an event left a queue
}

// clientItem is an item of the callback queue: an event with its listeners, or another function.
type clientItem struct {
	place   *recordPlace // nil unless the event is a record
	byEvent listeners.Snapshot[serializer.Payload]
	all     listeners.Snapshot[serializer.Message]
	payload serializer.Payload  // for byEvent
	msg     *serializer.Message // for all; nil if there are none
	size    int
	at      time.Duration // when the event was enqueued, by backlog.Now
	call    func()
}

func (e *clientEvents) init(topic string, max int, socket clientlink.Socket, drained func()) {
	e.drained = drained
	e.topic, e.max, e.total, e.gone = topic, max, socket.Total(), socket.Done()
	e.callbacks.Init(math.MaxInt, clientlink.Callbacks(e.dispatch)) // backlog bounds the events
}

// dispatch calls the callbacks of one item.
func (e *clientEvents) dispatch(it clientItem) {
	defer e.total.Running.Done()
	if it.call != nil {
		it.call()
		return
	}
	e.oldest.Store(int64(it.at))
	defer func() {
		if it.place != nil {
			it.place.h.end()
		}
		e.backlog.Add(-1, -it.size)
		e.total.Backlog.Add(-1, -it.size)
		e.drained()
	}()
	if it.place != nil {
		it.place.h.begin(it.place.pos)
	}
	it.byEvent.Notify(it.payload)
	if len(it.all) > 0 {
		it.all.Notify(*it.msg)
	}
}

// enqueue enqueues a function that is not an event's.
func (e *clientEvents) enqueue(f func()) {
	e.total.Running.Add()
	if e.callbacks.Enqueue(clientItem{call: f}, 0) != nil {
		e.total.Running.Done()
	}
}

// notify enqueues calls of the functions that are in list now.
func notify[T any](e *clientEvents, list *listeners.List[T], v T) {
	if now := list.Snapshot(); len(now) > 0 {
		e.enqueue(func() { now.Notify(v) })
	}
}

// enqueueEvent enqueues an event for the callbacks and iterators that want it. It runs on the loop
// and never waits: if a backlog is full, the event is dropped there. A record, which has a place,
// is then dropped everywhere, and enqueueEvent returns false.
func (c *Client) enqueueEvent(m *serializer.Message, place *recordPlace) bool {
	e := &c.events
	msg := *m
	if isNullClientRef(msg.JoinRef) { // so that listeners can tell the joins of the channel apart
		msg.JoinRef = c.joinRef(c.state.joinRef)
	}
	size := eventSize(m)
	e.mu.Lock()
	defer e.mu.Unlock()
	if place != nil && !e.hasRoom(&msg, size) {
		return false
	}
	wanted := false
	for i := range e.streams {
		if s := &e.streams[i]; s.wants(msg.Event) {
			s.put(&msg, size, place)
			wanted = true
		}
	}
	var byEvent listeners.Snapshot[serializer.Payload]
	if list := e.byEvent[msg.Event]; list != nil {
		byEvent = list.Snapshot()
	}
	all := e.all.Snapshot()
	if len(byEvent) == 0 && len(all) == 0 {
		if !wanted {
			e.arrived(size)
		}
		return true
	}
	if !e.callbacksHaveRoom(size) {
		e.overflow()
		return true
	}
	if place != nil {
		place.h.expectRecord()
	}
	e.gap = nil
	now := backlog.Now()
	if n, _ := e.backlog.Load(); n == 0 {
		e.oldest.Store(int64(now))
	}
	e.backlog.Add(1, size)
	e.total.Backlog.Add(1, size)
	e.arrived(size)
	e.total.Running.Add()
	it := clientItem{place: place, byEvent: byEvent, all: all, payload: msg.Payload, size: size, at: now}
	if len(all) > 0 {
		whole := msg // so that only this case allocates
		it.msg = &whole
	}
	if e.callbacks.Enqueue(it, size) != nil {
		e.total.Running.Done()
	}
	return true
}

// arrived counts an event for the socket's Progress. It runs on the loop.
func (e *clientEvents) arrived(size int) {
	e.total.Events.Count++
	e.total.Events.Bytes += int64(size)
}

// eventSize returns the size of an event in a backlog.
func eventSize(m *serializer.Message) int { return eventOverhead + len(m.Payload.Bytes()) }

func (e *clientEvents) callbacksHaveRoom(size int) bool {
	_, used := e.backlog.Load()
	return used == 0 || used+int64(size) <= int64(e.max)
}

// hasRoom reports whether every backlog whose listeners want an event has room for it. The caller
// must hold mu.
func (e *clientEvents) hasRoom(m *serializer.Message, size int) bool {
	for i := range e.streams {
		if s := &e.streams[i]; s.wants(m.Event) && !s.queue.HasRoom(size) {
			return false
		}
	}
	return e.callbacksHaveRoom(size)
}

// isDrained reports whether every backlog is at most half full, and has room for an event.
func (e *clientEvents) isDrained(size int) bool {
	size = max(size, e.max/2)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.streams {
		if !e.streams[i].queue.HasRoom(size) {
			return false
		}
	}
	return e.callbacksHaveRoom(size)
}

// overflow counts an event that does not fit in the backlog of the callbacks. The caller must
// hold mu.
func (e *clientEvents) overflow() {
	e.dropped.Add(1)
	e.total.Dropped.Add(1)
	if e.gap != nil {
		e.gap.Dropped++
		return
	}
	gap := &OverflowError{Topic: e.topic, Dropped: 1}
	e.gap = gap
	e.enqueue(func() {
		e.mu.Lock()
		err := *gap
		if e.gap == gap {
			e.gap = nil
		}
		e.mu.Unlock()
		e.onError.Notify(&err)
	})
}

// endLife drains the streams of a life. If Join was called since, they were drained then, and the
// present ones belong to another life.
func (e *clientEvents) endLife(life uint64) {
	e.mu.Lock()
	var ended lifeStreams
	if e.life == life {
		ended = e.takeStreams()
		e.closed, e.attached = true, false
	}
	e.mu.Unlock()
	ended.drain()
}

// beginLife drains the streams of earlier lives, unless the last one did not begin. Those that
// follow belong to this life.
func (e *clientEvents) beginLife(life uint64, isFresh bool) {
	e.mu.Lock()
	var ended lifeStreams
	if e.life < life {
		if !isFresh {
			ended = e.takeStreams()
		}
		e.life, e.closed = life, false
	}
	e.mu.Unlock()
	ended.drain()
}

// lifeStreams are the streams of one life.
type lifeStreams struct {
	events  []eventStream
	changes *streamset.Set[Change] // may be nil
}

// takeStreams removes all streams. The caller holds mu, and must drain them without it.
func (e *clientEvents) takeStreams() lifeStreams {
	l := lifeStreams{e.streams, e.changes}
	e.streams, e.changes = nil, nil
	if e.attached {
		e.total.Streams.Add(-int64(len(l.events)))
	}
	return l
}

func (l lifeStreams) drain() {
	for _, s := range l.events {
		s.queue.Drain()
	}
	if l.changes != nil {
		l.changes.End()
	}
}

// listen adds f to the listeners of an event.
func (e *clientEvents) listen(event string, f func(serializer.Payload)) (off func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.byEvent[event]
	if list == nil {
		list = new(listeners.List[serializer.Payload])
		if e.byEvent == nil {
			e.byEvent = make(map[string]*listeners.List[serializer.Payload])
		}
		e.byEvent[event] = list
	}
	remove := list.Add(f)
	return func() {
		remove()
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.byEvent[event] == list && len(list.Snapshot()) == 0 {
			delete(e.byEvent, event)
		}
	}
}
