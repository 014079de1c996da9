package crdt_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bennu.example/internal/crdt"
)

// A failure prints the seed that reproduces it.
var (
	seedFlag = flag.Uint64("seed", 0, "replay one run of the property tests")
	runsFlag = flag.Int("runs", 300, "how many runs of the property tests, each with another seed")
)

// runs calls f many times with random numbers.
func runs(t *testing.T, f func(t *testing.T, r *rand.Rand)) {
	t.Parallel()
	one := func(seed uint64) {
		t.Helper()
		defer func() {
			if v := recover(); v != nil {
				t.Fatalf("%v\nreplay with: go test ./internal/crdt -run '^%s$' -seed %d", v, t.Name(), seed)
			}
		}()
		f(t, rand.New(rand.NewPCG(seed, 1)))
		if t.Failed() {
			t.Fatalf("replay with: go test ./internal/crdt -run '^%s$' -seed %d", t.Name(), seed)
		}
	}
	if *seedFlag != 0 {
		one(*seedFlag)
		return
	}
	first := uint64(time.Now().UnixNano())
	for i := range *runsFlag {
		one(first + uint64(i))
	}
}

// value is an added value, which is unique.
type value struct {
	replica crdt.Replica
	n       int
}

// node is a replica, the state that its driver would keep, and the expected results.
type node struct {
	name    string
	set     *crdt.Set[value]
	gens    *crdt.Generations[value]
	live    map[uint64]value        // the model: this replica's own values
	visible map[value]bool          // the sum of the joins and leaves so far
	removed map[value]bool          // values that another replica was seen to remove
	known   map[string]crdt.Replica // the latest version of each known node
}

// message is in transit between two nodes.
type message struct {
	from     crdt.Replica
	fromNode int
	to       int
	beats    bool // a heartbeat: shows that the sender is alive
	delta    *crdt.Delta[value]
	clocks   crdt.Clocks
	asks     bool
}

type world struct {
	*rand.Rand
	nodes  []*node
	bag    []message
	apart  map[[2]int]bool
	lives  uint64
	values int
}

func newWorld(r *rand.Rand) *world {
	w := &world{Rand: r, apart: map[[2]int]bool{}}
	for i := range 2 + r.IntN(4) {
		w.nodes = append(w.nodes, w.birth(fmt.Sprintf("n%d", i)))
	}
	return w
}

func (w *world) birth(name string) *node {
	w.lives++
	return &node{
		name: name, set: crdt.New[value](crdt.Replica{Name: name, Vsn: w.lives}, true),
		gens: crdt.NewGenerations[value](4, 16, 64),
		live: map[uint64]value{}, visible: map[value]bool{}, removed: map[value]bool{}, known: map[string]crdt.Replica{},
	}
}

func (n *node) came(joins []value) {
	for _, v := range joins {
		if n.visible[v] {
			panic(fmt.Sprintf("%s: %v came twice", n.name, v))
		}
		if n.removed[v] {
			panic(fmt.Sprintf("%s: %v came back after it was removed", n.name, v))
		}
		n.visible[v] = true
	}
}

func (n *node) went(leaves []value) {
	for _, v := range leaves {
		if !n.visible[v] {
			panic(fmt.Sprintf("%s: %v went but was not there", n.name, v))
		}
		delete(n.visible, v)
	}
}

func (w *world) add(n *node) {
	w.values++
	v := value{n.set.Self(), w.values}
	n.live[n.set.Add(v)] = v
	n.came([]value{v})
}

func (w *world) remove(n *node) {
	if len(n.live) == 0 {
		return
	}
	clocks := slices.Sorted(maps.Keys(n.live))
	clock := clocks[w.IntN(len(clocks))]
	n.set.Remove(clock)
	n.went([]value{n.live[clock]})
	delete(n.live, clock)
}

// beat makes a node send its changes and clocks to all others.
func (w *world) beat(i int) {
	n := w.nodes[i]
	d := n.set.TakeDelta()
	if d != nil {
		n.gens.Push(d)
	}
	for j := range w.nodes {
		if j != i {
			w.bag = append(w.bag, message{from: n.set.Self(), fromNode: i, to: j, beats: true, delta: d, clocks: n.set.Clocks()})
		}
	}
}

