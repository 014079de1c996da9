package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bennu.example/internal/mailbox"
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

// Driver is the socket's handle to a channel: it feeds it and ends it. It is for package socket and
// not covered by the compatibility promise. The connection's reader calls its methods, one at a
// time; Wait, Cancel and Resume may be called from any goroutine.
type Driver struct{ c *Channel }

// Start begins a channel with the client's phx_join. If before is not zero, it is the channel
// that the topic has: it is replaced, and the join waits for its end. The mailbox holds at most
// size bytes of messages that wait for the channel's callbacks, which run on the goroutines of
// workers.
func Start(
	ctx context.Context, up Carrier, h *Handler, join *serializer.Message, before Driver,
	size int, workers *mailbox.Workers,
) Driver {
	c := &Channel{up: up, h: h, topic: join.Topic, joinRef: join.JoinRef, pushRef: join.JoinRef, data: h.newState()}
	c.ref = Ref{join.Ref} // until the join is answered
	if c.pushRef.IsNull() {
		c.pushRef = join.Ref
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.mailbox.InitShared(workers, size, c.work)
	if before.c != nil {
		before.c.inject(serverInput{kind: serverInReplaced})
		c.join = &serverJoin{previous: before.c}
	}
	it := item{kind: itemJoin, caused: true, ref: join.Ref, payload: join.Payload}
	_ = c.mailbox.Enqueue(it, 0) // an empty mailbox has room for anything
	return Driver{c}
}

// Is reports whether d drives c.
func (d Driver) Is(c *Channel) bool { return d.c == c }

// Accepts reports whether a message with this join_ref belongs to this join. Null does; the
// join_ref of an older join does not.
func (d Driver) Accepts(joinRef serializer.Ref) bool {
	return joinRef.IsNull() || joinRef == d.c.joinRef
}

// ReplyRef is the join_ref of replies to messages of this join, except for the join itself.
func (d Driver) ReplyRef() serializer.Ref { return d.c.pushRef }

// Receive enqueues an event of the client. It waits for room in the mailbox for the given time, and
// then kills the channel, which would hold up the whole socket otherwise. The time during which the
// connection is congested does not count. Receive reports false if the topic is no longer joined:
// the caller must answer the event.
func (d Driver) Receive(m *serializer.Message, wait time.Duration) bool {
	it := item{kind: itemEvent, caused: true, ref: m.Ref, event: m.Event, payload: m.Payload}
	return d.enqueue(it, len(m.Event)+len(m.Ref)+len(m.Payload.Bytes()), wait)
}

// Leave enqueues the client's phx_leave. It returns the same as Receive.
func (d Driver) Leave(m *serializer.Message, wait time.Duration) bool {
	d.c.inject(serverInput{kind: serverInLeaving})
	return d.enqueue(item{kind: itemLeave, caused: true, ref: m.Ref, msg: m.JoinRef}, len(m.Ref)+len(m.JoinRef), wait)
}

func (d Driver) enqueue(it item, size int, wait time.Duration) bool {
	err := d.c.mailbox.EnqueueWait(it, size, wait)
	if errors.Is(err, mailbox.ErrFull) {
		return !d.c.inject(serverInput{kind: serverInKilled})
	}
	return err == nil && d.c.noteWaiting(it)
}

// Watch bounds the time of the join's callback, from when it is called, or from now if it was
// called already. Zero means no bound.
//
// If the callback has not returned in time, the client is told that the join crashed, the topic is
// free, and the join's context is cancelled by ErrJoinTimeout. Messages that are queued behind the
// join are answered as well. Watch does nothing if the join was answered.
func (d Driver) Watch(limit time.Duration) {
	c := d.c
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

// Close ends the channel because its connection ended. Messages in the mailbox are still handled
// before Terminate is called.
func (d Driver) Close(reason error) {
	d.c.closeMailbox(true, fmt.Errorf("%w: %w", ErrClosed, reason))
}

// Cancel drops the messages in the mailbox and cancels the context of the callback that runs.
func (d Driver) Cancel(reason error) {
	d.c.closeMailbox(false, fmt.Errorf("%w: %w", ErrClosed, reason))
	d.c.cancel(fmt.Errorf("%w: %w", ErrClosed, reason))
}

// Resume lets the channel go on with its client's messages, see Carrier.Congested.
func (d Driver) Resume() { d.c.mailbox.Resume() }

// Wait waits for the channel's end after Close or Cancel.
func (d Driver) Wait() { d.c.mailbox.Wait() }

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
	if c.injected == nil {
		c.injected = new(sync.WaitGroup)
	}
	c.injected.Add(1)
	return c.injected
}

// stepLocked makes a step. What must happen in the order of the steps, it does itself. The caller
// holds mu.
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
	for i := range out.all() {
		switch o := &out.list[i]; o.kind {
		case serverOutArm, serverOutDisarm: // done by stepLocked
		case serverOutHandOver, serverOutCallJoin, serverOutTerminate, serverOutEnd: // done by the caller
		case serverOutSubscribe:
			c.sub = c.up.PubSub().Subscribe(c.topic, (*subscriber)(c))
		case serverOutUnsubscribe:
			c.unsubscribe()
		case serverOutReply:
			_ = c.up.Send(o.frame, transport.Delivery{Answer: true}) // the end of the connection ends the channel
		case serverOutTell:
			c.tell(o)
		case serverOutTellPrevious:
			if o.claimed != nil {
				_ = c.up.Send(o.claimed.previous.closeFrame(), transport.Delivery{Answer: true})
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
		frames = append(frames, c.closeFrame())
	}
	if o.frames&serverFrameError != 0 {
		frames = append(frames, c.lifecycle(serializer.EventError, reasonCrash))
	}
	c.up.End(c, frames...)
}

// report reports a failure to the carrier. The error may be the user's: its methods may panic.
func (c *Channel) report(what serverReport, err error) {
	do := func(err error) { c.up.Crashed(c, what.String(), err) }
	if what == reportJoinFailedLate {
		do = func(err error) { c.up.Log(c, what.String(), err) }
	}
	if failed := recoverResult(func() { do(err) }); failed != nil {
		do(failed)
	}
}
