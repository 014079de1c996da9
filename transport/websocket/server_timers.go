package websocket

import (
	"math/bits"
	"sync"
	"time"
)

const (
	timerTick  = time.Millisecond // deadlines are rounded up to it
	wheelBits  = 8
	wheelSlots = 1 << wheelBits
	noTick     = 1<<64 - 1
)

// maxTimeout bounds the times of Config, so that adding one to a time does not overflow.
const maxTimeout = time.Duration(1 << 62)

// timers keeps the deadlines of all connections of a Server. A connection that has one needs no
// memory for it but two pointers, and the cost of setting or removing one does not depend on how
// many there are.
//
// It is a timing wheel with two levels of slots, which are lists of connections. A slot of the
// first level has the deadlines of one tick, and a slot of the second those of 256 ticks: when
// these begin, its connections move to the first level. Deadlines of more than 65 s wait in the
// last slot of the second level, again and again. One time.Timer is set to the next slot that has
// connections, so an idle server is not woken for each tick.
//
// The lock order is connection, timers, Server.
type timers struct {
	s    *Server
	fire func(*serverConn) // timedOut, called under no lock; it must not block

	mu      sync.Mutex
	levels  [2]wheelLevel
	count   int           // connections in slots
	start   time.Duration // when tick 0 began, by Server.now
	now     uint64        // no slot of an earlier tick has connections
	alarm   *time.Timer   // calls run; nil if no connection has a deadline; counts as live
	due     uint64        // the tick to which alarm was set last
	running bool          // run is at work, and sets alarm when it ends
}

// wheelLevel is one level of a timing wheel. Its slots have consecutive numbers, of which it uses
// the lowest bits.
type wheelLevel struct {
	slots [wheelSlots]*serverConn // each is the first of a list
	used  [wheelSlots / 64]uint64 // a bit for each slot: zero if it is empty
}

// set sets the deadline of c, rounded up to a tick. If c has one, it replaces it. The caller holds
// c.mu.
func (t *timers) set(c *serverConn, deadline time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlink(c)
	now := t.s.now()
	if t.alarm == nil {
		t.start, t.now = now, 0
	}
	n := t.tickAt(max(deadline, now) + timerTick - 1)
	c.deadline = t.start + time.Duration(n)*timerTick
	t.wake(t.insert(c))
}

// remove removes the deadline of c, if it has one.
func (t *timers) remove(c *serverConn) {
	t.mu.Lock()
	t.unlink(c)
	stopped := t.count == 0 && !t.running && t.alarm != nil && t.alarm.Stop()
	if stopped {
		t.alarm = nil
	}
	t.mu.Unlock()
	if stopped {
		t.s.removeLive(0)
	}
}

// tickAt returns the tick at a time of Server.now.
func (t *timers) tickAt(at time.Duration) uint64 { return uint64((at - t.start) / timerTick) }

// wake sets the alarm to tick n unless it is set to an earlier one, or run will set it. It never
// sets one that has rung, so no two calls of run overlap. The caller holds mu.
func (t *timers) wake(n uint64) {
	switch {
	case t.running, t.alarm != nil && n >= t.due:
		return
	case t.alarm != nil:
		if !t.alarm.Stop() {
			return // it has rung: run has not begun yet, and sets it when it ends
		}
		t.alarm.Reset(t.until(n))
	default:
		t.s.addLive(0)
		t.alarm = time.AfterFunc(t.until(n), t.run)
	}
	t.due = n
}

// until returns the time until tick n.
func (t *timers) until(n uint64) time.Duration {
	return t.start + time.Duration(n)*timerTick - t.s.now()
}

// run calls fire for the connections whose deadlines have passed, and sets the alarm again.
func (t *timers) run() {
	t.mu.Lock()
	t.running = true
	now := t.tickAt(t.s.now())
	next, level := t.next()
	for ; next <= now; next, level = t.next() {
		t.now = next
		if level == 1 {
			t.cascade(next)
			continue
		}
		c := t.levels[0].slots[next%wheelSlots]
		t.unlink(c)
		t.mu.Unlock()
		t.fire(c)
		t.mu.Lock()
	}
	t.running = false
	ended := next == noTick
	if ended {
		t.alarm = nil
	} else {
		t.due = next
		t.alarm.Reset(t.until(next))
	}
	t.mu.Unlock()
	if ended {
		t.s.removeLive(0)
	}
}

// next returns the tick of the first slot that has connections, or noTick, and the slot's level.
func (t *timers) next() (tick uint64, level int) {
	tick = t.levels[0].first(t.now)
	coarse := t.levels[1].first(t.now>>wheelBits + 1)
	if coarse != noTick && coarse<<wheelBits <= tick {
		return coarse << wheelBits, 1
	}
	return tick, 0
}

// cascade moves the connections of a slot of the second level, which begins at tick n.
func (t *timers) cascade(n uint64) {
	slot := &t.levels[1].slots[n>>wheelBits%wheelSlots]
	for c := *slot; c != nil; c = *slot {
		t.unlink(c)
		t.insert(c)
	}
}

// insert puts c into the slot of its deadline, or into one that is due earlier. It returns the tick
// at which that slot is due. The caller holds mu, and c is in no slot.
func (t *timers) insert(c *serverConn) (due uint64) {
	t.count++
	n := max(t.tickAt(c.deadline), t.now)
	if n-t.now < wheelSlots {
		t.levels[0].add(n, c)
		return n
	}
	n = min(n>>wheelBits, t.now>>wheelBits+wheelSlots-1)
	t.levels[1].add(n, c)
	return n << wheelBits
}

// unlink removes c from its slot, if it is in one. The caller holds mu.
func (t *timers) unlink(c *serverConn) {
	if c.link == nil {
		return
	}
	t.count--
	*c.link = c.later
	if c.later != nil {
		c.later.link = c.link
	}
	c.link, c.later = nil, nil
}

// add puts c into slot n.
func (l *wheelLevel) add(n uint64, c *serverConn) {
	i := n % wheelSlots
	l.used[i/64] |= 1 << (i % 64)
	slot := &l.slots[i]
	c.link, c.later = slot, *slot
	if c.later != nil {
		c.later.link = &c.later
	}
	*slot = c
}

// first returns the number of the first slot that has connections, or noTick. No slot before from
// has any.
func (l *wheelLevel) first(from uint64) uint64 {
	for n := from; n < from+wheelSlots; {
		i := n % wheelSlots
		word := l.used[i/64] >> (i % 64)
		if word == 0 {
			n += 64 - i%64
			continue
		}
		skip := uint64(bits.TrailingZeros64(word))
		n, i = n+skip, i+skip
		if l.slots[i] != nil {
			return n
		}
		l.used[i/64] &^= 1 << (i % 64) // all its connections were removed
	}
	return noTick
}
