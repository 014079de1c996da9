package transport

import (
	"sync"

	"bennu.example/serializer"
)

// frameOverhead is what a frame counts as in a queue besides its payload, so that empty ones are bounded as well.
const frameOverhead = 64

// frameQueue is the frames that wait to be written to one connection, in order. Those at its front may be in a writer's hands: they are
// taken, and stay in the queue until they are written. It has no lock.
type frameQueue struct {
	entries   []entry
	head      int // entries before it were written
	taken     int // entries from head on that a writer has
	searched  int // no entry before it may be dropped
	holes     int // entries from head on whose frame was dropped
	used      int // bytes
	inHand    int // of these, bytes of what is taken
	droppable int // and bytes that may be dropped now
}

type entry struct {
	frame *serializer.Frame // nil: dropped
	drop  bool
}

func (e entry) cost() int { return len(e.frame.Data) + frameOverhead }

var frameQueues = sync.Pool{New: func() any { return &frameQueue{entries: make([]entry, 0, 16)} }}

// maxPooledEntries keeps queues that once grew large out of the pool.
const maxPooledEntries = 1024

// free gives q, which nobody uses any more, back.
func (q *frameQueue) free() {
	if cap(q.entries) > maxPooledEntries {
		return
	}
	clear(q.entries[q.head:])
	*q = frameQueue{entries: q.entries[:0]}
	frameQueues.Put(q)
}

// waiting is the bytes that no writer has. What one has may have arrived already: the client can answer it sooner than the writer gets to say so.
func (q *frameQueue) waiting() int { return q.used - q.inHand }

// empty reports whether all was written.
func (q *frameQueue) empty() bool { return q.used == 0 }

func (q *frameQueue) push(f *serializer.Frame, drop bool) {
	if len(q.entries) == cap(q.entries) && (q.head+q.holes)*2 >= len(q.entries) {
		q.compact()
	}
	e := entry{f, drop}
	q.entries = append(q.entries, e)
	q.used += e.cost()
	if drop {
		q.droppable += e.cost()
	}
}

// compact removes what was written and what was dropped.
func (q *frameQueue) compact() {
	n, taken, searched := 0, 0, 0
	for i := q.head; i < len(q.entries); i++ {
		e := q.entries[i]
		if e.frame == nil {
			continue
		}
		if i < q.head+q.taken {
			taken++
		}
		if i < q.searched {
			searched++
		}
		q.entries[n] = e
		n++
	}
	clear(q.entries[n:])
	q.entries = q.entries[:n]
	q.head, q.taken, q.searched, q.holes = 0, taken, searched, 0
}

// dropOldest drops frames that may be dropped, oldest first, until need bytes are free. It reports false, and drops nothing, if that cannot be.
func (q *frameQueue) dropOldest(need int) (n int, ok bool) {
	if need > q.droppable {
		return 0, false
	}
	for q.searched = max(q.searched, q.head+q.taken); need > 0; q.searched++ {
		e := &q.entries[q.searched]
		if e.frame == nil || !e.drop {
			continue
		}
		need -= e.cost()
		q.remove(e)
		n++
	}
	return n, true
}

// dropAll drops every frame that no writer has.
func (q *frameQueue) dropAll() {
	for i := q.head + q.taken; i < len(q.entries); i++ {
		if e := &q.entries[i]; e.frame != nil {
			q.remove(e)
		}
	}
}

func (q *frameQueue) remove(e *entry) {
	q.used -= e.cost()
	if e.drop {
		q.droppable -= e.cost()
	}
	e.frame = nil
	q.holes++
}

// take appends to dst, which is empty, the frames at the front until they are size bytes or more, but at least one, and marks them as taken. What
// was taken before is taken again.
func (q *frameQueue) take(dst []outgoing, size int) []outgoing {
	before := q.head + q.taken
	q.taken, q.inHand = 0, 0
	for i := q.head; i < len(q.entries) && (size > 0 || len(dst) == 0); i++ {
		q.taken++
		e := q.entries[i]
		if e.frame == nil {
			continue
		}
		if e.drop && i >= before {
			q.droppable -= e.cost()
		}
		size -= e.cost()
		q.inHand += e.cost()
		dst = append(dst, outgoing{frame: e.frame, first: 0x80 | byte(e.frame.Op), payload: e.frame.Data})
	}
	return dst
}

// written forgets the first n of the frames that were taken, and returns the last of them. The others wait again; but a frame of which some bytes
// were written must stay, so it remains taken.
func (q *frameQueue) written(n int, partly bool) (last *serializer.Frame) {
	for ; n > 0; q.head++ {
		e := &q.entries[q.head]
		q.taken--
		if e.frame == nil {
			q.holes--
			continue
		}
		last = e.frame
		q.used -= e.cost()
		*e = entry{}
		n--
	}
	keep := q.head
	q.inHand = 0
	if partly {
		for q.entries[keep].frame == nil {
			keep++
		}
		q.inHand = q.entries[keep].cost()
		keep++
	}
	for i := keep; i < q.head+q.taken; i++ {
		if e := q.entries[i]; e.frame != nil && e.drop {
			q.droppable += e.cost()
		}
	}
	q.taken = min(q.taken, keep-q.head)
	q.searched = min(q.searched, q.head+q.taken)
	return last
}
