package channel

import (
	"errors"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/transport"
)

// errHistoryLost is the reason of a channel's end if the log lost records that the channel has
// sent, or records that it had yet to send. The client receives phx_error and joins again.
var errHistoryLost = errors.New("history lost")

// progress is the result of a step of reading.
type progress uint8

const (
	readMore   progress = iota // there is more to send
	readParked                 // the client is too slow: Drained is registered
	readEnded                  // the channel sends nothing any more, or is live
)

// handlePast handles an item of the channel's past.
func (c *Channel) handlePast(it *item) {
	switch it.kind {
	case itemRead:
		c.read()
	case itemMarker:
		c.sendHeldBack()
	case itemTops:
		c.answerTops()
	case itemUnsendable:
		c.up.Log(c.driver(), "record cannot be sent", it.msg.(error))
	case itemLost:
		c.feed(serverInput{kind: serverInLost, err: errHistoryLost})
	}
}

// read sends records until the channel is live, parked or has ended, or a slice is full. It is an
// item of the mailbox, and called after the reply to the join.
func (c *Channel) read() {
	p := c.past()
	p.posted.Store(false)
	if p.reader.Live() {
		return
	}
	buf := itemsPool.Get().(*[]readItem)
	defer func() {
		clear((*buf)[:cap(*buf)])
		itemsPool.Put(buf)
	}()
	left := readSlice
	for round := 0; ; round++ {
		if p.lost.Load() || c.status() != serverJoined {
			return
		}
		if left <= 0 {
			c.readLater()
			return
		}
		items, err := p.reader.Next(c.context(), left, (*buf)[:0])
		if err != nil {
			c.readFailed(err)
			return
		}
		*buf = items
		if c.passTogether(items, round) != readMore {
			return
		}
		left -= len(items)
	}
}

// readItem is a record that a reading channel passes.
type readItem = follow.Item[*pubsub.Broadcast]

// itemsPool has slices with room for firstSlice items at most.
var itemsPool = sync.Pool{New: func() any { return new([]readItem) }}

// passTogether is pass, but the frames are written together. A handler that intercepts events may
// block, and other frames of the connection must not wait for it.
func (c *Channel) passTogether(items []readItem, round int) (done progress) {
	if len(c.h.out) > 0 || len(items) == 0 {
		return c.pass(items, round)
	}
	c.up.Batch(func() { done = c.pass(items, round) })
	return done
}

// pass sends records. It makes the channel live when there are none left, and after flipRounds.
func (c *Channel) pass(items []readItem, round int) progress {
	for _, it := range items {
		if done := c.passRecord(it); done != readMore {
			return done
		}
	}
	if len(items) > 0 && round < flipRounds {
		return readMore
	}
	return c.flip(round)
}

// readFirst is read right after the answer to the join, as far as the records are in memory. It is
// called in Carrier.Batch, and does not block.
func (c *Channel) readFirst() progress {
	buf := itemsPool.Get().(*[]readItem)
	defer func() {
		clear((*buf)[:cap(*buf)])
		itemsPool.Put(buf)
	}()
	for round := range 2 { // the records, and their end
		items, ok := c.past().reader.Window(firstSlice, (*buf)[:0])
		if !ok {
			break
		}
		*buf = items
		if c.status() != serverJoined {
			return readEnded
		}
		if done := c.pass(items, round); done != readMore {
			return done
		}
	}
	return readMore
}

// flip makes the channel live if it has sent all records. It returns readMore if it has not.
func (c *Channel) flip(round int) progress {
	p := c.past()
	var flip follow.Flip
	if round >= flipRounds && p.asked && !p.pulls {
		flip = p.reader.FlipSending(func(b *pubsub.Broadcast) bool {
			if c.leavesOut(b.Record()) {
				c.holdBack(b.Record().Position)
				return true
			}
			if !c.takeFor(b.Event) {
				return false
			}
			sent, err := c.sendRecord(b)
			if err != nil {
				c.cannotSend(err)
			}
			if !sent {
				c.giveBack(b.Event)
			}
			return sent
		})
	} else {
		flip = p.reader.Flip()
	}
	switch flip {
	case follow.FlipLive:
		c.answerTops()
		c.finishIfRead()
		return readEnded
	case follow.FlipLost:
		c.readFailed(history.ErrAhead)
		return readEnded
	}
	return readMore
}

// passRecord sends a record, or leaves it out, and moves the channel's position.
func (c *Channel) passRecord(it readItem) progress {
	p := c.past()
	b := it.Item
	framed := false
	switch intercept := c.h.out[b.Event]; {
	case c.leavesOut(b.Record()):
	case intercept != nil:
		if c.Credit() == 0 { // its pushes may need credit
			p.reader.Unhold()
			c.readWithCredit()
			return readParked
		}
		if !c.up.Drained(c.driver()) { // its pushes may need room
			p.reader.Unhold()
			return readParked
		}
		before := p.pushes.Load()
		c.settle(&item{kind: itemOut, event: b.Event}, push.NoReply,
			c.callUser(func() error { return intercept(withOrigin(c.context(), b.Context()), c, b.Payload) }))
		if c.status() != serverJoined {
			return readEnded
		}
		if p.asked && p.pushes.Load() != before {
			c.sendMarker(it.Position)
			framed = true
		}
	default:
		if !c.takeFor(b.Event) {
			p.reader.Unhold()
			c.readWithCredit()
			return readParked
		}
		sent, err := c.sendAny(b)
		if !sent {
			c.giveBack(b.Event)
			p.reader.Unhold()
			c.readWhenDrained()
			return readParked
		}
		if err != nil {
			c.cannotSend(err)
		}
		framed = true
	}
	p.reader.Advance(it)
	if !framed {
		c.holdBack(it.Position)
	}
	c.answerTops()
	if c.finishIfRead() {
		return readEnded
	}
	return readMore
}

// sendAny sends a record to a client that asked for history or did not.
func (c *Channel) sendAny(b *pubsub.Broadcast) (sent bool, err error) {
	if c.past().asked {
		return c.sendRecord(b)
	}
	f, err := b.Frame(c.up.Serializer())
	if err != nil {
		return true, err
	}
	return c.up.Send(f, transport.Delivery{IfRoom: true}) != transport.ErrNoRoom, nil
}

// leavesOut reports whether the client does not receive a record that it missed.
func (c *Channel) leavesOut(r *history.Record) bool {
	p := c.past()
	return p.skipped(r.Position) || p.others && r.From != "" && r.From == c.up.ClientID()
}

// readFailed acts on an error of reading. If records were lost, the channel of a client that asked
// for history ends, and another continues without them.
func (c *Channel) readFailed(err error) {
	p := c.past()
	switch {
	case c.context().Err() != nil:
	case !follow.IsLoss(err):
		r := p.rarely()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.retry == nil {
			r.retry = time.AfterFunc(retryRead, c.readLater)
		} else {
			r.retry.Reset(retryRead)
		}
	case p.asked:
		c.lose()
	default:
		c.up.Log(c.driver(), "history skipped", err)
		p.reader.GoLive()
	}
}

// lose ends the channel because the log lost records.
func (c *Channel) lose() {
	c.past().lost.Store(true)
	c.feed(serverInput{kind: serverInLost, err: errHistoryLost})
}
