package pubsub

import (
	"sync"
	"sync/atomic"

	"bennu.example/serializer"
)

// Broadcast is an event for all subscribers of a topic. They share it, so it must not be changed or
// copied.
type Broadcast struct {
	Topic   string
	Event   string
	Payload serializer.Payload

	// The frames encoded so far, one for each serializer. On nearly every topic all subscribers use
	// the same serializer, so the first frame can be read without the lock.
	first atomic.Pointer[encoding]
	mu    sync.Mutex
	more  []*encoding
}

type encoding struct {
	by    serializer.Serializer
	frame *serializer.Frame
	err   error
}

// Frame returns the broadcast encoded by s. It is encoded once for each serializer and then shared.
func (b *Broadcast) Frame(s serializer.Serializer) (*serializer.Frame, error) {
	if e := b.first.Load(); e != nil && e.by == s {
		return e.frame, e.err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.first.Load(); e != nil && e.by == s {
		return e.frame, e.err
	}
	for _, e := range b.more {
		if e.by == s {
			return e.frame, e.err
		}
	}
	e := &encoding{by: s}
	e.frame, e.err = serializer.Encode(s, &serializer.Message{
		Kind: serializer.KindBroadcast, Topic: b.Topic, Event: b.Event, Payload: b.Payload,
	})
	if b.first.Load() == nil {
		b.first.Store(e)
	} else {
		b.more = append(b.more, e)
	}
	return e.frame, e.err
}
