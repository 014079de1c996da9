package pubsub

import (
	"context"
	"sync"
	"sync/atomic"

	"bennu.example/history"
	"bennu.example/serializer"
)

// Broadcast is an event for all subscribers of a topic. They share it, so it must not be changed or
// copied.
type Broadcast struct {
	Topic   string
	Event   string
	Payload serializer.Payload

	// The record, if the broadcast is one. It is set before the delivery, but after the preparers were
	// called.
	record *history.Record

	// The record before a broadcast that is not recorded itself, if it comes from or goes to other
	// nodes.
	after *history.Position

	origin *origin // nil if there were no hooks when the broadcast began

	// The frames encoded so far, one for each form and serializer, as a list that only grows. It is
	// read without the lock.
	first atomic.Pointer[encoding]
	mu    sync.Mutex

	attached atomic.Pointer[any] // see Attach
}

type encoding struct {
	by    serializer.Serializer
	form  form
	frame *serializer.Frame
	err   error
	next  atomic.Pointer[encoding]
}

// form is what is encoded of a broadcast.
type form uint8

const (
	formPlain      form = iota
	formPositioned      // the payload has the position
	formMarker          // only the position is sent
)

// The event that moves the position of a client without another event.
const eventHistory = "$history"

// Record returns the record of a recorded broadcast, which must not be changed. It returns nil for
// any other broadcast.
func (b *Broadcast) Record() *history.Record { return b.record }

// Context returns the context that the hooks made for the broadcast: see Hooks. It returns nil if
// there are no hooks.
func (b *Broadcast) Context() context.Context {
	if b.origin == nil {
		return nil
	}
	return b.origin.ctx
}

// Attach returns the value that is attached to the broadcast, which all subscribers of a node
// share. The first call makes it. It is for package channel; it is not covered by the compatibility
// promise.
func (b *Broadcast) Attach(create func() any) any {
	if v := b.attached.Load(); v != nil {
		return *v
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.attached.Load()
	if v == nil {
		created := create()
		v = &created
		b.attached.Store(v)
	}
	return *v
}

// Frame returns the broadcast encoded by s. It is encoded once for each serializer and then shared.
func (b *Broadcast) Frame(s serializer.Serializer) (*serializer.Frame, error) {
	return b.frame(s, formPlain)
}

// PositionedFrame is Frame with the position of the record in the payload. A binary payload has no
// place for it: it is the frame of Frame. It is for package channel; it is not covered by the
// compatibility promise.
func (b *Broadcast) PositionedFrame(s serializer.Serializer) (*serializer.Frame, error) {
	if b.Payload.IsBinary() {
		return b.frame(s, formPlain)
	}
	return b.frame(s, formPositioned)
}

// MarkerFrame returns the frame of an event that has only the position of the record. It is for
// package channel; it is not covered by the compatibility promise.
func (b *Broadcast) MarkerFrame(s serializer.Serializer) (*serializer.Frame, error) {
	return b.frame(s, formMarker)
}

func (b *Broadcast) frame(s serializer.Serializer, form form) (*serializer.Frame, error) {
	if e, _ := b.find(s, form); e != nil {
		return e.frame, e.err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e, last := b.find(s, form)
	if e != nil {
		return e.frame, e.err
	}
	e = &encoding{by: s, form: form}
	m := serializer.Message{Kind: serializer.KindBroadcast, Topic: b.Topic, Event: b.Event, Payload: b.Payload}
	switch form {
	case formPositioned:
		m.Payload = b.Payload.WithPosition(&b.record.Position)
	case formMarker:
		m.Event, m.Payload = eventHistory, serializer.Payload{}.WithPosition(&b.record.Position)
	}
	e.frame, e.err = serializer.Encode(s, &m)
	if last == nil {
		b.first.Store(e)
	} else {
		last.next.Store(e)
	}
	return e.frame, e.err
}

// find returns an encoding, or nil and the last one.
func (b *Broadcast) find(s serializer.Serializer, form form) (found, last *encoding) {
	for e := b.first.Load(); e != nil; last, e = e, e.next.Load() {
		if e.form == form && e.by == s {
			return e, nil
		}
	}
	return nil, last
}