// ask makes a node request its missing changes from another.
func (w *world) ask(i, j int) {
	if i != j {
		n := w.nodes[i]
		w.bag = append(w.bag, message{from: n.set.Self(), fromNode: i, to: j, asks: true, clocks: n.set.Clocks()})
	}
}

func (n *node) forget(r crdt.Replica) {
	n.went(n.set.Forget(r))
	n.gens.Forget(r)
	for v := range n.removed {
		if v.replica == r {
			delete(n.removed, v)
		}
	}
}

func (w *world) deliver(m message) {
	if w.apart[[2]int{m.fromNode, m.to}] || w.apart[[2]int{m.to, m.fromNode}] {
		return
	}
	n := w.nodes[m.to]
	if old := n.known[m.from.Name]; m.beats && m.from.Vsn >= old.Vsn {
		if old.Vsn > 0 && old != m.from {
			n.forget(old)
		}
		n.known[m.from.Name] = m.from
		n.came(n.set.Up(m.from))
	}
	if m.asks {
		d := n.gens.Extract(m.clocks)
		if d == nil {
			d = n.set.Extract(m.from, m.clocks)
		}
		w.bag = append(w.bag, message{from: n.set.Self(), fromNode: m.to, to: m.fromNode, delta: d})
	}
	if m.delta != nil {
		n.merge(m.delta)
	}
}

func (n *node) merge(d *crdt.Delta[value]) {
	joins, leaves := n.set.Merge(d)
	n.came(joins)
	n.went(leaves)
	for _, v := range leaves {
		n.removed[v] = true
	}
	if d.Full {
		n.gens.Reset()
	} else {
		n.gens.Push(d)
	}
}

func (w *world) step() {
	i, j := w.IntN(len(w.nodes)), w.IntN(len(w.nodes))
	n := w.nodes[i]
	switch p := w.IntN(100); {
	case p < 20:
		w.add(n)
	case p < 30:
		w.remove(n)
	case p < 35: // an update
		before := n.set.Clocks()[n.set.Self()]
		if len(n.live) > 0 {
			w.remove(n)
			w.add(n)
			if got := n.set.Clocks()[n.set.Self()]; got != before+2 {
				panic(fmt.Sprintf("an update took the clock from %d to %d", before, got))
			}
		}
	case p < 50:
		w.beat(i)
	case p < 60:
		w.ask(i, j)
	case p < 85:
		for range 3 {
			if len(w.bag) == 0 {
				return
			}
			at := w.IntN(len(w.bag)) // reordered
			m := w.bag[at]
			if w.IntN(10) > 0 { // otherwise it is duplicated
				w.bag = slices.Delete(w.bag, at, at+1)
			}
			if w.IntN(6) > 0 { // otherwise it is lost
				w.deliver(m)
			}
		}
	case p < 90:
		if r, ok := n.known[w.nodes[j].name]; ok {
			n.went(n.set.Down(r))
		}
	case p < 93:
		if r, ok := n.known[w.nodes[j].name]; ok {
			n.forget(r)
			delete(n.known, r.Name)
		}
	case p < 95:
		w.nodes[i] = w.birth(n.name)
	default:
		w.apart[[2]int{i, j}] = w.IntN(2) == 0
	}
}

// settle ends all partitions, delivers what is in transit, and lets the nodes exchange messages
// until nothing changes.
func (w *world) settle() {
	clear(w.apart)
	w.Shuffle(len(w.bag), func(i, j int) { w.bag[i], w.bag[j] = w.bag[j], w.bag[i] })
	late := w.bag
	w.bag = nil
	for _, m := range late {
		w.deliver(m)
	}
	for round := 0; ; round++ {
		for i := range w.nodes {
			w.beat(i)
		}
		w.flush()
		quiet := true
		for i, n := range w.nodes {
			var known crdt.Witnesses
			for j, o := range w.nodes {
				if j != i {
					known = known.Add(crdt.Witness{Replica: o.set.Self(), Clocks: o.set.Clocks().Only(n.set.Clocks())})
				}
			}
			known = known.Add(crdt.Witness{Replica: n.set.Self(), Clocks: n.set.Clocks()})
			for _, k := range known {
				if k.Replica != n.set.Self() {
					quiet = false
					w.ask(i, slices.IndexFunc(w.nodes, func(o *node) bool { return o.set.Self() == k.Replica }))
				}
			}
		}
		if quiet {
			return
		}
		if round > 10 {
			panic("they do not come to rest")
		}
		w.flush()
	}
}

