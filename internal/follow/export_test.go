package follow

// Window returns the number of items in the window of a topic, its size in bytes, and the size of
// all windows.
func (t *Topic[B]) Window() (items, bytes, all int) {
	t.order.Lock()
	defer t.order.Unlock()
	return max(len(t.slots)-1, 0), t.bytes, int(t.all.bytes.Load())
}

// Holds returns the number of readers that hold something.
func (t *Topic[B]) Holds() (n int) {
	t.order.Lock()
	defer t.order.Unlock()
	for _, s := range t.slots {
		n += s.holds
	}
	return n
}

// Len returns the number of topics in use.
func (s *Topics[B]) Len() (n int) {
	for i := range s.shards {
		s.shards[i].mu.Lock()
		n += len(s.shards[i].m)
		s.shards[i].mu.Unlock()
	}
	return n
}

// SetMost changes MaxWindows for this set of topics.
func (s *Topics[B]) SetMost(n int) { s.most = int64(n) }
