package crdt

// Cloud returns the dots of a replica that were seen beyond its context.
func (s *Set[V]) Cloud(r Replica) Spans { return s.peers[r].seen.cloud }

// Values returns the values of a replica, up or down, ordered by clock.
func (s *Set[V]) Values(r Replica) []V { return s.peers[r].sorted() }

// Contiguous reports whether two deltas may be merged.
func (d *Delta[V]) Contiguous(o *Delta[V]) bool { return d.contiguous(o) }

// Join merges o into d.
func (d *Delta[V]) Join(o *Delta[V]) { d.merge(o) }

// Copy returns a copy of d.
func (d *Delta[V]) Copy() *Delta[V] { return d.copy() }

// Gens returns the generations.
func (g *Generations[V]) Gens() []*Delta[V] { return g.gens }

// See marks a context and clouds as seen and returns the result.
func See(context uint64, clouds ...Spans) (uint64, Spans) {
	var s seen
	s.context = context
	for _, c := range clouds {
		s.add(0, c)
	}
	return s.context, s.cloud
}
