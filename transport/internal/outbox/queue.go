// Package outbox is the queue of frames that wait to be sent to one client, with the policies for
// clients that read too slowly.
package outbox

import (
	"sync"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// frameOverhead is what a frame costs in a queue in addition to its payload. It bounds the number
// of empty frames.
const frameOverhead = 64

// Queue is the frames that wait to be written to one connection, in order.
//
// A writer takes frames from the front, writes them without a lock, and then reports how many it
// wrote. Until then they stay in the queue, and are not dropped. At most one writer uses a queue at
// a time. A Queue has no lock: its owner calls every method and reads every field under its own.
type Queue struct {
	OwnBytes   int // bytes charged to the client's own budget: those that its messages caused
	TakenBytes int // of the other bytes, those that a writer has taken

	// OnRoom and Offset are fields of the owner, and Free clears them. OnRoom is the function that it
	// calls when Policy.HasRoom is true again. Offset is how many bytes of the first frame were
	// written, header included.
	OnRoom func()
	Offset int

	entries   []Entry
	head      int                   // the number of entries that were written
	taken     int                   // the number of entries from head on that a writer has taken
	searched  int                   // no entry before this index may be dropped
	holes     int                   // the number of entries from head on whose frame was dropped
	bytes     int                   // the cost of all frames
	droppable int                   // the cost of the frames that may be dropped now for others
	latest    map[transport.Key]int // the index of the newest entry of each key; nil until needed

	// No frame is older than since. Those from the index marked on are no older than markedAt.
	since, markedAt time.Duration
	marked          int
	stamped         bool // Stamp was called since the queue was empty
}

// Entry is a frame in a Queue. Policy.Entry makes it.
type Entry struct {
	Frame  *serializer.Frame    // nil if it was dropped
	key    transport.Key        // set if the policy is KeepLatest
	policy transport.SlowPolicy // never Inherit
	own    bool                 // charged to the client's own budget
	ifRoom bool                 // see transport.Delivery.IfRoom
}

func (e Entry) cost() int { return len(e.Frame.Data) + frameOverhead }

var queues = sync.Pool{New: func() any { return &Queue{entries: make([]Entry, 0, 16)} }}

// Get returns an empty queue from the pool. Its owner returns it with Free.
func Get() *Queue { return queues.Get().(*Queue) }

// maxPooledEntries keeps queues that have grown large out of the pool.
const maxPooledEntries = 1024

// Free returns q to the pool. Nobody may use q afterwards.
func (q *Queue) Free() {
	if cap(q.entries) > maxPooledEntries {
		return
	}
	clear(q.entries[q.head:])
	clear(q.latest)
	*q = Queue{entries: q.entries[:0], latest: q.latest}
	queues.Put(q)
}

// Empty reports whether all frames were written or dropped.
func (q *Queue) Empty() bool { return q.bytes == 0 }

// Size returns what all frames count, including those that a writer has taken.
func (q *Queue) Size() int { return q.bytes }

// Count returns the number of frames, including those that a writer has taken.
func (q *Queue) Count() int { return len(q.entries) - q.head - q.holes }

// Stamp notes the time, on a clock of the owner. A writer calls it once for each batch, before
// Take, and an owner that has no writer yet when it enqueues the first frame.
func (q *Queue) Stamp(now time.Duration) {
	switch {
	case !q.stamped:
		q.since, q.stamped = now, true
	case q.head < q.marked:
		return
	default:
		q.since = q.markedAt
	}
	q.marked, q.markedAt = len(q.entries), now
}

// Age returns the age of the oldest frame at a time of the clock of Stamp. The result may be up to
// twice as large, because there is no stamp for each frame. It is zero for an empty queue, and
// before the first Stamp.
func (q *Queue) Age(now time.Duration) time.Duration {
	if q.bytes == 0 || !q.stamped {
		return 0
	}
	return now - q.since
}

// Enqueue appends e. It does not check the bounds: see Policy.Admit.
func (q *Queue) Enqueue(e Entry) {
	if q.bytes == 0 {
		q.stamped = false
	}
	if len(q.entries) == cap(q.entries) && (q.head+q.holes)*2 >= len(q.entries) {
		q.compact()
	}
	if e.key != (transport.Key{}) {
		if q.latest == nil {
			q.latest = make(map[transport.Key]int)
		}
		q.latest[e.key] = len(q.entries)
	}
	q.entries = append(q.entries, e)
	q.bytes += e.cost()
	if e.own {
		q.OwnBytes += e.cost()
	}
	if e.policy == transport.DropOldest {
		q.droppable += e.cost()
	}
}

// compact removes the entries that were written or dropped from the slice.
func (q *Queue) compact() {
	n, taken, searched, marked := 0, 0, 0, 0
	for i := q.head; i < len(q.entries); i++ {
		e := q.entries[i]
		if e.Frame == nil {
			continue
		}
		if i < q.head+q.taken {
			taken++
		}
		if i < q.searched {
			searched++
		}
		if i < q.marked {
			marked++
		}
		if newest, ok := q.latest[e.key]; ok && newest == i {
			q.latest[e.key] = n
		}
		q.entries[n] = e
		n++
	}
	clear(q.entries[n:])
	q.entries = q.entries[:n]
	q.head, q.taken, q.searched, q.marked, q.holes = 0, taken, searched, marked, 0
}

// dropOldest drops frames of DropOldest, oldest first, until need bytes are free. It returns how
// many it dropped. If that cannot free enough, it drops none and returns false.
func (q *Queue) dropOldest(need int) (n int, ok bool) {
	if need > q.droppable {
		return 0, false
	}
	for q.searched = max(q.searched, q.head+q.taken); need > 0; q.searched++ {
		e := &q.entries[q.searched]
		if e.Frame == nil || e.policy != transport.DropOldest {
			continue
		}
		need -= e.cost()
		q.drop(q.searched)
		n++
	}
	return n, true
}

// DropAll drops every frame that no writer has taken. The connection is ending: afterwards no frame
// replaces another one of its key.
func (q *Queue) DropAll() {
	for i := q.head + q.taken; i < len(q.entries); i++ {
		if q.entries[i].Frame != nil {
			q.drop(i)
		}
	}
	clear(q.latest)
}

// conflate drops the frame of a key, if there is one that no writer has taken. It reports whether
// it dropped one.
func (q *Queue) conflate(key transport.Key) bool {
	i, ok := q.latest[key]
	if !ok || i < q.head+q.taken {
		return false
	}
	q.drop(i)
	return true
}

// drop drops the frame of an entry that no writer has taken.
func (q *Queue) drop(i int) {
	e := &q.entries[i]
	q.bytes -= e.cost()
	if e.own {
		q.OwnBytes -= e.cost()
	}
	if e.policy == transport.DropOldest {
		q.droppable -= e.cost()
	}
	q.unindex(i)
	*e = Entry{}
	q.holes++
}

// unindex removes an entry from latest.
func (q *Queue) unindex(i int) {
	key := q.entries[i].key
	if newest, ok := q.latest[key]; ok && newest == i {
		delete(q.latest, key)
	}
}

// Take marks frames at the front as taken, and appends them to dst, which must be empty. It stops
// when they have size bytes or more, but takes at least one. The writer must report the result to
// Written. Frames that were taken before are taken again.
func (q *Queue) Take(dst []*serializer.Frame, size int) []*serializer.Frame {
	before := q.head + q.taken
	q.taken, q.TakenBytes = 0, 0
	for i := q.head; i < len(q.entries) && (size > 0 || len(dst) == 0); i++ {
		q.taken++
		e := q.entries[i]
		if e.Frame == nil {
			continue
		}
		if e.policy == transport.DropOldest && i >= before {
			q.droppable -= e.cost()
		}
		size -= e.cost()
		if !e.own {
			q.TakenBytes += e.cost()
		}
		dst = append(dst, e.Frame)
	}
	return dst
}

// Written removes the first n of the frames that were taken, and returns the last of them. The
// others wait again, except those with a newer frame of their key: Written drops these and returns
// their number.
//
// If partly is true, some bytes of the next frame were written. That frame must be completed, so it
// remains taken.
func (q *Queue) Written(n int, partly bool) (last *serializer.Frame, obsolete int) {
	for ; n > 0; q.head++ {
		e := &q.entries[q.head]
		q.taken--
		if e.Frame == nil {
			q.holes--
			continue
		}
		last = e.Frame
		q.bytes -= e.cost()
		if e.own {
			q.OwnBytes -= e.cost()
		}
		q.unindex(q.head)
		*e = Entry{}
		n--
	}
	keep := q.head
	q.TakenBytes = 0
	if partly {
		for q.entries[keep].Frame == nil {
			keep++
		}
		if e := q.entries[keep]; !e.own {
			q.TakenBytes = e.cost()
		}
		keep++
	}
	for i := keep; i < q.head+q.taken; i++ {
		e := q.entries[i]
		if e.Frame != nil && e.policy == transport.DropOldest {
			q.droppable += e.cost()
		}
		if newest, ok := q.latest[e.key]; ok && newest != i {
			q.drop(i)
			obsolete++
		}
	}
	q.taken = min(q.taken, keep-q.head)
	q.searched = min(q.searched, q.head+q.taken)
	return last, obsolete
}
