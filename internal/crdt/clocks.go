package crdt

import (
	"cmp"
	"maps"
	"slices"
)

// Replica is the identity of a replica: the name of its node, and a number that is another each time that it starts.
type Replica struct {
	Name string
	Vsn  uint64
}

func (r Replica) compare(o Replica) int {
	return cmp.Or(cmp.Compare(r.Name, o.Name), cmp.Compare(r.Vsn, o.Vsn))
}

// Clocks is how far someone has come with each replica that it knows.
type Clocks map[Replica]uint64

// Dominate reports whether c knows as many replicas as o, and has come as far with each of o's.
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

// Raise brings c to at least o with each replica.
func (c Clocks) Raise(o Clocks) {
	for r, clock := range o {
		if own, ok := c[r]; !ok || own < clock {
			c[r] = clock
		}
	}
}

// Lower brings c to at most o with each replica of both, and to o with those that only o has.
func (c Clocks) Lower(o Clocks) {
	for r, clock := range o {
		if own, ok := c[r]; !ok || own > clock {
			c[r] = clock
		}
	}
}

// Only is the part of c about replicas that known has.
func (c Clocks) Only(known Clocks) Clocks {
	part := make(Clocks, min(len(c), len(known)))
	for r, clock := range c {
		if _, ok := known[r]; ok {
			part[r] = clock
		}
	}
	return part
}

// Sorted are the replicas in order.
func (c Clocks) Sorted() []Replica { return slices.SortedFunc(maps.Keys(c), Replica.compare) }

// Witness is a replica and how far it has come.
type Witness struct {
	Replica Replica
	Clocks  Clocks
}

// Witnesses are those who together know all that anyone is known to know, and none of whom knows all that another does.
type Witnesses []Witness

// Add adds one, unless the others know all that it does; those who know nothing more than it are dropped.
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
	return append(kept, w) // none of them dominates it: all of them together do not
}
