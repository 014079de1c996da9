package pubsubtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// patience is how long the suite waits for an event, on a busy machine.
const patience = 30 * time.Second

// Engine describes an adapter and its engine to the suite.
type Engine struct {
	// New creates the adapter of another node. Run has not been called.
	New func(t testing.TB) pubsub.Adapter
	// Stop stops the engine. Start starts it again, empty and at the same address.
	Stop, Start func(t testing.TB)
	// Queue is the bound of the queue that New configured for each node, in bytes. Zero means that the
	// adapter has no such queue.
	Queue int
}

// Run runs the suite. It calls setup for each test, which must return a new engine.
func Run(t *testing.T, setup func(t *testing.T) Engine) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, e Engine)
	}{
		{"two nodes", twoNodes},
		{"three nodes", threeNodes},
		{"interest", interest},
		{"order", order},
		{"payloads", payloads},
		{"topics", topics},
		{"control", control},
		{"direct", direct},
		{"node names", nodeNames},
		{"restart", restart},
		{"bound", bound},
		{"stop", stop},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, setup(t)) })
	}
}

// node is a running PubSub with its adapter.
type node struct {
	t    testing.TB
	ps   *pubsub.PubSub
	a    pubsub.Adapter
	stop func()

	mu   sync.Mutex
	gaps []error
}

func start(t testing.TB, e Engine) *node {
	t.Helper()
	n := &node{t: t, a: e.New(t)}
	n.ps = pubsub.New(n.a)
	n.ps.OnGap(func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, err)
	})
	n.stop = Start(t, n.ps)
	n.until("connected", func() bool { return n.ps.Health().Connected })
	return n
}

// Start runs a PubSub until stop is called, or until the test ends. The test fails if Run returns
// an error or does not return.
func Start(t testing.TB, ps *pubsub.PubSub) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ps.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: Run returned %v", ps.Node(), err)
			}
		case <-time.After(patience):
			t.Errorf("%s: Run did not return", ps.Node())
		}
	})
	t.Cleanup(stop)
	return stop
}

// until waits until ok returns true.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not %s after %v; health %+v", n.a.Node(), what, patience, n.ps.Health())
		}
	}
}

func (n *node) gapped() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gaps)
}

// listener records the broadcasts that it receives.
type listener struct {
	mu  sync.Mutex
	got []*pubsub.Broadcast
}

func (l *listener) Deliver(b *pubsub.Broadcast) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, b)
	return nil
}

// events returns the events received, without probes.
func (l *listener) events() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, b := range l.got {
		if b.Event != probe {
			names = append(names, b.Event)
		}
	}
	return names
}

func (l *listener) last() *pubsub.Broadcast {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got[len(l.got)-1]
}

func (l *listener) probed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, b := range l.got {
		if b.Event == probe {
			n++
		}
	}
	return n
}

// probe is an event that tests whether a subscription has reached the engine.
const probe = "probe"

func (n *node) listen(topic string) *listener {
	l := new(listener)
	sub := n.ps.Subscribe(topic, l)
	n.t.Cleanup(sub.Cancel)
	return l
}

// reach waits until broadcasts of from on a topic arrive at all the listeners.
func reach(from *node, topic string, all ...*listener) {
	from.t.Helper()
	before := make([]int, len(all))
	for i, l := range all {
		before[i] = l.probed()
	}
	next := time.Time{}
	from.until("reaching "+topic, func() bool {
		if time.Now().After(next) {
			// It fails while the engine is down. The next one may arrive.
			_ = from.ps.Broadcast(context.Background(), topic, probe, nil)
			next = time.Now().Add(20 * time.Millisecond)
		}
		for i, l := range all {
			if l.probed() == before[i] {
				return false
			}
		}
		return true
	})
}

func (n *node) broadcast(topic, event string, payload any) {
	n.t.Helper()
	if err := n.ps.Broadcast(context.Background(), topic, event, payload); err != nil {
		n.t.Fatalf("%s: broadcast %s: %v", n.a.Node(), event, err)
	}
}

// wants waits until a listener has received these events, and fails if it received others. Each
// node that may have sent others must have sent the last event, so that the others would have
// arrived before it.
func (n *node) wants(l *listener, events ...string) {
	n.t.Helper()
	n.until(fmt.Sprintf("in possession of %q", events), func() bool { return len(l.events()) >= len(events) })
	if got := l.events(); !slices.Equal(got, events) {
		n.t.Errorf("%s: got %q, want %q", n.a.Node(), got, events)
	}
}

func twoNodes(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	la, lb := a.listen("t"), b.listen("t")
	reach(a, "t", lb)
	reach(b, "t", la)
	a.broadcast("t", "from a", map[string]int{"n": 1})
	b.wants(lb, "from a")
	b.broadcast("t", "from b", nil)
	a.wants(la, "from a", "from b")
	b.wants(lb, "from a", "from b") // its own broadcast once, not again through the engine
	if got, err := lb.got[len(lb.got)-2].Payload.JSON(); err != nil || string(got) != `{"n":1}` {
		t.Errorf("the payload arrived as %s, %v", got, err)
	}
}

