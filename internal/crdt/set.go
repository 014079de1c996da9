package crdt

import (
	"maps"
	"slices"
)

// Set is one replica of the set. Values added by different replicas or at different times are
// distinct, even if they are equal.
type Set[V any] struct {
	self  Replica
	own   *peer[V]
	peers map[Replica]*peer[V]
	delta *Delta[V] // own changes since the last TakeDelta; nil if not recorded
}

// peer is the state of one replica as known to this one.
type peer[V any] struct {
	seen   seen
	values map[uint64]V
	down   bool
}

// New returns an empty replica. If deltas is false, changes are not recorded and TakeDelta returns
// nil; this is for a replica without others.
func New[V any](self Replica, deltas bool) *Set[V] {
	s := &Set[V]{self: self, own: &peer[V]{values: map[uint64]V{}}}
	s.peers = map[Replica]*peer[V]{self: s.own}
	if deltas {
		s.delta = newDelta[V]()
		s.resetDelta()
	}
	return s
}

// Self returns the replica's identity.
func (s *Set[V]) Self() Replica { return s.self }

func (s *Set[V]) resetDelta() {
	s.delta = newDelta[V]()
	s.delta.Start[s.self], s.delta.End[s.self] = s.own.seen.context, s.own.seen.context
}

// tick increments the clock of this replica and returns it.
func (s *Set[V]) tick() uint64 {
	s.own.seen.context++
	clock := s.own.seen.context
	if s.delta != nil {
		s.delta.End[s.self] = clock
		s.delta.part(s.self).Cloud.Add(Span{clock, clock})
	}
	return clock
}

// Add adds a value and returns its clock.
func (s *Set[V]) Add(v V) uint64 {
	clock := s.tick()
	s.own.values[clock] = v
	if s.delta != nil {
		s.delta.part(s.self).Values[clock] = v
	}
	return clock
}

// Remove removes the value that this replica added at clock.
func (s *Set[V]) Remove(clock uint64) {
	if _, ok := s.own.values[clock]; !ok {
		return
	}
	delete(s.own.values, clock)
	if s.delta != nil {
		p := s.delta.part(s.self)
		p.Cloud.Add(Span{clock, clock})
		delete(p.Values, clock)
	}
	s.tick() // a replica that has seen this dot knows of the removal
}

// TakeDelta returns the changes since the last call, or nil if there are none.
func (s *Set[V]) TakeDelta() *Delta[V] {
	if s.delta == nil || s.delta.Empty() {
		return nil
	}
	d := s.delta
	s.resetDelta()
	return d
}

// Clocks returns the clock of each replica that is up, this one included.
func (s *Set[V]) Clocks() Clocks {
	c := make(Clocks, len(s.peers))
	for r, p := range s.peers {
		if !p.down {
			c[r] = p.seen.context
		}
	}
	return c
}

// Clock returns the clock up to which this replica knows all changes of r.
func (s *Set[V]) Clock(r Replica) uint64 {
	if p, ok := s.peers[r]; ok {
		return p.seen.context
	}
	return 0
}

// Merge applies a delta of another replica. It returns the values that were added and removed,
// ordered by replica and clock. It keeps no part of d except the values.
func (s *Set[V]) Merge(d *Delta[V]) (joins, leaves []V) {
	for _, r := range d.Sorted() {
		p, ok := s.peers[r]
		if !ok || r == s.self {
			continue
		}
		part := d.Parts[r]
		var came, went []uint64
		for clock := range part.Values {
			if !p.seen.has(clock) {
				came = append(came, clock)
			}
		}
		part.eachGone(p.values, func(clock uint64) { went = append(went, clock) })
		slices.Sort(came)
		slices.Sort(went)
		for _, clock := range came {
			v := part.Values[clock]
			p.values[clock] = v
			if !p.down {
				joins = append(joins, v)
			}
		}
		for _, clock := range went {
			if !p.down {
				leaves = append(leaves, p.values[clock])
			}
			delete(p.values, clock)
		}
		p.seen.add(part.Context, part.Cloud)
		for _, clock := range came { // already in the cloud, unless d is invalid
			p.seen.add(0, Spans{{clock, clock}})
		}
	}
	return joins, leaves
}

// Extract returns the full state of all replicas that appear in clocks, except asker.
func (s *Set[V]) Extract(asker Replica, clocks Clocks) *Delta[V] {
	d := &Delta[V]{Full: true, Parts: map[Replica]*Part[V]{}}
	for r := range clocks {
		if p, ok := s.peers[r]; ok && r != asker {
			d.Parts[r] = &Part[V]{Context: p.seen.context, Cloud: slices.Clone(p.seen.cloud), Values: maps.Clone(p.values)}
		}
	}
	return d
}

// Up marks a replica as up. If the replica was known and down, Up returns its values, which are
// present again.
func (s *Set[V]) Up(r Replica) (joins []V) {
	p, ok := s.peers[r]
	if !ok {
		s.peers[r] = &peer[V]{values: map[uint64]V{}}
		return nil
	}
	if !p.down {
		return nil
	}
	p.down = false
	return p.sorted()
}

// Down marks a replica as down and returns its values, which are no longer present. They are
// retained.
func (s *Set[V]) Down(r Replica) (leaves []V) {
	p, ok := s.peers[r]
	if !ok || p.down || r == s.self {
		return nil
	}
	p.down = true
	return p.sorted()
}

// Forget deletes a replica. It returns the replica's values unless the replica was down before.
// Messages about the replica are ignored until Up.
func (s *Set[V]) Forget(r Replica) (leaves []V) {
	leaves = s.Down(r)
	if r != s.self {
		delete(s.peers, r)
	}
	return leaves
}

func (p *peer[V]) sorted() []V {
	values := make([]V, 0, len(p.values))
	for _, clock := range slices.Sorted(maps.Keys(p.values)) {
		values = append(values, p.values[clock])
	}
	return values
}

// Known reports whether a replica is known, and whether it is up.
func (s *Set[V]) Known(r Replica) (known, up bool) {
	p, ok := s.peers[r]
	return ok, ok && !p.down
}
