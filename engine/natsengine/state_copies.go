package natsengine

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// maxCopies bounds the estimated memory of the copies of objects that are not in use.
const maxCopies = 64 << 20

// copies are the objects of which this node has a copy. Those that were used last are kept.
type copies struct {
	room int

	copiesMu sync.Mutex
	cells    map[string]*copyCell
	unused   list.List // of cells with a copy, that used last in front
	size     int       // of all copies, estimated
}

// copyCell has the copy of an object. Only its holder uses the copy.
type copyCell struct {
	object string
	turn   chan struct{} // has an element while the cell is held

	copy    *replica           // Nil means that it must be read.
	doubts  uint64             // remote.doubts when the copy was last compared with the log
	nonce   uint64             // of the message that the holder wants to store
	found   *entry             // that message, if it was applied by refresh
	skipped bool               // refresh may have skipped that message
	indexed map[int64]struct{} // the buckets of deadlines that have the object; see indexDeadline

	// These fields are guarded by copiesMu.
	users int
	place *list.Element // in unused
	size  int           // of the copy, as counted
	due   time.Time     // nothing of it expires before; zero means never
}

func (x *copies) init(room int) {
	x.room, x.cells = room, make(map[string]*copyCell)
}

// hold returns the cell of an object, which nobody else holds, and the state of the stream. The
// caller must call release if err is nil.
func (s *objects) hold(ctx context.Context, object string) (*copyCell, streamState, error) {
	st, err := s.known(ctx, limits{})
	if err != nil {
		return nil, st, err
	}
	x := &s.copies
	x.copiesMu.Lock()
	c := x.cells[object]
	if c == nil {
		c = x.add(object)
	}
	c.users++
	if c.place != nil {
		x.unused.Remove(c.place)
		c.place = nil
	}
	x.copiesMu.Unlock()
	select {
	case c.turn <- struct{}{}:
		return c, st, nil
	case <-ctx.Done():
		x.leave(c)
		return nil, st, unavailable(ctx.Err())
	}
}

// add adds a cell. The caller must hold copiesMu.
func (x *copies) add(object string) *copyCell {
	c := &copyCell{object: object, turn: make(chan struct{}, 1)}
	x.cells[object] = c
	return c
}

// release ends a hold.
func (s *objects) release(c *copyCell) {
	s.copiesMu.Lock()
	size, due := 0, time.Time{}
	if r := c.copy; r != nil && r.exists {
		size, due = r.size, r.due
	}
	s.copies.size += size - c.size
	c.size = size
	if c.copy != nil {
		c.due = due
	}
	s.copiesMu.Unlock()
	<-c.turn
	s.leave(c)
}

// leave ends the use of a cell. Copies that were not used for the longest time are discarded if
// there are too many. The cell of one that expires remains.
func (x *copies) leave(c *copyCell) {
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	if c.users--; c.users > 0 {
		return
	}
	if c.size == 0 {
		c.copy = nil
		x.discard(c)
	} else {
		c.place = x.unused.PushFront(c)
	}
	for x.size > x.room && x.unused.Len() > 0 {
		last := x.unused.Back()
		old := last.Value.(*copyCell)
		x.unused.Remove(last)
		x.size -= old.size
		old.place, old.copy, old.size, old.indexed = nil, nil, 0, nil
		x.discard(old)
	}
}

// discard removes a cell without a copy, unless something of the object expires.
func (x *copies) discard(c *copyCell) {
	if c.due.IsZero() {
		delete(x.cells, c.object)
	}
}

// expects notes that something of an object expires.
func (x *copies) expects(object string, at time.Time) {
	if at.IsZero() {
		return
	}
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	c := x.cells[object]
	if c == nil {
		c = x.add(object)
	}
	if c.due.IsZero() || at.Before(c.due) {
		c.due = at
	}
}

// due returns objects of which something may have expired, at most some.
func (x *copies) dueBefore(now time.Time, limit int) (names []string) {
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	for name, c := range x.cells {
		if len(names) == limit {
			break
		}
		if !c.due.IsZero() && !c.due.After(now) {
			names = append(names, name)
		}
	}
	return names
}
