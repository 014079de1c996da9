package history

import "time"

// The heaps of topics of a Memory.
const (
	heapExpiry  = iota // topics with records, by when the oldest expires
	heapSilence        // topics with records, by their last append
	heapIdle           // topics without watchers, by their last use
	heaps
)

// topicHeap is a binary heap of topics by a key. The keys are only lower bounds, so that an append
// need not touch the heaps, nor the other topics in them: first corrects the key of the topic at
// the root if it is too low.
type topicHeap struct {
	which  int
	topics []*memoryTopic
}

// place is where a topic is in a heap.
type place struct {
	key   int64
	index int // of the topic, from 1; zero: it is not in the heap
}

// has reports whether t is in the heap.
func (h *topicHeap) has(t *memoryTopic) bool { return t.places[h.which].index > 0 }

// set adds a topic, or changes its key.
func (h *topicHeap) set(t *memoryTopic, key int64) {
	p := &t.places[h.which]
	p.key = key
	if p.index == 0 {
		h.topics = append(h.topics, t)
		p.index = len(h.topics)
	}
	h.fix(p.index - 1)
}

// remove removes a topic if it is in the heap.
func (h *topicHeap) remove(t *memoryTopic) {
	if !h.has(t) {
		return
	}
	i, last := t.places[h.which].index-1, len(h.topics)-1
	h.swap(i, last)
	h.topics[last] = nil
	h.topics = h.topics[:last]
	t.places[h.which].index = 0
	if i < last {
		h.fix(i)
	}
}

// first returns the topic with the lowest key, or nil. actual returns the key that a topic should
// have.
func (h *topicHeap) first(actual func(*memoryTopic) int64) *memoryTopic {
	for len(h.topics) > 0 {
		t := h.topics[0]
		key := actual(t)
		if key <= t.places[h.which].key {
			return t
		}
		h.set(t, key)
	}
	return nil
}

func (h *topicHeap) key(i int) int64 { return h.topics[i].places[h.which].key }

func (h *topicHeap) swap(i, j int) {
	h.topics[i], h.topics[j] = h.topics[j], h.topics[i]
	h.topics[i].places[h.which].index = i + 1
	h.topics[j].places[h.which].index = j + 1
}

// fix moves the topic at i up or down.
func (h *topicHeap) fix(i int) {
	for i > 0 && h.key(i) < h.key((i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.topics); c++ {
			if h.key(c) < h.key(least) {
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

// schedule ensures that the oldest record of t is swept after it expired, at the age due.
func (m *Memory) schedule(t *memoryTopic, age, due int64) {
	m.expiry.set(t, due)
	m.arm(age, m.expiry.key(0))
}

// arm sets the timer to an age, but not sooner than sweepEvery after the last sweep.
func (m *Memory) arm(age, at int64) {
	at = max(at, age+1, m.swept+sweepEvery.Milliseconds())
	if m.sweepAt != 0 && m.sweepAt <= at {
		return
	}
	m.sweepAt = at
	wait := time.Duration(at-age) * time.Millisecond
	if m.timer == nil {
		m.timer = time.AfterFunc(wait, m.sweep)
	} else {
		m.timer.Reset(wait)
	}
}

// sweep removes the expired records of all topics.
func (m *Memory) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	age := m.now()
	m.sweepAt = 0
	m.swept = age
	left := sweepMax
	for left > 0 {
		t := m.expiry.first((*memoryTopic).expires)
		if t == nil {
			return
		}
		if t.due() > age {
			break
		}
		left -= t.trim(m, age, left)
	}
	if left == 0 { // go on, but let others have the lock
		m.swept = age - sweepEvery.Milliseconds()
	}
	if len(m.expiry.topics) > 0 {
		m.arm(age, m.expiry.key(0))
	}
}
