// Package outbox is the queue of frames that wait to be sent to one client, and the policies for clients that read too
// slowly.
package outbox

import (
	"sync"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// frameOverhead is what a frame counts as in a queue besides its payload, so that empty ones are bounded as well.
const frameOverhead = 64

// frameQueue is the frames that wait to be written to one connection, in order. Those at its front may be in a writer's hands: they are
// taken, and stay in the queue until they are written. It has no lock.
type Queue struct {
	entries   []Entry
	head      int                   // entries before it were written
	taken     int                   // entries from head on that a writer has
	searched  int                   // no entry before it may be dropped
	holes     int                   // entries from head on whose frame was dropped
	used      int                   // bytes
	Own       int                   // of these, bytes that the client's own messages caused
	InHand    int                   // and of the others, bytes of what is taken
	droppable int                   // and bytes that may be dropped now for others
	latest    map[transport.Key]int // where the newest entry of each key is; nil until needed
}

type Entry struct {
	Frame  *serializer.Frame    // nil: dropped
	key    transport.Key        // if the policy is KeepLatest
	policy transport.SlowPolicy // not Inherit
	own    bool                 // of the budget for what the client caused
}

func (e Entry) cost() int { return len(e.Frame.Data) + frameOverhead }

var queues = sync.Pool{New: func() any { return &Queue{entries: make([]Entry, 0, 16)} }}

// Get returns an empty queue. Free gives it back.
func Get() *Queue { return queues.Get().(*Queue) }

// maxPooledEntries keeps queues that once grew large out of the pool.
const maxPooledEntries = 1024

// free gives q, which nobody uses any more, back.
func (q *Queue) Free() {
	if cap(q.entries) > maxPooledEntries {
		return
	}
	clear(q.entries[q.head:])
	clear(q.latest)
	*q = Queue{entries: q.entries[:0], latest: q.latest}
	queues.Put(q)
}

// empty reports whether all was written.
func (q *Queue) Empty() bool { return q.used == 0 }

func (q *Queue) Push(e Entry) {
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
	q.used += e.cost()
	if e.own {
		q.Own += e.cost()
	}
	if e.policy == transport.DropOldest {
		q.droppable += e.cost()
	}
}

// compact removes what was written and what was dropped.
func (q *Queue) compact() {
	n, taken, searched := 0, 0, 0
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
		if newest, ok := q.latest[e.key]; ok && newest == i {
			q.latest[e.key] = n
		}
		q.entries[n] = e
		n++
	}
	clear(q.entries[n:])
	q.entries = q.entries[:n]
	q.head, q.taken, q.searched, q.holes = 0, taken, searched, 0
}

// dropOldest drops frames that may be dropped, oldest first, until need bytes are free. It reports false, and drops nothing, if that cannot be.
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
		q.remove(q.searched)
		n++
	}
	return n, true
}

// dropAll drops every frame that no writer has, for the end: no frame makes another obsolete after that.
func (q *Queue) DropAll() {
	for i := q.head + q.taken; i < len(q.entries); i++ {
		if q.entries[i].Frame != nil {
			q.remove(i)
		}
	}
	clear(q.latest)
}

// conflate drops the frame of that key, if one waits that no writer has. It reports whether it did.
func (q *Queue) conflate(key transport.Key) bool {
	i, ok := q.latest[key]
	if !ok || i < q.head+q.taken {
		return false
	}
	q.remove(i)
	return true
}

// remove makes a hole where a frame waits that no writer has.
func (q *Queue) remove(i int) {
	e := &q.entries[i]
	q.used -= e.cost()
	if e.own {
		q.Own -= e.cost()
	}
	if e.policy == transport.DropOldest {
		q.droppable -= e.cost()
	}
	q.forget(i)
	*e = Entry{}
	q.holes++
}

// forget takes an entry that goes out of the index.
func (q *Queue) forget(i int) {
	key := q.entries[i].key
	if newest, ok := q.latest[key]; ok && newest == i {
		delete(q.latest, key)
	}
}

// count returns the number of frames.
func (q *Queue) Count() int { return len(q.entries) - q.head - q.holes }

// take appends the frames at the front to dst, which is empty, until they have size bytes or more, but at least one
// frame, and marks them as taken. Frames that were taken before are taken again.
func (q *Queue) Take(dst []*serializer.Frame, size int) []*serializer.Frame {
	before := q.head + q.taken
	q.taken, q.InHand = 0, 0
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
			q.InHand += e.cost()
		}
		dst = append(dst, e.Frame)
	}
	return dst
}

// written forgets the first n of the frames that were taken, and returns the last of them. The others wait again, but for the obsolete ones: those
// with a newer one of their key, which are dropped and counted. A frame of which some bytes were written must stay, so it remains taken.
func (q *Queue) Written(n int, partly bool) (last *serializer.Frame, obsolete int) {
	for ; n > 0; q.head++ {
		e := &q.entries[q.head]
		q.taken--
		if e.Frame == nil {
			q.holes--
			continue
		}
		last = e.Frame
		q.used -= e.cost()
		if e.own {
			q.Own -= e.cost()
		}
		q.forget(q.head)
		*e = Entry{}
		n--
	}
	keep := q.head
	q.InHand = 0
	if partly {
		for q.entries[keep].Frame == nil {
			keep++
		}
		if e := q.entries[keep]; !e.own {
			q.InHand = e.cost()
		}
		keep++
	}
	for i := keep; i < q.head+q.taken; i++ {
		e := q.entries[i]
		if e.Frame != nil && e.policy == transport.DropOldest {
			q.droppable += e.cost()
		}
		if newest, ok := q.latest[e.key]; ok && newest != i {
			q.remove(i)
			obsolete++
		}
	}
	q.taken = min(q.taken, keep-q.head)
	q.searched = min(q.searched, q.head+q.taken)
	return last, obsolete
}
