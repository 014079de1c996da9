package outbox

import (
	"sync/atomic"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// slowness is what one end does about clients that read too slowly, and the counts of it.
type Policy struct {
	Max     int                  // bytes in a queue
	Default transport.SlowPolicy // for Inherit

	Dropped, Conflated, Ended atomic.Uint64
}

// entry is f as it waits in a queue.
func (s *Policy) Entry(f *serializer.Frame, how transport.Delivery) Entry {
	e := Entry{Frame: f, policy: how.Policy}
	switch how.Policy {
	case transport.Inherit:
		e.policy = s.Default
	case transport.KeepLatest:
		e.key = how.Key
	}
	e.own = how.Answer || how.Caused && e.policy != transport.DropOldest && e.policy != transport.DropNewest
	return e
}

// congests reports whether so many bytes of the client's own budget are used that its messages should not be read.
func (s *Policy) Congests(own int) bool { return own > s.Max/2 }

// drained reports whether so few bytes of it are used that a client that was not read is read again.
func (s *Policy) Drained(own int) bool { return own <= s.Max/4 }

type admission uint8

const (
	admitted admission = iota // push it
	Refused                   // it was dropped
	Overrun                   // its connection is to end
)

// admit makes room for e in q, by e's policy. Of what q holds, neither the client's own budget nor another free bytes count. A frame of any
// size fits where nothing counts. A frame that the client caused and that does not fit in its own budget is moved to the other one.
func (s *Policy) Admit(q *Queue, e *Entry, answer bool, free int) admission {
	if e.key != (transport.Key{}) && q.conflate(e.key) {
		s.Conflated.Add(1)
	}
	if e.own {
		if answer || q.Own+e.cost() <= s.Max {
			return admitted
		}
		e.own = false
	}
	held := q.used - q.Own - free
	over := held + e.cost() - s.Max
	if over <= 0 || held == 0 {
		return admitted
	}
	if e.policy != transport.DropNewest {
		n, roomy := q.dropOldest(over)
		s.Dropped.Add(uint64(n))
		if roomy {
			return admitted
		}
	}
	if e.policy == transport.DropOldest || e.policy == transport.DropNewest {
		s.Dropped.Add(1)
		return Refused
	}
	s.Ended.Add(1)
	return Overrun
}
