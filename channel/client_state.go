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

// The rules of a client's channel: phoenix.js's, where they mean something, as a step function without clock, network or goroutine. What
// happens is a clientInput, what is to be done about it are clientOutputs; client_driver.go carries them out. Where the rules differ from
// phoenix.js on purpose, a comment says so.

// ClientState is where a client's channel is.
type ClientState uint8

const (
	StateClosed  ClientState = iota // not joined yet, or over: left, or closed by the server or with the socket
	StateJoining                    // phx_join was sent and not answered, or waits for a connection
	StateJoined
	StateErrored // it was refused, crashed, or lost its connection; it will be joined again
	StateLeaving // phx_leave was sent and not answered
)

func (s ClientState) String() string {
	names := [...]string{"closed", "joining", "joined", "errored", "leaving"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("ClientState(%d)", s)
}

// clientState is all that the rules depend on. A step takes it over and returns the next: like a slice given to append, the old one must
// not be used again.
type clientState struct {
	topic  string
	status ClientState
	open   bool          // the socket is connected
	held   bool          // another channel is still leaving the topic: joins wait
	over   bool          // closed for good
	gaveUp bool          // because a join failed
	cause  error         // of StateErrored, and of over
	refs   func() uint64 // the next ref of the socket

	join     *clientPush // of Join; nil before
	answered bool        // join was answered, so that its handle has had its answer
	attempt  uint64      // counts joins: params that come late are told from those of this one
	joinRef  uint64      // of the join that counts; 0 when there is none
	tries    int         // rejoins since the last success or the last connection
	leave    *clientPush // of Leave

	buffer []*clientPush          // pushes that wait for the join, in order
	flight map[uint64]*clientPush // pushes that were sent, by ref
	most   int                    // of them at a time, since flight was made
}

// RemoteError is an end that the server told: by phx_error, after which the channel is joined again, or by phx_close, after which it is not.
type RemoteError struct {
	Event   string
	Payload serializer.Payload
}

func (e *RemoteError) Error() string {
	if r := (&push.Error{Payload: e.Payload}).Reason(); r != "" {
		return fmt.Sprintf("channel: server sent %s: %s", e.Event, r)
	}
	return "channel: server sent " + e.Event
}

// clientMachine is a step being made.
type clientMachine struct {
	clientState
	out []clientOutput
}

// clientStep turns a state and an input into the next state, and appends what is to be done to out.
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
		m.closed(in.err)
	case inMessage:
		m.message(in.msg)
	case inPush:
		m.pushCalled(in.push)
	case inCancel:
		if m.forget(in.push) {
			m.fail(in.push, push.ErrCanceled)
		}
	case inLeave:
		m.leaveCalled(in.push)
	case inJoinTimeout:
		m.joinTimeout()
	case inRejoin:
		if m.status == StateErrored && m.open {
			m.tries++
			m.begin()
		}
	case inLeaveTimeout:
		if m.status == StateLeaving {
			m.left(failed(m.wrap(m.leave, push.ErrTimeout)))
		}
	case inPushTimeout:
		if m.forget(in.push) {
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
		m.free()
	case inEnd:
		m.end(in.err, nil)
	}
	return m.clientState, m.out
}

func (m *clientMachine) do(o clientOutput) { m.out = append(m.out, o) }

func (m *clientMachine) set(s ClientState, cause error) {
	m.status, m.cause = s, cause
	m.do(clientOutput{kind: outState, status: s, err: cause})
}

func (m *clientMachine) joinCalled(p *clientPush) {
	switch {
	case m.over:
		m.fail(p, m.closedBy(m.cause))
	case m.join != nil:
		m.fail(p, ErrDuplicate)
	default:
		m.join = p
		m.begin()
	}
}

// begin starts a join, the first or another. Its timeout runs from here, connected or not.
func (m *clientMachine) begin() {
	m.attempt++
	m.joinRef = 0
	m.set(StateJoining, nil)
	m.do(clientOutput{kind: outArm, timer: timerJoin})
	m.askParams()
}

// askParams has the params of the present join evaluated, unless it waits for a connection or for the topic.
func (m *clientMachine) askParams() {
	if m.open && !m.held {
		m.do(clientOutput{kind: outParams, attempt: m.attempt})
	}
}

// free ends the wait for a channel that was leaving the topic. Phoenix kills a channel when a phx_join for its topic arrives,
// also one that is being left, and with it the answers to what was pushed before. (phoenix.js does not wait.) The timeout of the
// join starts again, because its first run may have gone by while the leave was answered.
func (m *clientMachine) free() {
	if !m.held {
		return
	}
	m.held = false
	if m.status == StateJoining {
		m.do(clientOutput{kind: outArm, timer: timerJoin})
		m.askParams()
	}
}

