package follow

import (
	"slices"
	"sync"
	"time"

	"bennu.example/history"
)

// A window has at least the newest tailItems items, as long as they have at most tailBytes.
const (
	tailItems = 64
	tailBytes = 64 << 10
)

// overhead is what an item counts beyond the size that Push was given.
const overhead = 256

// linger is how long items that were read for one reader are kept for others. When a node or a
// network returns, many clients read the same items.
const linger = 5 * time.Second

// Topic is a topic in use.
//
// Its lock, order, is held while an item is delivered, and while it is appended to an instant log,
// so that all readers receive the items in the order of the log. An instant log is called under it,
// and so is Deliver, which may encode a frame. Nothing that runs under it may wait.
type Topic[B any] struct {
	all   *Topics[B]
	name  string
	keep  history.Keep
	users int           // guarded by the shard
	jobs  [jobKinds]job // guarded by the agendas

	order   sync.Mutex
	started bool             // the cursor is known
	cursor  history.Position // of the newest item that was delivered
	resets  int              // how often the cursor was set or lost
	gone    bool             // it was released

	// The window. Each slot is a position with its item, except that the first has no item: it is
	// where the window begins. The last is the cursor.
	slots   []*slot[B]
	bytes   int
	filling chan struct{} // closed when a read of older items has ended. Nil means that none runs
	until   time.Time     // the window keeps what it has; zero: it does not
	timer   *time.Timer   // trims the window then

	changed  chan struct{} // closed when something has changed. Nil means that nobody waits
	finished []Delivery[B] // those that need Done after the next Unlock
	held     holding[B]    // messages that wait for a record

	// Of a log that is not instant.
	down      error            // why the log does not feed the topic
	expected  history.Position // a record that the log has; zero: none
	attempts  int              // repairs that did not reach it
	due       bool             // a repair must read, even if nothing is expected
	repairing bool
	repaired  int // repairs that have ended
	backoff   time.Duration
	urgent    bool          // the feed had an interruption since the last survey
	survey    time.Duration // the interval
}

// slot is a position in the window.
type slot[B any] struct {
	item   Item[B]
	number int64 // consecutive in the window
	size   int
	time   int64 // of the record, in Unix milliseconds
	holds  int   // readers that need the items after this one
	cut    bool  // it was removed from the window
}

// Item is a record as it is delivered.
type Item[B any] struct {
	Position history.Position
	Item     B
}

// Name returns the name of the topic.
func (t *Topic[B]) Name() string { return t.name }

// Keep returns the rule of the topic.
func (t *Topic[B]) Keep() history.Keep { return t.keep }

func newSlot[B any](r *history.Record, item B, number int64) *slot[B] {
	return &slot[B]{
		item: Item[B]{r.Position, item}, number: number,
		size: len(r.Payload.Bytes()) + overhead, time: r.Time.UnixMilli(),
	}
}

// drop removes the window. The caller must hold order.
func (t *Topic[B]) drop() {
	for _, s := range t.slots {
		s.cut = true
	}
	t.slots = nil
	t.grow(-t.bytes)
	t.until = time.Time{}
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (t *Topic[B]) grow(n int) {
	t.bytes += n
	t.all.bytes.Add(int64(n))
}

// bound returns the largest size of the window: everything that the log retains, and as much again
// for what is appended while a join callback runs.
func (t *Topic[B]) bound() int { return 2*t.keep.Bytes + t.keep.Count*overhead }

// trim removes from the window what is not needed, and if full also what nobody holds. The caller
// must hold order.
func (t *Topic[B]) trim(full bool) {
	lingers := !t.until.IsZero()
	if lingers && !time.Now().Before(t.until) {
		t.until, lingers = time.Time{}, false
	}
	for len(t.slots) > 1 {
		first, next := t.slots[0], t.slots[1]
		wanted := first.holds > 0 || !full && (lingers || len(t.slots)-1 <= tailItems && t.bytes <= tailBytes)
		if wanted && t.bytes <= t.bound() {
			return
		}
		first.cut = true
		t.slots[0] = nil
		t.slots = t.slots[1:]
		t.grow(-next.size)
		t.clear(next)
	}
}

// clear removes the item of the first slot.
func (t *Topic[B]) clear(s *slot[B]) {
	s.item = Item[B]{Position: s.item.Position}
	s.size = 0
}

// find returns the slot of a position, or nil. The caller must hold order.
func (t *Topic[B]) find(p history.Position) *slot[B] {
	if s := t.at(p.Offset()); s != nil && s.item.Position == p {
		return s
	}
	return nil
}

// at returns the slot of an offset, or nil. The caller must hold order.
func (t *Topic[B]) at(offset uint64) *slot[B] {
	// In generic code, a function literal for a search of package slices would be allocated.
	lowest, end := 0, len(t.slots)
	for lowest < end {
		middle := lowest + (end-lowest)/2
		switch s := t.slots[middle]; {
		case s.item.Position.Offset() == offset:
			return s
		case s.item.Position.Offset() < offset:
			lowest = middle + 1
		default:
			end = middle
		}
	}
	return nil
}

// equivalent returns the slot before the first record of a batch, or nil if the window has none. It
// is that of another position than where the batch begins if both are beginnings before the first
// record of the log. The caller must hold order.
func (t *Topic[B]) equivalent(b history.Batch) *slot[B] {
	if !t.started {
		return nil
	}
	if len(b.Records) == 0 {
		if b.Top == t.cursor {
			return t.slots[len(t.slots)-1]
		}
		return nil
	}
	s := t.find(b.Records[0].Position)
	if s == nil || s == t.slots[0] {
		return nil
	}
	return t.slots[s.number-t.slots[0].number-1]
}

// after returns the slots after s, which must be in the window. The caller must hold order.
func (t *Topic[B]) after(s *slot[B]) []*slot[B] {
	return t.slots[s.number-t.slots[0].number+1:]
}

// extend puts the records of a batch in front of the window. It reports false if they do not join
// it. The caller must hold order. items are those of the records.
func (t *Topic[B]) extend(b history.Batch, items []B) bool {
	first := t.slots[0]
	n := slices.IndexFunc(b.Records, func(r history.Record) bool { return r.Position == first.item.Position })
	if n < 0 {
		return false
	}
	slots := make([]*slot[B], 0, n+1+len(t.slots))
	slots = append(slots, &slot[B]{item: Item[B]{Position: b.After}, number: first.number - int64(n) - 1})
	size := 0
	for i := range n {
		s := newSlot(&b.Records[i], items[i], first.number-int64(n)+int64(i))
		size += s.size
		slots = append(slots, s)
	}
	found := newSlot(&b.Records[n], items[n], first.number)
	first.item, first.size, first.time = found.item, found.size, found.time
	t.slots = append(slots, t.slots...)
	t.grow(size + first.size)
	t.until = time.Now().Add(linger)
	if t.timer == nil {
		t.timer = time.AfterFunc(linger, func() {
			t.order.Lock()
			defer t.order.Unlock()
			t.trim(false)
		})
	} else {
		t.timer.Reset(linger)
	}
	return true
}
