package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/push"
)

// window is what a session has whose client receives some items only, by their number, by a query
// or by Config.Visible. It handles changes in its mailbox: the cell notes those that may concern
// it, and posts one message.
//
// There are as many as there are clients with one, so it is small. The keys are those of the
// session, with Reverse for the last items.
type window struct {
	match matcher // nil means that there is no query
	n     int32   // at most so many items; zero means all, which must not be more than Limits.Rows

	// Guarded by the cell.
	dirty   bool     // changes were dropped: the window is read again
	busy    bool     // a readOn was posted, or is being handled
	waiting *backlog // nil if nothing waits

	// Owned by the callbacks' goroutine while busy is set, and by the cell while it is not.
	beyond bool    // there may be items after rows, which are the first ones
	synced bool    // was sent
	rows   []row   // what the client has or is about to be sent, in the order of the keys
	unsent *[]Item // pages that are to be sent first; nil if there are none
}

// backlog are the changes that wait for a window session.
type backlog struct {
	changes []*shared
	size    int // in bytes
	room    [1]*shared
}

// isFull reports whether the window has as many items as it may have.
func (w *window) isFull() bool { return w.n > 0 && len(w.rows) >= int(w.n) }

// row is an item that a client has.
type row struct {
	key string
	rev uint64
}

// Changes that wait for one session. Beyond them it reads its window again.
const (
	maxPending      = 64
	maxPendingBytes = 256 << 10
)

// reasonWindow is that of a deletion from a window, while the object still has the item.
const reasonWindow = "window"

const reasonQuota push.Reason = "quota"

// find returns the place of a key in the window.
func (w *window) find(key string) (int, bool) {
	return slices.BinarySearchFunc(w.rows, key, func(r row, key string) int { return strings.Compare(r.key, key) })
}

// isBeyond reports whether the window ends before a key: it is full, or must be refilled first, so
// that rows has no gap.
func (w *window) isBeyond(key string, reverse bool) bool {
	switch {
	case w.n == 0 || !w.isFull() && !w.beyond:
		return false
	case len(w.rows) == 0:
		return true
	case reverse:
		return key < w.rows[0].key
	}
	return key > w.rows[len(w.rows)-1].key
}

