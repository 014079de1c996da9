package natsengine

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"bennu.example/engine/internal/objectplan"
	"bennu.example/history"
	"bennu.example/internal/fifo"
	"bennu.example/state"
)

const (
	// writeIDAge and maxWriteIDs bound the IDs of writes that an object remembers. A write that
	// changes nothing is remembered only if there are fewer than unchangedIDs.
	writeIDAge   = 10 * time.Minute
	maxWriteIDs  = 1000
	unchangedIDs = 250
	// tombstoneAge is how long a deletion is remembered.
	tombstoneAge = time.Hour
	// pageBytes are the bytes of keys and values after which a page ends.
	pageBytes = 64 << 10

	// leastLog is the bytes of a log that are not worth a snapshot.
	leastLog = 64 << 10

	// The estimated memory of an item, a revision, an ID and an object in addition to their texts.
	itemOverhead     = 160
	revisionOverhead = 64
	idOverhead       = 300
	objectOverhead   = 600
	// messageOverhead is what a message takes in the stream in addition to its bytes.
	messageOverhead = 100
)

// replica is an object as the log has it up to a message. It is the same on all nodes that have
// applied the same messages: what is trimmed depends on the times in the messages, and on no clock.
type replica struct {
	seq      uint64 // of the last message that was applied; zero means none
	exists   bool
	snapshot uint64 // the last message in the newest snapshot that is known; zero means none
	logged   int    // bytes of the messages after it

	epoch   string
	rev     uint64
	tag     string
	expires time.Time
	keep    int // Limits.Changes of the last write

	items     []*state.Item // by key, with deletions that are remembered
	count     int           // items without deletions
	bytes     int           // of their keys and values
	size      int           // estimated memory
	revisions fifo.Queue[revision]
	scanned   uint64 // the deletions before this revision have been looked at because of their age
	floor     uint64 // the newest deletion that is not remembered any more
	ids       map[string]*rememberedID
	order     fifo.Queue[*rememberedID]
	removals  removals  // of earlier objects of this name
	due       time.Time // nothing expires before; zero means never
}

// revision is what a revision has changed. If the item has another revision by now, only the tag
// counts. The deletion of a subtree always counts: no item has its revision.
type revision struct {
	tag     string
	at      time.Time
	key     string
	deletes bool // the item
	under   bool // the item and everything below it
}

// rememberedID is a write with an ID. Its items have no values.
type rememberedID struct {
	id      string
	at      time.Time
	applied state.Applied
}

// top returns the position of an object that exists.
func (r *replica) top() history.Position { return r.positionOf(r.rev, r.tag) }

func (r *replica) positionOf(rev uint64, tag string) history.Position {
	p, _ := history.NewPosition(r.epoch, rev, tag) // the parts were checked
	return p
}

// isLong reports whether a snapshot should replace the messages of the log.
func (r *replica) isLong() bool { return r.logged > max(leastLog, 2*r.size) }

// first returns the oldest revision that is known.
func (r *replica) first() uint64 { return r.rev + 1 - uint64(r.revisions.Len()) }

// revision returns a revision that is known.
func (r *replica) revision(rev uint64) *revision { return &r.revisions.All()[rev-r.first()] }

// follows reports whether an entry is the next one, or the beginning or the end of the log.
func (r *replica) follows(e *entry) bool {
	if e.creates() {
		return !r.exists
	}
	if e.kind == kindGone && !r.exists {
		return r.seq == 0
	}
	return r.exists && e.epoch == r.epoch && e.prev == r.rev && e.prevTag == r.tag
}

// has reports whether an entry is the last one that was applied.
func (r *replica) has(e *entry) bool {
	switch {
	case e.seq != r.seq:
		return false
	case e.kind == kindGone:
		return !r.exists
	}
	return r.exists && e.epoch == r.epoch && e.revision == r.rev && e.tag() == r.tag
}

// apply applies an entry that follows.
func (r *replica) apply(e *entry, base history.Position) {
	switch {
	case e.kind == kindGone:
		*r = replica{seq: e.seq, removals: e.removals}
		return
	case e.creates():
		*r = replica{
			exists: true, epoch: e.epoch, expires: e.expires, scanned: 1, removals: r.removals,
			size: objectOverhead + r.removals.size(),
		}
		r.expects(e.expires)
	}
	r.seq, r.keep = e.seq, e.keep
	r.logged += e.size + messageOverhead
	for i := range e.items {
		it := &e.items[i]
		r.rev, r.tag = it.Rev, e.tags[i]
		rev := revision{tag: r.tag, at: e.at, key: it.Key, under: it.Under, deletes: it.Deleted != "" && !it.Under}
		if it.Under {
			r.drop(it.Key)
		} else {
			r.put(it, len(e.items) > 1)
		}
		r.revisions.Push(rev)
		r.size += revisionOverhead
	}
	if e.creates() && len(e.items) == 0 {
		r.rev, r.tag = 1, e.tag()
		r.revisions.Push(revision{tag: r.tag, at: e.at})
		r.size += revisionOverhead
	}
	if e.id != "" {
		r.remember(e, base)
	}
	r.trim(e.at)
}

