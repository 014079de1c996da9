package channel

import (
	"fmt"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// This file has the rules of a client's channel as a step function without clock, network and
// goroutines. It turns a clientInput into clientOutputs, which client_driver.go performs. The rules
// are those of phoenix.js. Comments describe the intended differences.

// ClientState is the state of a client's channel.
type ClientState uint8

const (
	StateClosed  ClientState = iota // not joined yet; or left, or closed by the server or with the socket
	StateJoining                    // phx_join was sent and not answered, or waits for a connection
	StateJoined
	StateErrored // refused, crashed, or without connection; it will be joined again
	StateLeaving // phx_leave was sent and not answered
)

func (s ClientState) String() string {
	names := [...]string{"closed", "joining", "joined", "errored", "leaving"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("ClientState(%d)", s)
}

// clientState is the state on which the rules depend. clientStep returns the next state. As with a
// slice passed to append, the old one must not be used afterwards.
type clientState struct {
	topic  string
	status ClientState
	open   bool // the socket is connected
	taken  bool // another channel is still leaving the topic: joins wait
	auth   clientlink.Auth
	cause  error         // of StateErrored, or of the end of the last life
	refs   func() uint64 // the next ref of the socket

	life   uint64        // the number of the life, or of the last one; see client_lives.go
	over   bool          // it has ended
	gaveUp bool          // because a join failed
	dead   bool          // the socket is closed
	next   *clientPush   // the Join of the next life, which waits for the end of this one
	leaves []*clientPush // from Leave; the first one was sent
	leftTo uint64        // no later life was left

	join     *clientPush // from the Join of this life; nil before the first one
	answered bool        // the handle of join was answered
	attempt  uint64      // the number of the join, which identifies its params
	joinRef  uint64      // of the current join; zero if it was not sent
	tries    int         // rejoins since the last success or the last connection
	again    bool        // joins again once the pushes in flight are answered; others wait for that join

	manual   bool // joins wait for Rejoin, except for a Join while there is a connection
	isHeld   bool // the next join waits for Rejoin
	isPaused bool // the join is sent again when the rejoin timer is due

	needsAuth bool // joins wait until the client is authenticated
	isExpired bool // the last join was refused because the token had expired

	buffer []*clientPush          // pushes that wait for the join, in order
	flight map[uint64]*clientPush // pushes that were sent, by ref
	peak   int                    // the largest length of flight since it was made
}

// clientMachine is a step in progress.
type clientMachine struct {
	clientState
	out []clientOutput
}

// clientStep returns the state after an input, and appends the outputs to out.
func clientStep(s clientState, in clientInput, out []clientOutput) (clientState, []clientOutput) {
	m := clientMachine{s, out}
	switch in.kind {
	case inJoin:
		m.joinCalled(in.push)
	case inParams:
		m.params(in.attempt, in.payload, in.err)
	case inOpened:
		m.opened()
	case inClosed:
		m.disconnected(in.err)
	case inMessage:
		m.message(in.msg)
	case inPush:
		m.pushCalled(in.push)
	case inPushNow:
		m.pushNow(in.push, in.isCongested)
	case inCancel:
		if m.remove(in.push) {
			m.fail(in.push, push.ErrCanceled)
		}
	case inLeave:
		m.leaveCalled(in.push)
	case inJoinTimeout:
		m.joinTimeout()
	case inRejoin:
		m.rejoin()
	case inRejoinCall:
		m.rejoinCalled()
	case inLeaveTimeout:
		if m.status == StateLeaving {
			m.left(failed(m.wrap(m.leaves[0], push.ErrTimeout)))
		}
	case inPushTimeout:
		if m.remove(in.push) {
			m.fail(in.push, push.ErrTimeout)
		}
	case inRefused:
		m.refused(in.ref, in.err)
	case inGiveUp:
		if m.status == StateErrored {
			m.gaveUp = true
			m.end(m.cause, nil)
		}
	case inFree:
		m.topicFreed()
	case inEnd:
		m.dead = true
		m.end(in.err, nil)
	case inAuth:
		m.authChanged(in.auth)
	case inAgain:
		m.again = m.status == StateJoined
	}
	if m.again && m.status == StateJoined && len(m.flight) == 0 {
		m.begin()
	}
	return m.clientState, m.out
}

func (m *clientMachine) add(o clientOutput) { m.out = append(m.out, o) }

func (m *clientMachine) set(s ClientState, cause error) {
	m.status, m.cause = s, cause
	m.add(clientOutput{kind: outState, status: s, err: cause, push: m.join})
}

// begin starts a join, the first or a later one. Its timeout starts now, connected or not, unless
// the join waits for the authentication, which may take hours.
func (m *clientMachine) begin() {
	m.attempt++
	m.joinRef = 0
	m.again, m.isPaused = false, false
	m.isHeld = m.manual && !m.open
	m.set(StateJoining, nil)
	m.armJoin()
	m.requestParams()
}

// mayJoin reports whether the current join waits neither for a connection nor for the topic, the
// authentication, a call of Rejoin or the end of a pause.
func (m *clientState) mayJoin() bool {
	return m.open && !m.taken && !m.isHeld && !m.isPaused && !m.waitsForAuth()
}

// requestParams puts the current join into the queue.
func (m *clientMachine) requestParams() {
	if m.mayJoin() {
		m.add(clientOutput{kind: outParams, attempt: m.attempt})
	}
}

// topicFreed ends the wait for a channel that was leaving the topic. It differs from phoenix.js,
// which does not wait: Phoenix kills a channel, even one that is leaving, when a phx_join for its
// topic arrives, and its last pushes get no replies. The timeout of the join starts again,
// because most of it may have passed during the wait.
func (m *clientMachine) topicFreed() {
	if !m.taken {
		return
	}
	m.taken = false
	if m.status == StateJoining {
		m.armJoin()
		m.requestParams()
	}
}

// params sends the join. It differs from phoenix.js, which may send a join from an earlier
// connection: params are requested once there is a connection, and the ref is new.
func (m *clientMachine) params(attempt uint64, payload serializer.Payload, err error) {
	if attempt != m.attempt || m.status != StateJoining || m.joinRef != 0 || !m.mayJoin() {
		return
	}
	if err != nil {
		m.joinFailed(failed(m.wrap(m.join, err)), m.wrap(m.join, err))
		return
	}
	m.joinRef = m.refs()
	m.add(clientOutput{kind: outSend, ref: m.joinRef, joinRef: m.joinRef, event: serializer.EventJoin, payload: payload})
}

func (m *clientMachine) opened() {
	m.open, m.tries = true, 0
	switch m.status {
	case StateJoining: // Join was called before; its timeout continues
		m.requestParams()
	case StateErrored:
		if !m.isHeld {
			m.add(clientOutput{kind: outDisarm, timer: timerRejoin})
			m.begin()
		}
	}
}

// disconnected handles the loss of the connection. Pushes that the server may have received fail
// immediately, whereas in phoenix.js they time out. Others wait for the next join.
func (m *clientMachine) disconnected(err error) {
	m.isHeld = m.isHeld || m.manual && m.open // not if an attempt to connect has failed
	m.open = false
	m.add(clientOutput{kind: outNoParams})
	switch m.status {
	case StateLeaving: // the connection ended the server's channel; phoenix.js sends a leave later
		m.left(promise.Result{Status: push.StatusOK})
	case StateJoining, StateJoined:
		m.setErrored(err)
		m.failInFlight(err)
		m.scheduleRejoin(err)
		m.joinRef = 0
	case StateErrored:
		m.add(clientOutput{kind: outDisarm, timer: timerRejoin})
	}
}

// setErrored must be called before pushes are answered, whose callers may then read the state,
// and scheduleRejoin after that. A join that was not answered yet keeps its timeout, so that its
// caller is notified even if no connection follows.
func (m *clientMachine) setErrored(err error) {
	m.endPause()
	if m.status == StateJoining && m.answered {
		m.add(clientOutput{kind: outDisarm, timer: timerJoin})
	}
	m.set(StateErrored, err)
}

// scheduleRejoin arms the timer of the rejoin. Without a connection, the next one starts the
// rejoin.
func (m *clientMachine) scheduleRejoin(err error) {
	switch {
	case m.open && m.manual:
		m.isHeld = true
	case m.open:
		m.add(clientOutput{kind: outArm, timer: timerRejoin, tries: m.tries + 1})
	}
	m.add(clientOutput{kind: outErrored, err: err})
}

func (m *clientMachine) joinTimeout() {
	err := m.wrap(m.join, push.ErrTimeout)
	switch m.status {
	case StateJoining:
		if m.open && m.joinRef != 0 { // to undo a join that the server accepts late
			m.add(clientOutput{kind: outSend, ref: m.refs(), joinRef: m.joinRef, event: serializer.EventLeave})
		}
		m.add(clientOutput{kind: outNoParams})
		m.joinFailed(failed(err), err)
	case StateErrored:
		m.answerJoin(failed(err))
	}
}

func (m *clientMachine) joinFailed(a promise.Result, err error) {
	m.joinRef = 0
	m.add(clientOutput{kind: outDisarm, timer: timerJoin})
	m.setErrored(err)
	m.answerJoin(a)
	m.scheduleRejoin(err)
}

func (m *clientMachine) answerJoin(a promise.Result) {
	m.answered = true
	m.add(clientOutput{kind: outAnswer, push: m.join, answer: a})
}

// refused handles a message that could not be encoded.
func (m *clientMachine) refused(ref uint64, err error) {
	if p := m.flight[ref]; p != nil {
		m.removeInFlight(ref)
		m.fail(p, err)
		return
	}
	if m.status == StateJoining && ref == m.joinRef && ref != 0 {
		err = m.wrap(m.join, err)
		m.joinFailed(failed(err), err)
	}
}

// message handles a message for the topic. A message with the ref of another join is outdated. A
// message without join_ref is a broadcast, or uses version 1.0.0, and is accepted.
func (m *clientMachine) message(msg *serializer.Message) {
	if m.over {
		return
	}
	if m.taken {
		m.add(clientOutput{kind: outDrop, msg: msg, why: "topic is being left by another channel"})
		return
	}
	of := msg.JoinRef
	isEnd := msg.Event == serializer.EventClose || msg.Event == serializer.EventError
	if isNullClientRef(of) && isEnd && msg.Kind != serializer.KindReply {
		of = msg.Ref // 1.0.0 has no join_ref: phx_close and phx_error repeat the join's ref
	}
	if !isNullClientRef(of) {
		if n, ok := parseClientRef(of); !ok || n != m.joinRef || n == 0 {
			m.add(clientOutput{kind: outDrop, msg: msg, why: "outdated message"})
			return
		}
	}
	switch {
	case msg.Kind == serializer.KindReply:
		m.reply(msg)
	case msg.Event == serializer.EventClose && m.needsAuth && m.isLogout(msg):
		m.crashed(&RemoteError{msg.Event, msg.Payload}) // it is joined again after the next login
	case msg.Event == serializer.EventClose:
		m.end(&RemoteError{msg.Event, msg.Payload}, &promise.Result{Status: push.StatusOK})
	case msg.Event == serializer.EventError:
		m.crashed(&RemoteError{msg.Event, msg.Payload})
	case m.status == StateLeaving, m.status == StateClosed:
		m.add(clientOutput{kind: outDrop, msg: msg, why: "channel was left"})
	default:
		m.add(clientOutput{kind: outEvent, msg: msg, early: m.status != StateJoined})
	}
}

func (m *clientMachine) reply(msg *serializer.Message) {
	ref, ok := parseClientRef(msg.Ref)
	if p := m.flight[ref]; ok && p != nil {
		m.removeInFlight(ref)
		m.add(clientOutput{kind: outAnswer, push: p, answer: promise.Result{Status: msg.Status, Payload: msg.Payload}})
		return
	}
	switch {
	case ok && m.status == StateJoining && ref == m.joinRef:
		m.joinReply(msg)
	case ok && m.status == StateLeaving && ref == m.leaves[0].ref:
		m.left(promise.Result{Status: msg.Status, Payload: msg.Payload})
	default: // a second reply, a reply after its timeout, or a reply with an unknown ref
		m.add(clientOutput{kind: outDrop, msg: msg, why: "no push waits for this reply"})
	}
}

func (m *clientMachine) joinReply(msg *serializer.Message) {
	a := promise.Result{Status: msg.Status, Payload: msg.Payload}
	if msg.Status != push.StatusOK {
		err := &push.Error{Status: msg.Status, Payload: msg.Payload}
		if err.Is(push.Reason(clientlink.TooManyJoins)) {
			m.pauseJoin()
			return
		}
		m.isExpired = err.Is(push.Reason(clientlink.TokenExpired))
		m.joinFailed(a, m.wrap(m.join, err))
		return
	}
	m.tries = 0
	m.add(clientOutput{kind: outDisarm, timer: timerJoin})
	m.set(StateJoined, nil)
	m.out[len(m.out)-1].payload = msg.Payload
	for _, p := range m.buffer {
		m.send(p)
	}
	m.buffer = nil
	m.answerJoin(a)
	m.add(clientOutput{kind: outJoined, payload: msg.Payload})
}

// crashed handles the server's phx_error, after which the pushes in flight get no replies.
func (m *clientMachine) crashed(err error) {
	switch m.status {
	case StateJoining:
		m.joinRef = 0
		m.setErrored(err)
		m.scheduleRejoin(err)
	case StateJoined:
		for _, p := range m.flight { // even if not sent yet: it would reach no channel
			p.unsent = false
		}
		m.setErrored(err)
		m.failInFlight(err)
		m.scheduleRejoin(err)
	case StateLeaving:
		m.left(promise.Result{Status: push.StatusOK})
	}
}
