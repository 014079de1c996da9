// Package brokertest is a test suite for engines that use package broker: engines that stop in the
// middle of a stream, that are connected but do not answer, or that send malformed messages, and
// nodes that do not keep up.
package brokertest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/pubsub"
)

// Queue, Timeout and Ping are the configuration of adapters under test.
const (
	Queue   = 1 << 20
	Timeout = 2 * time.Second
	Ping    = 200 * time.Millisecond
)

const (
	// patience limits how long a test waits for a condition on a busy machine.
	patience = 30 * time.Second

	Topic = "room:1" // the topic to which all nodes subscribe
)

// Engine is an engine under test.
type Engine struct {
	// Addr is the host and port on which the engine listens.
	Addr string
	// New makes an adapter that connects to an address. A nil logger means no logging.
	New func(t testing.TB, addr string, log *zerolog.Logger) pubsub.Adapter
	// Stop kills the engine and Start starts it again, empty, at the same address.
	Stop, Start func(t testing.TB)
	// Freeze suspends the engine until Thaw. Both may be nil.
	Freeze, Thaw func()
	// SlowConsumers returns the number of connections that the engine has closed because the other end
	// did not read. It may be nil.
	SlowConsumers func(t testing.TB) int
	// Publish publishes bytes on the channel of a topic, which need not be a message of a node.
	Publish func(t testing.TB, topic string, data []byte)
}

// Run runs the suite. Each test calls setup for an engine of its own.
func Run(t *testing.T, setup func(t testing.TB) Engine) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, e Engine)
	}{
		{"outage/restart", restarted},
		{"outage/stalled", stalled},
		{"outage/frozen", frozen},
		{"outage/one stalled", oneStalled},
		{"outage/one cut", oneCut},
		{"outage/presence", presenceOutage},
		{"idle", idle},
		{"many topics", manyTopics},
		{"slow", slow},
		{"too slow", tooSlow},
		{"malformed", malformed},
		{"publish before stop", publishBeforeStop},
		{"prompt stop", promptStop},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.f(t, setup(t))
		})
	}
}

// cluster starts three nodes, each with a proxy of its own.
func cluster(t *testing.T, e Engine) (nodes []*node, proxies []*Proxy) {
	for range 3 {
		p := NewProxy(t, e.Addr)
		proxies = append(proxies, p)
		nodes = append(nodes, start(t, e, p.Addr))
	}
	waitJoined(nodes...)
	return nodes, proxies
}

func restarted(t *testing.T, e Engine) {
	nodes, _ := cluster(t, e)
	outage(t, nodes, nodes, func() { e.Stop(t) }, func() { e.Start(t) })
}

func stalled(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes, func() {
		for _, p := range proxies {
			p.Stall()
		}
	}, func() {
		for _, p := range proxies {
			p.Resume()
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

func oneStalled(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes[:1], proxies[0].Stall, proxies[0].Resume)
}

func oneCut(t *testing.T, e Engine) {
	nodes, proxies := cluster(t, e)
	outage(t, nodes, nodes[:1], proxies[0].Cut, func() {})
}

// outage lets all nodes publish continuously, causes an outage of some of them, ends it, and checks
// what each node received: every stream in order and without duplicates. Only numbers from the time
// of the outage may be missing, and then the node must have received a gap.
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
		to.waitUntil("up to date before the outage", func() bool { return len(to.received(s.name)) >= some })
	})
	each(func(to *node, s *stream) {
		if h := to.received(s.name); h[len(h)-1] != len(h)-1 || to.gapCount() > 0 {
			t.Fatalf("%s: received %d of %s, up to %d, and %d gaps, before the outage",
				to.a.Node(), len(h), s.name, h[len(h)-1], to.gapCount())
		}
	})

	begin()
	for _, n := range hit {
		n.waitUntil("hit", func() bool { return !n.ps.Health().Connected || n.gapCount() > 0 })
	}
	for _, s := range streams {
		s.more(some)
	}
	end()
	for _, n := range hit {
		n.waitConnected(true)
		n.waitUntil("notified", func() bool { return n.gapCount() > 0 })
	}
	waitJoined(nodes...)

	var after []int
	for _, s := range streams {
		after = append(after, s.more(0))
		s.more(some)
	}
	for k, s := range streams {
		last := s.stop()
		for _, to := range nodes {
			to.waitUntil(fmt.Sprint("at the end of ", s.name), func() bool {
				h := to.received(s.name)
				return len(h) > 0 && h[len(h)-1] == last
			})
			holes := check(t, to, s.name, after[k])
			if holes > 0 && to.gapCount() == 0 {
				t.Errorf("%s: %d of %s are missing without a gap", to.a.Node(), holes, s.name)
			}
			t.Logf("%s: received all but %d of %d of %s; %d gaps", to.a.Node(), holes, last+1, s.name, to.gapCount())
		}
	}
	for _, n := range nodes {
		n.waitUntil("quiet", func() bool { return n.ps.Health().Queued == 0 })
	}
}

// check fails if a stream was received out of order or with duplicates, or if a number from after
// on is missing. It returns how many earlier numbers are missing.
func check(t *testing.T, n *node, stream string, after int) (holes int) {
	want := 0
	for _, i := range n.received(stream) {
		switch {
		case i < want:
			t.Fatalf("%s: received %d of %s, want at least %d", n.a.Node(), i, stream, want)
		case i > want && i > after:
			t.Fatalf("%s: received %d of %s after %d; the outage ended before %d", n.a.Node(), i, stream, want-1, after)
		}
		holes += i - want
		want = i + 1
	}
	return holes
}

