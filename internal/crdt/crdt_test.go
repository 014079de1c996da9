package crdt_test

import (
	"maps"
	"slices"
	"testing"

	"bennu.example/internal/crdt"
)

var (
	a = crdt.Replica{Name: "a", Vsn: 1}
	b = crdt.Replica{Name: "b", Vsn: 1}
	c = crdt.Replica{Name: "c", Vsn: 1}
)

// newSets returns replicas that know each other.
func newSets(rs ...crdt.Replica) []*crdt.Set[string] {
	var sets []*crdt.Set[string]
	for _, r := range rs {
		s := crdt.New[string](r, true)
		for _, o := range rs {
			s.Up(o)
		}
		sets = append(sets, s)
	}
	return sets
}

func want(t *testing.T, what string, got []string, values ...string) {
	t.Helper()
	if !slices.Equal(got, values) {
		t.Errorf("%s: %q instead of %q", what, got, values)
	}
}

// merge merges d twice, to check that a duplicate has no effect.
func merge(t *testing.T, into *crdt.Set[string], d *crdt.Delta[string]) (joins, leaves []string) {
	t.Helper()
	joins, leaves = into.Merge(d)
	if j, l := into.Merge(d); len(j)+len(l) > 0 {
		t.Errorf("merged again: +%v -%v", j, l)
	}
	return joins, leaves
}

func full(from, to *crdt.Set[string]) *crdt.Delta[string] {
	return from.Extract(to.Self(), to.Clocks())
}

// TestMerge exchanges additions and removals by deltas and by full states, with clocks 1, 2, 3
// (checklist O292, O293, O295).
func TestMerge(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b)
	x, y := sets[0], sets[1]
	if x.TakeDelta() != nil {
		t.Error("an empty set has a delta")
	}
	clock := x.Add("v1")
	joins, leaves := merge(t, y, full(x, y))
	want(t, "joins", joins, "v1")
	want(t, "leaves", leaves)
	joins, _ = merge(t, y, x.TakeDelta())
	want(t, "joins by delta too", joins)

	x.Remove(clock)
	x.Remove(clock)
	if got := x.Clocks()[a]; got != 2 {
		t.Errorf("clock %d after a remove", got)
	}
	joins, leaves = merge(t, y, x.TakeDelta())
	want(t, "joins", joins)
	want(t, "leaves", leaves, "v1")
	x.Add("v2")
	if got := x.Clocks()[a]; got != 3 {
		t.Errorf("clock %d after another add", got)
	}
	joins, _ = merge(t, y, x.TakeDelta())
	want(t, "joins", joins, "v2")
	if cloud := y.Cloud(a); len(cloud) > 0 || y.Clocks()[a] != 3 {
		t.Errorf("cloud %v, clocks %v", cloud, y.Clocks())
	}
	if x.TakeDelta() != nil {
		t.Error("unexpected delta")
	}
}

// An update is a removal and an addition (checklist O294, O296).
func TestUpdate(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b)
	x, y := sets[0], sets[1]
	clock := x.Add("v1")
	merge(t, y, x.TakeDelta())
	x.Remove(clock)
	if clock = x.Add("v2"); clock != 3 {
		t.Errorf("clock %d", clock)
	}
	joins, leaves := merge(t, y, x.TakeDelta())
	want(t, "joins", joins, "v2")
	want(t, "leaves", leaves, "v1")
	want(t, "values", y.Values(a), "v2")
}

// Changes also arrive through a third replica (checklist O297).
func TestThird(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b, c)
	x, y, z := sets[0], sets[1], sets[2]
	clock := x.Add("v1")
	x.Add("v2")
	merge(t, y, x.TakeDelta())
	joins, _ := merge(t, z, full(y, z))
	want(t, "joins", joins, "v1", "v2")
	x.Remove(clock)
	merge(t, y, x.TakeDelta())
	_, leaves := merge(t, z, full(y, z))
	want(t, "leaves", leaves, "v1")
	joins, leaves = merge(t, x, full(z, x))
	want(t, "joins of its own", joins)
	want(t, "leaves of its own", leaves)
}