// find returns the place of a key, and whether there is an item or a deletion.
func (r *replica) find(key string) (int, bool) {
	return slices.BinarySearchFunc(r.items, key, func(it *state.Item, key string) int {
		return strings.Compare(it.Key, key)
	})
}

// add counts an item, or its end.
func (r *replica) add(it *state.Item, sign int) {
	r.size += sign * (itemOverhead + len(it.Key) + len(it.Value) + len(it.Writer))
	if it.Deleted == "" {
		r.count += sign
		r.bytes += sign * (len(it.Key) + len(it.Value))
	}
}

// expects notes when something expires.
func (r *replica) expects(at time.Time) {
	if !at.IsZero() && (r.due.IsZero() || at.Before(r.due)) {
		r.due = at
	}
}

// put stores an item or a deletion. With clones, the value is a part of something larger.
func (r *replica) put(it *state.Item, clones bool) {
	kept := *it
	kept.From = ""
	if clones {
		kept.Value = bytes.Clone(it.Value)
	}
	i, found := r.find(it.Key)
	if found {
		r.add(r.items[i], -1)
		r.items[i] = &kept
	} else {
		r.items = slices.Insert(r.items, i, &kept)
	}
	r.add(&kept, 1)
	r.expects(kept.Expires)
}

// drop deletes everything at a key and below.
func (r *replica) drop(key string) {
	from, to := r.under(key)
	for _, it := range r.items[from:to] {
		r.add(it, -1)
	}
	r.items = slices.Delete(r.items, from, to)
}

// under returns the places of everything at a key and below.
func (r *replica) under(key string) (from, to int) {
	sub := state.Subtree(key)
	from, _ = r.find(sub.From)
	if to = len(r.items); sub.To != "" {
		to, _ = r.find(sub.To)
	}
	return from, to
}

// trim forgets the oldest revisions and deletions. It keeps the newest revision.
func (r *replica) trim(now time.Time) {
	for r.revisions.Len() > max(r.keep, 1) {
		rev := r.first()
		old := r.revisions.Pop()
		r.size -= revisionOverhead
		r.forget(rev, &old)
	}
	for r.scanned = max(r.scanned, r.first()); r.scanned <= r.rev; r.scanned++ {
		old := r.revision(r.scanned)
		if now.Sub(old.at) < tombstoneAge {
			break
		}
		r.forget(r.scanned, old)
	}
}

// forget forgets a deletion, unless the item was changed after it.
func (r *replica) forget(rev uint64, old *revision) {
	switch {
	case old.under:
		r.floor = max(r.floor, rev)
	case old.deletes:
		if i, found := r.find(old.key); found && r.items[i].Rev == rev {
			r.add(r.items[i], -1)
			r.items = slices.Delete(r.items, i, i+1)
			r.floor = max(r.floor, rev)
		}
	}
}

// remembersUnchanged reports whether a write with an ID that changes nothing is stored and
// remembered.
func (r *replica) remembersUnchanged(now time.Time) bool {
	n := r.order.Len()
	return n < unchangedIDs || now.Sub(r.order.All()[n-unchangedIDs].at) >= writeIDAge
}

// remember remembers a write with an ID, and forgets the oldest.
func (r *replica) remember(e *entry, base history.Position) {
	a := state.Applied{
		Revs: e.revs, Prev: e.previous(base), Position: e.position(), Items: make([]state.Item, len(e.items)),
	}
	for i, it := range e.items {
		it.Value = nil
		a.Items[i] = it
	}
	r.rememberID(&rememberedID{e.id, e.at, a})
	for n := r.order.Len(); n > 1; n-- {
		old := r.order.All()[0]
		if n <= maxWriteIDs && e.at.Sub(old.at) < writeIDAge {
			break
		}
		r.order.Pop()
		if r.ids[old.id] == old {
			delete(r.ids, old.id)
		}
		r.size -= old.size()
	}
}

func (r *replica) rememberID(id *rememberedID) {
	if r.ids == nil {
		r.ids = make(map[string]*rememberedID)
	}
	r.ids[id.id] = id
	r.order.Push(id)
	r.size += id.size()
}

func (x *rememberedID) size() int {
	return idOverhead + len(x.id) + 8*len(x.applied.Revs) + itemOverhead*len(x.applied.Items)
}

// Item is part of objectplan.View.
func (r *replica) Item(key string) (state.Item, bool, error) {
	if i, found := r.find(key); found {
		return *r.items[i], true, nil
	}
	return state.Item{}, false, nil
}