func threeNodes(t *testing.T, e Engine) {
	nodes := []*node{start(t, e), start(t, e), start(t, e)}
	var all []*listener
	for _, n := range nodes {
		all = append(all, n.listen("t"))
	}
	for _, n := range nodes {
		reach(n, "t", all...)
	}
	const each = 50
	for i := range each {
		for k, n := range nodes {
			n.broadcast("t", fmt.Sprintf("%d/%d", k, i), nil)
		}
	}
	for k, n := range nodes {
		n.until("complete", func() bool { return len(all[k].events()) >= each*len(nodes) })
		next := make(map[string]int)
		for _, event := range all[k].events() {
			from, i, _ := strings.Cut(event, "/")
			if fmt.Sprint(next[from]) != i {
				t.Fatalf("node %d: got %s, want %s/%d", k, event, from, next[from])
			}
			next[from]++
		}
	}
}

// A node does not receive broadcasts on topics to which it is not subscribed, or not any more.
func interest(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	every := b.listen("end")
	l := new(listener)
	sub := b.ps.Subscribe("t", l)
	reach(a, "t", l)
	reach(a, "end", every)
	a.broadcast("other", "x", nil)
	a.broadcast("t", "one", nil)
	b.wants(l, "one")
	sub.Cancel()
	a.broadcast("t", "missed", nil)
	a.broadcast("end", "end", nil)
	b.wants(every, "end")
	again := b.listen("t")
	reach(a, "t", again)
	a.broadcast("t", "two", nil)
	b.wants(again, "two")
	b.wants(l, "one")
}

func order(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	const topicCount, publishers, each = 4, 4, 500
	var all []*listener
	for i := range topicCount {
		l := b.listen(fmt.Sprintf("t%d", i))
		reach(a, fmt.Sprintf("t%d", i), l)
		all = append(all, l)
	}
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				a.broadcast(fmt.Sprintf("t%d", i%topicCount), fmt.Sprintf("%d/%d", p, i), nil)
			}
		})
	}
	wg.Wait()
	for k, l := range all {
		b.until("complete", func() bool { return len(l.events()) >= publishers*each/topicCount })
		next := make(map[string]int)
		for _, event := range l.events() {
			from, i, _ := strings.Cut(event, "/")
			if want := next[from]*topicCount + k; fmt.Sprint(want) != i {
				t.Fatalf("topic %d: got %s, want %s/%d", k, event, from, want)
			}
			next[from]++
		}
	}
	if n := b.gapped(); n != 0 {
		t.Errorf("%d gaps", n)
	}
}

func payloads(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	l := b.listen("t")
	reach(a, "t", l)
	big := strings.Repeat("0123456789abcdef", 32<<10) // 512 KiB
	for name, p := range map[string]serializer.Payload{
		"nothing": {},
		"json":    serializer.Value(map[string]string{"ž": "☃"}),
		"binary":  serializer.Binary([]byte{0, 1, 254, 255}),
		"empty":   serializer.Binary(nil),
		"big":     serializer.Value(map[string]string{"big": big}),
	} {
		before := len(l.events())
		a.broadcast("t", name, p)
		b.until("in possession of it", func() bool { return len(l.events()) > before })
		got := l.last()
		want, err := p.Encoded()
		if err != nil {
			t.Fatal(err)
		}
		if got.Event != name || got.Payload.IsBinary() != want.IsBinary() || got.Payload.IsZero() != want.IsZero() ||
			string(got.Payload.Bytes()) != string(want.Bytes()) {
			t.Errorf("%s: arrived as %s, %d bytes", name, got.Event, len(got.Payload.Bytes()))
		}
	}
}

// Topics may contain any bytes, also those with a meaning for the engine.
func topics(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	names := []string{
		"", "a", "a.b", "a b", "a.*", "a.>", ">", "*", "a..b", ".", "a\nb", "a\x00b", "ž☃", "{a}b",
		strings.Repeat("long", 500), "\xff",
	}
	var all []*listener
	for _, name := range names {
		all = append(all, b.listen(name))
	}
	for i, name := range names {
		reach(a, name, all[i])
	}
	for i, name := range names {
		a.broadcast(name, fmt.Sprint(i), nil)
	}
	for i, name := range names {
		b.wants(all[i], fmt.Sprint(i))
		if got := all[i].last().Topic; got != name {
			t.Errorf("%q arrived as %q", name, got)
		}
	}
}

