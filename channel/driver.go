package channel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
)

// Driver is the socket's hold on a channel: it feeds it and ends it. For package socket; not covered by the compatibility promise. Its
// methods are called by the connection's reader, one at a time, but for Wait, Cancel and Resume.
type Driver struct{ c *Channel }

// Start begins a channel with the client's phx_join. A channel before it on the topic, if any, is replaced: the join waits for its end.
// Mailbox is the bound of what waits for the channel's callbacks, in bytes; workers is the goroutines that they run on.
func Start(ctx context.Context, up Carrier, h *Handler, join *serializer.Message, before Driver, mailbox int, workers *mailbox.Workers) Driver {
	c := &Channel{up: up, h: h, topic: join.Topic, joinRef: join.JoinRef, pushRef: join.JoinRef, state: h.newState()}
	c.ref = Ref{join.Ref} // until the join is answered
	if c.pushRef.IsNull() {
		c.pushRef = join.Ref
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.mailbox.InitShared(workers, mailbox, c.work)
	it := item{kind: itemJoin, caused: true, ref: join.Ref, payload: join.Payload}
	if before.c != nil {
		before.c.replace()
		c.prev = before.c
	}
	_ = c.mailbox.Enqueue(it, 0) // an empty mailbox has room for anything
	return Driver{c}
}

// Is reports whether d drives c.
func (d Driver) Is(c *Channel) bool { return d.c == c }

// Accepts reports whether a message with this join_ref is of this join: null is, an older one is not.
func (d Driver) Accepts(joinRef serializer.Ref) bool {
	return joinRef.IsNull() || joinRef == d.c.joinRef
}

// ReplyRef is the join_ref of replies to messages of this join, but for the join itself.
func (d Driver) ReplyRef() serializer.Ref { return d.c.pushRef }

// Receive takes an event of the client and reports whether the channel is still there for it; if not, the topic is not joined any more. If the
// mailbox has no room for wait then the channel is ended: it would silence the whole socket. The time during which the connection is
// congested does not count.
func (d Driver) Receive(m *serializer.Message, wait time.Duration) bool {
	it := item{kind: itemEvent, caused: true, ref: m.Ref, event: m.Event, payload: m.Payload}
	return d.post(it, len(m.Event)+len(m.Ref)+len(m.Payload.Bytes()), wait)
}

func (d Driver) post(it item, size int, wait time.Duration) bool {
	err := d.c.mailbox.EnqueueWait(it, size, wait)
	if errors.Is(err, mailbox.ErrFull) {
		return !d.c.kill(ErrFull)
	}
	return err == nil && d.c.noteWaiting(it)
}

// Leave takes the client's phx_leave, which is carried out after what came before. It reports the same as Receive.
func (d Driver) Leave(m *serializer.Message, wait time.Duration) bool {
	d.c.mu.Lock()
	d.c.leaving = true
	d.c.mu.Unlock()
	return d.post(item{kind: itemLeave, caused: true, ref: m.Ref, msg: m.JoinRef}, len(m.Ref)+len(m.JoinRef), wait)
}

// Close ends the channel because its connection ended: what is in the mailbox is still handled, and then it terminates.
func (d Driver) Close(reason error) {
	d.c.mailbox.Close(true, item{kind: itemClose, msg: fmt.Errorf("%w: %w", ErrClosed, reason)})
}

// Cancel drops what is in the mailbox and cancels the context of the callback that runs.
func (d Driver) Cancel(reason error) {
	d.c.mailbox.Close(false, item{kind: itemClose, msg: fmt.Errorf("%w: %w", ErrClosed, reason)})
	d.c.cancel(fmt.Errorf("%w: %w", ErrClosed, reason))
}

// Resume lets the channel go on with its client's messages, see Carrier.Congested.
func (d Driver) Resume() { d.c.mailbox.Resume() }

// Wait waits for the channel's end after Close or Cancel.
func (d Driver) Wait() { d.c.mailbox.Wait() }

// replace ends the channel because the topic is joined again. One that is about to end anyway does so as it would have; another falls
// silent, and the new one tells its end after its own answer. A join that is still being decided is answered first, and if it is refused then
// so is what waits behind it.
func (c *Channel) replace() {
	c.mu.Lock()
	isJoined := !c.leaving && c.phase.CompareAndSwap(joined, silent)
	if !isJoined && (c.leaving || c.phase.Load() != joining) {
		c.mu.Unlock()
		return
	}
	c.replaced = true
	c.mu.Unlock()
	c.mailbox.Close(!isJoined, item{kind: itemClose, msg: ErrReplaced})
	if isJoined {
		c.cancel(ErrReplaced)
	}
}

// silence keeps a channel from sending any more and cancels its context. Its callbacks end when they end.
func (c *Channel) silence(reason error) {
	for {
		p := c.phase.Load()
		if p >= silent || c.phase.CompareAndSwap(p, silent) {
			break
		}
	}
	c.cancel(reason)
	c.mailbox.Close(false, item{kind: itemClose, msg: reason})
}

// kill ends a channel from outside at once, as a crash: its client rejoins. It reports false if the channel's end was decided already.
func (c *Channel) kill(reason error) bool {
	mine := c.claim()
	if mine {
		c.killed(reason)
	}
	return mine
}

// overflow is kill for a broadcast that finds no room. It leaves the rest to a goroutine, for it is called under the topic's lock, which a
// join waits for that the carrier may be waiting for in turn, to replace it. The channel's end waits for the goroutine.
func (c *Channel) overflow() {
	if c.claim() {
		told := make(chan struct{})
		c.killing = told
		go func() {
			defer close(told)
			c.killed(ErrFull)
		}()
	}
}

// claim silences the channel for who kills it, unless its end was decided already.
func (c *Channel) claim() bool {
	return c.phase.CompareAndSwap(joined, silent) || c.phase.CompareAndSwap(joining, silent)
}

func (c *Channel) killed(reason error) {
	if c.giveUp("channel killed", reason) {
		return
	}
	c.up.Crashed(c, "channel killed", reason)
	c.up.End(c, c.lifecycle(serializer.EventError, reasonCrash))
	c.silence(reason)
}
