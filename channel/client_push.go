package channel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// This file has the rules of clientStep about pushes.

// clientPush is a push, a join or a leave, with its handle.
type clientPush struct {
	handle  promise.Promise
	c       *Client
	event   string
	timeout time.Duration

	life uint64        // of a join: the number of its life; of a leave: that of the last one
	done chan struct{} // of a join: closed at the end of its life

	// Used by the rules only.
	ref    uint64 // zero if it was not sent
	unsent bool   // certainly not passed to the network
	isNow  bool   // from PushNow

	pushIO
}

func (m *clientMachine) pushCalled(p *clientPush) {
	switch {
	case m.join == nil:
		m.fail(p, ErrNotJoined)
	case m.over:
		m.fail(p, m.closedBy(m.cause))
	case m.status == StateLeaving && m.next == nil:
		m.fail(p, m.closedBy(ErrLeft))
	case m.status == StateJoined && !m.again:
		m.send(p)
	default:
		m.buffer = append(m.buffer, p)
		m.add(clientOutput{kind: outArm, timer: timerPush, push: p})
	}
}

// send assigns the ref of a push, starts or restarts its timeout, and sends it.
func (m *clientMachine) send(p *clientPush) {
	p.ref = m.refs()
	if m.flight == nil {
		m.flight = make(map[uint64]*clientPush)
	}
	m.flight[p.ref] = p
	m.peak = max(m.peak, len(m.flight))
	m.add(clientOutput{kind: outArm, timer: timerPush, push: p})
	m.add(clientOutput{kind: outSend, push: p, ref: p.ref, joinRef: m.joinRef, event: p.event})
}

// clientFlightKept is the number of pushes for which an empty flight keeps its memory.
const clientFlightKept = 64

// removeInFlight removes a push from flight. Maps do not shrink, so a large one is replaced when
// empty.
func (m *clientMachine) removeInFlight(ref uint64) {
	delete(m.flight, ref)
	if len(m.flight) == 0 && m.peak > clientFlightKept {
		m.flight, m.peak = nil, 0
	}
}

// remove removes a push from flight or the buffer, and reports whether it was there.
func (m *clientMachine) remove(p *clientPush) bool {
	if p.ref != 0 && m.flight[p.ref] == p {
		m.removeInFlight(p.ref)
		return true
	}
	i := slices.Index(m.buffer, p)
	if i < 0 {
		return false
	}
	if i == 0 {
		m.buffer[0] = nil
		m.buffer = m.buffer[1:]
	} else {
		m.buffer = slices.Delete(m.buffer, i, i+1)
	}
	return true
}

// failInFlight fails the pushes in flight. Those that were not sent go to the front of the buffer.
func (m *clientMachine) failInFlight(err error) {
	var back []*clientPush
	for _, p := range m.inFlight() {
		m.removeInFlight(p.ref)
		if p.unsent && !p.isNow {
			p.ref, p.unsent = 0, false
			back = append(back, p)
			continue
		}
		m.fail(p, p.lost(err))
	}
	if len(back) > 0 {
		m.buffer = append(back, m.buffer...)
	}
}

func (m *clientMachine) inFlight() []*clientPush {
	if len(m.flight) == 0 {
		return nil
	}
	list := make([]*clientPush, 0, len(m.flight))
	for _, ref := range slices.Sorted(maps.Keys(m.flight)) {
		list = append(list, m.flight[ref])
	}
	return list
}

func (m *clientMachine) failBuffer(cause error) {
	for _, p := range m.buffer {
		m.fail(p, m.closedBy(cause))
	}
	m.buffer = nil
}

func (m *clientMachine) fail(p *clientPush, err error) {
	m.add(clientOutput{kind: outAnswer, push: p, answer: failed(m.wrap(p, err))})
}

func (m *clientMachine) wrap(p *clientPush, err error) error { return p.wrap(m.topic, err) }

// wrap adds the event and the topic to err.
func (p *clientPush) wrap(topic string, err error) error {
	switch p.event {
	case serializer.EventJoin:
		return fmt.Errorf("channel: join %s: %w", topic, err)
	case serializer.EventLeave:
		return fmt.Errorf("channel: leave %s: %w", topic, err)
	}
	return fmt.Errorf("channel: push %s to %s: %w", p.event, topic, err)
}

// failed returns the result of a push that gets no reply, because of err.
func failed(err error) promise.Result {
	if errors.Is(err, push.ErrTimeout) {
		return promise.Result{Status: push.StatusTimeout, Err: err}
	}
	reason := serializer.Value(map[string]string{"reason": err.Error()})
	return promise.Result{Status: push.StatusFailed, Payload: reason, Err: err}
}
