package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/follow"
	"bennu.example/internal/ratelimit"
	"bennu.example/push"
)

// A tail has the newest changes of an object, of at most this size, for joins that are about to
// become live.
const (
	tailChanges = 64
	tailBytes   = 64 << 10
	maxTails    = 32 << 20
)

// cell is an object with channels on this node. It gives its sessions every change in order: those
// that follow the cursor directly, and what was missed by a repair.
//
// Locks: shard → mu → those of a channel's connection and mailbox. The lock of an object in a store
// of this process comes before the shard. No method of the store but Watch and Unwatch is called
// under a lock, and no code of the user.
type cell struct {
	o     *Objects
	topic string
	users int           // guarded by the shard
	busy  chan struct{} // has a value while the cell begins or is repaired

	mu        sync.Mutex
	confirmed chan struct{} // closed when the store feeds the object
	isWatched bool          // confirmed is closed
	started   bool          // the cursor is known
	cursor    history.Position
	seen      history.Position // the newest position that was fed before the cell has started
	sessions  []*member
	tail      []sent
	tailSize  int
	writes    ratelimit.Bucket // for Limits.ObjectRate
}

// sent is a change as it was sent.
type sent struct {
	prev, pos history.Position
	items     []Item
	frame     frame
}

func (s *sent) size() int { return len(s.frame.b.Payload.Bytes()) + 256 }

// ready is given to Store.Watch. It runs under any lock of the store.
func (c *cell) ready(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && !c.isWatched {
		c.isWatched = true
		close(c.confirmed)
	}
}

// lock waits until nobody else begins or repairs the cell. The caller must call unlock.
func (c *cell) lock(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return unavailable(ctx)
	}
}

func (c *cell) unlock() { <-c.busy }

func unavailable(ctx context.Context) error {
	return fmt.Errorf("%w: %w", history.ErrUnavailable, context.Cause(ctx))
}

// begin makes the cursor known.
func (c *cell) begin(ctx context.Context) error {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if started {
		return nil
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	select {
	case <-c.confirmed:
	case <-ctx.Done():
		return unavailable(ctx)
	}
	return c.beginLocked(ctx)
}

// beginLocked makes the cursor known. The caller holds busy.
func (c *cell) beginLocked(ctx context.Context) error {
	for {
		c.mu.Lock()
		if c.started {
			c.mu.Unlock()
			return nil
		}
		c.seen = history.Position{}
		c.mu.Unlock()
		tops, err := c.o.store.Tops(ctx, []string{c.topic})
		if err != nil {
			return err
		}
		if c.startAt(tops[0]) {
			return nil
		}
		if ctx.Err() != nil {
			return unavailable(ctx)
		}
	}
}

// startAt sets the cursor to the store's position, unless the object was changed since in a way
// that only another look shows.
func (c *cell) startAt(top history.Position) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.seen.IsZero() || c.seen == top:
	case c.seen.Epoch() != top.Epoch():
		return false
	case c.seen.Offset() > top.Offset(): // what comes after it is fed
		top = c.seen
	}
	c.started, c.cursor = true, top
	return true
}

// change is a change that the store has fed, or that this node has made.
func (c *cell) change(ch Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.started:
		if c.seen = ch.Position; ch.Gone != "" {
			c.seen = ch.Prev
		}
	case ch.Gone != "":
		if ch.Prev.Epoch() == c.cursor.Epoch() && !c.cursor.IsBeginning() {
			c.end(ch.Gone)
			c.restart(ch.Position)
		}
	case ch.Position.Epoch() == c.cursor.Epoch() && ch.Position.Offset() <= c.cursor.Offset():
		if ch.Position.Offset() == c.cursor.Offset() && ch.Position != c.cursor {
			c.o.repairs.add(c)
		}
	case ch.Prev.Matches(c.cursor):
		c.deliver(ch)
	default:
		c.o.repairs.add(c)
	}
}

// restart continues at another position, after the sessions were ended. The caller holds mu.
func (c *cell) restart(at history.Position) {
	c.cursor = at
	c.cut(0)
}

// end ends all sessions. The caller holds mu.
func (c *cell) end(reason string) {
	for _, m := range c.sessions {
		if m.stage != stageEnded {
			m.stage = stageEnded
			channelhost.Post(m.channel, ended{push.Reason(reason)})
		}
	}
}

// deliver sends a change to the live sessions and moves the cursor. The caller holds mu.
func (c *cell) deliver(ch Change) {
	s := sent{prev: c.cursor, pos: ch.Position, items: ch.Items, frame: changeFrame(c.topic, ch.Items, ch.Position)}
	c.cursor = ch.Position
	c.tail = append(c.tail, s)
	c.grow(s.size())
	keep := tailBytes
	if c.o.tails.Load() > maxTails {
		keep = 0
	}
	c.cut(keep)
	var parts map[Range]frame
	var change *shared
	for _, m := range c.sessions {
		switch {
		case m.window != nil:
			if change == nil {
				change = &shared{topic: c.topic, items: ch.Items, pos: ch.Position}
			}
			m.offer(change)
		case m.stage == stageLive:
			parts = m.forward(&s, parts)
		}
	}
}

