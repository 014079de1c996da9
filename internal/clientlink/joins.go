package clientlink

import (
	"container/heap"
	"context"
	"slices"
	"time"
)

const (
	// joinPatience is the time after which a join that is not answered, or whose params function has
	// not returned, holds up the others no longer.
	joinPatience = time.Second
	// joinInterval and joinBurst pace the joins of a connection: 400 a second, 800 at once. A server
	// with the default of socket.Config.JoinRate accepts 500 a second, 1,000 at once.
	joinInterval = time.Second / 400
	joinBurst    = 800
)

// Joiner is the owner of a Join.
type Joiner interface {
	// Evaluate calls the params function. It is called on a goroutine of its own.
	Evaluate(ctx context.Context)
	// Evaluated is called on the loop when the function has ended, if the join is still in the queue.
	// If the function failed, the owner must let the join leave.
	Evaluated()
	// Send sends the join. It is called on the loop.
	Send()
}

// Join is one phx_join, until it is answered.
type Join struct {
	Owner    Joiner
	Priority int8
	IsFunc   bool   // Owner.Evaluate must have ended before Owner.Send is called
	Number   uint64 // from JoinQueue.Number

	cancel func() // set while Evaluate runs
	state  joinState
	since  time.Time // when the state began, for joinRunning and joinSent
	places [2]int32  // the positions in the heaps, plus 1
}

type joinState uint8

const (
	joinIdle    joinState = iota // not in the queue
	joinHeld                     // its params function will be called
	joinRunning                  // its params function runs
	joinReady
	joinSent
)

// IsReady reports whether j waits for its turn only.
func (j *Join) IsReady() bool { return j.state == joinReady }

// isBefore reports whether j is to be sent before k.
func (j *Join) isBefore(k *Join) bool {
	if j.Priority != k.Priority {
		return j.Priority > k.Priority
	}
	return j.Number < k.Number
}

// JoinQueue decides when the joins of a client are sent: by priority, and within one priority in
// the order of their numbers. It is used on the client's loop only. It is empty while there is no
// connection.
//
// A join whose params function runs for joinPatience lets the next ones pass. It is sent as soon as
// it has its params. At most Max functions run, and at most Max joins are unanswered; those that
// take longer than joinPatience do not count.
type JoinQueue struct {
	max   int                         // negative means no bound
	start func(*Join) (cancel func()) // calls Owner.Evaluate on a goroutine, and then Evaluated
	last  uint64                      // of Number
	full  time.Time                   // when the connection allows joinBurst joins at once again
	order joinHeap                    // the joins that later ones must not pass
	held  joinHeap                    // those of them whose functions were not started
	busy  []*Join                     // whose functions count, by their starts, if there is a bound
	sent  []*Join                     // that count as unanswered, in order, if there is a bound
}

// NewJoinQueue returns an empty queue. Start calls Owner.Evaluate on a new goroutine, and then
// Evaluated on the loop, even after cancel was called.
func NewJoinQueue(max int, start func(*Join) (cancel func())) *JoinQueue {
	return &JoinQueue{max: max, start: start, order: joinHeap{which: 0}, held: joinHeap{which: 1}}
}

// Number returns the number of a channel's joins. A channel that asks later gets a greater one.
func (q *JoinQueue) Number() uint64 {
	q.last++
	return q.last
}

// Enter adds a join that is not in the queue.
func (q *JoinQueue) Enter(j *Join) {
	j.state = joinReady
	if j.IsFunc {
		j.state = joinHeld
		q.held.add(j)
	}
	q.order.add(j)
}

// Leave removes a join that was answered or given up. It does nothing if j is not in the queue.
func (q *JoinQueue) Leave(j *Join) {
	q.order.remove(j)
	q.held.remove(j)
	if j.state == joinSent {
		remove(&q.sent, j)
	}
	if j.cancel != nil {
		j.cancel() // the function counts until it returns
		j.cancel = nil
	}
	j.state = joinIdle
}

// Evaluated notes that the params function of j has ended.
func (q *JoinQueue) Evaluated(j *Join) {
	remove(&q.busy, j)
	if j.state != joinRunning {
		return
	}
	j.cancel, j.state = nil, joinReady
	if j.places[q.order.which] == 0 { // the next ones have passed it
		q.order.add(j)
	}
	j.Owner.Evaluated()
}

