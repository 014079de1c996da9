package follow

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// The agendas, and the index of their jobs in Topic.jobs.
const (
	repairJob = iota
	surveyJob
	jobKinds
)

// job is a topic's entry in an agenda. It is guarded by the agenda.
type job struct {
	at    time.Time
	index int // in the heap; -1 if there is none
}

// agenda has the topics for which something is to be done at some time, each at most once.
type agenda[B any] struct {
	mu   sync.Mutex // a leaf
	heap jobs[B]
	wake chan struct{} // receives a value if the first job has changed, or others may take one
}

func (a *agenda[B]) init(kind int) {
	a.heap.kind = kind
	a.wake = make(chan struct{}, 1)
}

// add notes that a topic is due after some time, unless it is due earlier.
func (a *agenda[B]) add(t *Topic[B], after time.Duration) {
	at := time.Now().Add(after)
	a.mu.Lock()
	defer a.mu.Unlock()
	j := &t.jobs[a.heap.kind]
	switch {
	case j.index < 0:
		j.at = at
		heap.Push(&a.heap, t)
	case at.Before(j.at):
		j.at = at
		heap.Fix(&a.heap, j.index)
	}
	if j.index == 0 {
		a.signal()
	}
}

func (a *agenda[B]) remove(t *Topic[B]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := t.jobs[a.heap.kind].index; i >= 0 {
		heap.Remove(&a.heap, i)
	}
}

func (a *agenda[B]) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take waits until topics are due, and removes and returns at most limit of them. It returns nil
// when ctx has ended.
func (a *agenda[B]) take(ctx context.Context, limit int) (due []*Topic[B]) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		var wait <-chan time.Time
		a.mu.Lock()
		for now := time.Now(); len(due) < limit && len(a.heap.topics) > 0; {
			first := a.heap.topics[0].jobs[a.heap.kind].at
			if first.After(now) {
				timer.Reset(first.Sub(now))
				wait = timer.C
				break
			}
			due = append(due, heap.Pop(&a.heap).(*Topic[B]))
		}
		if len(due) > 0 && len(a.heap.topics) > 0 {
			a.signal() // for another goroutine
		}
		a.mu.Unlock()
		if len(due) > 0 {
			return due
		}
		select {
		case <-a.wake:
		case <-wait:
		case <-ctx.Done():
		}
	}
	return nil
}

// jobs is the heap of an agenda, ordered by time.
type jobs[B any] struct {
	kind   int
	topics []*Topic[B]
}

func (h *jobs[B]) Len() int { return len(h.topics) }

func (h *jobs[B]) Less(i, j int) bool {
	return h.topics[i].jobs[h.kind].at.Before(h.topics[j].jobs[h.kind].at)
}

func (h *jobs[B]) Swap(i, j int) {
	h.topics[i], h.topics[j] = h.topics[j], h.topics[i]
	h.topics[i].jobs[h.kind].index, h.topics[j].jobs[h.kind].index = i, j
}

func (h *jobs[B]) Push(t any) {
	topic := t.(*Topic[B])
	topic.jobs[h.kind].index = len(h.topics)
	h.topics = append(h.topics, topic)
}

func (h *jobs[B]) Pop() any {
	last := len(h.topics) - 1
	t := h.topics[last]
	h.topics[last] = nil
	h.topics = h.topics[:last]
	t.jobs[h.kind].index = -1
	return t
}