func (w *world) flush() {
	for len(w.bag) > 0 {
		m := w.bag[0]
		w.bag = w.bag[1:]
		w.deliver(m)
	}
}

// TestConvergence checks that all replicas converge to the model, with exact joins and leaves,
// whatever messages are lost, duplicated or reordered, and whatever nodes are partitioned or
// restarted (checklist O316, O292 to O301, properties 1 to 6, 11 and 13).
func TestConvergence(t *testing.T) {
	runs(t, func(t *testing.T, r *rand.Rand) {
		w := newWorld(r)
		for range 20 + r.IntN(400) {
			w.step()
			for _, n := range w.nodes {
				if got := n.set.Values(n.set.Self()); len(got) != len(n.live) {
					t.Fatalf("%s has %d values of its own instead of %d", n.name, len(got), len(n.live))
				}
			}
		}
		w.settle()
		want := map[value]bool{}
		for _, n := range w.nodes {
			for _, v := range n.live {
				want[v] = true
			}
		}
		for _, n := range w.nodes {
			if !maps.Equal(n.visible, want) {
				t.Errorf("%s has %v instead of %v", n.name, n.visible, want)
			}
			for _, o := range w.nodes {
				if cloud := n.set.Cloud(o.set.Self()); len(cloud) > 0 {
					t.Errorf("%s: cloud of %s is %v", n.name, o.name, cloud)
				}
				if got := n.set.Values(o.set.Self()); len(got) != len(o.live) {
					t.Errorf("%s has %d values of %s instead of %d", n.name, len(got), o.name, len(o.live))
				}
				joins, leaves := n.set.Merge(o.set.Extract(n.set.Self(), n.set.Clocks()))
				if len(joins)+len(leaves) > 0 {
					t.Errorf("%s: merging %s again gives %v and %v", n.name, o.name, joins, leaves)
				}
			}
		}
	})
}

// Deltas give the same result in any order, duplicated, or merged beforehand (properties 2, 3).
func TestCommutativity(t *testing.T) {
	runs(t, func(t *testing.T, r *rand.Rand) {
		w := &world{Rand: r, apart: map[[2]int]bool{}}
		var deltas []*crdt.Delta[value]
		for i := range 1 + r.IntN(3) {
			n := w.birth(fmt.Sprint(i))
			w.nodes = append(w.nodes, n)
			for range r.IntN(8) {
				for range 1 + r.IntN(4) {
					if r.IntN(3) > 0 {
						w.add(n)
					} else {
						w.remove(n)
					}
				}
				if d := n.set.TakeDelta(); d != nil {
					deltas = append(deltas, d)
				}
			}
		}
		for range 4 {
			to := w.birth("to")
			for _, n := range w.nodes {
				to.set.Up(n.set.Self())
			}
			ds := slices.Clone(deltas)
			r.Shuffle(len(ds), func(i, j int) { ds[i], ds[j] = ds[j], ds[i] })
			for len(ds) > 0 {
				d := ds[0].Copy()
				ds = ds[1:]
				for len(ds) > 0 && r.IntN(2) == 0 && d.Contiguous(ds[0]) {
					d.Join(ds[0])
					ds = ds[1:]
				}
				to.merge(d)
				if r.IntN(3) == 0 {
					to.merge(deltas[r.IntN(len(deltas))])
				}
			}
			for _, n := range w.nodes {
				var want []value
				for _, clock := range slices.Sorted(maps.Keys(n.live)) {
					want = append(want, n.live[clock])
				}
				if got := to.set.Values(n.set.Self()); !slices.Equal(got, want) {
					t.Fatalf("%v instead of %v", got, want)
				}
				if cloud := to.set.Cloud(n.set.Self()); len(cloud) > 0 {
					t.Fatalf("cloud %v", cloud)
				}
			}
		}
	})
}
