package pubsub

import (
	"sync"
	"sync/atomic"

	"bennu.example/serializer"
)

// Broadcast is one event for everyone on a topic. It is shared by all its subscribers: nobody changes it, and it is not copied.
type Broadcast struct {
	Topic   string
	Event   string
	Payload serializer.Payload

	// The frames made so far, one per serializer. Nearly every topic has subscribers of one version only, hence the first in front.
	first atomic.Pointer[encoding]
	mu    sync.Mutex
	more  []*encoding
}

type encoding struct {
	by    serializer.Serializer
	frame *serializer.Frame
	err   error
}

// Frame is the broadcast in the form of a serializer, made when it is first asked for and shared from then on.
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
