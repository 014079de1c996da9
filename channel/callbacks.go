package channel

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"bennu.example/internal/reason"
	"bennu.example/push"
	"bennu.example/serializer"
)

// infoSize is what a message of the server's own code counts as, its real size being unknown.
const infoSize = 256

// item is what waits in a channel's mailbox.
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
	itemJoin  itemKind = iota // ref, payload
	itemEvent                 // ref, event, payload
	itemLeave                 // ref; msg is its join_ref
	itemOut                   // event, payload: an intercepted broadcast
	itemInfo                  // msg
	itemClose                 // msg is the reason, an error
)

var (
	errGoexit     = errors.New("callback ended its goroutine")
	reasonCrash   = reason.Payload("channel_crash")
	replyInvalid  = reason.Reply("invalid payload")
	replyCrashed  = reason.Reply("join crashed")
	replyNoTopic  = reason.Reply("unmatched topic")
	replyReserved = reason.Reply("reserved event")
	errRefused    = errors.New("join refused")
	emptyResponse = push.OK(nil)
)

// work is the mailbox's function.
func (c *Channel) work(it item) {
	if it.kind == itemEvent && c.up.Congested(Driver{c}) && c.mailbox.Hold() {
		return // its answer would have to wait in memory
	}
	c.handling.Store(it.caused) // a Goexit leaves it so, and ends the channel
	if it.kind == itemJoin {
		c.handleJoin(it)
	} else if err := caught(func() { c.handle(it) }); err != nil {
		c.abort(err)
	}
	c.handling.Store(false)
}

// handle handles what is no join.
func (c *Channel) handle(it item) {
	switch c.phase.Load() {
	case joining: // its join was refused: to the client it is not joined
		c.handleRefused(it)
		return
	case silent:
		if it.kind == itemClose {
			c.finish(it.msg.(error))
		}
		return
	case ended:
		return
	}
	switch it.kind {
	case itemEvent:
		c.handleEvent(it)
	case itemLeave:
		f, err := c.encodeReply(c.pushRef, it.ref, emptyResponse)
		if err != nil {
			c.up.Log(c, "cannot answer a leave", err)
		}
		c.stop(ErrLeft, f)
	case itemOut:
		c.settle(it, push.NoReply, c.guard(func() error { return c.h.out[it.event](c.ctx, c, it.payload) }))
	case itemInfo:
		f := c.h.infoFor(it.msg)
		if f == nil {
			c.up.Log(c, "message dropped", fmt.Errorf("channel: no Info callback for %T", it.msg))
			return
		}
		c.settle(it, push.NoReply, c.guard(func() error { return f(c.ctx, c, it.msg) }))
	case itemClose:
		c.phase.CompareAndSwap(joined, ending)
		c.finish(it.msg.(error))
	}
}