// control tests that control topics are distinct from topics of the same or a similar text.
func control(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	names := []string{"", "a", "bennu:presence:presence:0", "\x00", "\x00c", "\x00ca", "\x00t\x00ca"}
	topics, controls := make([]*listener, len(names)), make([]*listener, len(names))
	for i, name := range names {
		topics[i], controls[i] = b.listen(name), new(listener)
		t.Cleanup(b.ps.Control().Subscribe(name, controls[i]).Cancel)
		reach(a, name, topics[i])
		a.until("reaching control topic", func() bool {
			_ = a.ps.Control().Broadcast(t.Context(), name, probe, nil) // until the subscription has reached the engine
			return controls[i].probed() > 0
		})
	}
	for i, name := range names {
		event := fmt.Sprint(i)
		a.broadcast(name, "topic "+event, nil)
		if err := a.ps.Control().Broadcast(t.Context(), name, "control "+event, nil); err != nil {
			t.Fatal(err)
		}
		if err := a.ps.Control().SendTo(t.Context(), b.a.Node(), name, "direct "+event, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		event := fmt.Sprint(i)
		b.wants(topics[i], "topic "+event)
		b.wants(controls[i], "control "+event, "direct "+event)
		if got := controls[i].last().Topic; got != name {
			t.Errorf("control topic %q arrived as %q", name, got)
		}
	}
}

func direct(t *testing.T, e Engine) {
	a, b, c := start(t, e), start(t, e), start(t, e)
	la, lb, lc := a.listen("t"), b.listen("t"), c.listen("t")
	reach(a, "t", lb, lc)
	reach(b, "t", la)
	for _, to := range []*node{b, c, a} {
		if err := a.ps.SendTo(context.Background(), to.a.Node(), "t", "to "+to.a.Node(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.ps.SendTo(context.Background(), "no such node", "t", "lost", nil); err != nil {
		t.Errorf("to a node that does not exist: %v", err)
	}
	a.broadcast("t", "end", nil)
	a.wants(la, "to "+a.a.Node(), "end")
	b.wants(lb, "to "+b.a.Node(), "end")
	c.wants(lc, "to "+c.a.Node(), "end")
}

func nodeNames(t *testing.T, e Engine) {
	a, b := e.New(t), e.New(t)
	if a.Node() == "" || a.Node() == b.Node() {
		t.Errorf("named %q and %q", a.Node(), b.Node())
	}
}

// The engine stops and starts again. Local subscribers do not notice. Broadcasts reach the other
// node again, none arrives twice, and the node receives a gap.
func restart(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	la, lb := a.listen("t"), b.listen("t")
	reach(a, "t", lb)
	a.broadcast("t", "before", nil)
	b.wants(lb, "before")
	e.Stop(t)
	a.until("disconnected", func() bool { return !a.ps.Health().Connected })
	b.until("disconnected", func() bool { return !b.ps.Health().Connected })
	if a.ps.Health().Err == nil {
		t.Error("Health.Err is nil while disconnected")
	}
	_ = a.ps.Broadcast(context.Background(), "t", "meanwhile", nil) // arrives, or fails, or is part of the gap
	a.wants(la, "before", "meanwhile")
	late := b.listen("late") // subscribed while the engine is down
	e.Start(t)
	a.until("connected again", func() bool { return a.ps.Health().Connected })
	b.until("connected again", func() bool { return b.ps.Health().Connected })
	reach(a, "t", lb)
	reach(a, "late", late)
	a.broadcast("t", "after", nil)
	b.until("complete", func() bool { return slices.Contains(lb.events(), "after") })
	for _, event := range []string{"before", "meanwhile", "after"} {
		n := 0
		for _, got := range lb.events() {
			if got == event {
				n++
			}
		}
		if n > 1 || n == 0 && event != "meanwhile" {
			t.Errorf("%s arrived %d times", event, n)
		}
	}
	b.until("notified of the gap", func() bool { return b.gapped() > 0 && b.ps.Health().Gaps > 0 })
}

// While the engine is down, the queue is bounded, and a broadcast that does not fit is an error.
func bound(t *testing.T, e Engine) {
	a := start(t, e)
	e.Stop(t)
	a.until("disconnected", func() bool { return !a.ps.Health().Connected })
	body := serializer.Binary(make([]byte, 10_000))
	failed := 0
	for range 2*e.Queue/10_000 + 10 {
		begun := time.Now()
		if a.ps.Broadcast(context.Background(), "t", "e", body) != nil {
			failed++
		}
		if d := time.Since(begun); d > time.Second {
			t.Fatalf("a broadcast took %v", d)
		}
	}
	if failed == 0 {
		t.Error("no broadcast failed")
	}
	h := a.ps.Health()
	if h.Queued > e.Queue || h.Dropped == 0 {
		t.Errorf("%d bytes are queued, bound %d; %d dropped, %d failed", h.Queued, e.Queue, h.Dropped, failed)
	}
	e.Start(t)
	a.until("connected again", func() bool { return a.ps.Health().Connected })
	b := start(t, e)
	lb := b.listen("t")
	reach(a, "t", lb)
}

// After its Run has returned, a node cannot publish, and the other nodes are not affected.
func stop(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	la, lb := a.listen("t"), b.listen("t")
	reach(a, "t", lb)
	b.stop()
	if err := b.ps.Broadcast(context.Background(), "t", "x", nil); err == nil {
		t.Error("a stopped node could publish")
	}
	a.broadcast("t", "alone", nil)
	c := start(t, e)
	lc := c.listen("t")
	reach(a, "t", lc)
	reach(c, "t", la)
	if got := lb.events(); slices.Contains(got, "alone") {
		t.Errorf("a stopped node received %q", got)
	}
}