// Messages of other replicas about a replica's own values do not change it (checklist O315).
func TestOwn(t *testing.T) {
	t.Parallel()
	x := newSets(a, b)[0]
	x.Add("v1")
	lie := &crdt.Delta[string]{Full: true, Parts: map[crdt.Replica]*crdt.Part[string]{a: {Context: 9}}}
	joins, leaves := merge(t, x, lie)
	want(t, "joins", joins)
	want(t, "leaves", leaves)
	want(t, "values", x.Values(a), "v1")
	if got := x.Clocks()[a]; got != 1 {
		t.Errorf("clock %d", got)
	}
	want(t, "leaves of a replica that is itself", append(x.Down(a), x.Forget(a)...))
	want(t, "values", x.Values(a), "v1")
}

// Changes of replicas that the requester does not know are neither sent nor accepted (checklist
// O298).
func TestUnknown(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b, c)
	x, y := sets[0], sets[1]
	sets[2].Add("v")
	merge(t, y, full(sets[2], y))
	x.Forget(c)
	d := full(y, x)
	if _, ok := d.Parts[c]; ok || len(d.Parts) != 1 {
		t.Errorf("extract has %v", d.Sorted())
	}
	joins, _ := merge(t, x, full(sets[2], sets[0]))
	want(t, "joins", joins)
	d = sets[2].TakeDelta()
	joins, _ = merge(t, x, d)
	want(t, "joins", joins)
}

// Checklist O299, O300.
func TestDown(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b, c)
	x, y, z := sets[0], sets[1], sets[2]
	clock := x.Add("v1")
	x.Add("v2")
	merge(t, y, x.TakeDelta())
	want(t, "down", y.Down(a), "v1", "v2")
	want(t, "down again", y.Down(a))
	if _, ok := y.Clocks()[a]; ok {
		t.Error("Clocks contains a replica that is down")
	}
	if known, up := y.Known(a); !known || up {
		t.Error("the replica is unknown or up, want known and down")
	}
	joins, leaves := merge(t, y, full(x, y))
	want(t, "joins while down", joins)
	want(t, "leaves while down", leaves)

	merge(t, z, full(x, z))
	x.Remove(clock)
	x.Add("v3")
	merge(t, z, x.TakeDelta())
	d := z.Extract(b, z.Clocks()) // as if b had not detected it
	joins, leaves = merge(t, y, d)
	want(t, "joins from a third while down", joins)
	want(t, "leaves from a third while down", leaves)
	want(t, "up", y.Up(a), "v2", "v3")
	want(t, "up again", y.Up(a))

	want(t, "forgotten", y.Forget(a), "v2", "v3")
	want(t, "forgotten again", y.Forget(a))
	if known, _ := y.Known(a); known {
		t.Error("the replica is still known after Forget")
	}
	want(t, "up as new", y.Up(a))
	joins, _ = merge(t, y, full(x, y))
	want(t, "joins", joins, "v2", "v3")
	y.Down(a)
	want(t, "forgotten when down", y.Forget(a))
}

