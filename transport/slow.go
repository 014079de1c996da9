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

// Delivery says how a frame goes to a client that reads too slowly.
//
// A queue has two budgets of MaxQueue bytes. One is for what others send to the client: broadcasts and the server's pushes. The policy
// determines what happens beyond it. The other is for what the client's own messages cause: answers, and pushes and broadcasts made while
// one of its messages is handled. Beyond half of it the client's messages are not read, see [Conn], so that a client's own messages never
// end its connection.
type Delivery struct {
	Policy SlowPolicy
	Key    Key // of KeepLatest

	// Answer marks replies and lifecycle events: each goes into the client's own budget, which it may exceed, whatever the policy.
	Answer bool
	// Caused marks a frame that the client's own message caused. It goes into the client's own budget if it fits there and the policy is
	// neither DropOldest nor DropNewest.
	Caused bool
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
	e.own = how.Answer || how.Caused && e.policy != DropOldest && e.policy != DropNewest
	return e
}

// congests reports whether so many bytes of the client's own budget are used that its messages should not be read.
func (s *slowness) congests(own int) bool { return own > s.max/2 }

// drained reports whether so few bytes of it are used that a client that was not read is read again.
func (s *slowness) drained(own int) bool { return own <= s.max/4 }

type admission uint8

const (
	admitted admission = iota // push it
	refused                   // it was dropped
	overrun                   // its connection is to end
)

// admit makes room for e in q, by e's policy. Of what q holds, neither the client's own budget nor another free bytes count. A frame of any
// size fits where nothing counts. A frame that the client caused and that does not fit in its own budget is moved to the other one.
func (s *slowness) admit(q *frameQueue, e *entry, answer bool, free int) admission {
	if e.key != (Key{}) && q.conflate(e.key) {
		s.conflated.Add(1)
	}
	if e.own {
		if answer || q.own+e.cost() <= s.max {
			return admitted
		}
		e.own = false
	}
	held := q.used - q.own - free
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
