package state

import (
	"context"
	"time"
)

// Apply is part of Store.
func (m *Memory) Apply(_ context.Context, object string, ops []Op, tx Tx) (Applied, error) {
	a, err := m.apply(object, ops, tx)
	if err != nil {
		m.failed.Add(1)
		return Applied{}, err
	}
	m.applied.Add(1)
	return a, nil
}

func (m *Memory) apply(object string, ops []Op, tx Tx) (Applied, error) {
	if err := Check(ops, tx); err != nil {
		return Applied{}, err
	}
	tx.Limits = tx.Limits.WithDefaults()
	for {
		if o := m.lock(object); o != nil {
			defer o.mu.Unlock()
			if before, ok := o.ids.find(tx.ID, time.Now()); ok {
				return before, nil
			}
			if tx.Create == ModeNew {
				return Applied{}, ErrExists
			}
			return o.apply(ops, &tx)
		}
		if a, done, err := m.applyAbsent(object, ops, &tx); done {
			return a, err
		}
	}
}

// applyAbsent is apply for an object that does not exist. It reports false if it exists by now.
func (m *Memory) applyAbsent(object string, ops []Op, tx *Tx) (a Applied, done bool, err error) {
	if tx.Create == ModeExisting {
		return Applied{}, true, ErrNotFound
	}
	if tx.Create != ModeNew {
		puts := false
		for i, op := range ops {
			switch {
			case op.If != nil && *op.If != 0:
				return Applied{}, true, &ConflictError{Op: i, Key: op.Key}
			case op.From != "" && !op.Own:
				return Applied{}, true, ErrNotFound
			}
			puts = puts || !op.Delete && !op.Own
		}
		if !puts { // nothing to change
			return Applied{Revs: make([]uint64, len(ops)), Prev: m.base, Position: m.base}, true, nil
		}
	}
	o, err := m.create(object)
	if o == nil {
		return Applied{}, err != nil, err
	}
	defer o.mu.Unlock()
	if err = m.reserve(objectOverhead + len(object)); err == nil {
		o.size = objectOverhead + len(object)
		if tx.TTL > 0 {
			o.expiry = m.expiry.add(o, nil, time.Now().Add(tx.TTL))
		}
		a, err = o.apply(ops, tx)
	}
	if err != nil { // it was not created
		o.gone = true
		m.forget(o)
		m.expiry.remove(o.expiry)
		_ = m.reserve(-o.size) // fewer bytes always fit
	}
	return a, true, err
}

// step is what an op does.
type step struct {
	item  *memoryItem // Nil means that the object has none, not even a deletion.
	from  *memoryItem // of a move
	under []*memoryItem
	live  bool // the item exists
	below bool // items below exist
	skip  bool // nothing is changed
}

// apply performs ops.
func (o *memoryObject) apply(ops []Op, tx *Tx) (Applied, error) {
	now := time.Now()
	var room [4]step
	steps := room[:0]
	var grow growth
	for i := range ops {
		s, err := o.plan(i, &ops[i], tx, now)
		if err != nil {
			return Applied{}, err
		}
		if isBelow(ops, steps, i) { // what it has and what is below is deleted first
			s = step{from: s.from, skip: s.skip}
		}
		grow.add(&ops[i], s)
		steps = append(steps, s)
	}
	creates := o.rev() == 0
	if !creates && grow.changes == 0 && !o.ids.remembersUnchanged(now) {
		tx.ID = "" // it is not remembered
	}
	if err := o.admit(&grow, tx, creates); err != nil {
		return Applied{}, err
	}
	a := Applied{Revs: make([]uint64, len(ops)), Prev: o.top}
	if grow.changes > 0 {
		a.Items = make([]Item, 0, grow.changes)
	}
	last := revision{rev: o.rev()}
	for i := range steps {
		a.Items, a.Revs[i] = o.perform(&ops[i], &steps[i], tx, &last, now, a.Items)
	}
	if creates && grow.changes == 0 {
		last = o.nextRev(last.rev) // the creation
	}
	changed := creates || grow.changes > 0
	if changed {
		o.top = o.position(last.rev, last.tag)
	}
	a.Position = o.top
	if tx.ID != "" {
		o.remember(tx.ID, a, now)
	}
	o.keep = tx.Limits.Changes
	o.trim(o.keep, now)
	if changed {
		o.m.feed(Change{Object: o.name, Prev: a.Prev, Position: a.Position, Items: a.Items})
	}
	return a, nil
}

// perform performs one op, which was planned and counted. It appends what has changed to items, and
// returns the revision of the op's item.
func (o *memoryObject) perform(
	op *Op, s *step, tx *Tx, last *revision, now time.Time, items []Item,
) ([]Item, uint64) {
	next := func() revision {
		*last = o.nextRev(last.rev)
		return *last
	}
	if s.skip {
		if s.item == nil {
			return items, 0
		}
		return items, s.item.rev
	}
	if op.Under && s.below || op.Under && op.Delete {
		for _, it := range s.under {
			o.drop(it)
		}
		r := next()
		items = append(items, o.bury(op.Key, tx, r, now))
		if op.Delete {
			return items, r.rev
		}
	}
	put := *op
	if s.from != nil {
		put.Value = s.from.value
		if d := s.from.expiry; op.TTL == nil {
			left := time.Duration(0)
			if d != nil {
				left = d.at.Sub(now)
			}
			put.TTL = &left
		}
		o.change(s.from, &Op{Delete: true}, tx, next(), now)
		items = append(items, s.from.export())
	}
	it := o.change(s.item, &put, tx, next(), now)
	items = append(items, it.export())
	items[len(items)-1].From = op.From
	return items, it.rev
}

