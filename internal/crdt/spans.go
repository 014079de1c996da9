package crdt

import (
	"cmp"
	"slices"
)

// Span is the range of clocks from First to Last, inclusive.
type Span struct{ First, Last uint64 }

// Spans is a set of clocks: ordered ranges with gaps between them.
type Spans []Span

// search returns the index of the first span that ends at c or later.
func (s Spans) search(c uint64) int {
	i, _ := slices.BinarySearchFunc(s, c, func(sp Span, c uint64) int { return cmp.Compare(sp.Last, c) })
	return i
}

// Has reports whether c is in s.
func (s Spans) Has(c uint64) bool {
	i := s.search(c)
	return i < len(s) && s[i].First <= c
}

// Len returns the number of clocks in s.
func (s Spans) Len() (n uint64) {
	for _, sp := range s {
		n += sp.Last - sp.First + 1
	}
	return n
}

// Add adds the clocks of a span.
func (s *Spans) Add(sp Span) {
	if sp.First > sp.Last {
		return
	}
	from := 0
	if sp.First > 0 {
		from = s.search(sp.First - 1) // include an adjacent span
	}
	to := from
	for to < len(*s) && (*s)[to].First <= sp.Last+1 {
		sp.First = min(sp.First, (*s)[to].First)
		sp.Last = max(sp.Last, (*s)[to].Last)
		to++
	}
	*s = slices.Replace(*s, from, to, sp)
}

// AddAll adds the clocks of o.
func (s *Spans) AddAll(o Spans) {
	if len(*s) == 0 {
		*s = slices.Clone(o)
		return
	}
	for _, sp := range o {
		s.Add(sp)
	}
}

// seen is the set of dots of one replica that were seen: all up to context, and those in the cloud
// beyond it.
type seen struct {
	context uint64
	cloud   Spans
}

func (s *seen) has(c uint64) bool { return c <= s.context || s.cloud.Has(c) }

// add marks all clocks up to context and those in the cloud as seen.
func (s *seen) add(context uint64, cloud Spans) {
	s.context = max(s.context, context)
	for _, sp := range cloud {
		if sp.Last > s.context {
			s.cloud.Add(sp)
		}
	}
	n := 0
	for n < len(s.cloud) && s.cloud[n].First <= s.context+1 {
		s.context = max(s.context, s.cloud[n].Last)
		n++
	}
	if n == len(s.cloud) {
		s.cloud = nil
	} else {
		s.cloud = slices.Delete(s.cloud, 0, n)
	}
}