// A late delta completes an earlier one and restores no removed value (checklist O301, property 5).
func TestGap(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b)
	x, y := sets[0], sets[1]
	clock := x.Add("v1")
	d1 := x.TakeDelta()
	x.Add("v2")
	d2 := x.TakeDelta()
	x.Remove(clock)
	d3 := x.TakeDelta()
	if d1.Contiguous(d3) || d3.Contiguous(d1) || !d1.Contiguous(d2) || !d2.Contiguous(d1) || !d2.Contiguous(d3) {
		t.Error("wrong result of Contiguous")
	}
	joins, leaves := merge(t, y, d3)
	want(t, "joins", joins)
	want(t, "leaves", leaves)
	if cloud := y.Cloud(a); !slices.Equal(cloud, crdt.Spans{{1, 1}, {3, 3}}) && y.Clocks()[a] != 1 {
		t.Errorf("cloud %v, clocks %v", cloud, y.Clocks())
	}
	joins, _ = merge(t, y, d1)
	want(t, "joins of what is removed", joins)
	joins, _ = merge(t, y, d2)
	want(t, "joins", joins, "v2")
	if cloud := y.Cloud(a); len(cloud) > 0 || y.Clocks()[a] != 3 {
		t.Errorf("cloud %v, clocks %v", cloud, y.Clocks())
	}

	// Merge the deltas in every order; the removed value never appears.
	for _, ds := range [][]*crdt.Delta[string]{{d1, d2, d3}, {d3, d2, d1}, {d2, d1, d3}, {d2, d3, d1}} {
		all := ds[0].Copy()
		for _, d := range ds[1:] {
			all.Join(d)
		}
		if got := slices.Collect(maps.Values(all.Parts[a].Values)); !slices.Equal(got, []string{"v2"}) {
			t.Errorf("together %q", got)
		}
		if all.Start[a] != 0 || all.End[a] != 3 {
			t.Errorf("from %v to %v", all.Start, all.End)
		}
	}
}

// A removal only affects the dots that the remover has seen (checklist O301, property 4).
func TestConcurrent(t *testing.T) {
	t.Parallel()
	sets := newSets(a, b, c)
	x, y, z := sets[0], sets[1], sets[2]
	clock := x.Add("same")
	merge(t, y, x.TakeDelta())
	y.Add("same")
	x.Remove(clock)
	merge(t, z, full(y, z))
	_, leaves := merge(t, z, x.TakeDelta())
	want(t, "leaves", leaves, "same")
	want(t, "of b", z.Values(b), "same")
	want(t, "of a", z.Values(a))
}

func delta(t *testing.T, s *crdt.Set[string], values ...string) *crdt.Delta[string] {
	t.Helper()
	for _, v := range values {
		s.Add(v)
	}
	return s.TakeDelta()
}

func sizes(g *crdt.Generations[string]) (n []uint64) {
	for _, d := range g.Gens() {
		n = append(n, d.Size())
	}
	return n
}

// TestGenerations checks size limits, duplicates, gaps and forgotten replicas (checklist O303).
func TestGenerations(t *testing.T) {
	t.Parallel()
	x := newSets(a)[0]
	g := crdt.NewGenerations[string](4, 10, 100)
	check := func(what string, want ...uint64) {
		t.Helper()
		if got := sizes(g); !slices.Equal(got, want) {
			t.Errorf("%s: sizes %v instead of %v", what, got, want)
		}
	}
	check("empty", 0, 0, 0)
	d1 := delta(t, x, "v1", "v2") // each adds a value and a dot
	g.Push(d1)
	check("first", 4, 4, 4)
	g.Push(d1)
	check("doubled", 4, 4, 4)
	d2 := delta(t, x, "v3")
	g.Push(d2)
	check("second", 2, 6, 6)
	lost := delta(t, x, "v4")
	d4 := delta(t, x, "v5")
	g.Push(d4)
	check("gap", 2, 6, 6)
	g.Push(lost)
	g.Push(d4)
	check("closed", 2, 10, 10)
	d5 := delta(t, x, "v6", "v7", "v8")
	g.Push(d5)
	check("too large for the first two", 0, 8, 16)

	y := newSets(b)[0]
	g.Push(delta(t, y, "w1"))
	check("of two", 2, 10, 18)
	g.Forget(a)
	check("forgotten", 2, 2, 2)
	g.Reset()
	check("reset", 0, 0, 0)
	if d := crdt.NewGenerations[string](); d.Extract(crdt.Clocks{a: 0}) != nil {
		t.Error("the zero Generations returned a delta")
	}
}

