package channel

import (
	"fmt"

	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// This file has the rules of clientStep about the lives of a channel. A life goes from a Join to
// StateClosed. A Join while the channel is leaving begins the next life when the leave has ended.
// Lives are numbered from 1: a Leave of an earlier life has no effect on a later one, in whichever
// order concurrent calls arrive.

// isLive reports whether a life has begun and not ended.
func (m *clientState) isLive() bool { return m.join != nil && !m.over }

// wants reports whether a Join begins a life, now or later.
func (m *clientState) wants(p *clientPush) bool { return !m.dead && p.life > m.leftTo && m.next == nil }

func (m *clientMachine) joinCalled(p *clientPush) {
	switch {
	case m.dead:
		m.cancelLife(p, m.cause)
	case p.life <= m.leftTo:
		m.cancelLife(p, ErrLeft)
	case m.next != nil:
		m.cancelLife(p, ErrDuplicate)
	case m.isLive(): // it is being left, or the Leave follows
		m.next = p
	default:
		m.beginLife(p)
	}
}

// beginLife begins a life. All pushes of earlier ones were answered: the buffer has only pushes
// that were made after Join.
func (m *clientMachine) beginLife(p *clientPush) {
	m.life, m.join, m.answered = p.life, p, false
	m.over, m.gaveUp, m.isExpired, m.tries = false, false, false, 0
	m.begin()
}

// cancelLife ends a life that has not begun.
func (m *clientMachine) cancelLife(p *clientPush, cause error) {
	if cause != ErrDuplicate {
		cause = m.closedBy(cause)
	}
	m.add(clientOutput{kind: outCanceled, push: p})
	m.fail(p, cause)
}

// leaveCalled sends phx_leave if the server knows the channel. The channel is left when the
// server replies or the leave times out, whereas phoenix.js closes it immediately. So earlier
// pushes are still answered. Pushes that were not sent yet fail, and so does a Join that waits.
func (m *clientMachine) leaveCalled(p *clientPush) {
	m.leftTo = max(m.leftTo, p.life)
	if m.next != nil && m.next.life <= p.life {
		next := m.next
		m.next = nil
		m.failBuffer(ErrLeft)
		m.cancelLife(next, ErrLeft)
	}
	known := m.open && m.joinRef != 0 && (m.status == StateJoining || m.status == StateJoined)
	switch {
	case !m.isLive(), p.life < m.life:
		m.add(clientOutput{kind: outAnswer, push: p, answer: promise.Result{Status: push.StatusOK}})
		return
	case m.status == StateLeaving:
		m.leaves = append(m.leaves, p)
		return
	}
	m.leaves = []*clientPush{p}
	if !known {
		m.left(promise.Result{Status: push.StatusOK})
		return
	}
	m.add(clientOutput{kind: outDisarm, timer: timerJoin})
	m.set(StateLeaving, nil)
	m.failJoin(ErrLeft)
	m.failBuffer(ErrLeft)
	p.ref = m.refs()
	m.add(clientOutput{kind: outArm, timer: timerLeave, push: p})
	m.add(clientOutput{kind: outSend, push: p, ref: p.ref, joinRef: m.joinRef, event: serializer.EventLeave})
}

// left closes the channel because Leave was called.
func (m *clientMachine) left(a promise.Result) { m.end(ErrLeft, &a) }

// end ends the life of the channel. The result leave answers the pending Leaves; nil means that
// they fail. If a Join waits, it begins the next life.
func (m *clientMachine) end(cause error, leave *promise.Result) {
	if !m.isLive() {
		return
	}
	m.over = true
	wasLeaving := m.status == StateLeaving // then the buffer has the pushes of the next life
	for _, t := range []clientTimer{timerJoin, timerRejoin, timerLeave} {
		m.add(clientOutput{kind: outDisarm, timer: t})
	}
	m.add(clientOutput{kind: outNoParams})
	m.joinRef, m.again, m.isPaused = 0, false, false
	m.set(StateClosed, cause)
	for _, p := range m.inFlight() {
		err := m.closedBy(cause)
		if !p.unsent || p.isNow {
			err = p.lost(err)
		}
		m.fail(p, err)
	}
	m.flight, m.peak = nil, 0
	next := m.next
	if m.next = nil; next == nil || m.dead || !wasLeaving {
		m.failBuffer(cause)
	}
	m.failJoin(cause)
	for _, p := range m.leaves {
		a := leave
		if a == nil {
			a = new(failed(m.wrap(p, m.closedBy(cause))))
		}
		m.add(clientOutput{kind: outAnswer, push: p, answer: *a})
	}
	m.leaves = nil
	m.add(clientOutput{kind: outClosed, err: cause, push: m.join})
	if next != nil && !m.dead {
		m.beginLife(next)
		return
	}
	if next != nil {
		m.cancelLife(next, cause)
	}
	m.add(clientOutput{kind: outDetach})
}

// closedBy returns ErrClosed with its cause. If rejoining was given up, the error includes only the
// text of the cause, so that errors.Is does not report that other pushes were refused or timed out.
func (m *clientMachine) closedBy(cause error) error {
	if m.gaveUp {
		return fmt.Errorf("%w: %s", ErrClosed, cause.Error())
	}
	return fmt.Errorf("%w: %w", ErrClosed, cause)
}

func (m *clientMachine) failJoin(cause error) {
	if !m.answered {
		m.answered = true
		m.fail(m.join, m.closedBy(cause))
	}
}
