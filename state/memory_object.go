package state

import (
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/fifo"
)

// The bytes that an item, a revision's tag and an object count, in addition to their texts.
const (
	itemOverhead   = 120
	tagOverhead    = 16
	objectOverhead = 600
)

const (
	pageBytes = 64 << 10 // bytes of keys and values, after which a page ends
	// tombstoneAge is how long a deletion is remembered.
	tombstoneAge = time.Hour
)

// memoryObject is an object of a Memory. Its lock comes before those of the store: the shard, the
// expiry, and what is fed.
type memoryObject struct {
	m    *Memory
	name string

	mu     sync.Mutex
	gone   bool // it was removed: look it up again
	epoch  string
	top    history.Position
	index  keyIndex    // with deleted items that are remembered
	oldest *memoryItem // by revision, linked by next
	newest *memoryItem
	items  int // without deleted ones
	bytes  int // of their keys and values
	size   int // what it counts in the store
	expiry *memoryDue

	keep    int // Limits.Changes of the last write
	deleted fifo.Queue[deletion]
	buried  int    // deletions that are remembered
	floor   uint64 // the newest deletion that is not remembered any more
	tags    fifo.Queue[revision]
	ids     *memoryIDs // Nil means that there are none.
}

// memoryItem is an item of an object, or a deletion that is remembered.
type memoryItem struct {
	key, writer string
	value       []byte
	rev         uint64
	expiry      *memoryDue // Nil means never.
	prev, next  *memoryItem
	tag         [4]byte
	deleted     deletedBy
	under       bool // the deletion of the key and of everything below it, which is not in the index
}

type deletedBy uint8

const (
	notDeleted deletedBy = iota
	byDelete
	byExpiry
)

func (d deletedBy) reason() string { return [...]string{"", ReasonDeleted, ReasonExpired}[d] }

// deletion is an entry of the deletions in their order. It is void if the item has another revision
// by now.
type deletion struct {
	item *memoryItem
	rev  uint64
	at   time.Time
}

// revision is a revision with its tag.
type revision struct {
	rev uint64
	tag [4]byte
}

func newMemoryObject(m *Memory, name string) *memoryObject {
	return &memoryObject{m: m, name: name, epoch: newEpoch(), top: m.base}
}

func (o *memoryObject) position(rev uint64, tag [4]byte) history.Position {
	p, _ := history.NewPosition(o.epoch, rev, string(tag[:])) // the parts are valid
	return p
}

// rev returns the newest revision.
func (o *memoryObject) rev() uint64 {
	if o.top == o.m.base {
		return 0
	}
	return o.top.Offset()
}

// isLive reports whether an item can be read.
func (it *memoryItem) isLive(now time.Time) bool {
	return it != nil && it.deleted == notDeleted && !it.expiry.isDue(now)
}

// export returns the item as others see it.
func (it *memoryItem) export() Item {
	e := Item{
		Key: it.key, Value: it.value, Rev: it.rev, Deleted: it.deleted.reason(), Under: it.under, Writer: it.writer,
	}
	if it.expiry != nil {
		e.Expires = it.expiry.at
	}
	return e
}

// moveToEnd makes an item the newest. A new item has no neighbours, and is not the oldest.
func (o *memoryObject) moveToEnd(it *memoryItem) {
	if o.newest == it {
		return
	}
	o.unlink(it)
	if it.prev = o.newest; it.prev != nil {
		it.prev.next = it
	} else {
		o.oldest = it
	}
	o.newest = it
}

