package channel

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/history"
	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	eventCredit  = "$credit"   // pushed by clients: more credit
	memberCredit = eventCredit // in the params of a join: the first credit
	eventEnd     = "$end"      // pushed by the server: the stream has ended

	maxCredit    = 1_000_000
	finishWait   = 30 * time.Second // without credit, after which Finish gives up
	reasonCredit = "invalid credit"
)

// Credit returns how many events the client takes now, or -1 if it takes any number. A client that
// asked for credit in its join receives an event only if it has credit, and each takes 1. Replies,
// calls, phx_*, presence_* and events that begin with "$" take none.
func (c *Channel) Credit() int {
	cr := c.credit()
	if cr == nil {
		return -1
	}
	return int(cr.left.Load())
}

// Ready waits until the client has credit. It returns nil at once if the client did not ask for
// credit. The error wraps ErrNotJoined, ErrClosed when the channel ends, or is that of ctx. A
// callback may wait in Ready: credit does not go through the mailbox. Of several that wait, one may
// find that others took the credit: then Push returns ErrNoCredit.
func (c *Channel) Ready(ctx context.Context) error {
	for {
		cr := c.credit()
		var more <-chan struct{}
		if cr != nil {
			more = cr.notify() // before the checks
		}
		if err := c.open(); err != nil {
			return fmt.Errorf("channel: await credit on %s: %w", c.topic, err)
		}
		switch {
		case cr == nil || cr.left.Load() > 0:
			return nil
		case cr.over.Load():
			return fmt.Errorf("channel: await credit on %s: %w", c.topic, ErrClosed)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("channel: await credit on %s: %w", c.topic, ctx.Err())
		}
	}
}

// Finish ends the channel normally after everything that was pushed to the client. A client that
// asked for credit receives the event $end first. If it lacks credit for recorded events, it gets
// those that the log has now first; when it adds no credit for 30 s, it receives $end with the
// reason "no credit" instead.
//
// Err is nil, or the reason for which the stream ends early: the client receives the payload of a
// *push.Error or a push.Reason, and of any other error only the reason "failed". Finish does not
// wait. Its error wraps ErrNotJoined or ErrClosed.
func (c *Channel) Finish(err error) error {
	if failed := c.open(); failed != nil {
		return fmt.Errorf("channel: finish %s: %w", c.topic, failed)
	}
	c.post(item{kind: itemFinish, msg: finish{err: err}})
	return nil
}

// serverCredit is the credit of a client.
type serverCredit struct {
	left   atomic.Int64
	parked atomic.Bool // records wait for credit
	over   atomic.Bool // no credit comes any more

	mu     sync.Mutex
	more   chan struct{} // closed when credit came or no more comes. Nil means that nobody waits.
	finish *finish       // that waits for records. Nil means none.
}

// finish is a call of Finish.
type finish struct {
	err   error
	top   history.Position // of the records that are sent before
	timer *time.Timer
	late  bool // the item means that the client has not added credit for too long
}

// credit returns the client's credit, or nil if it takes any number of events.
func (c *Channel) credit() *serverCredit {
	if e := c.ext.Load(); e != nil {
		return e.credit
	}
	return nil
}

// takesCredit reports whether an event takes credit. A diff that was dropped would break a list.
func takesCredit(event string) bool {
	return !isExtension(event) && !strings.HasPrefix(event, "phx_") && !strings.HasPrefix(event, "presence_")
}