// An engine that is connected but does not answer is noticed although nothing is sent. Nodes
// reconnect when it answers again.
func idle(t *testing.T, e Engine) {
	p := NewProxy(t, e.Addr)
	a, b := start(t, e, p.Addr), start(t, e, p.Addr)
	waitJoined(a, b)
	p.Stall()
	a.waitConnected(false)
	b.waitConnected(false)
	if a.ps.Health().Err == nil {
		t.Error("health contains no reason")
	}
	p.Resume()
	waitJoined(a, b)
	a.waitUntil("notified", func() bool { return a.gapCount() > 0 })
}

// A node subscribes to thousands of topics, and again when the engine is back, except for those
// that it has left meanwhile.
func manyTopics(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	const count = 3000
	var cancel []func()
	for i := range count {
		cancel = append(cancel, b.ps.Subscribe(fmt.Sprint("many:", i), b).Cancel)
	}
	all := func(stream string, from int) {
		waitJoined(a, b)
		for i := from; i < count; i++ {
			event := fmt.Sprintf("%s/%d", stream, i)
			a.waitUntil("able to publish", func() bool {
				return a.ps.Broadcast(t.Context(), fmt.Sprint("many:", i), event, nil) == nil
			})
		}
		b.waitUntil("complete", func() bool { return len(b.received(stream)) >= count-from })
		if check(t, b, stream, from) != from {
			t.Errorf("received %d of %s", len(b.received(stream)), stream)
		}
	}
	all("first", 0)
	e.Stop(t)
	b.waitConnected(false)
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

// A node that does not keep up misses messages and receives a gap. It stays connected and receives
// later messages.
func slow(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	waitJoined(a, b)
	b.gate.Lock()
	const count, size = 300, 10_000
	for i := range count {
		a.waitUntil("able to publish", func() bool { return a.broadcastSized("s", i, size) == nil })
	}
	a.drain()
	b.drain()
	b.gate.Unlock()
	b.waitUntil("notified", func() bool { return b.gapCount() > 0 })
	waitJoined(a, b)
	// The node also receives messages that were still under way when it continued.
	if holes := check(t, b, "s", count); holes+len(b.received("s")) > count || len(b.received("s"))*size > 2*Queue {
		t.Errorf("received %d of %d", len(b.received("s")), count)
	}
	if !b.ps.Health().Connected || b.gapCount() > 2 || a.gapCount() > 0 {
		t.Errorf("health %+v; gaps %v", b.ps.Health(), b.gaps)
	}
}

// The engine closes the connection of a node that does not read. The node receives a gap and
// reconnects.
func tooSlow(t *testing.T, e Engine) {
	if e.SlowConsumers == nil {
		t.Skip("this engine does not count slow consumers")
	}
	p := NewProxy(t, e.Addr)
	a, b := start(t, e, e.Addr), start(t, e, p.Addr)
	waitJoined(a, b)
	p.Stall()
	for i := 0; e.SlowConsumers(t) == 0; i++ {
		a.waitUntil("able to publish", func() bool { return a.broadcastSized("s", i, 100_000) == nil })
	}
	p.Resume()
	waitJoined(a, b)
	b.waitUntil("notified", func() bool { return b.gapCount() > 0 })
	check(t, b, "s", math.MaxInt)
}

// Malformed messages are skipped, and logged once.
func malformed(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	waitJoined(a, b)
	zeros := make([]byte, 100)
	for _, g := range [][]byte{
		nil, {1}, []byte("hello"), zeros[:21], append([]byte{1}, zeros[:20]...), append([]byte{1}, zeros...),
	} {
		e.Publish(t, Topic, g)
	}
	waitJoined(a, b)
	for _, n := range []*node{a, b} {
		if n.gapCount() > 0 || n.countLog("malformed message") != 1 {
			t.Errorf("%d gaps; logged %d times", n.gapCount(), n.countLog("malformed message"))
		}
	}
}

// Broadcasts that were published before the node stopped arrive.
func publishBeforeStop(t *testing.T, e Engine) {
	a, b := start(t, e, e.Addr), start(t, e, e.Addr)
	waitJoined(a, b)
	const count = 500
	for i := range count {
		if err := a.broadcast("s", i); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	if a.broadcast("s", count) == nil {
		t.Error("a stopped node accepted a broadcast")
	}
	b.waitUntil("complete", func() bool { return len(b.received("s")) >= count })
	check(t, b, "s", 0)
}

// Run returns soon after its context has ended, whatever the engine does.
func promptStop(t *testing.T, e Engine) {
	p := NewProxy(t, e.Addr)
	stalled, dialing, stopped := start(t, e, p.Addr), start(t, e, p.Addr), start(t, e, p.Addr)
	waitJoined(stalled, dialing, stopped)
	soon := func(what string, n *node) {
		t.Helper()
		begun := time.Now()
		n.stop()
		if d := time.Since(begun); d > Timeout+time.Second {
			t.Errorf("%s: Run returned after %v", what, d)
		}
	}
	p.Stall()
	_ = stalled.broadcast("s", 0)
	soon("stalled", stalled)
	dialing.waitConnected(false)
	soon("dialing", dialing)
	p.Resume()
	stopped.waitConnected(true)
	e.Stop(t)
	stopped.waitConnected(false)
	soon("stopped", stopped)
	e.Start(t)
}