// plan finds out what an op does, and whether its condition holds.
func (o *memoryObject) plan(i int, op *Op, tx *Tx, now time.Time) (step, error) {
	s := step{item: o.index.find(op.Key)}
	s.live = s.item.isLive(now)
	owned := s.live && s.item.writer == tx.Writer
	if op.Under {
		owned = s.planUnder(o, op, tx, now)
	}
	if op.If != nil {
		c := ConflictError{Op: i, Key: op.Key}
		if s.live {
			c.Rev, c.Value = s.item.rev, s.item.value
		}
		if c.Rev != *op.If || s.below {
			return s, &c
		}
	}
	if op.From != "" {
		from := o.index.find(op.From)
		if !from.isLive(now) {
			s.skip = op.Own
			if !op.Own {
				return s, ErrNotFound
			}
			return s, nil
		}
		s.from = from
		owned = from.writer == tx.Writer
	}
	s.skip = op.Own && !owned || op.Delete && !s.live && !s.below
	return s, nil
}

// planUnder finds what is below the key of an op. It reports whether the op's writer is the last
// writer of everything there.
func (s *step) planUnder(o *memoryObject, op *Op, tx *Tx, now time.Time) (owned bool) {
	sub := Subtree(op.Key)
	owned = true
	o.index.from(op.Key, func(it *memoryItem) bool {
		if !sub.Has(it.key) {
			return false
		}
		if it.isLive(now) {
			owned = owned && it.writer == tx.Writer
			s.below = s.below || it.key != op.Key
		}
		if op.Delete || it.key != op.Key {
			s.under = append(s.under, it)
		}
		return true
	})
	return owned && (s.live || s.below)
}

// isBelow reports whether an op's item is deleted by an op with Under before it.
func isBelow(ops []Op, steps []step, i int) bool {
	for j := range steps {
		if ops[j].Under && !steps[j].skip && (ops[j].Delete || steps[j].below) && Subtree(ops[j].Key).Has(ops[i].Key) {
			return true
		}
	}
	return false
}

// growth is what a write adds to an object.
type growth struct {
	changes int
	items   int
	bytes   int // of keys and values
	size    int // what it counts in the store
}

func (g *growth) add(op *Op, s step) {
	if s.skip {
		return
	}
	if op.Under && (op.Delete || s.below) {
		for _, it := range s.under {
			g.remove(it)
			g.size -= len(it.key) + itemOverhead
		}
		g.change()
		g.size += len(op.Key) + itemOverhead // the deletion
		if op.Delete {
			return
		}
	}
	value := len(op.Value)
	if s.from != nil {
		value = len(s.from.value)
		g.remove(s.from)
		g.change()
	}
	g.change()
	if s.item == nil {
		g.size += len(op.Key) + itemOverhead
	} else {
		g.remove(s.item)
	}
	if !op.Delete {
		g.items++
		g.bytes += len(op.Key) + value
		g.size += value
	}
}

// change counts a revision.
func (g *growth) change() {
	g.changes++
	g.size += tagOverhead
}

// remove counts the end of an item's value. An item whose time has come counts until it is deleted
// or replaced.
func (g *growth) remove(it *memoryItem) {
	g.size -= len(it.value)
	if it.deleted == notDeleted {
		g.items--
		g.bytes -= len(it.key) + len(it.value)
	}
}

// admit counts the growth, if the limits permit it.
func (o *memoryObject) admit(g *growth, tx *Tx, creates bool) error {
	l := &tx.Limits
	switch {
	case g.items > 0 && o.items+g.items > l.Items:
		return &LimitError{Err: ErrQuota, What: "items", Max: l.Items}
	case g.bytes > 0 && o.bytes+g.bytes > l.Bytes:
		return &LimitError{Err: ErrQuota, What: "bytes", Max: l.Bytes}
	case o.rev()+uint64(g.changes)+1 > maxRev:
		return &LimitError{Err: ErrQuota, What: "revisions", Max: g.changes}
	}
	if creates && g.changes == 0 {
		g.size += tagOverhead
	}
	size := g.size
	if tx.ID != "" {
		size += idSize(tx.ID, g.changes)
	}
	if err := o.m.reserve(size); err != nil {
		return err
	}
	o.size += size
	o.items += g.items
	o.bytes += g.bytes
	return nil
}