// Opened prepares the queue for a new connection.
func (q *JoinQueue) Opened() { q.full = time.Time{} }

// IsWaiting reports whether Run may have something to do, now or later.
func (q *JoinQueue) IsWaiting() bool { return len(q.order.list) > 0 }

// Run starts functions and sends the joins whose turn has come. It returns when it must be called
// again, unless the queue changes before that. The zero time means never.
func (q *JoinQueue) Run(now time.Time) (again time.Time) {
	expire(&q.busy, now)
	expire(&q.sent, now)
	for len(q.held.list) > 0 && q.hasRoom(q.busy) {
		j := q.held.first()
		q.held.remove(j)
		j.state, j.since = joinRunning, now
		if q.max >= 0 {
			q.busy = append(q.busy, j)
		}
		j.cancel = q.start(j)
	}
	for len(q.order.list) > 0 {
		j := q.order.first()
		if j.state == joinRunning && now.Sub(j.since) >= joinPatience {
			q.order.remove(j)
			continue
		}
		if j.state != joinReady || !q.hasRoom(q.sent) || q.pacedUntil().After(now) {
			break
		}
		q.order.remove(j)
		j.state, j.since = joinSent, now
		if q.max >= 0 {
			q.sent = append(q.sent, j)
		}
		if q.full.Before(now) {
			q.full = now
		}
		q.full = q.full.Add(joinInterval)
		j.Owner.Send()
	}
	return q.next(now)
}

// next returns when Run can do more than it has done.
func (q *JoinQueue) next(now time.Time) (again time.Time) {
	if len(q.order.list) == 0 {
		return again
	}
	switch j := q.order.first(); {
	case j.state == joinRunning:
		again = j.since.Add(joinPatience)
	case j.state == joinReady && q.hasRoom(q.sent):
		again = q.pacedUntil()
	case j.state == joinReady:
		again = q.sent[0].since.Add(joinPatience)
	}
	if len(q.held.list) == 0 {
		return again
	}
	starts := now // Owner.Send has let it enter
	if !q.hasRoom(q.busy) {
		starts = q.busy[0].since.Add(joinPatience)
	}
	if again.IsZero() || starts.Before(again) {
		again = starts
	}
	return again
}

// pacedUntil returns when the connection allows the next join.
func (q *JoinQueue) pacedUntil() time.Time { return q.full.Add(-(joinBurst - 1) * joinInterval) }

// hasRoom reports whether one more join may count.
func (q *JoinQueue) hasRoom(list []*Join) bool { return q.max < 0 || len(list) < q.max }

// expire removes the joins that do not count any more.
func expire(list *[]*Join, now time.Time) {
	n := 0
	for n < len(*list) && now.Sub((*list)[n].since) >= joinPatience {
		n++
	}
	*list = slices.Delete(*list, 0, n)
	release(list)
}

func remove(list *[]*Join, j *Join) {
	if i := slices.Index(*list, j); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
		release(list)
	}
}

// release frees the memory of an empty list.
func release(list *[]*Join) {
	if len(*list) == 0 {
		*list = nil
	}
}

// joinHeap is a heap of joins, which have their places in it. It implements heap.Interface.
type joinHeap struct {
	list  []*Join
	which int // the index of Join.places
}

func (h *joinHeap) first() *Join { return h.list[0] }

func (h *joinHeap) add(j *Join) { heap.Push(h, j) }

func (h *joinHeap) remove(j *Join) {
	if i := j.places[h.which]; i > 0 {
		heap.Remove(h, int(i-1))
		release(&h.list)
	}
}

func (h *joinHeap) Len() int           { return len(h.list) }
func (h *joinHeap) Less(i, k int) bool { return h.list[i].isBefore(h.list[k]) }

func (h *joinHeap) Swap(i, k int) {
	h.list[i], h.list[k] = h.list[k], h.list[i]
	h.list[i].places[h.which], h.list[k].places[h.which] = int32(i+1), int32(k+1)
}

func (h *joinHeap) Push(x any) {
	j := x.(*Join)
	h.list = append(h.list, j)
	j.places[h.which] = int32(len(h.list))
}

func (h *joinHeap) Pop() any {
	last := len(h.list) - 1
	j := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	j.places[h.which] = 0
	return j
}
