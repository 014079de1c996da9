package pubsub

import (
	"reflect"
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

	kept atomic.Pointer[kept]
}

// kept is what a Preparer worked out, in a list.
type kept struct {
	by, value any
	next      *kept
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

// Keep leaves with the broadcast what by worked out of it, for Kept. It is for a Preparer. What is left by who cannot be compared is not kept.
func (b *Broadcast) Keep(by, value any) {
	if by != nil && !reflect.ValueOf(by).Comparable() {
		return
	}
	for {
		k := &kept{by, value, b.kept.Load()}
		if b.kept.CompareAndSwap(k.next, k) {
			return
		}
	}
}

// Kept is what by left with the broadcast, or nil.
func (b *Broadcast) Kept(by any) any {
	for k := b.kept.Load(); k != nil; k = k.next {
		if k.by == by {
			return k.value
		}
	}
	return nil
}