// change performs one op on an item, which may be nil, and returns the item.
func (o *memoryObject) change(it *memoryItem, op *Op, tx *Tx, r revision, now time.Time) *memoryItem {
	if it == nil {
		it = &memoryItem{key: op.Key}
		o.index.insert(it)
	}
	expires := it.expiry
	if op.Delete || op.TTL != nil || it.deleted != notDeleted || expires.isDue(now) {
		o.m.expiry.remove(it.expiry)
		expires = nil
	}
	if !op.Delete && op.TTL != nil && *op.TTL > 0 {
		expires = o.m.expiry.add(o, it, now.Add(*op.TTL))
	}
	if it.deleted != notDeleted {
		o.buried--
	}
	it.value, it.writer, it.expiry = op.Value, tx.Writer, expires
	it.deleted = notDeleted
	if op.Delete {
		it.deleted = byDelete
	}
	o.stamp(it, r, now)
	return it
}

// drop forgets an item below a key that is deleted.
func (o *memoryObject) drop(it *memoryItem) {
	o.index.remove(it.key)
	o.unlink(it)
	o.m.expiry.remove(it.expiry)
	if it.deleted != notDeleted {
		o.buried--
	}
	it.expiry, it.rev = nil, 0 // so that an entry of the deletions is void
}

// bury remembers the deletion of a key and of everything below it. It is not in the index, so that
// a put of the key does not replace it.
func (o *memoryObject) bury(key string, tx *Tx, r revision, now time.Time) Item {
	it := &memoryItem{key: key, writer: tx.Writer, deleted: byDelete, under: true}
	o.stamp(it, r, now)
	return it.export()
}

// stamp gives a changed item its revision.
func (o *memoryObject) stamp(it *memoryItem, r revision, now time.Time) {
	it.rev, it.tag = r.rev, r.tag
	o.moveToEnd(it)
	if it.deleted != notDeleted {
		o.buried++
		o.deleted.Push(deletion{it, r.rev, now})
	}
}

// expire deletes items whose time has come, as one change.
func (o *memoryObject) expire(due []*memoryDue, now time.Time) (n int) {
	prev := o.top
	var items []Item
	last := revision{rev: o.rev()}
	size := 0
	for _, d := range due {
		it := d.item
		if it.expiry != d { // it was changed meanwhile
			continue
		}
		o.items--
		o.bytes -= len(it.key) + len(it.value)
		size += tagOverhead - len(it.value)
		it.value, it.writer, it.expiry, it.deleted = nil, "", nil, byExpiry
		last = o.nextRev(last.rev)
		o.stamp(it, last, now)
		items = append(items, it.export())
	}
	if len(items) == 0 {
		return 0
	}
	o.size += size
	o.m.bytes.Add(int64(size)) // deletions have room, whatever the bound
	o.top = o.position(last.rev, last.tag)
	o.trim(o.keep, now)
	o.m.feed(Change{Object: o.name, Prev: prev, Position: o.top, Items: items})
	return len(items)
}

// memoryIDs are the writes that an object remembers.
type memoryIDs struct {
	byID  map[string]*rememberedID
	order []*rememberedID // oldest first
}

type rememberedID struct {
	id      string
	applied Applied
	at      time.Time
	size    int
}

const (
	maxIDs = 1000
	idAge  = 10 * time.Minute
	// unchangedIDs is how many IDs an object may remember before a write that changes nothing is not
	// remembered. It gets no revision, so repeatRevs does not count it.
	unchangedIDs = 250
)

// idSize is what a remembered write of n changes counts.
func idSize(id string, n int) int { return 2*len(id) + 300 + 128*n }

func (x *memoryIDs) find(id string, now time.Time) (Applied, bool) {
	if x == nil || id == "" {
		return Applied{}, false
	}
	r := x.byID[id]
	if r == nil || now.Sub(r.at) >= idAge {
		return Applied{}, false
	}
	a := r.applied
	a.Repeated = true
	return a, true
}

// remembersUnchanged reports whether a write that changes nothing is remembered.
func (x *memoryIDs) remembersUnchanged(now time.Time) bool {
	if x == nil || len(x.order) < unchangedIDs {
		return true
	}
	return now.Sub(x.order[len(x.order)-unchangedIDs].at) >= idAge
}

// remember remembers a write, whose size was counted by admit, and forgets the oldest.
func (o *memoryObject) remember(id string, a Applied, now time.Time) {
	if o.ids == nil {
		o.ids = &memoryIDs{byID: make(map[string]*rememberedID)}
	}
	x := o.ids
	kept := make([]Item, len(a.Items))
	for i, it := range a.Items {
		kept[i] = it
		kept[i].Value = nil
	}
	a.Items = kept
	r := &rememberedID{id, a, now, idSize(id, len(kept))}
	x.byID[id] = r
	x.order = append(x.order, r)
	freed, n := 0, 0
	for n < len(x.order)-1 && (len(x.order)-n > maxIDs || now.Sub(x.order[n].at) >= idAge) {
		old := x.order[n]
		if x.byID[old.id] == old {
			delete(x.byID, old.id)
		}
		freed += old.size
		x.order[n] = nil
		n++
	}
	x.order = x.order[n:]
	o.size -= freed
	_ = o.m.reserve(-freed) // fewer bytes always fit
}