// Under is part of objectplan.View.
func (r *replica) Under(key string, f func(it state.Item)) error {
	from, to := r.under(key)
	for _, it := range r.items[from:to] {
		f(*it)
	}
	return nil
}

// isGone reports whether the object does not exist, or has expired.
func (r *replica) isGone(now time.Time) bool { return !r.exists || objectplan.IsDue(r.expires, now) }

// read returns a page in the order of the keys, or in the opposite order.
func (r *replica) read(rng state.Range, next string, limit int, now time.Time) state.Page {
	p := state.Page{Position: r.top(), Expires: r.expires}
	size := 0
	// add reports whether the page goes on.
	add := func(it *state.Item) bool {
		switch {
		case !objectplan.IsLive(it, now):
			return true
		case len(p.Items) >= limit || size >= pageBytes:
			p.Next = it.Key
			return false
		}
		size += len(it.Key) + len(it.Value)
		p.Items = append(p.Items, *it)
		return true
	}
	from, _ := r.find(max(rng.From, rng.Prefix))
	to := len(r.items)
	if end := rng.To; rng.Prefix != "" || end != "" {
		if prefixEnd := rng.Prefix + "\xff"; rng.Prefix != "" && (end == "" || prefixEnd < end) { // no key has this byte
			end = prefixEnd
		}
		to, _ = r.find(end)
	}
	if !rng.Reverse {
		if next != "" {
			i, _ := r.find(next)
			from = max(from, i)
		}
		for i := from; i < to && add(r.items[i]); i++ { //nolint:revive // add does everything
		}
		return p
	}
	if next != "" {
		i, _ := r.find(next + "\x00")
		to = min(to, i)
	}
	for i := to - 1; i >= from && r.items[i].Key != "" && add(r.items[i]); i-- { //nolint:revive // add does everything
	}
	return p
}

// changes returns a page in the order of the revisions.
func (r *replica) changes(
	since, base history.Position, rng state.Range, limit int, now time.Time,
) (state.Page, error) {
	if err := r.canContinue(since, base); err != nil {
		return state.Page{}, err
	}
	after := since.Offset()
	p := state.Page{Position: since, More: after < r.rev}
	if limit <= 0 || !p.More {
		return p, nil
	}
	size := 0
	for rev := after + 1; rev <= r.rev; rev++ {
		old := r.revision(rev)
		it, ok := r.changed(rev, old, now)
		if ok && rng.Touches(it) {
			if len(p.Items) >= limit || size >= pageBytes {
				return p, nil
			}
			size += len(it.Key) + len(it.Value)
			p.Items = append(p.Items, it)
		}
		p.Position = r.positionOf(rev, old.tag)
	}
	p.More = false
	return p, nil
}

// changed returns the change of a revision, unless a newer one of the item replaces it.
func (r *replica) changed(rev uint64, old *revision, now time.Time) (state.Item, bool) {
	if old.under {
		return state.Item{Key: old.key, Rev: rev, Deleted: state.ReasonDeleted, Under: true}, true
	}
	i, found := r.find(old.key)
	if !found || r.items[i].Rev != rev {
		return state.Item{}, false
	}
	if it := r.items[i]; it.Deleted != "" || !objectplan.IsDue(it.Expires, now) {
		return *it, true
	}
	return state.Item{Key: old.key, Rev: rev, Deleted: state.ReasonExpired}, true // the deletion itself follows
}

// canContinue returns why a position cannot be continued, or nil.
func (r *replica) canContinue(since, base history.Position) error {
	rev := since.Offset()
	switch {
	case since == base: // before the object existed
		if r.first() > 1 {
			return history.ErrTrimmed
		}
		return nil
	case since.Epoch() == base.Epoch():
		return history.ErrTag
	case since.Epoch() != r.epoch:
		return history.ErrEpoch
	case rev > r.rev:
		return history.ErrAhead
	case rev == 0: // no object begins so
		return history.ErrTag
	case rev < r.first():
		return history.ErrTrimmed
	case r.revision(rev).tag != since.Tag():
		return history.ErrTag
	case rev < r.floor:
		return history.ErrTrimmed
	}
	return nil
}

// expired returns the deletions of at most some items whose time has come. Without any, it notes
// when the next one expires.
func (r *replica) expired(now time.Time, limit int) (items []state.Item) {
	if !r.exists || !objectplan.IsDue(r.due, now) {
		return nil
	}
	r.due = time.Time{}
	r.expects(r.expires)
	for _, it := range r.items {
		if it.Deleted != "" || it.Expires.IsZero() {
			continue
		}
		r.expects(it.Expires)
		if objectplan.IsDue(it.Expires, now) && len(items) < limit {
			items = append(items, state.Item{Key: it.Key, Deleted: state.ReasonExpired})
		}
	}
	return items
}