// take takes credit for an event. It reports false if there is none.
func (cr *serverCredit) take() bool {
	for {
		n := cr.left.Load()
		if n <= 0 {
			return false
		}
		if cr.left.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// notify returns a channel that is closed when credit comes.
func (cr *serverCredit) notify() <-chan struct{} {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if cr.more == nil {
		cr.more = make(chan struct{})
	}
	return cr.more
}

func (cr *serverCredit) wake() {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if cr.more != nil {
		close(cr.more)
		cr.more = nil
	}
	if f := cr.finish; f != nil && !cr.over.Load() {
		f.timer.Reset(finishWait)
	}
}

// countNoCredit counts a broadcast that the client did not receive.
func (c *Channel) countNoCredit() {
	if up, ok := c.up.(interface{ NoCredit() }); ok {
		up.NoCredit()
	}
}

// takeFor takes credit for a broadcast or push, if it needs any.
func (c *Channel) takeFor(event string) bool {
	cr := c.credit()
	return cr == nil || !takesCredit(event) || cr.take()
}

// addCredit adds credit, and lets the channel read on.
func (c *Channel) addCredit(n int64) {
	cr := c.credit()
	for {
		left := cr.left.Load()
		if cr.left.CompareAndSwap(left, min(left+n, maxCredit)) {
			break
		}
	}
	cr.wake()
	if cr.parked.Swap(false) {
		c.readLater()
	}
}

// readWithCredit reads on when there is credit. The reader must not be live. It may be called under
// any lock.
func (c *Channel) readWithCredit() {
	cr := c.credit()
	cr.parked.Store(true)
	if cr.left.Load() > 0 && cr.parked.Swap(false) {
		c.readLater()
	}
}

// creditPushed handles a client's push of $credit. There is no reply, except to a malformed one.
func (c *Channel) creditPushed(ref serializer.Ref, payload serializer.Payload) {
	var in struct{ Add int64 }
	if c.credit() == nil || payload.Decode(&in) != nil || in.Add < 1 || in.Add > maxCredit {
		if err := c.reply(ref, errorReply(reasonCredit), transport.Delivery{}); err != nil && !ref.IsNull() {
			return // the channel has ended
		}
		return
	}
	c.addCredit(in.Add)
}

// parseCredit returns the credit in the params of a join. An error is a *push.Error for the client.
func parseCredit(value serializer.Payload) (*serverCredit, error) {
	var n int64
	if value.Decode(&n) != nil || n < 1 || n > maxCredit {
		return nil, push.Reject(reasonCredit)
	}
	cr := new(serverCredit)
	cr.left.Store(n)
	return cr, nil
}

// endCredit wakes those that wait for credit, because none comes any more.
func (c *Channel) endCredit() {
	cr := c.credit()
	if cr == nil || cr.over.Swap(true) {
		return
	}
	cr.wake()
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if cr.finish != nil {
		cr.finish.timer.Stop()
	}
}

// handleFinish handles a call of Finish.
func (c *Channel) handleFinish(f finish) {
	cr, p := c.credit(), c.past()
	switch {
	case c.status() != serverJoined:
		return
	case cr == nil:
		c.feed(serverInput{kind: serverInStopped, err: finishReason(f.err)})
		return
	case f.late:
		c.finishNow(push.Reject("no credit"))
		return
	case p == nil || p.reader.Live():
		c.finishNow(f.err)
		return
	}
	top, err := p.reader.Top(c.context())
	if err != nil {
		c.up.Log(c.driver(), "channel finished without its log", err)
		c.finishNow(f.err)
		return
	}
	f.top = top
	cr.mu.Lock()
	if cr.finish == nil {
		f.timer = time.AfterFunc(finishWait, func() { c.post(item{kind: itemFinish, msg: finish{late: true}}) })
		cr.finish = &f
	}
	cr.mu.Unlock()
	c.finishIfRead()
}

// finishIfRead ends the channel if Finish was called and the client has received what the log had
// then. It reports whether it did. It is called by the callbacks' goroutine.
func (c *Channel) finishIfRead() bool {
	cr := c.credit()
	if cr == nil {
		return false
	}
	cr.mu.Lock()
	f := cr.finish
	cr.mu.Unlock()
	if f == nil {
		return false
	}
	done := false
	c.past().reader.Sync(func(pos history.Position, live bool) { done = live || reached(pos, f.top) })
	if done {
		c.finishNow(f.err)
	}
	return done
}

// finishNow sends $end and ends the channel normally.
func (c *Channel) finishNow(err error) {
	m := &serializer.Message{
		Kind: serializer.KindPush, JoinRef: c.pushRef, Topic: c.topic, Event: eventEnd, Payload: finishPayload(err),
	}
	f, failed := serializer.Encode(c.up.Serializer(), m)
	if failed != nil { // the payload of a *push.Error
		m.Payload = finishPayload(push.Reject("failed"))
		f, failed = serializer.Encode(c.up.Serializer(), m)
	}
	if failed == nil {
		_ = c.send(f, transport.Delivery{Answer: true}) // the end of the connection ends the channel
	}
	c.feed(serverInput{kind: serverInStopped, err: ErrStop})
}

// finishPayload returns the payload of $end.
func finishPayload(err error) serializer.Payload {
	if err == nil {
		return serializer.Payload{}
	}
	var reason any = promise.Reason("failed")
	if rejection, ok := asRejection(err); ok {
		reason = rejection.Payload
	}
	return serializer.Value(map[string]serializer.Payload{"error": serializer.Value(reason)})
}

// finishReason returns the error that ends a channel whose client did not ask for credit.
func finishReason(err error) error {
	if rejection, ok := asRejection(err); ok {
		if reason := (&push.Error{Payload: serializer.Value(rejection.Payload)}).Reason(); reason != "" {
			return Stop(push.Reason(reason))
		}
	}
	return ErrStop
}

// giveBack returns the credit that was taken for an event that was not sent.
func (c *Channel) giveBack(event string) {
	if cr := c.credit(); cr != nil && takesCredit(event) {
		cr.left.Add(1)
	}
}