// params has the join sent. (Unlike phoenix.js nothing is sent that an earlier connection left over: params are asked for when
// there is one, and the ref is new.)
func (m *clientMachine) params(attempt uint64, payload serializer.Payload, err error) {
	if attempt != m.attempt || m.status != StateJoining || !m.open || m.held || m.joinRef != 0 {
		return
	}
	if err != nil {
		m.joinFailed(failed(m.wrap(m.join, err)), m.wrap(m.join, err))
		return
	}
	m.joinRef = m.refs()
	m.do(clientOutput{kind: outSend, ref: m.joinRef, joinRef: m.joinRef, event: serializer.EventJoin, payload: payload})
}

func (m *clientMachine) opened() {
	m.open, m.tries = true, 0
	switch m.status {
	case StateJoining: // Join was called before; its timeout goes on
		m.askParams()
	case StateErrored:
		m.do(clientOutput{kind: outDisarm, timer: timerRejoin})
		m.begin()
	}
}

// closed is about the connection. Pushes that the server may have got fail at once (phoenix.js lets them time out), those that it
// cannot have got wait for the next join.
func (m *clientMachine) closed(err error) {
	m.open = false
	m.do(clientOutput{kind: outNoParams})
	switch m.status {
	case StateLeaving: // the server ends its channels with the connection; so there is no leave to send later, as phoenix.js does
		m.left(promise.Result{Status: push.StatusOK})
	case StateJoining, StateJoined:
		m.errored(err)
		m.lose(err)
		m.retry(err)
		m.joinRef = 0
	case StateErrored:
		m.do(clientOutput{kind: outDisarm, timer: timerRejoin})
	}
}

