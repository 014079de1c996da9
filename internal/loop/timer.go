package loop

import (
	"container/heap"
	"time"
)

// Task is a task to run on the loop.
type Task interface{ Run() }

// Timer runs its Task on the loop when it is due. It is meant to be embedded by value. It must not
// be copied while it is armed.
type Timer struct {
	Task  Task
	at    time.Time
	seq   uint64 // of timers due at the same time, the one armed first runs first
	index int    // position in the heap plus 1, or 0 if the timer is not armed
}

// IsArmed reports whether the timer is armed. It may only be called on the loop.
func (t *Timer) IsArmed() bool { return t.index > 0 }

// Due returns the time for which the timer was armed last. It may only be called on the loop.
func (t *Timer) Due() time.Time { return t.at }

// timers is the queue of armed timers, the next one first. Most timers are armed in the order in
// which they are due, which requires no moves in the heap.
type timers struct {
	heap timerHeap
	seq  uint64
}

func (ts *timers) next() (time.Time, bool) {
	if len(ts.heap) == 0 {
		return time.Time{}, false
	}
	return ts.heap[0].at, true
}

func (ts *timers) push(t *Timer) {
	ts.seq++
	t.seq = ts.seq
	heap.Push(&ts.heap, t)
}

func (ts *timers) pop() Task {
	t := ts.heap[0]
	ts.remove(t)
	return t.Task
}

func (ts *timers) remove(t *Timer) {
	if t.index > 0 {
		heap.Remove(&ts.heap, t.index-1)
	}
}

// timerHeap implements heap.Interface. It maintains the indexes of its timers.
type timerHeap []*Timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	t := x.(*Timer)
	*h = append(*h, t)
	t.index = len(*h)
}

// Pop releases memory when the heap has become much smaller than its capacity.
func (h *timerHeap) Pop() any {
	list := *h
	last := len(list) - 1
	t := list[last]
	t.index = 0
	list[last] = nil
	list = list[:last]
	if cap(list) > keep && last < cap(list)/4 {
		list = append(make(timerHeap, 0, cap(list)/2), list...)
	}
	*h = list
	return t
}