func (o *memoryObject) unlink(it *memoryItem) {
	if it.prev != nil {
		it.prev.next = it.next
	} else if o.oldest == it {
		o.oldest = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else if o.newest == it {
		o.newest = it.prev
	}
	it.prev, it.next = nil, nil
}

// nextRev gives the object a new revision, and returns it. The caller sets top.
func (o *memoryObject) nextRev(last uint64) revision {
	r := revision{rev: last + 1}
	copy(r.tag[:], history.NewTag())
	o.tags.Push(r)
	return r
}

// trim forgets the oldest tags and deletions. It keeps the tag of the newest revision.
func (o *memoryObject) trim(keep int, now time.Time) {
	before := o.tags.Len()
	for o.tags.Len() > keep {
		o.tags.Pop()
	}
	freed := (before - o.tags.Len()) * tagOverhead
	for o.deleted.Len() > 0 {
		d := o.deleted.All()[0]
		void := d.item.rev != d.rev
		if !void && o.buried <= keep && now.Sub(d.at) < tombstoneAge {
			break
		}
		o.deleted.Pop()
		if !void {
			o.floor = d.rev
			o.buried--
			if !d.item.under {
				o.index.remove(d.item.key)
			}
			o.unlink(d.item)
			freed += len(d.item.key) + itemOverhead
		}
	}
	if o.deleted.Len() > 2*keep+16 { // most are void
		o.deleted.Filter(func(d deletion) bool { return d.item.rev == d.rev })
	}
	o.size -= freed
	_ = o.m.reserve(-freed) // fewer bytes always fit
}

// remove removes the object, and notifies the feed.
func (o *memoryObject) remove(reason string) {
	o.gone = true
	o.m.forget(o)
	o.m.expiry.remove(o.expiry)
	for it := o.oldest; it != nil; it = it.next {
		o.m.expiry.remove(it.expiry)
	}
	_ = o.m.reserve(-o.size) // fewer bytes always fit
	o.m.feed(Change{Object: o.name, Prev: o.top, Position: o.m.base, Gone: reason})
}

// read returns a page in the order of the keys, or in the opposite order.
func (o *memoryObject) read(r Range, next string, limit int) Page {
	p := Page{Position: o.top}
	if o.expiry != nil {
		p.Expires = o.expiry.at
	}
	now, size := time.Now(), 0
	add := func(it *memoryItem) bool {
		switch {
		case !r.Reverse && r.isBehind(it.key) || r.Reverse && (it.key < r.start() || it.key == ""):
			return false
		case !it.isLive(now):
			return true
		case len(p.Items) >= limit || size >= pageBytes:
			p.Next = it.key
			return false
		}
		size += len(it.key) + len(it.value)
		p.Items = append(p.Items, it.export())
		return true
	}
	if !r.Reverse {
		o.index.from(max(next, r.start()), add)
		return p
	}
	end := r.end()
	if next != "" && (end == "" || next < end) {
		end = next + "\x00"
	}
	o.index.before(end, add)
	return p
}

// changes returns a page in the order of the revisions.
func (o *memoryObject) changes(since history.Position, r Range, limit int) (Page, error) {
	if err := o.canContinue(since); err != nil {
		return Page{}, err
	}
	after := since.Offset()
	p := Page{Position: since, More: after < o.rev()}
	if limit <= 0 || !p.More {
		return p, nil
	}
	it := o.newest
	for it != nil && it.prev != nil && it.prev.rev > after {
		it = it.prev
	}
	if it != nil && it.rev <= after {
		it = nil
	}
	now, size := time.Now(), 0
	for ; it != nil; it = it.next {
		if len(p.Items) >= limit || size >= pageBytes {
			return p, nil
		}
		p.Position = o.position(it.rev, it.tag)
		e := it.export()
		if !r.Touches(e) {
			continue
		}
		if it.expiry.isDue(now) { // the deletion itself follows
			e = Item{Key: it.key, Rev: it.rev, Deleted: ReasonExpired}
		}
		size += len(it.key) + len(e.Value)
		p.Items = append(p.Items, e)
	}
	p.Position, p.More = o.top, false
	return p, nil
}

// canContinue returns why a position cannot be continued, or nil.
func (o *memoryObject) canContinue(since history.Position) error {
	tags := o.tags.All()
	if since == o.m.base { // before the object existed
		if tags[0].rev > 1 {
			return history.ErrTrimmed
		}
		return nil
	}
	rev := since.Offset()
	switch {
	case since.Epoch() == o.m.base.Epoch():
		return history.ErrTag
	case since.Epoch() != o.epoch:
		return history.ErrEpoch
	case rev > o.rev():
		return history.ErrAhead
	case rev < tags[0].rev:
		if rev == 0 { // no object begins so
			return history.ErrTag
		}
		return history.ErrTrimmed
	}
	known := tags[rev-tags[0].rev] // revisions are consecutive here
	switch {
	case string(known.tag[:]) != since.Tag():
		return history.ErrTag
	case rev < o.floor:
		return history.ErrTrimmed
	}
	return nil
}