func (c *cell) grow(n int) {
	c.tailSize += n
	c.o.tails.Add(int64(n))
}

// cut removes the oldest changes of the tail, until it has at most keep bytes. The caller holds mu.
func (c *cell) cut(keep int) {
	n := 0
	for n < len(c.tail) && (len(c.tail)-n > tailChanges || c.tailSize > keep) {
		c.grow(-c.tail[n].size())
		n++
	}
	if c.tail = append(c.tail[:0], c.tail[n:]...); cap(c.tail) > 2*tailChanges {
		c.tail = append(make([]sent, 0, len(c.tail)), c.tail...)
	}
	clear(c.tail[len(c.tail):min(cap(c.tail), len(c.tail)+n)])
}

// close ends the use of the cell.
func (c *cell) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(0)
}

// join adds a session that reads.
func (c *cell) join(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.place = int32(len(c.sessions)) // fewer than 2^31
	m.stage = stageReading
	c.sessions = append(c.sessions, m)
}

// leave removes a session.
func (c *cell) leave(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop() // a late one finds that the session has ended
	}
	if m.stage == stageNone {
		return
	}
	last := len(c.sessions) - 1
	c.sessions[last].place = m.place
	c.sessions[m.place] = c.sessions[last]
	c.sessions[last] = nil
	c.sessions = c.sessions[:last]
	m.stage = stageLeft
}

// flip is the result of an attempt to become live.
type flip uint8

const (
	flipLive   flip = iota // the session is live, or has ended
	flipBehind             // there is more to read
	flipAhead              // the store is ahead of the cell
	flipLost               // the session is at a place that the object does not have
)

// flip makes a session live that has sent everything up to the cursor. With rest it sends what the
// tail has.
func (c *cell) flip(m *member, rest bool) flip {
	c.mu.Lock()
	defer c.mu.Unlock()
	mark := m.mark
	switch {
	case m.stage != stageReading:
		return flipLive
	case !c.started:
		return flipAhead
	case mark == c.cursor:
	case c.cursor.IsBeginning():
		return flipAhead
	case !mark.IsBeginning() && mark.Epoch() != c.cursor.Epoch():
		return flipLost
	case !mark.IsBeginning() && mark.Offset() > c.cursor.Offset():
		return flipAhead
	case !mark.IsBeginning() && mark.Offset() == c.cursor.Offset():
		return flipLost
	case !rest || !c.sendTail(m):
		return flipBehind
	}
	m.stage = stageLive
	m.sendSynced(c.cursor)
	return flipLive
}

// sendTail sends a session what follows its mark, if the tail has all of it. The caller holds mu.
func (c *cell) sendTail(m *member) bool {
	for i := range c.tail {
		if c.tail[i].prev != m.mark {
			continue
		}
		var parts map[Range]frame
		for j := range c.tail[i:] {
			parts = m.forward(&c.tail[i+j], parts)
		}
		return true
	}
	return false
}

// pageItems is how many items are read at once.
const pageItems = 256

// repair delivers what the store has and the cell has not.
func (c *cell) repair(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	for {
		c.mu.Lock()
		at, started := c.cursor, c.started
		c.mu.Unlock()
		if !started {
			return c.beginLocked(ctx)
		}
		p, err := c.o.store.Changes(ctx, c.topic, at, Range{}, pageItems)
		switch {
		case err != nil && follow.IsLoss(err):
			return c.lose(ctx, at)
		case err != nil:
			return err
		}
		c.mu.Lock()
		if c.cursor == at && p.Position != at {
			c.deliver(Change{Object: c.topic, Prev: at, Position: p.Position, Items: p.Items})
		}
		moved := c.cursor != at
		c.mu.Unlock()
		if !p.More || !moved {
			return nil
		}
	}
}

// The sessions of an object that was lost end one after the other, so that not all clients return
// at once: 1/loseParts of them each loseEvery.
const (
	loseParts = 50
	loseEvery = 40 * time.Millisecond
)

// lose ends all sessions because the store does not continue the position at.
func (c *cell) lose(ctx context.Context, at history.Position) error {
	c.mu.Lock()
	if c.cursor == at {
		for i, m := range c.sessions {
			if m.stage == stageReading || m.stage == stageLive {
				m.stage = stageEnded
				m.loseAfter(time.Duration(i*loseParts/len(c.sessions)) * loseEvery)
			}
		}
		c.started = false
		c.cut(0)
	}
	c.mu.Unlock()
	return c.beginLocked(ctx)
}

// takeWrite takes what a write costs.
func (c *cell) takeWrite(perSecond, cost float64) error {
	if perSecond <= 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return take(&c.writes, perSecond, cost)
}

// isClosed reports whether a frame could not be sent because the channel has ended. Its OnEnd
// function removes the session.
func isClosed(err error) bool { return errors.Is(err, channel.ErrClosed) }