// Checklist O304.
func TestExtract(t *testing.T) {
	t.Parallel()
	x := newSets(a)[0]
	g := crdt.NewGenerations[string](2, 4, 100)
	if g.Extract(crdt.Clocks{a: 0}) != nil {
		t.Error("empty Generations returned a delta")
	}
	for _, v := range []string{"v1", "v2", "v3", "v4"} {
		g.Push(delta(t, x, v))
	}
	for at, test := range []struct{ start, end uint64 }{{0, 4}, {0, 4}, {2, 4}, {3, 4}} {
		d := g.Extract(crdt.Clocks{a: uint64(at), b: 7})
		if d == nil || d.Start[a] != test.start || d.End[a] != test.end || len(d.Start) != 1 {
			t.Errorf("for %d: %+v", at, d)
			continue
		}
		y := newSets(a, b)[1]
		joins, _ := merge(t, y, d)
		if want := int(test.end - test.start); len(joins) != want {
			t.Errorf("for %d: %v", at, joins)
		}
	}
	for name, clocks := range map[string]crdt.Clocks{
		"knows all": {a: 4}, "knows more": {a: 5}, "knows nobody": {}, "knows another": {b: 0},
	} {
		if d := g.Extract(clocks); d != nil {
			t.Errorf("for one who %s: %+v", name, d)
		}
	}

	g.Reset()
	g.Push(delta(t, x, "v5"))
	if d := g.Extract(crdt.Clocks{a: 3}); d != nil {
		t.Errorf("across a gap: %+v", d)
	}
	y := newSets(b)[0]
	g.Push(delta(t, y, "w1"))
	d := g.Extract(crdt.Clocks{b: 0})
	if d == nil || !slices.Equal(d.Sorted(), []crdt.Replica{b}) {
		t.Errorf("for one who knows b: %+v", d)
	}
	d.Parts[b].Values[1] = "changed"
	if again := g.Extract(crdt.Clocks{b: 0}); again.Parts[b].Values[1] != "w1" {
		t.Error("the extracted delta is not a copy")
	}
}

// Checklist O302.
func TestClocks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		c, o crdt.Clocks
		want bool
	}{
		{crdt.Clocks{}, crdt.Clocks{}, true},
		{crdt.Clocks{a: 0}, crdt.Clocks{}, true},
		{crdt.Clocks{}, crdt.Clocks{a: 0}, false},
		{crdt.Clocks{a: 1, b: 2}, crdt.Clocks{a: 1, b: 2}, true},
		{crdt.Clocks{a: 1, b: 2}, crdt.Clocks{a: 1}, true},
		{crdt.Clocks{a: 1}, crdt.Clocks{a: 1, b: 2}, false},
		{crdt.Clocks{a: 1, b: 2}, crdt.Clocks{a: 2, b: 1}, false},
		{crdt.Clocks{a: 3, b: 2}, crdt.Clocks{a: 2, b: 2}, true},
		{crdt.Clocks{a: 3, b: 2}, crdt.Clocks{c: 1}, false},
	} {
		if got := test.c.Dominate(test.o); got != test.want {
			t.Errorf("%v dominates %v: %v", test.c, test.o, got)
		}
	}
	up := crdt.Clocks{a: 1, b: 5}
	up.Raise(crdt.Clocks{a: 3, b: 2, c: 0})
	if !maps.Equal(up, crdt.Clocks{a: 3, b: 5, c: 0}) {
		t.Errorf("raised: %v", up)
	}
	low := crdt.Clocks{a: 1, b: 5}
	low.Lower(crdt.Clocks{a: 3, b: 2, c: 4})
	if !maps.Equal(low, crdt.Clocks{a: 1, b: 2, c: 4}) {
		t.Errorf("lowered: %v", low)
	}
	if got := up.Only(crdt.Clocks{a: 0, c: 0}); !maps.Equal(got, crdt.Clocks{a: 3, c: 0}) {
		t.Errorf("filtered: %v", got)
	}
	if got := (crdt.Clocks{b: 1, a: 1, c: 1}).Sorted(); !slices.Equal(got, []crdt.Replica{a, b, c}) {
		t.Errorf("sorted: %v", got)
	}
}

