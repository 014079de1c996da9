package channel

import (
	"errors"
	"fmt"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// replaceWait is how long a new join of a topic waits for the callback that the old channel is in, as Phoenix does before it kills.
const replaceWait = 5 * time.Second

// How a join was answered. Who sets it, under mu, gives the answer, and tells the carrier.
const (
	unanswered uint8 = iota
	answeredOK
	answeredError
	gaveUp // by giveUp, in the callback's stead
)

// joinWatch is kept of a join that is watched.
type joinWatch struct {
	limit  time.Duration // 0: none
	timer  *time.Timer   // nil: the callback was not called yet
	done   chan struct{}
	behind []item // the messages that wait for it, without their payloads
}

// Watch gives the join's callback so much time, from when it is called or from now; 0 is no bound. One that has not returned then is a crashed
// join to the client, its topic is free, and its context is cancelled by ErrJoinTimeout; what the client sends from now on and would wait for
// it is answered then, too. A join that was answered already is not touched.
func (d Driver) Watch(limit time.Duration) {
	c := d.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer == unanswered && c.watch == nil {
		c.watch = &joinWatch{limit: limit, done: make(chan struct{})}
		if c.asked {
			c.startLimit()
		}
	}
}

// startLimit starts the time. The caller holds mu.
func (c *Channel) startLimit() {
	w := c.watch
	if w.limit == 0 {
		return
	}
	w.timer = time.AfterFunc(w.limit, func() {
		defer close(w.done)
		c.giveUp("join given up", fmt.Errorf("%w: over %v", ErrJoinTimeout, w.limit))
	})
}

// noteWaiting notes a message that was put into the mailbox, if it waits there for a watched join. It reports false if nobody will answer it, as the
// join was given up.
func (c *Channel) noteWaiting(it item) bool {
	if p := c.phase.Load(); p == joined || p == ending {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer == unanswered && c.watch != nil {
		c.watch.behind = append(c.watch.behind, item{kind: it.kind, ref: it.ref, msg: it.msg})
	}
	return c.answer != gaveUp
}

// ask reports whether the handler is still to be asked, whose time begins.
func (c *Channel) ask() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer != unanswered || c.phase.Load() != joining {
		return false
	}
	c.asked = true
	if c.watch != nil {
		c.startLimit()
	}
	return true
}

// handleJoin begins the channel when the one before it has ended. Whatever else came for this join waits in the mailbox behind it.
func (c *Channel) handleJoin(it item) {
	defer c.endJoin() // also if the join's goroutine was ended
	if c.prev != nil && !c.prev.mailbox.WaitFor(replaceWait) {
		c.prev.abandon()
	}
	if !c.ask() {
		return
	}
	if err := caught(func() { c.decide(it) }); err != nil {
		c.abort(err)
	}
}

// endJoin does what is left after the answer: it tells the end of the channel before, and the carrier that there was an answer.
func (c *Channel) endJoin() {
	c.mu.Lock()
	answer, watch, before := c.answer, c.watch, c.closeBefore()
	c.prev, c.asked = nil, false
	if answer != unanswered { // or about to be given up, by who needs them
		c.ref, c.watch = Ref{}, nil
	}
	c.mu.Unlock()
	if before != nil {
		_ = c.up.Send(before.closeFrame(), transport.Delivery{Answer: true}) // a connection that has ended ends the channel by itself
	}
	if watch != nil && watch.timer != nil && !watch.timer.Stop() {
		<-watch.done
	}
	if answer == answeredOK || answer == answeredError {
		c.up.Answered()
	}
}

// closeBefore takes on to tell the end of the channel before, and returns that; nil if there is nothing to tell. The caller holds mu.
func (c *Channel) closeBefore() *Channel {
	p := c.prev
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.replaced || p.answer != answeredOK {
		return nil
	}
	p.replaced = false
	return p
}

func (c *Channel) closeFrame() *serializer.Frame {
	return c.lifecycle(serializer.EventClose, serializer.Payload{})
}

// decide asks the handler and answers.
func (c *Channel) decide(it item) {
	var reply any
	err := c.guard(func() (err error) { reply, err = c.h.join(c.ctx, c, it.payload); return err })
	var frame *serializer.Frame
	if err == nil {
		c.accepted.Store(true)
		if frame, err = c.encodeReply(c.joinRef, it.ref, push.OK(reply)); err != nil {
			c.terminate(err)
		}
	}
	if err != nil {
		c.refuse(it.ref, err)
		return
	}
	c.accept(frame)
}

// accept subscribes and answers the join, unless it was given up: then what ends the channel is in the mailbox. Deliver waits for mu
// meanwhile, so nothing overtakes the answer and nothing that is broadcast after it is missed. (mu is held over the topic's lock here, which
// Deliver holds while it waits for mu: but not before this channel is subscribed, and then the topic's lock is not needed any more.)
func (c *Channel) accept(answer *serializer.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.claimAnswer(answeredOK) {
		return
	}
	if !c.replaced {
		c.sub = c.up.PubSub().Subscribe(c.topic, (*subscriber)(c))
	}
	_ = c.send(answer, transport.Delivery{Answer: true}) // likewise
	if c.replaced {
		c.phase.CompareAndSwap(joining, silent)
		return
	}
	c.phase.CompareAndSwap(joining, joined)
}

// claimAnswer reports whether the join is for the caller to answer, who holds mu.
func (c *Channel) claimAnswer(how uint8) bool {
	if c.answer != unanswered || c.phase.Load() != joining { // or about to be given up
		return false
	}
	c.answer = how
	return true
}

// refuse answers a join that failed.
func (c *Channel) refuse(ref serializer.Ref, err error) {
	answer := replyCrashed
	crashed := false
	var rejected *push.Error
	var invalid *payloadError
	switch {
	case errors.As(err, &invalid):
		answer = replyInvalid
	case errors.As(err, &rejected):
		answer = push.Reply{Status: rejected.Status, Payload: rejected.Payload}
	default:
		crashed = true
		_ = err.Error() // if it panics then here, before the answer is this function's to give
	}
	f, failed := c.encodeReply(c.joinRef, ref, answer)
	if failed != nil {
		c.up.Log(c, "cannot answer a join", failed)
		f, _ = c.encodeReply(c.joinRef, ref, replyCrashed)
	}
	c.mu.Lock()
	mine := c.claimAnswer(answeredError)
	c.mu.Unlock()
	if !mine {
		if crashed {
			c.up.Log(c, "join failed after it was given up", err)
		}
		return
	}
	if crashed {
		c.up.Crashed(c, "join crashed", err)
	}
	c.up.End(c, f)
	c.mailbox.Close(true, item{kind: itemClose, msg: errRefused})
}

// handleRefused handles what came behind a join that was refused.
func (c *Channel) handleRefused(it item) {
	if it.kind == itemClose {
		c.end(errRefused)
		return
	}
	if f := c.refusal(it); f != nil {
		_ = c.up.Send(f, transport.Delivery{Answer: true}) // likewise
	}
}

// refusal answers a client's message behind a join that failed as if the topic had never been joined. It is nil if there is nothing to answer.
func (c *Channel) refusal(it item) *serializer.Frame {
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
		c.up.Log(c, "cannot answer behind a join", err)
		return nil
	}
	return f
}