// lose fails what is in flight, but for what was not sent, which goes before all that waits already.
func (m *clientMachine) lose(err error) {
	var back []*clientPush
	for _, p := range m.inFlight() {
		m.landed(p.ref)
		if p.unsent {
			p.ref, p.unsent = 0, false
			back = append(back, p)
			continue
		}
		m.fail(p, fmt.Errorf("%w: %w", push.ErrLost, err))
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

// errored comes before those are answered who may then ask for the state; retry after that. A join that nobody answered yet keeps its
// timeout, so that who waits for it is told, whatever becomes of the connection.
func (m *clientMachine) errored(err error) {
	if m.status == StateJoining && m.answered {
		m.do(clientOutput{kind: outDisarm, timer: timerJoin})
	}
	m.set(StateErrored, err)
}

// retry has the channel joined again: after a while if connected, else with the next connection.
func (m *clientMachine) retry(err error) {
	if m.open {
		m.do(clientOutput{kind: outArm, timer: timerRejoin, tries: m.tries + 1})
	}
	m.do(clientOutput{kind: outErrored, err: err})
}

func (m *clientMachine) joinTimeout() {
	err := m.wrap(m.join, push.ErrTimeout)
	switch m.status {
	case StateJoining:
		if m.open && m.joinRef != 0 { // so that a join that the server makes late is undone
			m.do(clientOutput{kind: outSend, ref: m.refs(), joinRef: m.joinRef, event: serializer.EventLeave})
		}
		m.do(clientOutput{kind: outNoParams})
		m.joinFailed(failed(err), err)
	case StateErrored:
		m.answerJoin(failed(err))
	}
}

func (m *clientMachine) joinFailed(a promise.Result, err error) {
	m.joinRef = 0
	m.do(clientOutput{kind: outDisarm, timer: timerJoin})
	m.errored(err)
	m.answerJoin(a)
	m.retry(err)
}

func (m *clientMachine) answerJoin(a promise.Result) {
	m.answered = true
	m.do(clientOutput{kind: outAnswer, push: m.join, answer: a})
}

// message takes what came for the topic. What names another join than this one is of the past; what names none is a broadcast, or an
// older version's, and taken.
func (m *clientMachine) message(msg *serializer.Message) {
	if m.over {
		return
	}
	if m.held {
		m.do(clientOutput{kind: outDrop, msg: msg, why: "message for the channel that is leaving"})
		return
	}
	of := msg.JoinRef
	isEnd := msg.Event == serializer.EventClose || msg.Event == serializer.EventError
	if isNullClientRef(of) && isEnd && msg.Kind != serializer.KindReply {
		of = msg.Ref // 1.0.0 has no join_ref; there the ref of an end is the join's
	}
	if !isNullClientRef(of) {
		if n, ok := parseClientRef(of); !ok || n != m.joinRef || n == 0 {
			m.do(clientOutput{kind: outDrop, msg: msg, why: "outdated message"})
			return
		}
	}
	switch {
	case msg.Kind == serializer.KindReply:
		m.reply(msg)
	case msg.Event == serializer.EventClose:
		m.end(&RemoteError{msg.Event, msg.Payload}, &promise.Result{Status: push.StatusOK})
	case msg.Event == serializer.EventError:
		m.crashed(&RemoteError{msg.Event, msg.Payload})
	case m.status == StateLeaving, m.status == StateClosed:
		m.do(clientOutput{kind: outDrop, msg: msg, why: "channel was left"})
	default:
		m.do(clientOutput{kind: outDeliver, msg: msg})
	}
}

func (m *clientMachine) reply(msg *serializer.Message) {
	ref, ok := parseClientRef(msg.Ref)
	if p := m.flight[ref]; ok && p != nil {
		m.landed(ref)
		m.do(clientOutput{kind: outAnswer, push: p, answer: promise.Result{Status: msg.Status, Payload: msg.Payload}})
		return
	}
	switch {
	case ok && m.status == StateJoining && ref == m.joinRef:
		m.joinReply(msg)
	case ok && m.status == StateLeaving && ref == m.leave.ref:
		m.left(promise.Result{Status: msg.Status, Payload: msg.Payload})
	default: // a second reply, one that comes after its timeout, or one to nothing
		m.do(clientOutput{kind: outDrop, msg: msg, why: "reply to nothing"})
	}
}

func (m *clientMachine) joinReply(msg *serializer.Message) {
	a := promise.Result{Status: msg.Status, Payload: msg.Payload}
	if msg.Status != push.StatusOK {
		m.joinFailed(a, m.wrap(m.join, &push.Error{Status: msg.Status, Payload: msg.Payload}))
		return
	}
	m.tries = 0
	m.do(clientOutput{kind: outDisarm, timer: timerJoin})
	m.set(StateJoined, nil)
	for _, p := range m.buffer {
		m.send(p)
	}
	m.buffer = nil
	m.answerJoin(a)
	m.do(clientOutput{kind: outJoined, payload: msg.Payload})
}

// crashed is the server's phx_error: what was asked of its channel will not be answered any more.
func (m *clientMachine) crashed(err error) {
	switch m.status {
	case StateJoining:
		m.joinRef = 0
		m.errored(err)
		m.retry(err)
	case StateJoined:
		for _, p := range m.flight { // also what is still on its way: it finds no channel
			p.unsent = false
		}
		m.errored(err)
		m.lose(err)
		m.retry(err)
	case StateLeaving:
		m.left(promise.Result{Status: push.StatusOK})
	}
}

func (m *clientMachine) pushCalled(p *clientPush) {
	switch {
	case m.over:
		m.fail(p, m.closedBy(m.cause))
	case m.status == StateLeaving:
		m.fail(p, m.closedBy(ErrLeft))
	case m.join == nil:
		m.fail(p, ErrNotJoined)
	case m.status == StateJoined:
		m.send(p)
	default:
		m.buffer = append(m.buffer, p)
		m.do(clientOutput{kind: outArm, timer: timerPush, push: p})
	}
}

// send gives the push its ref and starts its timeout, anew if it was buffered.
func (m *clientMachine) send(p *clientPush) {
	p.ref = m.refs()
	if m.flight == nil {
		m.flight = make(map[uint64]*clientPush)
	}
	m.flight[p.ref] = p
	m.most = max(m.most, len(m.flight))
	m.do(clientOutput{kind: outArm, timer: timerPush, push: p})
	m.do(clientOutput{kind: outSend, push: p, ref: p.ref, joinRef: m.joinRef, event: p.event})
}

// clientFlightKept is how many pushes' room flight keeps when it is empty.
const clientFlightKept = 64

// landed takes a push out of flight. A map does not shrink: one that was large is let go of.
func (m *clientMachine) landed(ref uint64) {
	delete(m.flight, ref)
	if len(m.flight) == 0 && m.most > clientFlightKept {
		m.flight, m.most = nil, 0
	}
}

// forget takes a push out of what is waited for, and reports whether it was there.
func (m *clientMachine) forget(p *clientPush) bool {
	if p.ref != 0 && m.flight[p.ref] == p {
		m.landed(p.ref)
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

func (m *clientMachine) refused(ref uint64, err error) {
	if p := m.flight[ref]; p != nil {
		m.landed(ref)
		m.fail(p, err)
		return
	}
	if m.status == StateJoining && ref == m.joinRef && ref != 0 {
		err = m.wrap(m.join, err)
		m.joinFailed(failed(err), err)
	}
}

// leaveCalled says goodbye if the server knows the channel. The channel is left when the server says so, or the leave times out.
// (phoenix.js takes it for left at once.) What was pushed before is answered first, what was not sent yet never is.
func (m *clientMachine) leaveCalled(p *clientPush) {
	m.leave = p
	known := m.open && m.joinRef != 0 && (m.status == StateJoining || m.status == StateJoined)
	switch {
	case m.join == nil, m.over:
		m.answerLeave(promise.Result{Status: push.StatusOK})
		return
	case !known:
		m.left(promise.Result{Status: push.StatusOK})
		return
	}
	m.do(clientOutput{kind: outDisarm, timer: timerJoin})
	m.set(StateLeaving, nil)
	m.failJoin(ErrLeft)
	m.failBuffer(ErrLeft)
	p.ref = m.refs()
	m.do(clientOutput{kind: outArm, timer: timerLeave})
	m.do(clientOutput{kind: outSend, push: p, ref: p.ref, joinRef: m.joinRef, event: serializer.EventLeave})
}

func (m *clientMachine) answerLeave(a promise.Result) {
	if m.leave != nil {
		m.do(clientOutput{kind: outAnswer, push: m.leave, answer: a})
		m.leave = nil
	}
}

// left closes the channel because Leave was called.
func (m *clientMachine) left(a promise.Result) { m.end(ErrLeft, &a) }

// end closes the channel for good. A Leave that waits is answered by leave; nil: it fails.
func (m *clientMachine) end(cause error, leave *promise.Result) {
	if m.over {
		return
	}
	m.over = true
	for _, t := range []clientTimer{timerJoin, timerRejoin, timerLeave} {
		m.do(clientOutput{kind: outDisarm, timer: t})
	}
	m.do(clientOutput{kind: outNoParams})
	m.joinRef = 0
	m.set(StateClosed, cause)
	for _, p := range m.inFlight() {
		if p.unsent {
			m.fail(p, m.closedBy(cause))
		} else {
			m.fail(p, fmt.Errorf("%w: %w", push.ErrLost, m.closedBy(cause)))
		}
	}
	m.flight = nil
	m.failBuffer(cause)
	m.failJoin(cause)
	switch {
	case m.leave == nil:
	case leave == nil:
		m.answerLeave(failed(m.wrap(m.leave, m.closedBy(cause))))
	default:
		m.answerLeave(*leave)
	}
	m.do(clientOutput{kind: outClosed, err: cause})
}

// closedBy is ErrClosed and its cause. What failed a join that was given up is no cause that others are to be taken for: it stands there by
// its text only.
func (m *clientMachine) closedBy(cause error) error {
	if m.gaveUp {
		return fmt.Errorf("%w: %s", ErrClosed, cause.Error())
	}
	return fmt.Errorf("%w: %w", ErrClosed, cause)
}

func (m *clientMachine) failBuffer(cause error) {
	for _, p := range m.buffer {
		m.fail(p, m.closedBy(cause))
	}
	m.buffer = nil
}

func (m *clientMachine) failJoin(cause error) {
	if m.join != nil && !m.answered {
		m.answered = true
		m.fail(m.join, m.closedBy(cause))
	}
}

func (m *clientMachine) fail(p *clientPush, err error) {
	m.do(clientOutput{kind: outAnswer, push: p, answer: failed(m.wrap(p, err))})
}

func (m *clientMachine) wrap(p *clientPush, err error) error { return p.wrap(m.topic, err) }

// wrap says which push it was.
func (p *clientPush) wrap(topic string, err error) error {
	switch p.event {
	case serializer.EventJoin:
		return fmt.Errorf("channel: join %s: %w", topic, err)
	case serializer.EventLeave:
		return fmt.Errorf("channel: leave %s: %w", topic, err)
	}
	return fmt.Errorf("channel: push %s to %s: %w", p.event, topic, err)
}

// failed is the result of a push that gets no reply, because of err.
func failed(err error) promise.Result {
	if errors.Is(err, push.ErrTimeout) {
		return promise.Result{Status: push.StatusTimeout, Err: err}
	}
	reason := serializer.Value(map[string]string{"reason": err.Error()})
	return promise.Result{Status: push.StatusFailed, Payload: reason, Err: err}
}

// clientPush is a push, a join or a leave, and the handle to it.
type clientPush struct {
	handle  promise.Promise
	c       *Client
	event   string
	timeout time.Duration

	// The rules' own.
	ref    uint64 // 0: not sent
	unsent bool   // it is known not to have been handed to the network

	clientCarriage
}
