package outbox

import (
	"cmp"
	"sync/atomic"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// Policy is the policy of one server for clients that read too slowly, with counts of its effects.
// Max, Default and OnDrop are set before the first use. Its methods may be called from any
// goroutine; the caller holds the lock of the queue that it passes.
type Policy struct {
	Max     int                  // bytes in each budget of a queue
	Default transport.SlowPolicy // for Inherit; Inherit here means Disconnect

	OnDrop func() // called when a count has changed, under the queue's lock; nil means nobody

	Dropped   atomic.Uint64 // frames dropped by DropOldest or DropNewest
	Conflated atomic.Uint64 // frames dropped for a newer one of their key
	Ended     atomic.Uint64 // connections ended because the client was too slow
}

// Entry returns the queue entry for f.
func (s *Policy) Entry(f *serializer.Frame, how transport.Delivery) Entry {
	e := Entry{Frame: f, own: how.Answer && !how.IfRoom, ifRoom: how.IfRoom, policy: transport.Disconnect}
	if how.Answer || how.IfRoom {
		return e
	}
	e.policy = cmp.Or(how.Policy, s.Default, transport.Disconnect)
	if e.policy == transport.KeepLatest {
		e.key = how.Key
	}
	e.own = how.Caused && e.policy != transport.DropOldest && e.policy != transport.DropNewest
	return e
}

// Congests reports whether so many bytes of the client's own budget are in use that the client's
// messages must not be read.
func (s *Policy) Congests(own int) bool { return own > s.Max/2 }

// ResumesReading reports whether so few bytes of the client's own budget are in use that reading
// resumes.
func (s *Policy) ResumesReading(own int) bool { return own <= s.Max/4 }

// HasRoom reports whether so little waits in q that the sender of a frame of Delivery.IfRoom may
// try again. The client's own budget does not count. A frame of any size has room then: if it had
// to wait for an empty queue, its sender would be called again and again. Nil means an empty queue.
func (s *Policy) HasRoom(q *Queue) bool {
	return q == nil || q.bytes == q.OwnBytes || q.bytes-q.OwnBytes < s.Max/4
}

// Admission is the result of Admit.
type Admission uint8

const (
	Admitted Admission = iota // the caller must enqueue the entry
	Dropped                   // the entry was dropped
	Overflow                  // the caller must end the connection
	NoRoom                    // the entry may be sent later; nothing was changed
)

// Admit makes room for e in q, by e's policy. The caller then acts on the result.
//
// Of the bytes in q, those of the client's own budget do not count, nor do another free bytes. A
// frame of any size fits if nothing counts. A frame that the client caused, and that does not fit
// in the client's own budget, is charged to the other budget.
func (s *Policy) Admit(q *Queue, e *Entry, answer bool, free int) Admission {
	if e.ifRoom {
		waits := q.bytes - q.OwnBytes
		if s.HasRoom(q) || waits < s.Max/2 && e.cost() <= s.Max/2 {
			return Admitted
		}
		return NoRoom
	}
	if e.key != (transport.Key{}) && q.conflate(e.key) {
		s.count(&s.Conflated, 1)
	}
	if e.own {
		if answer || q.OwnBytes+e.cost() <= s.Max {
			return Admitted
		}
		e.own = false
	}
	held := q.bytes - q.OwnBytes - free
	over := held + e.cost() - s.Max
	if over <= 0 || held == 0 {
		return Admitted
	}
	if e.policy != transport.DropNewest {
		n, fits := q.dropOldest(over)
		s.count(&s.Dropped, n)
		if fits {
			return Admitted
		}
	}
	if e.policy == transport.DropOldest || e.policy == transport.DropNewest {
		s.count(&s.Dropped, 1)
		return Dropped
	}
	s.count(&s.Ended, 1)
	return Overflow
}

// count adds n to one of the counts.
func (s *Policy) count(c *atomic.Uint64, n int) {
	if n == 0 {
		return
	}
	c.Add(uint64(n))
	if s.OnDrop != nil {
		s.OnDrop()
	}
}
