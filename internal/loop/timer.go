package loop

import "time"

// Task is something to do on the loop.
type Task interface{ Run() }

// Timer runs its Task on the loop when it is due. It is made to be part of what it is for; it must not be copied once armed.
type Timer struct {
	Task  Task
	at    time.Time
	seq   uint64 // of two that are due at the same time the one armed first is first
	place int    // in the heap, from 1; 0: not armed
}

// IsArmed reports whether the timer is to run. Like Arm, it belongs to the loop.
func (t *Timer) IsArmed() bool { return t.place > 0 }

// heap orders timers by when they are due. Most are armed in that order, which costs no moves.
type heap struct {
	list []*Timer
	seq  uint64
}

func (h *heap) next() (time.Time, bool) {
	if len(h.list) == 0 {
		return time.Time{}, false
	}
	return h.list[0].at, true
}

func (h *heap) push(t *Timer) {
	h.seq++
	t.seq = h.seq
	h.list = append(h.list, t)
	t.place = len(h.list)
	h.up(t.place - 1)
}

func (h *heap) pop() Task {
	t := h.list[0]
	h.remove(t)
	return t.Task
}

func (h *heap) remove(t *Timer) {
	if t.place == 0 {
		return
	}
	i, last := t.place-1, len(h.list)-1
	h.swap(i, last)
	h.list[last] = nil
	h.list = h.list[:last]
	if cap(h.list) > keep && last < cap(h.list)/4 {
		h.list = append(make([]*Timer, 0, cap(h.list)/2), h.list...)
	}
	t.place = 0
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h *heap) less(i, j int) bool {
	a, b := h.list[i], h.list[j]
	if a.at.Equal(b.at) {
		return a.seq < b.seq
	}
	return a.at.Before(b.at)
}

func (h *heap) swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].place, h.list[j].place = i+1, j+1
}

func (h *heap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.list); c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