func (c *Channel) handleEvent(it item) {
	if c.h.refuses(it.event) {
		c.refuseReserved(it)
		return
	}
	c.beginEvent(it.ref)
	var reply push.Reply
	err := c.guard(func() (err error) { reply, err = c.h.run(c.ctx, c, it.event, it.payload); return err })
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

// settle does what a callback's results ask for. Those of a silenced channel count for nothing: what silenced it ends it.
func (c *Channel) settle(it item, reply push.Reply, err error) {
	if c.phase.Load() >= silent {
		return
	}
	if !reply.IsZero() {
		if failed := c.reply(it.ref, reply); failed != nil && !errors.Is(failed, ErrClosed) {
			c.crash(it.event, failed)
			return
		}
	}
	if err != nil {
		c.fail(it, err)
	}
}

// fail does what a callback's error asks for.
func (c *Channel) fail(it item, err error) {
	var rejected *push.Error
	var invalid *payloadError
	switch {
	case errors.Is(err, ErrStop):
		c.stop(ErrStop, nil)
		return
	case it.kind == itemEvent && errors.As(err, &invalid):
		if !c.warned { // a flood of them is none of the log
			c.warned = true
			c.up.Log(c, "payload does not fit its callback", &eventError{it.event, err})
		}
		err = c.reply(it.ref, replyInvalid)
	case it.kind == itemEvent && errors.As(err, &rejected):
		err = c.reply(it.ref, push.Reply{Status: rejected.Status, Payload: rejected.Payload})
	}
	if err != nil && !errors.Is(err, ErrClosed) {
		c.crash(it.event, err)
	}
}

// eventError is the error of an event's callback. The client chose the event, so it is no part of a
// log message: the Carrier logs it as a field.
type eventError struct {
	event string
	err   error
}

func (e *eventError) Error() string { return e.err.Error() }
func (e *eventError) Unwrap() error { return e.err }

// Event is the name of the event.
func (e *eventError) Event() string { return e.event }

// stop ends the channel normally: its end is told first, then it terminates.
func (c *Channel) stop(reason error, reply *serializer.Frame) {
	if c.phase.CompareAndSwap(joined, ending) {
		c.unsubscribe()
		c.up.End(c, reply, c.lifecycle(serializer.EventClose, serializer.Payload{}))
	}
	c.finish(reason)
}

// crash ends the channel after a callback failed: it terminates, then its end is told.
func (c *Channel) crash(event string, err error) {
	failed := err
	if event != "" {
		failed = &eventError{event, err}
	}
	c.up.Crashed(c, "channel crashed", failed)
	tell := c.phase.CompareAndSwap(joined, ending)
	defer func() { // also if Terminate ends its goroutine
		c.unsubscribe()
		if tell && c.phase.Load() == ending {
			c.up.End(c, c.lifecycle(serializer.EventError, reasonCrash))
		}
		c.end(err)
	}()
	c.terminate(err)
}

// finish terminates and ends.
func (c *Channel) finish(reason error) {
	c.unsubscribe()
	defer c.end(reason) // likewise
	c.terminate(reason)
}

func (c *Channel) terminate(reason error) {
	if c.h.terminate == nil || !c.accepted.Swap(false) { // once, also if it ends its goroutine
		return
	}
	ctx := context.WithoutCancel(c.ctx)
	err := c.guard(func() error { c.h.terminate(ctx, c, reason); return nil })
	if err != nil {
		c.up.Crashed(c, "terminate crashed", err)
	}
}

// end is the last thing that a channel does.
func (c *Channel) end(reason error) {
	defer c.up.Ended()
	c.mu.Lock()
	c.phase.Store(ended)
	onEnd := c.onEnd
	c.onEnd = nil
	c.mu.Unlock()
	c.cancel(reason)
	c.mailbox.Close(false)
	c.unsubscribe() // from what Terminate subscribed to
	if c.killing != nil {
		<-c.killing // the next join of the topic is answered after this one's end was told
	}
	c.callEach(onEnd)
}

// callEach calls all of the functions, also if one of them ends its goroutine.
func (c *Channel) callEach(fs []func()) {
	done := 0
	defer func() {
		if done < len(fs) {
			c.callEach(fs[done:])
		}
	}()
	for _, f := range fs {
		done++
		if err := c.guard(func() error { f(); return nil }); err != nil {
			c.up.Crashed(c, "callback at the channel's end crashed", err)
		}
	}
}

func (c *Channel) unsubscribe() {
	if c.sub != nil {
		c.sub.Cancel()
	}
	c.mu.Lock()
	others := c.others
	c.others = nil
	c.mu.Unlock()
	for s := range others {
		s.Cancel()
	}
}

// guard calls f and turns a panic into an error. If f ends its goroutine then the channel is ended here, as nobody else comes by.
func (c *Channel) guard(f func() error) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
			return
		}
		c.abort(errGoexit)
	}()
	err = f()
	returned = true
	return err
}

// caught calls f, which calls the user's code only by way of guard, but for the methods of what came back: errors and payloads. One of
// those that panics (errors.Is on a nil *fs.PathError does) would end the process.
func caught(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	f()
	return nil
}

// abort ends the channel after a callback called runtime.Goexit, which Phoenix's exit(:normal) is like, or its results panicked: a crash.
func (c *Channel) abort(err error) {
	if c.giveUp("join crashed", err) {
		return
	}
	c.up.Crashed(c, "channel crashed", err)
	if c.phase.CompareAndSwap(joined, silent) {
		c.up.End(c, c.lifecycle(serializer.EventError, reasonCrash))
	}
	c.mailbox.Close(false, item{kind: itemClose, msg: err})
}
