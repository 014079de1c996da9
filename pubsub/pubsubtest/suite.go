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

// patience is how long what must happen may take on a busy machine.
const patience = 30 * time.Second

// Engine is what the suite needs to know of an adapter.
type Engine struct {
	// New makes an adapter for a further node, not yet running.
	New func(t testing.TB) pubsub.Adapter
	// Stop stops the engine and Start starts it again, empty, at the same place.
	Stop, Start func(t testing.TB)
	// Queue is the bound of what waits for the engine at one node, in bytes, that New was told; 0 if there is no such queue.
	Queue int
}

// Run runs the suite. Each test gets an engine of its own by setup.
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

// node is an adapter under a PubSub, running.
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

// Start runs a PubSub until stop is called, at the latest at the test's end, and fails the test if it does not end well.
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
			t.Errorf("%s: Run does not return", ps.Node())
		}
	})
	t.Cleanup(stop)
	return stop
}

// until waits for a condition.
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

// listener keeps the events that it gets.
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

// events are the names of what came, but for probes.
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

// probe is the event that finds out whether a subscription has reached the engine.
const probe = "probe"

func (n *node) listen(topic string) *listener {
	l := new(listener)
	sub := n.ps.Subscribe(topic, l)
	n.t.Cleanup(sub.Cancel)
	return l
}

// reach waits until what from broadcasts on a topic arrives at all the listeners.
func reach(from *node, topic string, all ...*listener) {
	from.t.Helper()
	before := make([]int, len(all))
	for i, l := range all {
		before[i] = l.probed()
	}
	next := time.Time{}
	from.until("reaching "+topic, func() bool {
		if time.Now().After(next) {
			_ = from.ps.Broadcast(context.Background(), topic, probe, nil) // while the engine is away: it is asked again
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

// wants waits until a listener has got these events and no others. The last one comes from each node that may have sent something else, so
// that whatever was to come has come.
func (n *node) wants(l *listener, events ...string) {
	n.t.Helper()
	n.until(fmt.Sprintf("having %q", events), func() bool { return len(l.events()) >= len(events) })
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
	b.wants(lb, "from a", "from b") // its own once, by itself
	if got, err := lb.got[len(lb.got)-2].Payload.JSON(); err != nil || string(got) != `{"n":1}` {
		t.Errorf("the payload came as %s, %v", got, err)
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

// Topics that a node did not subscribe to do not come, nor after it unsubscribed.
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
		b.until("having it", func() bool { return len(l.events()) > before })
		got := l.last()
		want, err := p.Encoded()
		if err != nil {
			t.Fatal(err)
		}
		if got.Event != name || got.Payload.IsBinary() != want.IsBinary() || got.Payload.IsZero() != want.IsZero() ||
			string(got.Payload.Bytes()) != string(want.Bytes()) {
			t.Errorf("%s: came as %s, %d bytes", name, got.Event, len(got.Payload.Bytes()))
		}
	}
}

// Topics of any shape are told apart, whatever they mean to the engine.
func topics(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	names := []string{"", "a", "a.b", "a b", "a.*", "a.>", ">", "*", "a..b", ".", "a\nb", "a\x00b", "ž☃", "{a}b", strings.Repeat("long", 500), "\xff"}
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
			t.Errorf("%q came as %q", name, got)
		}
	}
}

// control holds that control topics are told from topics of the same text, and from those that look like them.
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
			t.Errorf("control topic %q came as %q", name, got)
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
		t.Errorf("to a node that is not there: %v", err)
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

// The engine goes and comes back: this node's own subscribers notice nothing, the others are reached again, nothing comes twice, and it is told
// that something may be missing.
func restart(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	la, lb := a.listen("t"), b.listen("t")
	reach(a, "t", lb)
	a.broadcast("t", "before", nil)
	b.wants(lb, "before")
	e.Stop(t)
	a.until("away", func() bool { return !a.ps.Health().Connected })
	b.until("away", func() bool { return !b.ps.Health().Connected })
	if a.ps.Health().Err == nil {
		t.Error("health does not say why")
	}
	_ = a.ps.Broadcast(context.Background(), "t", "meanwhile", nil) // it arrives, or there is an error, or a gap
	a.wants(la, "before", "meanwhile")
	late := b.listen("late") // subscribed while the engine is away
	e.Start(t)
	a.until("back", func() bool { return a.ps.Health().Connected })
	b.until("back", func() bool { return b.ps.Health().Connected })
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
			t.Errorf("%s came %d times", event, n)
		}
	}
	b.until("told of the gap", func() bool { return b.gapped() > 0 && b.ps.Health().Gaps > 0 })
}

// While the engine is away, what waits for it is bounded, and a publisher is told of what finds no room.
func bound(t *testing.T, e Engine) {
	a := start(t, e)
	e.Stop(t)
	a.until("away", func() bool { return !a.ps.Health().Connected })
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
		t.Error("everything found room")
	}
	h := a.ps.Health()
	if h.Queued > e.Queue || h.Dropped == 0 {
		t.Errorf("%d bytes wait, bound %d; %d dropped of %d", h.Queued, e.Queue, h.Dropped, failed)
	}
	e.Start(t)
	a.until("back", func() bool { return a.ps.Health().Connected })
	b := start(t, e)
	lb := b.listen("t")
	reach(a, "t", lb)
}

// A node that stops is gone: the others go on, and it cannot publish any more.
func stop(t *testing.T, e Engine) {
	a, b := start(t, e), start(t, e)
	la, lb := a.listen("t"), b.listen("t")
	reach(a, "t", lb)
	b.stop()
	if err := b.ps.Broadcast(context.Background(), "t", "x", nil); err == nil {
		t.Error("a node that has stopped publishes")
	}
	a.broadcast("t", "alone", nil)
	c := start(t, e)
	lc := c.listen("t")
	reach(a, "t", lc)
	reach(c, "t", la)
	if got := lb.events(); slices.Contains(got, "alone") {
		t.Errorf("a node that has stopped got %q", got)
	}
}
