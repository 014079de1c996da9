package channel

import (
	"errors"
	"fmt"
	"strings"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/durable"
	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// pushIO is the part of a push that the driver needs. It belongs to the loop once the push is
// posted.
type pushIO struct {
	payload serializer.Payload // until it is passed to the connection
	size    int                // the bytes that count against the channel's budget
	hold    clientlink.Hold    // until it is written or answered
	number  uint64             // from Up.Enter; zero means none
	timer   loop.Timer

	isCounted bool // in Client.unanswered

	attempt *durable.Attempt // of an entry of the outbox; nil for any other push
}

// The tasks of the loop. Each is a push under another type, so that posting one allocates nothing.
type (
	clientPushTask   clientPush
	clientJoinTask   clientPush
	clientLeaveTask  clientPush
	clientCancelTask clientPush
	clientExpiryTask clientPush
)

func (t *clientPushTask) Run() {
	p := (*clientPush)(t)
	if p.c.state.status == StateJoined {
		p.c.socket.SendJoins() // those of earlier calls of Join
	}
	p.number = p.c.socket.BeginPush()
	p.c.socket.Pushed(p.payloadSize())
	if p.isNow {
		p.c.feed(clientInput{kind: inPushNow, push: p, isCongested: p.c.socket.IsCongested()})
		return
	}
	p.c.feed(clientInput{kind: inPush, push: p})
}

func (t *clientJoinTask) Run() {
	p := (*clientPush)(t)
	c := p.c
	if c.state.wants(p) {
		busy, err := c.socket.Attach(c.wire, clientChannel{c})
		if err != nil {
			if errors.Is(err, clientlink.ErrTaken) {
				err = ErrDuplicate
			} else {
				err = fmt.Errorf("%w: %w", ErrClosed, err)
			}
			c.refuseJoin(p, err)
			return
		}
		c.events.attach()
		if c.number == 0 {
			c.number = c.socket.Joins().Number()
		}
		if !c.state.isLive() {
			c.state.open, c.state.taken = c.socket.IsOpen(), busy
			c.state.needsAuth, c.state.auth = c.needsAuth, c.socket.Auth()
			c.openMirror()
		}
	}
	c.feed(clientInput{kind: inJoin, push: p})
}

// refuseJoin answers a Join that does not begin a life. Before the first life, the next Join has
// the same streams and the same Done.
func (c *Client) refuseJoin(p *clientPush, err error) {
	c.mu.Lock()
	isFresh := c.state.life == 0 && c.lives == p.life
	if isFresh {
		c.isFresh, c.join = true, nil
	}
	c.mu.Unlock()
	if !isFresh {
		c.lifeEnded(p)
	}
	p.handle.Resolve(failed(p.wrap(c.topic, err)))
}

// lifeEnded ends what belongs to a life.
func (c *Client) lifeEnded(join *clientPush) {
	c.mu.Lock()
	if c.join == join {
		c.join = nil
	}
	c.mu.Unlock()
	c.events.endLife(join.life)
	close(join.done)
}

func (t *clientLeaveTask) Run() {
	p := (*clientPush)(t)
	p.number = p.c.socket.BeginPush()
	p.c.feed(clientInput{kind: inLeave, push: p})
}

func (t *clientCancelTask) Run() { t.c.feed(clientInput{kind: inCancel, push: (*clientPush)(t)}) }

func (t *clientExpiryTask) Run() {
	if !t.c.socket.Overslept(&t.timer) {
		t.c.feed(clientInput{kind: inPushTimeout, push: (*clientPush)(t)})
	}
}

// Call is part of promise.Owner: it enqueues a callback.
func (p *clientPush) Call(f func(serializer.Payload), payload serializer.Payload) {
	p.c.events.enqueue(func() { f(payload) })
}

func (p *clientPush) Cancel() {
	if p.event != serializer.EventJoin && p.event != serializer.EventLeave {
		p.c.socket.Post((*clientCancelTask)(p))
	}
}

// clientTimeout is the task of a timer: it feeds one input.
type clientTimeout struct {
	c    *Client
	kind clientInputKind
}

func (t *clientTimeout) Run() {
	c := t.c
	switch {
	case t.kind == inJoinTimeout && c.socket.Overslept(&c.joinTimer):
	case t.kind == inLeaveTimeout && c.socket.Overslept(&c.leaveTimer):
	default:
		c.feed(clientInput{kind: t.kind})
	}
}

// clientChannel is the socket's handle to the channel. Its methods run on the loop.
type clientChannel struct{ c *Client }

func (d clientChannel) Opened()          { d.c.feed(clientInput{kind: inOpened}) }
func (d clientChannel) Closed(err error) { d.c.feed(clientInput{kind: inClosed, err: err}) }
func (d clientChannel) End(err error)    { d.c.feed(clientInput{kind: inEnd, err: err}) }
func (d clientChannel) Freed()           { d.c.feed(clientInput{kind: inFree}) }
func (d clientChannel) IsLeaving() bool {
	return d.c.state.status == StateLeaving && d.c.state.next == nil
}

// Receive hides the prefix of the topic.
func (d clientChannel) Receive(m *serializer.Message) {
	m.Topic = d.c.topic
	d.c.feed(clientInput{kind: inMessage, msg: m})
}

func (d clientChannel) Rejoin() { d.c.feed(clientInput{kind: inRejoinCall}) }

// Woke ends the wait for a rejoin.
func (d clientChannel) Woke() {
	if c := d.c; c.rejoinTimer.IsArmed() {
		c.socket.Disarm(&c.rejoinTimer)
		c.feed(clientInput{kind: inRejoin})
	}
}

// AuthChanged also means that the server may have accepted the join of $socket.
func (d clientChannel) AuthChanged(a clientlink.Auth) {
	d.c.feed(clientInput{kind: inAuth, auth: a})
	d.c.updateCalls()
	d.c.addCredit()
}

func (d clientChannel) LeaveMessage() (o clientlink.Out, ok bool) {
	c, s := d.c, &d.c.state
	if s.joinRef == 0 || s.status != StateJoining && s.status != StateJoined && s.status != StateLeaving {
		return o, false
	}
	ref := c.socket.NextRef()
	return clientlink.Out{Ref: ref, Msg: serializer.Message{
		JoinRef: c.joinRef(s.joinRef), Ref: clientRef(ref), Topic: c.wire, Event: serializer.EventLeave,
	}}, true
}

func (d clientChannel) Handle() *Client { return d.c }

func (d clientChannel) Stats() ClientStats { return d.c.Stats() }

func (d clientChannel) IsSettled(until uint64) bool {
	s := &d.c.state
	if len(s.buffer) > 0 && s.buffer[0].number <= until || s.status == StateLeaving {
		return false
	}
	for _, p := range s.flight {
		if p.number <= until && p.handle.IsAwaited() {
			return false
		}
	}
	return true
}

func (d clientChannel) Refused(ref uint64, err error) {
	d.c.feed(clientInput{kind: inRefused, ref: ref, err: err})
}

// Unsent marks a push that is to be sent again. The push holds its payload and its share of the
// budget again. Other messages, such as joins, are made anew.
func (d clientChannel) Unsent(o *clientlink.Out) {
	p := d.c.state.flight[o.Ref]
	if p == nil {
		o.Release()
		return
	}
	p.unsent, p.payload = true, o.Msg.Payload
	p.hold.Retake(p.size)
}

// clientKept is the capacity for inputs and outputs that a channel keeps: enough for a push and
// for a reply. A join needs more, which is released.
const clientKept = 2

// feed performs a step and its outputs. Outputs may feed further inputs, which are processed in
// order.
func (c *Client) feed(in clientInput) {
	c.inputs = append(c.inputs, in)
	if len(c.inputs) > 1 {
		return
	}
	for i := 0; i < len(c.inputs); i++ {
		c.state, c.outputs = clientStep(c.state, c.inputs[i], c.outputs[:0])
		for j := range c.outputs {
			c.perform(&c.outputs[j])
		}
		clear(c.outputs)
	}
	clear(c.inputs)
	c.inputs = c.inputs[:0]
	if cap(c.inputs) > clientKept || cap(c.outputs) > clientKept {
		c.inputs, c.outputs = nil, nil
	}
	if c.state.status != StateJoined || c.waiting.Load() != 0 {
		c.updateWaiting()
	}
}

func (c *Client) perform(o *clientOutput) {
	switch o.kind {
	case outParams:
		c.enterQueue(o.attempt)
	case outNoParams:
		c.leaveQueue()
	case outSend:
		c.transmit(o)
	case outAnswer:
		c.answer(o.push, o.answer)
	case outEvent:
		if calls := c.calls.Load(); calls != nil && c.receiveCall(calls, o.msg, o.early) {
			return
		}
		if c.follower != nil && !o.early {
			c.follower.Received(o.msg.Event, o.msg.Payload)
		}
		if c.credit != nil && !o.early {
			c.spendCredit(o.msg)
		}
		c.receiveEvent(o.msg, o.early)
		c.addCredit()
	case outDrop:
		c.socket.Log().Debug().Str("topic", c.topic).Str("event", o.msg.Event).Str("ref", string(o.msg.Ref)).
			Str("join_ref", string(o.msg.JoinRef)).Str("reason", o.why).Msg("message dropped")
	case outArm:
		c.arm(o)
	case outDisarm:
		c.socket.Disarm(c.timerFor(o.timer))
	case outState:
		if o.status != StateJoining {
			c.leaveQueue()
		}
		c.changed(o)
		if o.status != StateJoined {
			c.endRuns()
			c.stopDurable()
		}
		c.socket.Log().Debug().Str("topic", c.topic).Stringer("state", o.status).AnErr("err", o.err).
			Msg("channel state changed")
	case outJoined:
		c.setWills()
		c.updateCalls()
		c.addCredit()
		if h := c.resume.Load(); h != nil {
			c.resumeJoined(h, o.payload)
		}
		if c.follower != nil {
			c.follower.Joined(o.payload)
		}
		c.startDurable(o.payload)
		notify(&c.events, &c.events.onJoin, o.payload)
	case outErrored:
		if h := c.resume.Load(); h != nil {
			h.joinRefused(o.err)
		}
		if c.follower != nil {
			c.follower.Errored(o.err)
		}
		notify(&c.events, &c.events.onError, o.err)
	case outClosed:
		if c.follower != nil {
			c.follower.Closed(o.err)
		}
		c.closed(o.err)
		c.lifeEnded(o.push)
	case outCanceled:
		c.lifeEnded(o.push)
	case outDetach:
		c.socket.Detach(c.wire, clientChannel{c})
	}
}

func (c *Client) transmit(o *clientOutput) {
	out := clientlink.Out{
		Msg: serializer.Message{
			JoinRef: c.joinRef(o.joinRef), Ref: clientRef(o.ref), Topic: c.wire, Event: o.event, Payload: o.payload,
		},
		Ref:  o.ref,
		From: clientChannel{c},
	}
	if o.event == serializer.EventJoin {
		out.Msg.Payload = c.onceParams(c.creditParams(c.callParams(out.Msg.Payload)))
		if h := c.resume.Load(); h != nil {
			out.Msg.Payload = h.joinParams(out.Msg.Payload)
		}
	}
	if p := o.push; p != nil {
		out.Msg.Payload, p.payload = p.payload, serializer.Payload{}
		out.Size, out.Hold = p.size, &p.hold
	}
	c.socket.Send(out)
}

// joinRef returns clientRef(n). It encodes each join_ref only once.
func (c *Client) joinRef(n uint64) serializer.Ref {
	if n != c.refOf {
		c.refOf, c.refText = n, clientRef(n)
	}
	return c.refText
}

func (c *Client) answer(p *clientPush, a promise.Result) {
	if p.timer.Task != nil {
		c.socket.Disarm(&p.timer)
	}
	if p.hold.IsHeld() { // before the caller is notified, who may push again immediately
		if p.ref != 0 { // if it is still enqueued, it must not outlive its share of the budget
			c.socket.Withdraw(p.ref)
		}
		p.hold.Release()
	}
	p.payload = serializer.Payload{}
	if p.isCounted { // before the caller is notified
		c.unanswered.Add(-1)
		p.isCounted = false
	}
	if p.event != serializer.EventJoin && p.attempt == nil {
		c.recordFailure(p.failure(a))
	}
	if p.event == serializer.EventLeave {
		c.mu.Lock()
		if c.leave == p {
			c.leave = nil
		}
		c.mu.Unlock()
	}
	p.handle.Resolve(a)
	if p.number != 0 {
		if p.event != serializer.EventLeave && p.attempt == nil { // the outbox counts its entries
			c.socket.Answered(p.number, p.payloadSize(), a.Err == nil && a.Status == push.StatusOK)
		}
		c.socket.EndPush(p.number)
		p.number = 0
	}
	if p.attempt != nil {
		c.attemptDone(p, a)
	}
}

// payloadSize is the size in bytes of the payload of a push.
func (p *clientPush) payloadSize() int { return p.size - pushOverhead - len(p.event) }

// failure returns the error of a result for the socket's Flush. Replies to pushes of the client
// itself are no concern of the program.
func (p *clientPush) failure(a promise.Result) error {
	if a.Err != nil || a.Status == push.StatusOK || strings.HasPrefix(p.event, "$") {
		return a.Err
	}
	return p.wrap(p.c.topic, &push.Error{Status: a.Status, Payload: a.Payload})
}

// recordFailure keeps the error of a push or leave for the socket's Flush.
func (c *Client) recordFailure(err error) {
	if err != nil && !errors.Is(err, push.ErrCanceled) {
		c.socket.Total().Failed.Add(err)
	}
}

func (c *Client) timerFor(t clientTimer) *loop.Timer {
	switch t {
	case timerJoin:
		return &c.joinTimer
	case timerRejoin:
		return &c.rejoinTimer
	default:
		return &c.leaveTimer
	}
}

func (c *Client) arm(o *clientOutput) {
	switch o.timer {
	case timerPush:
		o.push.timer.Task = (*clientExpiryTask)(o.push)
		c.socket.Arm(&o.push.timer, o.push.timeout)
	case timerJoin:
		c.socket.Arm(&c.joinTimer, c.state.join.timeout)
	case timerLeave:
		c.socket.Arm(&c.leaveTimer, o.push.timeout)
	case timerRejoin:
		if o.tries == 0 {
			c.socket.Arm(&c.rejoinTimer, clientJoinPause)
			return
		}
		d := c.cfg.RejoinAfter(o.tries)
		if d < 0 {
			c.feed(clientInput{kind: inGiveUp})
			return
		}
		c.socket.Arm(&c.rejoinTimer, d)
	}
}