// Checklist O302, O307.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		of   []crdt.Clocks
		want []int
	}{
		"none":              {nil, nil},
		"empty":             {[]crdt.Clocks{{}}, nil},
		"one":               {[]crdt.Clocks{{a: 1}}, []int{0}},
		"equals":            {[]crdt.Clocks{{a: 1, b: 2}, {a: 1, b: 2}, {a: 1, b: 2}}, []int{2}},
		"one knows all":     {[]crdt.Clocks{{a: 1}, {a: 2, b: 1}, {b: 1}}, []int{1}},
		"the last does":     {[]crdt.Clocks{{a: 1}, {b: 1}, {a: 1, b: 1}}, []int{2}},
		"each knows more":   {[]crdt.Clocks{{a: 2, b: 1}, {a: 1, b: 2}}, []int{0, 1}},
		"nothing new":       {[]crdt.Clocks{{a: 2, b: 1}, {a: 1, b: 2}, {a: 2, b: 2, c: 0}, {a: 1}}, []int{2}},
		"together they do":  {[]crdt.Clocks{{a: 3, b: 1}, {a: 1, b: 3}, {a: 2, b: 2}}, []int{0, 1}},
		"one of two beaten": {[]crdt.Clocks{{a: 3, b: 1}, {a: 1, b: 2}, {a: 2, b: 3}}, []int{0, 2}},
	} {
		var ws crdt.Witnesses
		for i, clocks := range test.of {
			ws = ws.Add(crdt.Witness{Replica: crdt.Replica{Vsn: uint64(i)}, Clocks: clocks})
		}
		var got []int
		for _, w := range ws {
			got = append(got, int(w.Replica.Vsn))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v instead of %v", name, got, test.want)
		}
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	var s crdt.Spans
	for _, sp := range []crdt.Span{{5, 6}, {9, 9}, {7, 7}, {1, 2}, {4, 4}, {20, 30}, {3, 2}, {25, 26}, {8, 40}} {
		s.Add(sp)
	}
	if !slices.Equal(s, crdt.Spans{{1, 2}, {4, 40}}) || s.Len() != 39 {
		t.Errorf("%v", s)
	}
	for c, want := range map[uint64]bool{0: false, 1: true, 2: true, 3: false, 4: true, 40: true, 41: false} {
		if s.Has(c) != want {
			t.Errorf("has %d: %v", c, !want)
		}
	}
	s.Add(crdt.Span{0, 0})
	s.Add(crdt.Span{3, 3})
	if !slices.Equal(s, crdt.Spans{{0, 40}}) {
		t.Errorf("%v", s)
	}
	for _, test := range []struct {
		context uint64
		clouds  []crdt.Spans
		want    uint64
		left    int
	}{
		{0, []crdt.Spans{{{2, 3}}, {{1, 1}}}, 3, 0},
		{5, []crdt.Spans{{{2, 3}, {7, 8}}, {{10, 10}}}, 5, 2},
		{5, []crdt.Spans{{{2, 6}, {8, 8}}, {{10, 10}}}, 6, 2},
		{5, []crdt.Spans{{{7, 7}}, {{9, 9}}, {{6, 6}, {8, 8}}}, 9, 0},
	} {
		if context, cloud := crdt.See(test.context, test.clouds...); context != test.want || len(cloud) != test.left {
			t.Errorf("%d and %v: %d and %v", test.context, test.clouds, context, cloud)
		}
	}
}

// A replica without deltas returns nil from TakeDelta and does not allocate for it.
func TestAlone(t *testing.T) {
	s := crdt.New[string](a, false)
	s.Remove(s.Add("v"))
	if s.TakeDelta() != nil {
		t.Error("unexpected delta")
	}
	if allocs := testing.AllocsPerRun(100, func() { s.Remove(s.Add("v")) }); allocs > 0 {
		t.Errorf("%v allocations to add and remove", allocs)
	}
}
