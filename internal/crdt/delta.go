package crdt

import (
	"maps"
	"slices"
)

// Delta is what one replica tells another: what became of some dots. Parts that are not about all of a replica's past say from where to
// where they have all of its dots.
type Delta[V any] struct {
	Start, End Clocks // the dots after Start up to End are all in the parts
	Parts      map[Replica]*Part[V]
	Full       bool // not a change, but all that is known of the parts' replicas; without Start and End
}

// Part is what a Delta has of one replica.
type Part[V any] struct {
	Context uint64       // all dots up to it are meant; 0 unless the delta is full
	Cloud   Spans        // the other dots that are meant
	Values  map[uint64]V // those of them that are not removed
}

func (p *Part[V]) saw(clock uint64) bool { return clock <= p.Context || p.Cloud.Has(clock) }

func newDelta[V any]() *Delta[V] {
	return &Delta[V]{Start: Clocks{}, End: Clocks{}, Parts: map[Replica]*Part[V]{}}
}

// part is d's part about r, made if there is none.
func (d *Delta[V]) part(r Replica) *Part[V] {
	p, ok := d.Parts[r]
	if !ok {
		p = &Part[V]{Values: map[uint64]V{}}
		d.Parts[r] = p
	}
	return p
}

// Empty reports whether d says nothing.
func (d *Delta[V]) Empty() bool {
	for _, p := range d.Parts {
		if p.Context > 0 || len(p.Cloud) > 0 {
			return false
		}
	}
	return true
}

// Size is how many dots and values d has.
func (d *Delta[V]) Size() (n uint64) {
	for _, p := range d.Parts {
		n += p.Cloud.Len() + uint64(len(p.Values))
	}
	return n
}

// Sorted are the replicas that d is about, in order.
func (d *Delta[V]) Sorted() []Replica { return slices.SortedFunc(maps.Keys(d.Parts), Replica.compare) }

// Clocks are the values' clocks, in order.
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

// merge makes d and o one delta: d, which must be contiguous with o.
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

// eachGone calls f with the clocks of those values that p is about and does not have. F may delete them.
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

// only is a copy of d without what is about replicas that known does not have.
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

// Generations are the deltas of late, put together in several sizes, so that one who missed some gets the least that helps. The zero
// Generations has no sizes, and no delta for anyone.
type Generations[V any] struct {
	bounds []int
	gens   []*Delta[V]
}

// NewGenerations has one generation for each bound, the smallest first.
func NewGenerations[V any](bounds ...int) *Generations[V] {
	g := &Generations[V]{bounds: bounds}
	g.Reset()
	return g
}

// Reset forgets all deltas. It is due when something was learned otherwise, from a full state.
func (g *Generations[V]) Reset() {
	g.gens = make([]*Delta[V], len(g.bounds))
	for i := range g.gens {
		g.gens[i] = newDelta[V]()
	}
}

// Push adds a delta to the generations that it follows on. One that grows too large starts again, with what the one before it has now if
// that fits.
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

// within is d if it is not larger than bound, otherwise a copy of the first of the others that is not, or an empty delta.
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

// Forget drops what is about a replica.
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

// Extract is the first generation that has something for one who has come to these clocks, without a gap; nil if there is none.
func (g *Generations[V]) Extract(clocks Clocks) *Delta[V] {
	for _, gen := range g.gens {
		if gen.helps(clocks) {
			return gen.only(clocks)
		}
	}
	return nil
}

// helps reports whether d follows on clocks and leads beyond them.
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
