package natsengine

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// maxCopies bounds the estimated memory of the copies of objects that are not in use.
	maxCopies = 64 << 20
	// maxDeadlines bounds that of the cells that are kept for their deadline only.
	maxDeadlines = 16 << 20
	// cellOverhead is the estimated memory of a cell without a copy, in addition to the name.
	cellOverhead = 350
	// indexedOverhead is that of a bucket in copyCell.indexed.
	indexedOverhead = 24
)

// copies are the objects of which this node has a copy, or a deadline. Those that were used last
// are kept. If a deadline is forgotten, the bucket of its minute still has the object; see expiry.
// The deadlines of watched objects are not forgotten, because clients wait for what happens then.
type copies struct {
	room         int
	deadlineRoom int

	copiesMu     sync.Mutex
	cells        map[string]*copyCell
	unused       list.List // of cells with a copy, that used last in front
	size         int       // of all copies, estimated
	deadlines    list.List // of cells that have only a deadline, and are not watched, the last in front
	deadlineSize int       // of these, estimated
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
	users   int
	watched bool
	place   *list.Element // in unused, or if size is zero, in deadlines
	size    int           // of the copy, as counted
	due     time.Time     // nothing of it expires before; zero means never
}

// deadlineSize returns the estimated memory of a cell without a copy.
func (c *copyCell) deadlineSize() int { return cellOverhead + len(c.object) }

func (x *copies) init() {
	x.room, x.deadlineRoom, x.cells = maxCopies, maxDeadlines, make(map[string]*copyCell)
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
	c := x.cell(object)
	c.users++
	x.copiesMu.Unlock()
	select {
	case c.turn <- struct{}{}:
		return c, st, nil
	case <-ctx.Done():
		x.leave(c)
		return nil, st, unavailable(ctx.Err())
	}
}

// cell returns the cell of an object, which is in no list. The caller must hold copiesMu.
func (x *copies) cell(object string) *copyCell {
	c := x.cells[object]
	if c == nil {
		c = &copyCell{object: object, turn: make(chan struct{}, 1)}
		x.cells[object] = c
	}
	x.unlist(c)
	return c
}

// unlist takes a cell out of its list. The caller must hold copiesMu.
func (x *copies) unlist(c *copyCell) {
	switch {
	case c.place == nil:
	case c.size > 0:
		x.unused.Remove(c.place)
	default:
		x.deadlines.Remove(c.place)
		x.deadlineSize -= c.deadlineSize()
	}
	c.place = nil
}

// release ends a hold.
func (s *objects) release(c *copyCell) {
	s.copiesMu.Lock()
	size, due := 0, time.Time{}
	if r := c.copy; r != nil && r.exists {
		size, due = r.size+indexedOverhead*len(c.indexed), r.due
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

// leave ends the use of a cell.
func (x *copies) leave(c *copyCell) {
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	c.users--
	x.settle(c)
}

// settle puts a cell into the list where it belongs, unless it is in use. Copies that were not used
// for the longest time are discarded if there are too many, and so are deadlines. The caller must
// hold copiesMu, and have taken the cell by cell.
func (x *copies) settle(c *copyCell) {
	x.list(c)
	for x.size > x.room && x.unused.Len() > 0 {
		old := x.unused.Back().Value.(*copyCell)
		x.unlist(old)
		x.size -= old.size
		old.size = 0
		x.list(old)
	}
	for x.deadlineSize > x.deadlineRoom {
		old := x.deadlines.Back().Value.(*copyCell)
		x.unlist(old)
		delete(x.cells, old.object)
	}
}

// list puts a cell that is not in use into its list. A cell without a copy is removed, unless it
// has a deadline or is watched.
func (x *copies) list(c *copyCell) {
	if c.users > 0 {
		return
	}
	if c.size > 0 {
		c.place = x.unused.PushFront(c)
		return
	}
	c.copy, c.indexed = nil, nil
	switch {
	case c.watched:
	case c.due.IsZero():
		delete(x.cells, c.object)
	default:
		c.place = x.deadlines.PushFront(c)
		x.deadlineSize += c.deadlineSize()
	}
}

// watch notes that an object is watched, or not any more.
func (x *copies) watch(object string, watched bool) {
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	c := x.cell(object)
	c.watched = watched
	x.settle(c)
}

// expects notes that something of an object expires.
func (x *copies) expects(object string, at time.Time) {
	if at.IsZero() {
		return
	}
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	c := x.cell(object)
	if c.due.IsZero() || at.Before(c.due) {
		c.due = at
	}
	x.settle(c)
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
