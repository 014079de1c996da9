package transport

import (
	"sync/atomic"
	"unique"

	"bennu.example/serializer"
)

// SlowPolicy says what happens to a frame, or for its sake, when its client does not read as fast as it is sent to. A client of which MaxQueue
// bytes wait is one whose queue is full.
type SlowPolicy uint8

const (
	// Disconnect never drops the frame: if it finds no room then the connection ends with code 1013. The client reconnects, joins again and
	// starts from fresh state. So go replies and lifecycle events, always.
	Disconnect SlowPolicy = iota
	// DropOldest drops the frame, the one that has waited longest first, when any other but one of DropNewest needs its room.
	DropOldest
	// DropNewest drops the frame if it finds no room.
	DropNewest
	// KeepLatest drops the frame as soon as another of its Key comes, if it still waits then, whether or not the queue is full. The newest
	// of a key is never dropped; otherwise as Disconnect. It is no policy for a whole connection.
	KeepLatest
	// Inherit is the connection's policy. It is no policy for a connection.
	Inherit
)

// Delivery says how a frame goes to a client that reads too slowly. The zero Delivery is that of replies and lifecycle events.
type Delivery struct {
	Policy SlowPolicy
	Key    Key // of KeepLatest
}

// Key names what a frame tells the latest of. It is comparable. The zero Key is none: a frame without one makes no other obsolete.
type Key struct{ h unique.Handle[keyParts] }

type keyParts struct{ topic, event, of string }

// NewKey is the key of an event on a topic, and of what in particular: a user's id, say, or "". It is made once for a frame, not for each client.
func NewKey(topic, event, of string) Key { return Key{unique.Make(keyParts{topic, event, of})} }

// slowness is what one end does about clients that read too slowly, and the counts of it.
type slowness struct {
	max    int        // bytes in a queue
	policy SlowPolicy // for Inherit

	dropped, conflated, ended atomic.Uint64
}

// entry is f as it waits in a queue.
func (s *slowness) entry(f *serializer.Frame, how Delivery) entry {
	e := entry{frame: f, policy: how.Policy}
	switch how.Policy {
	case Inherit:
		e.policy = s.policy
	case KeepLatest:
		e.key = how.Key
	}
	return e
}

type admission uint8

const (
	admitted admission = iota // push it
	refused                   // it was dropped
	overrun                   // its connection is to end
)

// admit makes room for e in q, by e's policy. Of what q holds, free bytes do not count. A frame of any size fits where nothing counts.
func (s *slowness) admit(q *frameQueue, e entry, free int) admission {
	if e.key != (Key{}) && q.conflate(e.key) {
		s.conflated.Add(1)
	}
	held := q.used - free
	over := held + e.cost() - s.max
	if over <= 0 || held == 0 {
		return admitted
	}
	if e.policy != DropNewest {
		n, roomy := q.dropOldest(over)
		s.dropped.Add(uint64(n))
		if roomy {
			return admitted
		}
	}
	if e.policy == DropOldest || e.policy == DropNewest {
		s.dropped.Add(1)
		return refused
	}
	s.ended.Add(1)
	return overrun
}