// giveUp answers a join in its callback's stead, as one that crashed, and what waits for it, and silences the channel. What the callback still
// returns counts for nothing, but a channel that it accepts terminates, by reason. GiveUp reports false if there is an answer already.
func (c *Channel) giveUp(message string, reason error) bool {
	c.mu.Lock()
	if c.answer != unanswered {
		c.mu.Unlock()
		return false
	}
	c.answer = gaveUp
	c.phase.CompareAndSwap(joining, silent)
	ref, before := c.ref.ref, c.closeBefore()
	c.ref = Ref{}
	var behind []item
	if c.watch != nil {
		behind, c.watch.behind = c.watch.behind, nil
	}
	c.mu.Unlock()
	c.up.Crashed(c, message, reason)
	frames := make([]*serializer.Frame, 1, 2+len(behind))
	frames[0], _ = c.encodeReply(c.joinRef, ref, replyCrashed)
	if before != nil {
		frames = append(frames, before.closeFrame())
	}
	for _, it := range behind {
		frames = append(frames, c.refusal(it))
	}
	c.up.End(c, frames...)
	c.silence(reason)
	c.up.Answered()
	return true
}

// abandon goes on without a channel whose callback does not return though its topic was joined again.
func (c *Channel) abandon() {
	if !c.giveUp("join given up", ErrReplaced) {
		c.up.Crashed(c, "channel given up, whose callback does not return", ErrReplaced)
		c.silence(ErrReplaced)
	}
}
