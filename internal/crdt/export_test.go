package crdt

// Cloud is what was seen of a replica beyond its context.
func (s *Set[V]) Cloud(r Replica) Spans { return s.peers[r].seen.cloud }

// Values are those of a replica, up or down, in the order of their clocks.
func (s *Set[V]) Values(r Replica) []V { return s.peers[r].sorted() }

// Contiguous reports whether two deltas may be merged.
func (d *Delta[V]) Contiguous(o *Delta[V]) bool { return d.contiguous(o) }

// Join merges o into d.
func (d *Delta[V]) Join(o *Delta[V]) { d.merge(o) }

// Copy is a copy of d.
func (d *Delta[V]) Copy() *Delta[V] { return d.copy() }

// Gens are the generations as they are.
func (g *Generations[V]) Gens() []*Delta[V] { return g.gens }

// See counts a context and a cloud as seen, after others.
func See(context uint64, clouds ...Spans) (uint64, Spans) {
	var s seen
	s.context = context
	for _, c := range clouds {
		s.add(0, c)
	}
	return s.context, s.cloud
}
