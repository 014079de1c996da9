package channel

import (
	"context"
	"errors"
	"sync"
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// The driver feeds inputs to the rules in server_state.go and carries out their outputs.
//
// Locks: Channel.mu guards the rules' state, and nothing blocks under it. It may be taken under the
// lock of a topic or of the carrier's session. Under it, only two locks are taken: the mu of the
// channel that this one replaces, and the connection's, because sendHeld calls Carrier.Send. No
// connection calls a channel under its own lock. No other method of the Carrier is called under mu.
//
// Channel.answering is held while a join subscribes and is answered. It is taken before mu.

// driver is a Channel as its socket sees it. Its methods are not methods of Channel, because they
// are not for users. They are documented in channelhost.Channel.
type driver Channel

// driver returns c as its socket sees it.
func (c *Channel) driver() channelhost.Channel { return (*driver)(c) }

// start is channelhost.Start. A channel that the topic has already is replaced, and the join waits
// for its end.
func start(up channelhost.Carrier, join channelhost.Join) channelhost.Channel {
	m, h := &join.Message, join.Handler.(*Handler)
	c := &Channel{up: up, h: h, topic: m.Topic, pushRef: m.JoinRef, data: h.newState()}
	c.ref = Ref{m.Ref} // until the join is answered
	if c.pushRef.IsNull() {
		c.pushRef, c.noJoinRef = m.Ref, true
	}
	if h.hooks != nil {
		c.extended() // for the context of the callback that runs
	}
	if join.Values != nil {
		c.setValues(join.Values)
	}
	c.mailbox.InitShared(join.Workers, join.MaxMailbox, c.work)
	if join.Before != nil {
		before := (*Channel)(join.Before.(*driver))
		before.inject(serverInput{kind: serverInReplaced})
		c.join = &serverJoin{previous: before}
	}
	it := item{kind: itemJoin, caused: true, ref: m.Ref, payload: m.Payload}
	_ = c.mailbox.Enqueue(it, 0) // an empty mailbox has room for anything
	return c.driver()
}

func (d *driver) Topic() string { return d.topic }

func (d *driver) Accepts(joinRef serializer.Ref) bool {
	return joinRef.IsNull() || joinRef == (*Channel)(d).joinRef()
}

func (d *driver) ReplyRef() serializer.Ref { return d.pushRef }

func (d *driver) Receive(m serializer.Message, wait time.Duration) (next mailbox.Pending, ok bool) {
	if (*Channel)(d).receiveExtension(m) {
		return nil, true
	}
	it := item{kind: itemEvent, caused: true, ref: m.Ref, event: m.Event, payload: m.Payload}
	return (*Channel)(d).receive(it, len(m.Event)+len(m.Ref)+len(m.Payload.Bytes()), wait)
}

func (d *driver) Leave(m serializer.Message, wait time.Duration) bool {
	c := (*Channel)(d)
	c.inject(serverInput{kind: serverInLeaving})
	c.endWaits()
	it := item{kind: itemLeave, caused: true, ref: m.Ref, msg: m.JoinRef}
	return mailbox.Started(c.receive(it, len(m.Ref)+len(m.JoinRef), wait))
}

// Remove is part of channelhost.Member. Under the topic's lock it takes the mailbox's only.
func (s *subscriber) Remove(matches func(channelhost.Carrier) bool, reason string) bool {
	c := (*Channel)(s)
	if c.status().isMute() || !matches(c.up) {
		return false
	}
	c.closeMailbox(true, Stop(push.Reason(reason)))
	return true
}

// Channel and Queued are part of channelhost.Member.
func (s *subscriber) Channel() any                  { return (*Channel)(s) }
func (s *subscriber) Queued() (messages, bytes int) { return s.mailbox.Load() }

// Queued is part of channelhost.Channel.
func (d *driver) Queued() (messages, bytes int) { return d.mailbox.Load() }

// receive enqueues a message of the client. It returns the mailbox if that is pending, and false if
// the topic is no longer joined.
func (c *Channel) receive(it item, size int, wait time.Duration) (next mailbox.Pending, ok bool) {
	pending, err := c.mailbox.EnqueuePending(it, size, wait)
	if pending {
		next = &c.mailbox
	}
	if errors.Is(err, mailbox.ErrFull) {
		return nil, !c.inject(serverInput{kind: serverInKilled})
	}
	return next, err == nil && c.noteWaiting(it)
}

func (d *driver) Watch(limit time.Duration) {
	c := (*Channel)(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.status != serverJoining || c.state.watched {
		return
	}
	if c.join == nil {
		c.join = new(serverJoin)
	}
	c.join.limit = limit
	c.stepLocked(serverInput{kind: serverInWatched}, new(serverOutputs))
}

func (d *driver) Close(reason error) {
	(*Channel)(d).endWaits()
	(*Channel)(d).closeMailbox(true, &closedError{reason})
}

func (d *driver) Cancel(reason error) {
	reason = &closedError{reason}
	(*Channel)(d).endWaits()
	(*Channel)(d).closeMailbox(false, reason)
	(*Channel)(d).cancel(reason)
}

func (d *driver) Revoke(reason string) {
	c, err := (*Channel)(d), Stop(push.Reason(reason))
	if p := c.previous(); p != nil { // it may handle what came before its leave
		(*driver)(p).Revoke(reason)
	}
	if !c.inject(serverInput{kind: serverInRevoked, err: err}) {
		d.Cancel(err)
	}
}

func (d *driver) Values() context.Context {
	c := (*Channel)(d)
	if now, ok := c.Context().(*valuesContext); ok && !c.status().isMute() {
		return now.values
	}
	return nil
}

func (d *driver) Resume() { d.mailbox.Resume() }
func (d *driver) Wait()   { d.mailbox.Wait() }

// feed makes a step, carries out what it requires, and makes the steps that the results of the
// user's code require. Only the goroutine of the callbacks calls it.
//
// The user's code is called here, and not by perform, so that it runs without the outputs of the
// steps before it on the stack. The stack of a new goroutine is small, and growing it twice costs
// more than all steps.
func (c *Channel) feed(in serverInput) {
	for {
		switch last := c.step(in); last.kind {
		case serverOutTerminate:
			in = c.callTerminate(withoutEvent(last.err))
		case serverOutEnd:
			in = c.end()
		default:
			return
		}
	}
}

// step makes a step and carries out what it requires, except for a call of the user's code, which
// is its last output. It returns the last output.
func (c *Channel) step(in serverInput) (last serverOutput) {
	var out serverOutputs
	c.mu.Lock()
	c.stepLocked(in, &out)
	c.mu.Unlock()
	c.perform(&out)
	if out.n > 0 {
		last = out.list[out.n-1]
	}
	return last
}

// inject is feed for any other goroutine. The channel's end waits until inject has carried out the
// outputs. It reports whether the input changed the state.
func (c *Channel) inject(in serverInput) bool {
	var out serverOutputs
	c.mu.Lock()
	before := c.state
	c.stepLocked(in, &out)
	changed := c.state != before
	injected := c.beginInjected(out.n)
	c.mu.Unlock()
	if injected != nil {
		c.perform(&out)
		injected.Done()
	}
	return changed
}

// overflow kills the channel because a broadcast found no room in the mailbox. It is called under a
// lock of a topic, so it is silent at once, but leaves the rest to a goroutine.
func (c *Channel) overflow() {
	out := new(serverOutputs)
	c.mu.Lock()
	c.stepLocked(serverInput{kind: serverInKilled}, out)
	injected := c.beginInjected(out.n)
	c.mu.Unlock()
	if injected != nil {
		go func() {
			defer injected.Done()
			c.perform(out)
		}()
	}
}

// beginInjected counts the caller among those that the channel's end waits for, if it has outputs
// to carry out. The caller holds mu.
func (c *Channel) beginInjected(outputs int) *sync.WaitGroup {
	if outputs == 0 {
		return nil
	}
	injected := &c.ensureRare().injected
	injected.Add(1)
	return injected
}

// stepLocked makes a step, and performs those outputs that must be performed in the order of the
// steps. The caller holds mu.
func (c *Channel) stepLocked(in serverInput, out *serverOutputs) {
	c.state = serverStep(c.state, in, out)
	c.published.Store(uint32(c.state.status))
	if in.kind == serverInAnswered {
		c.ref = Ref{}
	}
	for i := range out.all() {
		switch o := &out.list[i]; {
		case o.kind == serverOutArm:
			c.arm()
		case o.kind == serverOutDisarm:
			c.disarm()
		case o.kind == serverOutTellPrevious:
			if p := c.claimPrevious(); p != nil {
				o.claimed = &serverClaim{previous: p}
			}
			c.ref, c.join = Ref{}, nil
		case o.frames&serverFrameCrashedJoin != 0:
			o.claimed = c.claim()
		}
	}
}

// perform carries out the outputs of a step, except for calls of the user's code.
func (c *Channel) perform(out *serverOutputs) {
	if out.n > 0 && c.status() > serverJoined {
		c.endWaits()
	}
	for i := range out.all() {
		switch o := &out.list[i]; o.kind {
		case serverOutArm, serverOutDisarm: // done by stepLocked
		case serverOutHandOver, serverOutCallJoin, serverOutTerminate, serverOutEnd: // done by the caller
		case serverOutSubscribe:
			if !isExtension(c.topic) { // its events come from the socket
				c.sub = c.up.PubSub().Subscribe(c.topic, (*subscriber)(c))
			}
		case serverOutUnsubscribe:
			c.unsubscribe()
		case serverOutReply:
			_ = c.up.Send(o.frame, transport.Delivery{Answer: true}) // the end of the connection ends the channel
		case serverOutTell:
			c.tell(o)
		case serverOutTellPrevious:
			if o.claimed != nil {
				_ = c.up.Send(o.claimed.previous.closeFrame(ErrReplaced), transport.Delivery{Answer: true})
			}
		case serverOutAnswered:
			c.up.Answered()
		case serverOutReport:
			c.report(o.report, o.err)
		case serverOutCancel:
			c.cancel(withoutEvent(o.err))
		case serverOutClose:
			c.closeMailbox(o.keep, o.err)
		case serverOutEnded:
			c.notifyEnd()
			c.up.Ended()
		}
	}
}

// closeMailbox ends the work of the mailbox. The reason is dispatched last; nil means that nothing
// is.
func (c *Channel) closeMailbox(keep bool, reason error) {
	if reason == nil {
		c.mailbox.Close(false)
		return
	}
	c.mailbox.Close(keep, item{kind: itemClose, msg: reason})
}

// tell removes the channel from the carrier's table and sends its last frames, in one step.
func (c *Channel) tell(o *serverOutput) {
	var room [3]*serializer.Frame
	frames := append(room[:0], o.frame)
	if o.frames&serverFrameCrashedJoin != 0 {
		frames = c.appendCrashedJoin(frames, o.claimed)
	}
	if o.frames&serverFrameClose != 0 {
		frames = append(frames, c.closeFrame(o.err))
	}
	if o.frames&serverFrameError != 0 {
		frames = append(frames, c.lifecycle(serializer.EventError, reasonCrash))
	}
	if o.frames&serverFrameLost != 0 {
		frames = append(frames, c.lifecycle(serializer.EventError, reasonLost))
	}
	c.up.End(c.driver(), frames...)
	if c.h.hooks != nil && o.frames&serverFrameCrashedJoin != 0 {
		c.h.hooks.Refused(c, true, nil)
	}
}

// report reports a failure to the carrier. The error may be the user's: its methods may panic.
func (c *Channel) report(what serverReport, err error) {
	do := func(err error) { c.up.Crashed(c.driver(), what.String(), err) }
	if c.h.hooks != nil && what != reportJoinFailedLate {
		defer c.h.hooks.Crashed(c, what.String(), withoutEvent(err))
	}
	if what == reportJoinFailedLate {
		do = func(err error) { c.up.Log(c.driver(), what.String(), err) }
	}
	if failed := recoverResult(func() { do(err) }); failed != nil {
		do(failed)
	}
}
