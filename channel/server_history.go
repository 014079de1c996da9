package channel

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/ratelimit"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// The history of a channel's topic: what is sent to a client that comes back, and how a channel
// that is behind catches up.
//
// A channel of a recorded topic is reading or live. A reading channel sends records from the log, a
// few at a time, as items of its mailbox. When it has reached the node's position, it becomes live:
// from then on Deliver sends each record. A channel whose client is too slow for that is parked: it
// is not live, and reads on when its connection has drained. The reader decides under the topic's
// order lock, so no record is missed or sent twice between the two.
//
// The fields of past are owned by whoever sends records: Deliver under the order lock while the
// channel is live, and the callbacks' goroutine while it is reading.

const (
	firstSlice  = 128             // records that are sent together with the reply to a join
	readSlice   = 64              // records that are sent before the client's messages are handled
	flipRounds  = 8               // attempts to become live before the rest is sent under the order lock
	maxHeldBack = 32              // records without a frame, after which the client gets its position
	maxHeldTime = 5 * time.Second // the same as a time
	maxSkips    = 64              // own broadcasts that a reading channel leaves out
	retryRead   = 250 * time.Millisecond
)

// past is a channel's place in the history of its topic.
type past struct {
	reader follow.Reader[*pubsub.Broadcast]

	asked    bool          // the client asked for history: its records have positions
	others   bool          // on replay, the client's own events are left out
	pulls    bool          // records pass through the mailbox, because the handler intercepts some
	heldBack uint8         // records since the last position that the client received
	lost     atomic.Bool   // nothing recorded is sent any more: phx_error follows
	posted   atomic.Bool   // an item to read on is in the mailbox
	again    atomic.Bool   // the item found no room there
	pushes   atomic.Uint32 // events that the server's code has pushed

	rare atomic.Pointer[rarePast]
}

// rarePast is what few channels need of their past.
type rarePast struct {
	reach time.Time        // nothing older is sent to the client
	rate  ratelimit.Bucket // of pushes of $history; for the callbacks' goroutine

	mu    sync.Mutex
	skips []history.Position // records to leave out while reading
	tops  []waitingTop       // pushes of {"top": true} that wait
	timer *time.Timer        // for heldBack
	retry *time.Timer        // for a log that did not answer
	end   *time.Timer        // for the end of a channel whose log lost records
	late  *time.Timer        // for tops
}

// rarely returns the channel's rarePast.
func (p *past) rarely() *rarePast {
	if r := p.rare.Load(); r != nil {
		return r
	}
	p.rare.CompareAndSwap(nil, new(rarePast))
	return p.rare.Load()
}

// deliverRecord is DeliverPrepared for a recorded broadcast. It runs under the topic's order lock
// and takes no lock of the channel.
func (c *Channel) deliverRecord(b *pubsub.Broadcast) error {
	p := c.past()
	if p.lost.Load() || c.status().isMute() {
		return nil
	}
	if p.pulls {
		p.reader.Park()
		c.readLater()
		return nil
	}
	if !c.takeFor(b.Event) {
		p.reader.Park()
		c.readWithCredit()
		return nil
	}
	sent, err := c.sendAny(b)
	if !sent {
		c.giveBack(b.Event)
		p.reader.Park()
		c.readWhenDrained()
	}
	if err != nil {
		c.cannotSend(err)
	}
	return nil
}

// cannotSend lets the callbacks' goroutine log that the client's version cannot carry a record,
// once for each channel. The sender does not get the error, because the record is stored. It may be
// called under any lock.
func (c *Channel) cannotSend(err error) {
	if !c.unsendable.Swap(true) && c.mailbox.EnqueueOwn(item{kind: itemUnsendable, msg: err}, 0) != nil {
		c.unsendable.Store(false) // full, or closed
	}
}

// sendRecord sends a record to a client that asked for history. It reports false if the connection
// has no room for it now. The error is that of the broadcast's encoding; then the client receives
// the position only.
func (c *Channel) sendRecord(b *pubsub.Broadcast) (sent bool, err error) {
	s := c.up.Serializer()
	f, err := b.PositionedFrame(s)
	if err == nil && c.up.Send(f, transport.Delivery{IfRoom: true}) == transport.ErrNoRoom {
		return false, nil
	}
	c.past().heldBack = 0
	if err != nil || b.Payload.IsBinary() {
		if f, failed := b.MarkerFrame(s); failed == nil {
			_ = c.up.Send(f, transport.Delivery{Answer: true}) // the end of the connection ends the channel
		}
	}
	return true, err
}

