package history

import "time"

// The lists of topics of a Memory.
const (
	listFilled = iota
	listIdle
	lists
)

// topicList is a doubly linked list through the links of the topics.
type topicList struct {
	root  memoryTopic // its links are the ends
	which int
	len   int
}

func (l *topicList) init(which int) {
	l.which = which
	ends := &l.root.links[which]
	ends.prev, ends.next = &l.root, &l.root
}

// front returns the first topic, or nil.
func (l *topicList) front() *memoryTopic {
	if l.len == 0 {
		return nil
	}
	return l.root.links[l.which].next
}

// pushBack moves a topic to the end, or adds it there.
func (l *topicList) pushBack(t *memoryTopic) {
	last := l.root.links[l.which].prev
	if last == t {
		return
	}
	l.remove(t)
	last = l.root.links[l.which].prev
	links := &t.links[l.which]
	links.prev, links.next = last, &l.root
	last.links[l.which].next = t
	l.root.links[l.which].prev = t
	l.len++
}

// remove removes a topic if it is in the list.
func (l *topicList) remove(t *memoryTopic) {
	links := &t.links[l.which]
	if links.next == nil {
		return
	}
	links.prev.links[l.which].next = links.next
	links.next.links[l.which].prev = links.prev
	links.prev, links.next = nil, nil
	l.len--
}

// expiryHeap is a binary heap of the topics with records, by due. A topic's due is only a lower
// bound: it need not be updated when its oldest record is removed.
type expiryHeap []*memoryTopic

// add adds a topic or moves it to where its due belongs.
func (h *expiryHeap) add(t *memoryTopic) {
	if t.index < 0 {
		t.index = len(*h)
		*h = append(*h, t)
	}
	h.fix(t.index)
}

func (h *expiryHeap) remove(t *memoryTopic) {
	i, last := t.index, len(*h)-1
	if i < 0 {
		return
	}
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	if i < last {
		h.fix(i)
	}
}

func (h expiryHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// fix moves the topic at i up or down.
func (h expiryHeap) fix(i int) {
	for i > 0 && h[i].due < h[(i-1)/2].due {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].due < h[least].due {
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

// schedule ensures that the records of t are swept after they expired. A record was just appended.
func (m *Memory) schedule(t *memoryTopic, age int64) {
	due := age + t.keep.Age.Milliseconds()
	switch {
	case t.index < 0:
		t.due = due
	case due < t.due: // Age is shorter than before
		t.due = t.oldest() + t.keep.Age.Milliseconds()
	default:
		return
	}
	m.expiry.add(t)
	m.arm(age, m.expiry[0].due)
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
	_, age := m.now()
	m.sweepAt = 0
	m.swept = age
	left := sweepMax
	for left > 0 && len(m.expiry) > 0 && m.expiry[0].due <= age {
		t := m.expiry[0]
		left -= t.trim(m, age, left)
	}
	switch {
	case len(m.expiry) == 0:
	case left == 0: // go on, but let others have the lock
		m.swept = age - sweepEvery.Milliseconds()
		m.arm(age, age)
	default:
		m.arm(age, m.expiry[0].due)
	}
}