// skips reports whether a change does not concern the window. The caller holds the cell's lock, and
// busy is not set.
func (m *member) skips(items []Item) bool {
	w := m.window
	for i := range items {
		switch it := &items[i]; {
		case !m.keys.touches(it):
		case it.Under:
			return false
		case w.isBeyond(it.Key, m.keys.Reverse):
			w.beyond = w.beyond || it.Deleted == ""
		case it.Deleted != "":
			if _, held := w.find(it.Key); held {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// offer gives a change to a window session. The caller holds the cell's lock.
func (m *member) offer(s *shared) {
	w := m.window
	if m.stage != stageReading && m.stage != stageLive || !w.busy && m.skips(s.items) {
		return
	}
	if w.dirty {
		return
	}
	if w.waiting == nil {
		w.waiting = new(backlog)
		w.waiting.changes = w.waiting.room[:0]
	}
	for i := range s.items {
		w.waiting.size += len(s.items[i].Key) + len(s.items[i].Value)
	}
	w.waiting.changes = append(w.waiting.changes, s)
	if len(w.waiting.changes) > maxPending || w.waiting.size > maxPendingBytes {
		m.spoil()
		return
	}
	m.wake()
}

// spoil lets a window session read its window again. The caller holds the cell's lock.
func (m *member) spoil() {
	w := m.window
	w.waiting, w.dirty = nil, true
	m.wake()
}

// wake lets a window session look at what waits for it. The caller holds the cell's lock.
func (m *member) wake() {
	if w := m.window; !w.busy {
		w.busy = true
		channelhost.Post(m.channel, readOn{})
	}
}

// refresh lets a window session read its window again.
func (m *member) refresh() {
	if m.window == nil {
		return
	}
	m.cell.mu.Lock()
	defer m.cell.mu.Unlock()
	m.spoil()
}

// Refresh evaluates Config.Visible again for the channels of an object on this node, because it
// depends on something that has changed. It does not wait for them.
func (o *Objects) Refresh(topic string) {
	s := o.shard(topic)
	s.mu.Lock()
	c := s.cells[topic]
	s.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.sessions {
		if m.window != nil && (m.stage == stageReading || m.stage == stageLive) {
			m.spoil()
		}
	}
}

// turn handles what waits for a window session.
func (h *handler) turn(ctx context.Context, m *member) error {
	if err := m.takeTurn(ctx); err != nil && !isClosed(err) && ctx.Err() == nil {
		return m.turnFailed(err)
	}
	return nil
}

// turnFailed ends the channel. The client joins again, unless it has too many rows.
func (m *member) turnFailed(err error) error {
	if _, ok := errors.AsType[*LimitError](err); ok {
		return channel.Stop(reasonQuota)
	}
	if !errors.Is(err, errMoved) {
		channelhost.Log(m.channel, "reading an object failed", err)
	}
	channelhost.Lose(m.channel)
	return nil
}

// takeTurn sends a page, or else what has changed. If there is more to do, it posts another turn,
// so that the client's messages are handled between.
func (m *member) takeTurn(ctx context.Context) error {
	w := m.window
	if w.unsent != nil {
		items := *w.unsent
		n := pageOf(items)
		r, err := m.sendIfRoom(frame{b: pageFrame(m.cell.topic, items[:n], history.Position{})})
		if err != nil {
			return err
		}
		if r.sent {
			clear(items[:n])
			w.leave(items[n:])
		}
		if r.sent || r.again {
			channelhost.Post(m.channel, readOn{})
		}
		return nil
	}
	m.cell.mu.Lock()
	waiting, dirty := w.waiting, w.dirty
	w.waiting, w.dirty = nil, false
	switch {
	case m.stage != stageReading && m.stage != stageLive:
		m.cell.mu.Unlock()
		return nil
	case waiting == nil && !dirty:
		w.busy = false
		if !w.synced {
			w.synced = true
			m.stage = stageLive
			m.sendSynced(history.Position{})
		}
		m.cell.mu.Unlock()
		return nil
	}
	m.cell.mu.Unlock()
	if dirty {
		if err := m.reload(ctx); err != nil {
			return err
		}
	}
	if waiting != nil {
		for _, s := range waiting.changes {
			if s.pos.Epoch() == m.mark.Epoch() && s.pos.Offset() <= m.mark.Offset() {
				continue // the rows were read later
			}
			if err := m.apply(ctx, s); err != nil {
				return err
			}
		}
	}
	channelhost.Post(m.channel, readOn{})
	return nil
}

// apply sends what a change means for the window.
func (m *member) apply(ctx context.Context, s *shared) error {
	w := m.window
	var out []Item
	var frames []frame // those of out that are shared
	for i := range s.items {
		it := &s.items[i]
		if it.Under {
			switch removed, all := w.removeUnder(it); {
			case len(removed) == 0:
			case all:
				out, frames = append(out, *it), append(frames, s.frame(i))
			default:
				out, frames = append(out, removed...), append(frames, make([]frame, len(removed))...)
			}
			continue
		}
		at, held := w.find(it.Key)
		if held && it.Rev <= w.rows[at].rev {
			continue
		}
		matches := m.matches(ctx, it, value{it.Value, s, i})
		switch {
		case matches && held:
			w.rows[at].rev = it.Rev
			out, frames = append(out, *it), append(frames, s.frame(i))
		case matches && w.isBeyond(it.Key, m.keys.Reverse):
			w.beyond = true
		case matches:
			w.rows = slices.Insert(w.rows, at, row{it.Key, it.Rev})
			out, frames = append(out, *it), append(frames, s.frame(i))
			if w.n > 0 && len(w.rows) > int(w.n) {
				out, frames = append(out, w.evict(m.keys.Reverse)), append(frames, frame{})
				w.beyond = true
			} else if most := m.h.rows(); w.n == 0 && len(w.rows) > most {
				return &LimitError{Err: ErrQuota, What: "rows", Max: most}
			}
		case held:
			w.rows = slices.Delete(w.rows, at, at+1)
			if it.Deleted != "" {
				out, frames = append(out, *it), append(frames, s.frame(i))
			} else {
				out = append(out, Item{Key: it.Key, Rev: it.Rev, Deleted: reasonWindow})
				frames = append(frames, frame{})
			}
		}
	}
	if len(s.items) > 1 && len(out) > 1 { // one write is one event
		m.send(changeFrame(m.cell.topic, out, history.Position{}))
	} else {
		for i, f := range frames {
			if f.b == nil {
				f = changeFrame(m.cell.topic, out[i:i+1], history.Position{})
			}
			m.send(f)
		}
	}
	return m.refill(ctx)
}

// removeUnder removes the rows of a subtree that was deleted, and returns their deletions. It
// reports whether these are all rows of the subtree. The window may have others, which were put
// after the deletion and read before it came. The client must not be sent the subtree's deletion
// then: it would delete these as well.
func (w *window) removeUnder(it *Item) (removed []Item, all bool) {
	sub := Subtree(it.Key)
	all = true
	w.rows = slices.DeleteFunc(w.rows, func(r row) bool {
		switch {
		case !sub.Has(r.key):
			return false
		case r.rev > it.Rev:
			all = false
			return false
		}
		removed = append(removed, Item{Key: r.key, Rev: it.Rev, Deleted: it.Deleted})
		return true
	})
	return removed, all
}

// evict removes the row at the far end.
func (w *window) evict(reverse bool) Item {
	at := len(w.rows) - 1
	if reverse {
		at = 0
	}
	r := w.rows[at]
	w.rows = slices.Delete(w.rows, at, at+1)
	return Item{Key: r.key, Rev: r.rev, Deleted: reasonWindow}
}

// matches reports whether the client receives an item, if there is room for it.
func (m *member) matches(ctx context.Context, it *Item, v value) bool {
	w := m.window
	return it.Deleted == "" && m.keys.Has(it.Key) && (w.match == nil || w.match(it.Key, v)) &&
		m.h.shows(ctx, m.channel, it)
}

// refill reads and sends the items that follow a window that is not full any more.
func (m *member) refill(ctx context.Context) error {
	w := m.window
	if w.n == 0 || !w.beyond || w.isFull() {
		return nil
	}
	keys := m.keys
	switch {
	case len(w.rows) == 0:
	case keys.Reverse:
		keys.To = w.rows[0].key
	default:
		keys.From = w.rows[len(w.rows)-1].key + "\x00"
	}
	found, err := m.scan(ctx, keys, int(w.n)-len(w.rows))
	if err != nil {
		return err
	}
	w.beyond = found.more
	for i := range found.items {
		it := &found.items[i]
		at, held := w.find(it.Key)
		if held {
			continue // it cannot be
		}
		w.rows = slices.Insert(w.rows, at, row{it.Key, it.Rev})
		m.send(changeFrame(m.cell.topic, found.items[i:i+1], history.Position{}))
	}
	return nil
}

// reload reads the window again, and lets the difference be sent.
func (m *member) reload(ctx context.Context) error {
	w := m.window
	found, err := m.load(ctx)
	if err != nil {
		return err
	}
	old := w.rows
	var unsent []Item
	w.rows = make([]row, 0, len(found.items))
	i := 0
	gone := func() {
		unsent = append(unsent, Item{Key: old[i].key, Rev: old[i].rev, Deleted: reasonWindow})
		i++
	}
	for _, it := range found.items {
		for i < len(old) && old[i].key < it.Key {
			gone()
		}
		same := false
		if i < len(old) && old[i].key == it.Key {
			same = old[i].rev >= it.Rev
			i++
		}
		if !same {
			unsent = append(unsent, it)
		}
		w.rows = append(w.rows, row{it.Key, it.Rev})
	}
	for i < len(old) {
		gone()
	}
	w.leave(unsent)
	return nil
}

// leave leaves items to be sent in pages.
func (w *window) leave(unsent []Item) {
	if w.unsent = nil; len(unsent) > 0 {
		w.unsent = &unsent
	}
}

// found is the result of a scan.
type found struct {
	items []Item // in the order of the keys
	more  bool   // there may be more
	first Page   // the first page, without items
}

// load reads the whole window.
func (m *member) load(ctx context.Context) (f found, err error) {
	w := m.window
	most := int(w.n)
	if most == 0 {
		most = m.h.rows()
	}
	for range maxMarks {
		f, err = m.scan(ctx, m.keys, most)
		if !errors.Is(err, errMoved) {
			break
		}
	}
	switch {
	case err != nil:
		return f, err
	case w.n == 0 && f.more:
		return f, &LimitError{Err: ErrQuota, What: "rows", Max: most}
	}
	m.mark = f.first.Position
	w.beyond = f.more
	return f, nil
}

// scan reads the items of a range that match, at most so many.
func (m *member) scan(ctx context.Context, keys Range, most int) (f found, err error) {
	waiting, cancel := context.WithTimeout(ctx, scanPatience)
	defer cancel()
	m.cell.mu.Lock()
	at := m.cell.cursor
	m.cell.mu.Unlock()
	page := pageItems
	if m.window.match == nil && !m.h.hasView() {
		page = min(page, most+1)
	}
	for next := ""; ; {
		p, err := m.cell.o.store.Read(waiting, m.cell.topic, keys, next, page)
		if err != nil {
			return f, storeError(waiting, err)
		}
		switch {
		case next != "" && p.Position.Epoch() != f.first.Position.Epoch():
			return f, errMoved
		case next == "" && p.Position.Epoch() == at.Epoch() && p.Position.Offset() < at.Offset():
			return f, fmt.Errorf("%w: the store is behind what it has fed", history.ErrUnavailable)
		case next == "":
			f.first = Page{Position: p.Position, Expires: p.Expires}
		}
		for i := range p.Items {
			it := &p.Items[i]
			if !m.matches(ctx, it, value{text: it.Value}) {
				continue
			}
			if len(f.items) == most {
				f.more = true
				break
			}
			f.items = append(f.items, *it)
		}
		if next = p.Next; f.more || next == "" {
			break
		}
	}
	if keys.Reverse {
		slices.Reverse(f.items)
	}
	return f, nil
}
