package history

import "unsafe"

// Size returns what a Memory has: topics, topics without watchers, topics with records, and bytes.
func (m *Memory) Size() (topics, idle, filled, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.expiry.topics) != len(m.silence.topics) {
		panic("the heaps of topics with records differ")
	}
	for _, h := range []*topicHeap{&m.expiry, &m.silence, &m.idle} {
		for i, t := range h.topics {
			if h.key(i) < h.key((i-1)/2) || t.places[h.which].index != i+1 {
				panic("the order of a heap is wrong")
			}
		}
	}
	return len(m.topics), len(m.idle.topics), len(m.silence.topics), m.bytes
}

// SetOffset changes the offset of a topic's newest record, which must be the only one.
func (m *Memory) SetOffset(topic string, offset uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics[topic].top.offset = offset
}

// TopicSizes returns the size of a topic in memory, and how many of its first bytes an append uses.
func TopicSizes() (size, hot uintptr) {
	var t memoryTopic
	return unsafe.Sizeof(t), unsafe.Offsetof(t.places) + unsafe.Sizeof(t.places[0].key)
}
