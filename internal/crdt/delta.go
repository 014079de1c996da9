package crdt

import (
	"maps"
	"slices"
)

// Delta is a set of changes that one replica sends to another.
//
// A full delta contains the complete state of its replicas. Any other delta contains the dots of an
// interval, from Start to End.
type Delta[V any] struct {
	Start, End Clocks // the parts contain all dots after Start up to End
	Parts      map[Replica]*Part[V]
	Full       bool // the complete state of the parts' replicas; Start and End are empty
}

// Part is the part of a Delta about one replica.
type Part[V any] struct {
	Context uint64       // all dots up to it are covered; 0 unless the delta is full
	Cloud   Spans        // the other dots that are covered
	Values  map[uint64]V // the covered values that are not removed
}

func (p *Part[V]) saw(clock uint64) bool { return clock <= p.Context || p.Cloud.Has(clock) }

func newDelta[V any]() *Delta[V] {
	return &Delta[V]{Start: Clocks{}, End: Clocks{}, Parts: map[Replica]*Part[V]{}}
}

// part returns d's part for r. It creates one if there is none.
func (d *Delta[V]) part(r Replica) *Part[V] {
	p, ok := d.Parts[r]
	if !ok {
		p = &Part[V]{Values: map[uint64]V{}}
		d.Parts[r] = p
	}
	return p
}

// Empty reports whether d covers no dots.
func (d *Delta[V]) Empty() bool {
	for _, p := range d.Parts {
		if p.Context > 0 || len(p.Cloud) > 0 {
			return false
		}
	}
	return true
}

// Size returns the number of dots and values in d.
func (d *Delta[V]) Size() (n uint64) {
	for _, p := range d.Parts {
		n += p.Cloud.Len() + uint64(len(p.Values))
	}
	return n
}

// Sorted returns the replicas that d covers, in order.
func (d *Delta[V]) Sorted() []Replica { return slices.SortedFunc(maps.Keys(d.Parts), Replica.compare) }

// Clocks returns the clocks of the values, in order.
func (p *Part[V]) Clocks() []uint64 { return slices.Sorted(maps.Keys(p.Values)) }

// contiguous reports whether there is no gap between d and o.
func (d *Delta[V]) contiguous(o *Delta[V]) bool {
	for r, start := range d.Start {
		if from, ok := o.Start[r]; ok && (o.End[r] < start || d.End[r] < from) {
			return false
		}
	}
	return true
}

// merge adds o to d. The two must be contiguous.
func (d *Delta[V]) merge(o *Delta[V]) {
	d.Start.Lower(o.Start)
	d.End.Raise(o.End)
	for r, from := range o.Parts {
		p := d.part(r)
		from.eachGone(p.Values, func(clock uint64) { delete(p.Values, clock) })
		for clock, v := range from.Values {
			if !p.saw(clock) {
				p.Values[clock] = v
			}
		}
		p.Cloud.AddAll(from.Cloud)
	}
}

// eachGone calls f with the clock of each of the values that p covers but does not contain. f may
// delete the value.
func (p *Part[V]) eachGone(values map[uint64]V, f func(clock uint64)) {
	if p.Context == 0 && p.Cloud.Len() < uint64(len(values)) {
		for _, sp := range p.Cloud {
			for clock := sp.First; clock <= sp.Last; clock++ {
				if _, ok := values[clock]; ok && !p.has(clock) {
					f(clock)
				}
			}
		}
		return
	}
	for clock := range values {
		if !p.has(clock) && p.saw(clock) {
			f(clock)
		}
	}
}

func (p *Part[V]) has(clock uint64) bool {
	_, ok := p.Values[clock]
	return ok
}

// only returns a copy of d restricted to the replicas in known.
func (d *Delta[V]) only(known Clocks) *Delta[V] {
	c := newDelta[V]()
	c.Start, c.End = d.Start.Only(known), d.End.Only(known)
	for r, p := range d.Parts {
		if _, ok := known[r]; ok {
			c.Parts[r] = &Part[V]{Cloud: slices.Clone(p.Cloud), Values: maps.Clone(p.Values)}
		}
	}
	return c
}

// Generations holds recent deltas, merged up to several sizes, so that a replica that missed some
// gets the smallest sufficient one. The zero value has no generations.
type Generations[V any] struct {
	bounds []int
	gens   []*Delta[V]
}

// NewGenerations returns Generations with one generation for each size limit. The limits must be in
// ascending order.
func NewGenerations[V any](bounds ...int) *Generations[V] {
	g := &Generations[V]{bounds: bounds}
	g.Reset()
	return g
}

// Reset removes all deltas. Call it when changes arrived by other means, as a full state.
func (g *Generations[V]) Reset() {
	g.gens = make([]*Delta[V], len(g.bounds))
	for i := range g.gens {
		g.gens[i] = newDelta[V]()
	}
}

// Push adds a delta to the generations that it is contiguous with. A generation that exceeds its
// limit is replaced by a copy of the next smaller one if that fits.
func (g *Generations[V]) Push(d *Delta[V]) {
	prev := d
	for i, gen := range g.gens {
		if gen.contiguous(d) {
			gen.merge(d)
			g.gens[i] = gen.within(g.bounds[i], prev, d)
		}
		prev = gen
	}
}

// within returns d if its size is at most bound. Otherwise it returns a copy of the first of others
// that fits, or an empty delta.
func (d *Delta[V]) within(bound int, others ...*Delta[V]) *Delta[V] {
	if d.Size() <= uint64(bound) {
		return d
	}
	for _, o := range others {
		if o.Size() <= uint64(bound) {
			return o.copy()
		}
	}
	return newDelta[V]()
}

func (d *Delta[V]) copy() *Delta[V] {
	c := newDelta[V]()
	c.merge(d)
	return c
}

// Forget removes a replica from all generations.
func (g *Generations[V]) Forget(r Replica) {
	for _, gen := range g.gens {
		gen.forget(r)
	}
}

func (d *Delta[V]) forget(r Replica) {
	delete(d.Parts, r)
	delete(d.Start, r)
	delete(d.End, r)
}

// Extract returns the smallest generation that follows on the clocks without a gap and has more
// recent changes, restricted to their replicas. It returns nil if there is none.
func (g *Generations[V]) Extract(clocks Clocks) *Delta[V] {
	for _, gen := range g.gens {
		if gen.helps(clocks) {
			return gen.only(clocks)
		}
	}
	return nil
}

// helps reports whether d follows on clocks without a gap and has more recent changes.
func (d *Delta[V]) helps(clocks Clocks) (beyond bool) {
	for r, end := range d.End {
		at, ok := clocks[r]
		if !ok {
			continue
		}
		if at < d.Start[r] {
			return false
		}
		beyond = beyond || at < end
	}
	return beyond
}