// sendMarker sends the client's new position in an event of its own.
func (c *Channel) sendMarker(pos history.Position) {
	c.past().heldBack = 0
	f, err := serializer.Encode(c.up.Serializer(), &serializer.Message{
		Kind: serializer.KindBroadcast, Topic: c.topic, Event: eventHistory,
		Payload: serializer.Payload{}.WithPosition(pos),
	})
	if err != nil {
		c.up.Log(c.driver(), "cannot send a position", err)
		return
	}
	_ = c.up.Send(f, transport.Delivery{Answer: true}) // the end of the connection ends the channel
}

// holdBack notes that the client has passed a record without a frame.
func (c *Channel) holdBack(pos history.Position) {
	p := c.past()
	if !p.asked {
		return
	}
	if p.heldBack++; p.heldBack >= maxHeldBack {
		c.sendMarker(pos)
		return
	}
	if p.heldBack > 1 {
		return
	}
	r := p.rarely()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(maxHeldTime, func() { _ = c.mailbox.EnqueueOwn(item{kind: itemMarker}, 0) })
	} else {
		r.timer.Reset(maxHeldTime)
	}
}

// sendHeldBack sends the client's position if it has passed records without a frame.
func (c *Channel) sendHeldBack() {
	p := c.past()
	p.reader.Sync(func(pos history.Position, _ bool) {
		if p.heldBack > 0 && !p.lost.Load() {
			c.sendMarker(pos)
		}
	})
}

// ClientID is part of follow.Sender.
func (s *subscriber) ClientID() string { return s.up.ClientID() }

// Skip is part of follow.Subscriber: b is the channel's own BroadcastFrom.
func (s *subscriber) Skip(b *pubsub.Broadcast) {
	c := (*Channel)(s)
	p := c.past()
	if p == nil {
		return
	}
	pos := b.Record().Position
	if p.reader.Live() {
		c.holdBack(pos)
		return
	}
	r := p.rarely()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.skips) < maxSkips {
		r.skips = append(r.skips, pos)
	}
}

// Lost is part of follow.Subscriber: the log lost records that the channel has sent.
func (s *subscriber) Lost(after time.Duration) {
	c := (*Channel)(s)
	p := c.past()
	if p == nil || !p.asked || p.lost.Swap(true) {
		return
	}
	r := p.rarely()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = time.AfterFunc(after, func() { c.endLost(r) })
}

// endLost lets the callbacks' goroutine end the channel. It tries again while the mailbox is full.
func (c *Channel) endLost(r *rarePast) {
	if !errors.Is(c.mailbox.EnqueueOwn(item{kind: itemLost}, 0), mailbox.ErrFull) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end.Reset(retryRead)
}

// skipped reports whether the record is left out because the channel has broadcast it itself.
func (p *past) skipped(pos history.Position) bool {
	r := p.rare.Load()
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range r.skips {
		if s == pos {
			r.skips = append(r.skips[:i], r.skips[i+1:]...)
			return true
		}
	}
	return false
}

// close ends the channel's reading. The subscription must have been cancelled.
func (p *past) close() {
	p.reader.Close()
	r := p.rare.Load()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range []*time.Timer{r.timer, r.retry, r.end, r.late} {
		if t != nil {
			t.Stop()
		}
	}
	r.tops = nil
}

// readLater puts an item into the mailbox that reads on. It may be called under any lock.
func (c *Channel) readLater() {
	p := c.past()
	if p.posted.Swap(true) {
		return
	}
	if c.mailbox.EnqueueOwn(item{kind: itemRead}, 0) != nil {
		p.again.Store(true) // full, or closed
	}
}

// readAgain puts the item into the mailbox that found no room before. It is called when another
// item was handled.
func (c *Channel) readAgain() {
	if p := c.past(); p.again.Load() {
		p.again.Store(false)
		p.posted.Store(false)
		c.readLater()
	}
}

// readWhenDrained reads on when the connection has room for more records.
func (c *Channel) readWhenDrained() {
	if c.up.Drained(c.driver()) {
		c.readLater()
	}
}

func (d *driver) ReadOn() { (*Channel)(d).readLater() }

func (d *driver) HasEnded() bool { return (*Channel)(d).status() == serverEnded }
