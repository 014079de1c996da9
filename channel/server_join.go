package channel

import (
	"errors"
	"fmt"
	"time"

	"bennu.example/internal/safecall"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// replaceWait is how long a new join of a topic waits for the callback that the old channel is in.
// Phoenix waits as long before it kills the old channel.
const replaceWait = 5 * time.Second

// serverJoin is what a channel needs only until its join was handled. Few joins need one.
type serverJoin struct {
	previous *Channel      // the channel that this one replaces, or nil
	limit    time.Duration // of the join callback. Zero means no limit.
	timer    *time.Timer   // Nil means that it was not started.
	waiting  []item        // messages queued behind a watched join, without their payloads
	history  *joinHistory  // Nil means that the client did not ask for history.
}

// serverClaim is what goes with the answer to a join. It is taken in the step that answers, so that
// it is sent once.
type serverClaim struct {
	ref      serializer.Ref // of the join
	waiting  []item
	previous *Channel // the channel whose phx_close is due, or nil
}

// handleJoin handles the join when the channel before it has ended. Later messages for this join
// wait in the mailbox.
func (c *Channel) handleJoin(it *item) {
	defer c.feed(serverInput{kind: serverInJoinDone}) // also if the callback ends its goroutine
	if p := c.previous(); p != nil && !p.mailbox.WaitFor(replaceWait) {
		p.inject(serverInput{kind: serverInAbandoned})
	}
	if c.step(serverInput{kind: serverInJoin}).kind == serverOutCallJoin {
		c.callJoin(it)
	}
}

func (c *Channel) previous() *Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.join == nil {
		return nil
	}
	return c.join.previous
}

// callJoin calls the handler's join callback and feeds its result.
func (c *Channel) callJoin(it *item) {
	var in serverInput
	if err := safecall.Do(func() error { c.runJoin(it, &in); return nil }, nil); err != nil {
		in.kind, in.err = serverInExited, err
	}
	notice := c.joinNotice()
	switch {
	case in.kind != serverInAccepted:
		c.feed(in)
	case c.past() == nil:
		c.accept(in)
	case len(c.h.out) > 0: // pass may call the user's code
		c.accept(in)
		c.readLater()
	default:
		c.acceptAndRead(in)
	}
	c.notifyJoin(&in, notice)
}

// acceptAndRead is accept for a client that may have missed records. The answer and the records are
// written together. When many clients come back, the writes are most of the work.
func (c *Channel) acceptAndRead(in serverInput) {
	var done progress
	c.up.Batch(func() {
		c.accept(in)
		c.feed(serverInput{kind: serverInJoinDone}) // the reader of the connection can go on
		c.handling.Store(false)
		if err := safecall.Do(func() error { done = c.readFirst(); return nil }, nil); err != nil {
			c.feed(serverInput{kind: serverInExited, err: err})
		}
	})
	if done == readMore {
		c.readLater()
	}
}

// accept subscribes and sends the answer.
func (c *Channel) accept(in serverInput) {
	// Deliver waits for answering, so that broadcasts follow the answer. The topic's lock is taken
	// under answering here, and answering under the topic's lock there. But Deliver is not called
	// before this channel is subscribed, and the topic's lock is not needed after that.
	c.answering.Lock()
	c.feed(in)
	c.feed(serverInput{kind: serverInAnswered})
	c.answering.Unlock()
}

// runJoin calls the join callback and makes an input of its result. The methods of the result are
// the user's code, too: if one panics, in.accepted is valid all the same.
func (c *Channel) runJoin(it *item, in *serverInput) {
	var reply any
	var asksOnce bool
	it.payload, asksOnce = cutOnce(it.payload)
	if in.err = c.openExtensions(it); in.err == nil {
		in.err = c.callUser(func() (err error) { reply, err = c.h.join(c.context(), c, it.payload); return err })
		in.accepted = in.err == nil
	}
	if in.err == nil {
		var payload serializer.Payload
		if payload, in.err = c.joinReply(reply); in.err == nil {
			if asksOnce && c.h.once != nil {
				payload = c.h.once.joinReply(payload)
			}
			in.frame, in.err = c.encodeReply(c.joinRef(), it.ref, push.OK(payload))
		}
		if in.err == nil {
			in.err = c.arrive()
		}
	}
	if in.err == nil {
		in.kind = serverInAccepted
		return
	}
	in.kind = serverInRefused
	var answer push.Reply
	rejection, isRejection := asRejection(in.err)
	var invalid *payloadError
	switch {
	case errors.As(in.err, &invalid):
		answer = replyInvalid
	case isRejection:
		answer = rejection
	default:
		var isRecording bool
		if answer, isRecording = replyToRecording(in.err); isRecording {
			c.up.Log(c.driver(), "join failed because of the log of a topic", in.err)
			break
		}
		answer, in.crashed = replyCrashed, true
	}
	frame, err := c.encodeReply(c.joinRef(), it.ref, answer)
	if err != nil {
		c.up.Log(c.driver(), "cannot answer a join", err)
		frame, _ = c.encodeReply(c.joinRef(), it.ref, replyCrashed)
	}
	in.frame = frame
}

