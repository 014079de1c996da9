// Package brokertest is what the tests of adapters made of a relay share: engines that go away in the middle of a stream, that are connected but
// deaf, that bring garbage, and nodes that do not keep up.
package brokertest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/pubsub"
)

// What adapters under test are configured with.
const (
	Queue   = 1 << 20
	Timeout = 2 * time.Second
	Ping    = 200 * time.Millisecond
)

const (
	// patience is how long what must happen may take on a busy machine.
	patience = 30 * time.Second

	Topic = "room:1" // is what all nodes listen to
)

// Engine is an engine and what a test can do to it.
type Engine struct {
	// Addr is where the engine listens, host and port.
	Addr string
	// New makes an adapter that connects to an address. A nil logger is silent.
	New func(t testing.TB, addr string, log *zerolog.Logger) pubsub.Adapter
	// Stop kills the engine and Start starts it again, empty, at the same address.
	Stop, Start func(t testing.TB)
	// Freeze keeps the engine from doing anything until Thaw. They may be nil.
	Freeze, Thaw func()
	// SlowConsumers is how many connections the engine has cut since their ends did not read. It may be nil.
	SlowConsumers func(t testing.TB) int
	// Publish brings bytes to where nodes expect broadcasts of a topic.
	Publish func(t testing.TB, topic string, data []byte)
}

// Run runs the suite. Each test gets an engine of its own by setup.
func Run(t *testing.T, setup func(t testing.TB) Engine) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, e Engine)
	}{
		{"outage/restart", restarted},
		{"outage/deaf", deaf},
		{"outage/frozen", frozen},
		{"outage/one deaf", oneDeaf},
		{"outage/one cut", oneCut},
		{"outage/presence", crowds},
		{"idle", idle},
		{"many topics", manyTopics},
		{"slow", slow},
		{"too slow", tooSlow},
		{"garbage", garbage},
		{"last words", lastWords},
		{"prompt", prompt},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.f(t, setup(t))
		})
	}
}

// cluster is three nodes that hear each other, each by a proxy of its own.
func cluster(t *testing.T, e Engine) (nodes []*node, proxies []*Proxy) {
	for range 3 {
		p := NewProxy(t, e.Addr)
		proxies = append(proxies, p)
		nodes = append(nodes, start(t, e, p.Addr))
	}
	joined(nodes...)
	return nodes, proxies
}

func restarted(t *testing.T, e Engine) {
	nodes, _ := cluster(t, e)
	outage(t, nodes, nodes, func() { e.Stop(t) }, func() { e.Start(t) })
}

func deaf(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes, func() {
		for _, p := range proxies {
			p.Deaf()
		}
	}, func() {
		for _, p := range proxies {
			p.Hear()
		}
	})
}

func frozen(t *testing.T, e Engine) {
	if e.Freeze == nil {
		t.Skip("this engine cannot be frozen")
	}
	nodes, _ := cluster(t, e)
	outage(t, nodes, nodes, e.Freeze, e.Thaw)
}

func oneDeaf(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes[:1], proxies[0].Deaf, proxies[0].Hear)
}

func oneCut(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes[:1], proxies[0].Cut, func() {})
}

// outage has all nodes publish all the time, makes an outage that hits some of them, ends it, and checks what each heard: every stream in order
// and nothing twice, and nothing missing but from the time of the outage, and then not without a gap.
func outage(t *testing.T, nodes, hit []*node, begin, end func()) {
	const some = 200
	var streams []*stream
	for k, n := range nodes {
		streams = append(streams, n.publish(fmt.Sprint("stream ", k)))
	}
	each := func(f func(to *node, s *stream)) {
		t.Helper()
		for _, to := range nodes {
			for _, s := range streams {
				f(to, s)
			}
		}
	}
	each(func(to *node, s *stream) {
		to.until("up to date before the outage", func() bool { return len(to.heard(s.name)) >= some })
	})
	each(func(to *node, s *stream) {
		if h := to.heard(s.name); h[len(h)-1] != len(h)-1 || to.gapped() > 0 {
			t.Fatalf("%s: heard %d of %s, up to %d, and %d gaps, before the outage", to.a.Node(), len(h), s.name, h[len(h)-1], to.gapped())
		}
	})

	begin()
	for _, n := range hit {
		n.until("hit", func() bool { return !n.ps.Health().Connected || n.gapped() > 0 })
	}
	for _, s := range streams {
		s.more(some)
	}
	end()
	for _, n := range hit {
		n.connected(true)
		n.until("told", func() bool { return n.gapped() > 0 })
	}
	joined(nodes...)

	var after []int
	for _, s := range streams {
		after = append(after, s.more(0))
		s.more(some)
	}
	for k, s := range streams {
		last := s.stop()
		for _, to := range nodes {
			to.until(fmt.Sprint("at the end of ", s.name), func() bool {
				h := to.heard(s.name)
				return len(h) > 0 && h[len(h)-1] == last
			})
			holes := check(t, to, s.name, after[k])
			if holes > 0 && to.gapped() == 0 {
				t.Errorf("%s: %d of %s are missing and it was not told", to.a.Node(), holes, s.name)
			}
			t.Logf("%s: heard all but %d of %d of %s; %d gaps", to.a.Node(), holes, last+1, s.name, to.gapped())
		}
	}
	for _, n := range nodes {
		n.until("quiet", func() bool { return n.ps.Health().Queued == 0 })
	}
}

