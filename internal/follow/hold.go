package follow

import (
	"time"

	"bennu.example/history"
)

// Bounds for messages that wait for records. Beyond them, messages are delivered without waiting.
const (
	maxHeld     = 256
	maxHeldSize = 1 << 20
	maxHeldTime = time.Second
)

// holding is the queue of messages that follow a record which has not arrived yet. It is guarded by
// order.
type holding[B any] struct {
	messages []heldMessage[B]
	size     int
	timer    *time.Timer
}

type heldMessage[B any] struct {
	after history.Position
	until time.Time
	size  int
	d     Delivery[B]
}

func (h *holding[B]) isEmpty() bool { return len(h.messages) == 0 }

// isDue reports whether the first message may be delivered: because the topic is at cursor, or
// because it has waited until now.
func (h *holding[B]) isDue(cursor history.Position, now time.Time) bool {
	return len(h.messages) > 0 && (reached(cursor, h.messages[0].after) || !now.Before(h.messages[0].until))
}

func (h *holding[B]) pop() Delivery[B] {
	m := h.messages[0]
	h.messages[0] = heldMessage[B]{}
	h.messages = h.messages[1:]
	h.size -= m.size
	if len(h.messages) == 0 {
		h.messages = nil
		h.timer.Stop()
	}
	return m.d
}

func (h *holding[B]) drop() {
	h.messages, h.size = nil, 0
	if h.timer != nil {
		h.timer.Stop()
	}
}

// DeliverAfter delivers a message that is not a record, and that was sent after the record at a
// position. If the topic has not reached the position yet, the message waits for it, but at most
// for a second.
func (t *Topic[B]) DeliverAfter(after history.Position, size int, d Delivery[B]) {
	t.order.Lock()
	defer t.Unlock()
	for !t.held.isEmpty() && (len(t.held.messages) >= maxHeld || t.held.size+size > maxHeldSize) {
		t.deliverHeld()
	}
	if t.held.isEmpty() && (!t.started || reached(t.cursor, after) || size > maxHeldSize) {
		t.deliverMessage(d)
		return
	}
	t.held.messages = append(t.held.messages, heldMessage[B]{after, time.Now().Add(maxHeldTime), size, d})
	t.held.size += size
	switch {
	case len(t.held.messages) > 1:
	case t.held.timer == nil:
		t.held.timer = time.AfterFunc(maxHeldTime, t.deliverLate)
	default:
		t.held.timer.Reset(maxHeldTime)
	}
	t.expect(after)
	t.repair(feedDelay)
}

// deliverMessage delivers a message that is not a record. The caller must hold order.
func (t *Topic[B]) deliverMessage(d Delivery[B]) {
	t.finished = append(t.finished, d) // first, because a subscriber may end its goroutine
	d.Deliver(t)
}

// deliverHeld delivers the first message that waits. The caller must hold order.
func (t *Topic[B]) deliverHeld() { t.deliverMessage(t.held.pop()) }

// deliverLate delivers the messages that have waited long enough.
func (t *Topic[B]) deliverLate() {
	t.order.Lock()
	defer t.Unlock()
	now := time.Now()
	for t.held.isDue(t.cursor, now) {
		t.deliverHeld()
	}
	if !t.held.isEmpty() {
		t.held.timer.Reset(t.held.messages[0].until.Sub(now))
	}
}
