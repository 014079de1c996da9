package crdt

import (
	"cmp"
	"maps"
	"slices"
)

// Replica identifies a replica: the name of its node, and a version that changes each time the node
// starts.
type Replica struct {
	Name string
	Vsn  uint64
}

func (r Replica) compare(o Replica) int {
	return cmp.Or(cmp.Compare(r.Name, o.Name), cmp.Compare(r.Vsn, o.Vsn))
}

// Clocks holds the clock up to which changes are known, by replica.
type Clocks map[Replica]uint64

// Dominate reports whether c has at least as many replicas as o and is at least as far as o for
// each of o's replicas.
func (c Clocks) Dominate(o Clocks) bool {
	if len(c) < len(o) {
		return false
	}
	for r, clock := range o {
		if own, ok := c[r]; !ok || own < clock {
			return false
		}
	}
	return true
}

// Raise raises c to at least o for each replica of o.
func (c Clocks) Raise(o Clocks) {
	for r, clock := range o {
		if own, ok := c[r]; !ok || own < clock {
			c[r] = clock
		}
	}
}

// Lower lowers c to at most o for each replica in both, and adds those that only o has.
func (c Clocks) Lower(o Clocks) {
	for r, clock := range o {
		if own, ok := c[r]; !ok || own > clock {
			c[r] = clock
		}
	}
}

// Only returns the part of c with the replicas in known.
func (c Clocks) Only(known Clocks) Clocks {
	part := make(Clocks, min(len(c), len(known)))
	for r, clock := range c {
		if _, ok := known[r]; ok {
			part[r] = clock
		}
	}
	return part
}

// Sorted returns the replicas in order.
func (c Clocks) Sorted() []Replica { return slices.SortedFunc(maps.Keys(c), Replica.compare) }

// Witness is a replica and its clocks.
type Witness struct {
	Replica Replica
	Clocks  Clocks
}

// Witnesses is a minimal set of replicas that together know all changes that any replica is known
// to have. No member dominates another.
type Witnesses []Witness

// Add adds w, unless the others together dominate it. It removes those that w dominates.
func (ws Witnesses) Add(w Witness) Witnesses {
	if len(w.Clocks) == 0 {
		return ws
	}
	all := Clocks{}
	for _, o := range ws {
		all.Raise(o.Clocks)
	}
	switch {
	case w.Clocks.Dominate(all):
		return Witnesses{w}
	case all.Dominate(w.Clocks):
		return ws
	}
	kept := slices.DeleteFunc(slices.Clone(ws), func(o Witness) bool { return w.Clocks.Dominate(o.Clocks) })
	return append(kept, w) // none dominates w, because not even all of them together do
}