// check fails if a stream came out of order or something twice, or if something from after on is missing. It returns how many are missing before.
func check(t *testing.T, n *node, stream string, after int) (holes int) {
	want := 0
	for _, i := range n.heard(stream) {
		switch {
		case i < want:
			t.Fatalf("%s: heard %d of %s when it was at %d", n.a.Node(), i, stream, want)
		case i > want && i > after:
			t.Fatalf("%s: heard %d of %s after %d; the outage ended before %d", n.a.Node(), i, stream, want-1, after)
		}
		holes += i - want
		want = i + 1
	}
	return holes
}

// An engine that is connected but deaf is noticed though nothing is sent, and nodes come back when it hears again.
func idle(t *testing.T, e Engine) {
	p := NewProxy(t, e.Addr)
	a, b := start(t, e, p.Addr), start(t, e, p.Addr)
	joined(a, b)
	p.Deaf()
	a.connected(false)
	b.connected(false)
	if a.ps.Health().Err == nil {
		t.Error("health does not say why")
	}
	p.Hear()
	joined(a, b)
	a.until("told", func() bool { return a.gapped() > 0 })
}

// Thousands of topics are subscribed to, and again when the engine is back, less those that were left meanwhile.
func manyTopics(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	const count = 3000
	var cancel []func()
	for i := range count {
		cancel = append(cancel, b.ps.Subscribe(fmt.Sprint("many:", i), b).Cancel)
	}
	all := func(stream string, from int) {
		joined(a, b)
		for i := from; i < count; i++ {
			event := fmt.Sprintf("%s/%d", stream, i)
			a.until("having room", func() bool { return a.ps.Broadcast(t.Context(), fmt.Sprint("many:", i), event, nil) == nil })
		}
		b.until("having all", func() bool { return len(b.heard(stream)) >= count-from })
		if check(t, b, stream, from) != from {
			t.Errorf("heard %d of %s", len(b.heard(stream)), stream)
		}
	}
	all("first", 0)
	e.Stop(t)
	b.connected(false)
	for _, f := range cancel[:100] {
		f()
	}
	e.Start(t)
	all("second", 100)
	for _, f := range cancel[100:200] {
		f()
	}
	all("third", 200)
}

// A node that does not keep up misses what finds no room and is told so. It stays connected, and hears on.
func slow(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	joined(a, b)
	b.gate.Lock()
	const count, size = 300, 10_000
	for i := range count {
		a.until("having room", func() bool { return a.broadcastSized("s", i, size) == nil })
	}
	a.settle()
	b.settle()
	b.gate.Unlock()
	b.until("told", func() bool { return b.gapped() > 0 })
	joined(a, b)
	if holes := check(t, b, "s", count); holes+len(b.heard("s")) > count || len(b.heard("s"))*size > Queue+size {
		t.Errorf("heard %d of %d", len(b.heard("s")), count)
	}
	if !b.ps.Health().Connected || b.gapped() > 2 || a.gapped() > 0 {
		t.Errorf("health %+v; gaps %v", b.ps.Health(), b.gaps)
	}
}

// A node that the engine cuts since it does not read is told, and comes back.
func tooSlow(t *testing.T, e Engine) {
	if e.SlowConsumers == nil {
		t.Skip("this engine does not count them")
	}
	p := NewProxy(t, e.Addr)
	a, b := start(t, e, e.Addr), start(t, e, p.Addr)
	joined(a, b)
	p.Deaf()
	for i := 0; e.SlowConsumers(t) == 0; i++ {
		a.until("having room", func() bool { return a.broadcastSized("s", i, 100_000) == nil })
	}
	p.Hear()
	joined(a, b)
	b.until("told", func() bool { return b.gapped() > 0 })
	check(t, b, "s", math.MaxInt)
}

// What is no broadcast is skipped, and logged once.
func garbage(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	joined(a, b)
	for _, g := range [][]byte{nil, {1}, []byte("hello"), make([]byte, 21), append([]byte{1}, make([]byte, 20)...), append([]byte{1}, make([]byte, 100)...)} {
		e.Publish(t, Topic, g)
	}
	joined(a, b)
	for _, n := range []*node{a, b} {
		if n.gapped() > 0 || n.logged("no broadcast") != 1 {
			t.Errorf("%d gaps; logged %d times", n.gapped(), n.logged("no broadcast"))
		}
	}
}

// What was published before the end arrives.
func lastWords(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	joined(a, b)
	const count = 500
	for i := range count {
		if err := a.broadcast("s", i); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	if a.broadcast("s", count) == nil {
		t.Error("a node that has stopped publishes")
	}
	b.until("having all", func() bool { return len(b.heard("s")) >= count })
	check(t, b, "s", 0)
}

// Run returns soon after its context ended, whatever the engine does.
func prompt(t *testing.T, e Engine) {
	p := NewProxy(t, e.Addr)
	deaf, dialing, away := start(t, e, p.Addr), start(t, e, p.Addr), start(t, e, p.Addr)
	joined(deaf, dialing, away)
	soon := func(what string, n *node) {
		t.Helper()
		begun := time.Now()
		n.stop()
		if d := time.Since(begun); d > Timeout+time.Second {
			t.Errorf("%s: Run returned after %v", what, d)
		}
	}
	p.Deaf()
	_ = deaf.broadcast("s", 0)
	soon("deaf", deaf)
	dialing.connected(false)
	soon("dialing", dialing)
	p.Hear()
	away.connected(true)
	e.Stop(t)
	away.connected(false)
	soon("away", away)
	e.Start(t)
}
