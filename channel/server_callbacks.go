package channel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"bennu.example/internal/promise"
	"bennu.example/internal/safecall"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// infoSize is the size that a message of the server's own code counts as: its real size is unknown.
const infoSize = 256

// item is one message in a channel's mailbox.
type item struct {
	kind    itemKind
	caused  bool // by a message of the client, directly or not
	ref     serializer.Ref
	event   string
	payload serializer.Payload
	msg     any
}

type itemKind uint8

const (
	itemJoin       itemKind = iota // ref, payload
	itemEvent                      // ref, event, payload
	itemLeave                      // ref; msg is its join_ref
	itemOut                        // event, payload: an intercepted broadcast; msg is its context, or nil
	itemInfo                       // msg
	itemClose                      // msg is the reason, an error
	itemRead                       // records that the client has not received may be sent
	itemMarker                     // the client may not know its position
	itemTops                       // pushes that wait for a position may be late
	itemUnsendable                 // msg is the error of encoding a record
	itemLost                       // the topic's log lost records
	itemGrant                      // msg is a *channelhost.Regrant
	itemFinish                     // msg is a finish
	itemWill                       // event, payload; msg is a *channelhost.Will
)

var (
	reasonCrash   = promise.Reason("channel_crash")
	reasonLost    = promise.Reason("history lost")
	replyInvalid  = errorReply("invalid payload")
	replyCrashed  = errorReply("join crashed")
	replyNoTopic  = errorReply("unmatched topic")
	replyReserved = errorReply("reserved event")
	replyNoCredit = errorReply("no credit")
	errRefused    = errors.New("join refused")
	emptyResponse = push.OK(nil)
)

func errorReply(reason string) push.Reply {
	return push.Reply{Status: push.StatusError, Payload: promise.Reason(reason)}
}

// work handles one message of the mailbox.
func (c *Channel) work(it item) {
	if it.kind == itemEvent && c.up.Congested(c.driver()) && c.mailbox.Hold() {
		return // its answer would have to wait in memory
	}
	c.handling.Store(it.caused) // a Goexit leaves it so, and ends the channel
	if it.kind == itemJoin {
		c.handleJoin(&it)
	} else if err := safecall.Do(func() error { c.handle(&it); return nil }, nil); err != nil {
		c.feed(serverInput{kind: serverInExited, err: err})
	}
	c.handling.Store(false)
	if c.past() != nil {
		c.readAgain()
	}
}

// handle handles a message that is not a join.
func (c *Channel) handle(it *item) {
	status := c.status()
	switch {
	case it.kind == itemClose:
		in := serverInput{kind: serverInClose, err: it.msg.(error)}
		_, in.removed = in.err.(*stopError) //nolint:errorlint // as Remove made it
		c.feed(in)
		return
	case status == serverRefused:
		c.refuseWaiting(it)
		return
	case status.isMute():
		return
	}
	switch it.kind {
	case itemEvent:
		c.handleEvent(it)
	case itemLeave:
		c.feed(serverInput{kind: serverInLeave, frame: c.leaveReply(it.ref), err: ErrLeft})
	case itemGrant:
		c.handleGrant(it)
	case itemWill:
		c.handleWill(it)
	case itemOut:
		c.settle(it, push.NoReply, c.callUser(func() error {
			origin, _ := it.msg.(context.Context)
			return c.h.out[it.event](withOrigin(c.context(), origin), c, it.payload)
		}))
	case itemInfo:
		c.handleInfo(it)
	case itemFinish:
		c.handleFinish(it.msg.(finish))
	case itemRead, itemMarker, itemTops, itemUnsendable, itemLost:
		c.handlePast(it)
	}
}

func (c *Channel) leaveReply(ref serializer.Ref) *serializer.Frame {
	f, err := c.encodeReply(c.pushRef, ref, emptyResponse)
	if err != nil {
		c.up.Log(c.driver(), "cannot answer a leave", err)
	}
	return f
}

func (c *Channel) handleInfo(it *item) {
	f := c.h.infoFor(it.msg)
	if f == nil {
		c.up.Log(c.driver(), "message dropped", fmt.Errorf("channel: no Info callback for %T", it.msg))
		return
	}
	c.settle(it, push.NoReply, c.callUser(func() error { return f(c.context(), c, it.msg) }))
}

func (c *Channel) handleEvent(it *item) {
	if c.h.refuses(it.event) {
		c.handleExtension(it)
		return
	}
	c.beginEvent(it.ref)
	var reply push.Reply
	err := c.callUser(func() (err error) { reply, err = c.h.run(c.context(), c, it.event, it.payload); return err })
	c.settle(it, reply, err)
	c.endEvent()
}

// beginEvent prepares the channel for the callback of a client's event.
func (c *Channel) beginEvent(ref serializer.Ref) {
	c.mu.Lock()
	c.ref = Ref{ref}
	if !ref.IsNull() {
		c.held = noDiffs
	}
	c.mu.Unlock()
}

// endEvent is called after the reply was sent.
func (c *Channel) endEvent() {
	c.mu.Lock()
	c.ref = Ref{}
	c.sendHeld()
	c.mu.Unlock()
}

// settle acts on the results of a callback. Those of a silent channel are ignored, because whatever
// silenced it ends it.
func (c *Channel) settle(it *item, reply push.Reply, err error) {
	if c.status().isMute() {
		return
	}
	if !reply.IsZero() && !replacesReply(err) {
		if failed := c.answer(it.ref, reply); failed != nil && !errors.Is(failed, ErrClosed) {
			c.crash(it.event, failed)
			return
		}
	}
	if err != nil {
		c.fail(it, err, !reply.IsZero())
	}
}