// arm starts the join's timeout. The caller holds mu.
func (c *Channel) arm() {
	j := c.join
	if j.limit == 0 || j.timer != nil {
		return
	}
	injected := c.beginInjected(1)
	j.timer = time.AfterFunc(j.limit, func() {
		defer injected.Done()
		c.inject(serverInput{kind: serverInTimedOut, err: fmt.Errorf("%w: over %v", ErrJoinTimeout, j.limit)})
	})
}

// disarm stops the join's timeout. The caller holds mu.
func (c *Channel) disarm() {
	if j := c.join; j != nil && j.timer != nil && j.timer.Stop() {
		c.rare.injected.Done()
	}
}

// noteWaiting notes a message that was enqueued, if it waits there for a watched join. It reports
// false if nobody will answer the message, because the join was given up.
func (c *Channel) noteWaiting(it item) bool {
	if c.status().isOpen() {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.status == serverJoining && c.state.watched {
		c.join.waiting = append(c.join.waiting, item{kind: it.kind, ref: it.ref, msg: it.msg})
	}
	return !c.state.givenUp
}

// claim takes what goes with the answer to a join that is given up. The caller holds mu.
func (c *Channel) claim() *serverClaim {
	claimed := &serverClaim{ref: c.ref.ref, previous: c.claimPrevious()}
	c.ref = Ref{}
	if c.join != nil {
		claimed.waiting, c.join.waiting = c.join.waiting, nil
	}
	return claimed
}

// claimPrevious returns the channel that this one replaces, if its phx_close is due, and makes it
// the caller's to send. The caller holds mu.
func (c *Channel) claimPrevious() *Channel {
	if c.join == nil || c.join.previous == nil {
		return nil
	}
	p := c.join.previous
	var out serverOutputs
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stepLocked(serverInput{kind: serverInSucceeded}, &out); out.n == 0 {
		return nil
	}
	return p
}

// appendCrashedJoin appends the answer to a join that is given up, and the frames that follow it.
func (c *Channel) appendCrashedJoin(frames []*serializer.Frame, claimed *serverClaim) []*serializer.Frame {
	answer, _ := c.encodeReply(c.joinRef(), claimed.ref, replyCrashed)
	frames = append(frames, answer)
	if claimed.previous != nil {
		frames = append(frames, claimed.previous.closeFrame(ErrReplaced))
	}
	for i := range claimed.waiting {
		frames = append(frames, c.refusal(&claimed.waiting[i]))
	}
	return frames
}

func (c *Channel) closeFrame(reason error) *serializer.Frame {
	return c.lifecycle(serializer.EventClose, closeReason(reason))
}

// refuseWaiting answers a message that was queued behind a join that was refused.
func (c *Channel) refuseWaiting(it *item) {
	if f := c.refusal(it); f != nil {
		_ = c.up.Send(f, transport.Delivery{Answer: true}) // the end of the connection ends the channel
	}
}

// refusal is the answer to a message behind a join that failed: the same as if the topic had never
// been joined. It is nil if the message needs no answer.
func (c *Channel) refusal(it *item) *serializer.Frame {
	answer := replyNoTopic
	var joinRef serializer.Ref
	switch it.kind {
	case itemLeave:
		answer, joinRef = emptyResponse, it.msg.(serializer.Ref)
	case itemEvent:
	default:
		return nil
	}
	f, err := c.encodeReply(joinRef, it.ref, answer)
	if err != nil {
		c.up.Log(c.driver(), "cannot answer behind a join", err)
		return nil
	}
	return f
}
