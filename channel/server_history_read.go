package channel

import (
	"errors"
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
	p := &c.ext.past
	p.posted.Store(false)
	if p.reader.Live() {
		return
	}
	left := readSlice
	for round := 0; ; round++ {
		if p.lost.Load() || c.status() != serverJoined {
			return
		}
		if left <= 0 {
			c.readLater()
			return
		}
		items, err := p.reader.Next(c.ctx, left)
		if err != nil {
			c.readFailed(err)
			return
		}
		for _, it := range items {
			if c.passRecord(it) != readMore {
				return
			}
		}
		left -= len(items)
		if len(items) > 0 && round < flipRounds {
			continue
		}
		if c.flip(round) == readEnded {
			return
		}
	}
}

// flip makes the channel live if it has sent all records. It returns readMore if it has not.
func (c *Channel) flip(round int) progress {
	p := &c.ext.past
	var flip follow.Flip
	if round >= flipRounds && p.asked && !p.pulls {
		flip = p.reader.FlipSending(func(b *pubsub.Broadcast) bool {
			if c.leavesOut(b.Record()) {
				c.holdBack(b.Record().Position)
				return true
			}
			sent, err := c.sendRecord(b)
			if err != nil {
				c.cannotSend(err)
			}
			return sent
		})
	} else {
		flip = p.reader.Flip()
	}
	switch flip {
	case follow.FlipLive:
		c.answerTops()
		return readEnded
	case follow.FlipLost:
		c.readFailed(history.ErrAhead)
		return readEnded
	}
	return readMore
}

// passRecord sends a record, or leaves it out, and moves the channel's position.
func (c *Channel) passRecord(it follow.Item[*pubsub.Broadcast]) progress {
	p := &c.ext.past
	b := it.Item
	framed := false
	switch intercept := c.h.out[b.Event]; {
	case c.leavesOut(b.Record()):
	case intercept != nil:
		if !c.up.Drained(c.driver()) { // its pushes may need room
			p.reader.Unhold()
			return readParked
		}
		before := p.pushes.Load()
		c.settle(&item{kind: itemOut, event: b.Event}, push.NoReply,
			c.callUser(func() error { return intercept(c.ctx, c, b.Payload) }))
		if c.status() != serverJoined {
			return readEnded
		}
		if p.asked && p.pushes.Load() != before {
			c.sendMarker(it.Position)
			framed = true
		}
	default:
		sent, err := c.sendAny(b)
		if !sent {
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
	return readMore
}

// sendAny sends a record to a client that asked for history or did not.
func (c *Channel) sendAny(b *pubsub.Broadcast) (sent bool, err error) {
	if c.ext.past.asked {
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
	p := &c.ext.past
	return p.skipped(r.Position) || p.others && r.From != "" && r.From == c.up.ClientID()
}

// readFailed acts on an error of reading. If records were lost, the channel of a client that asked
// for history ends, and another continues without them.
func (c *Channel) readFailed(err error) {
	p := &c.ext.past
	switch {
	case c.ctx.Err() != nil:
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
	c.ext.past.lost.Store(true)
	c.feed(serverInput{kind: serverInLost, err: errHistoryLost})
}
