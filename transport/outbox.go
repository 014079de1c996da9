package transport

import (
	"sync/atomic"

	"bennu.example/serializer"
)

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