// replacesReply reports whether the answer to an error takes the place of the callback's reply. A
// callback usually makes both with "return push.OK(nil), c.Broadcast(…)".
func replacesReply(err error) bool {
	if err == nil || errors.Is(err, ErrStop) {
		return false
	}
	_, ok := replyToRecording(err)
	return ok
}

// fail acts on the error of a callback, which may have replied already.
func (c *Channel) fail(it *item, err error, replied bool) {
	var stop *stopError
	var invalid *payloadError
	rejection, isRejection := asRejection(err)
	unrecorded, isRecording := replyToRecording(err)
	switch {
	case errors.As(err, &stop):
		c.feed(serverInput{kind: serverInStopped, err: stop})
		return
	case errors.Is(err, ErrStop):
		c.feed(serverInput{kind: serverInStopped, err: ErrStop})
		return
	case it.kind == itemEvent && errors.As(err, &invalid):
		if !c.warned { // once per channel, so that a client cannot flood the log
			c.warned = true
			c.up.Log(c.driver(), "payload does not fit its callback", &eventError{it.event, err})
		}
		err = c.answer(it.ref, replyInvalid)
	case errors.Is(err, ErrNoCredit): // a slow client does not crash its channel
		err = nil
		if it.kind == itemEvent && !it.ref.IsNull() && !replied {
			err = c.answer(it.ref, replyNoCredit)
		}
	case it.kind == itemEvent && isRejection:
		err = c.answer(it.ref, rejection)
	case isRecording: // the failure of a log must not end the channels of all that broadcast
		c.up.Log(c.driver(), "recorded broadcast failed", &eventError{it.event, err})
		err = nil
		if it.kind == itemEvent && !it.ref.IsNull() {
			err = c.answer(it.ref, unrecorded)
		}
	}
	if err != nil && !errors.Is(err, ErrClosed) {
		c.crash(it.event, err)
	}
}

func (c *Channel) crash(event string, err error) {
	if event != "" {
		err = &eventError{event, err}
	}
	c.feed(serverInput{kind: serverInCrashed, err: err})
}

// eventError is the error of an event's callback. The client chose the event's name, so it is not
// part of a log message: the socket logs it as a field.
type eventError struct {
	event string
	err   error
}

func (e *eventError) Error() string { return e.err.Error() }
func (e *eventError) Unwrap() error { return e.err }

// Event is the name of the event.
func (e *eventError) Event() string { return e.event }

// withoutEvent returns the error that crash was given.
func withoutEvent(err error) error {
	if e, ok := err.(*eventError); ok { //nolint:errorlint // crash wraps the error itself, at the top
		return e.err
	}
	return err
}

// callTerminate calls the handler's Terminate and returns the input that follows. If Terminate ends
// its goroutine, callTerminate feeds that input.
func (c *Channel) callTerminate(reason error) serverInput {
	next := serverInput{kind: serverInTerminated, err: reason}
	if c.h.terminate != nil {
		ctx := context.WithoutCancel(c.context())
		c.callHook(reportTerminateCrashed, func() error { return c.h.terminate(ctx, c, reason) }, func() { c.feed(next) })
	}
	return next
}

// end calls the OnEnd functions, when the goroutines that inject inputs are done. It returns the
// input that follows, or feeds it if a function ends its goroutine.
func (c *Channel) end() serverInput {
	c.mu.Lock()
	rare := c.rare
	var onEnd []func()
	for e := c.onEnd; e != nil; e = e.before {
		onEnd = append(onEnd, e.f)
	}
	c.onEnd = nil
	c.mu.Unlock()
	slices.Reverse(onEnd)
	if rare != nil {
		rare.injected.Wait()
	}
	next := serverInput{kind: serverInFinished}
	c.callEach(onEnd, next)
	return next
}

// callEach calls all functions, even if one of them ends its goroutine. In that case it feeds next.
func (c *Channel) callEach(fs []func(), next serverInput) {
	for i, f := range fs {
		c.callHook(reportEndCrashed, func() error { f(); return nil }, func() {
			c.callEach(fs[i+1:], next)
			c.feed(next)
		})
	}
}

func (c *Channel) unsubscribe() {
	if c.sub != nil {
		c.sub.Cancel()
	}
	if p := c.past(); p != nil {
		p.close()
	}
	c.mu.Lock()
	var others map[*pubsub.Subscription]struct{}
	if c.rare != nil {
		others, c.rare.others = c.rare.others, nil
	}
	c.mu.Unlock()
	for s := range others {
		s.Cancel()
	}
}

// callUser calls a callback and returns its error. It turns a panic into a *PanicError. If the
// callback ends its goroutine by runtime.Goexit, which is like Phoenix's exit(:normal), the channel
// ends as if it had crashed.
func (c *Channel) callUser(f func() error) error {
	return safecall.Do(f, func() { c.feed(serverInput{kind: serverInExited, err: safecall.ErrGoexit}) })
}

// callHook calls a function at the channel's end, and reports it if it fails. If the function ends
// its goroutine, callHook calls exited.
func (c *Channel) callHook(what serverReport, f func() error, exited func()) {
	err := safecall.Do(f, func() {
		c.report(what, safecall.ErrGoexit)
		exited()
	})
	if err != nil {
		c.report(what, err)
	}
}

// recoverResult calls f, which works with the results of a callback. Their methods are the user's
// code, and may panic: errors.Is on a nil *fs.PathError does. It returns such a panic as an error.
func recoverResult(f func()) error {
	return safecall.Do(func() error { f(); return nil }, nil)
}
