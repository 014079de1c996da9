package pubsub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"bennu.example/history"
	"bennu.example/internal/fakelog"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
)

type traceKey struct{}

// hookLog collects the calls of hooks as lines.
type hookLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *hookLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// expect compares the lines of each node. Two nodes call their hooks in no order.
func (l *hookLog) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(l.lines, func(a, b string) int { return strings.Compare(a[:len("one")], b[:len("two")]) })
	if !slices.Equal(l.lines, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, l.lines, want)
	}
	l.lines = nil
}

func (l *hookLog) hooks(node string) *pubsub.Hooks {
	return &pubsub.Hooks{
		BroadcastStart: func(ctx context.Context, topic, event string) context.Context {
			l.add("%s: start %s %s", node, topic, event)
			return context.WithValue(ctx, traceKey{}, "from "+node)
		},
		BroadcastDone: func(ctx context.Context, topic, event string, err error) {
			l.add("%s: done %s %s %v %v", node, topic, event, err, ctx.Value(traceKey{}))
		},
		Delivered: func(ctx context.Context, d pubsub.Delivery) {
			l.add("%s: delivered %s %s to %d, remote=%v, %v",
				node, d.Topic, d.Event, d.Subscribers, d.Remote, ctx.Value(traceKey{}))
		},
		Gap:    func(reason error) { l.add("%s: gap %v", node, reason) },
		Health: func(h pubsub.Health) { l.add("%s: connected %v", node, h.Connected) },
		Inject: func(ctx context.Context) string { return fmt.Sprint("sent ", ctx.Value(traceKey{})) },
		Extract: func(ctx context.Context, text string) context.Context {
			return context.WithValue(ctx, traceKey{}, text)
		},
	}
}

// TestHooksOfTwoNodes follows broadcasts from one node to the other. Messages of the nodes
// themselves call no hooks.
func TestHooksOfTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		adapters := pubsubtest.NewCluster()
		ctx, cancel := context.WithCancel(t.Context())
		one, two := pubsub.New(adapters.Node("one")), pubsub.New(adapters.Node("two"))
		offOne, offTwo := one.AddHooks(l.hooks("one")), two.AddHooks(l.hooks("two"))
		l.expect(t, "before Run", "one: connected false", "two: connected false")
		var wg sync.WaitGroup
		run := func(ps *pubsub.PubSub) {
			wg.Go(func() {
				if err := ps.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		run(one)
		run(two)
		l.expect(t, "Run", "one: connected true", "two: connected true")

		here, there := &collector{by: serializer.V2()}, &collector{by: serializer.V2()}
		one.Subscribe("\x00room", here)
		two.Subscribe("\x00room", there)
		one.Control().Subscribe("bennu:x", here)
		synctest.Wait()
		if err := one.Broadcast(ctx, "\x00room", "said", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "broadcast", "one: start \x00room said", "one: delivered \x00room said to 1, remote=false, from one",
			"one: done \x00room said <nil> from one", "two: delivered \x00room said to 1, remote=true, sent from one")
		if err := one.BroadcastFrom(ctx, here, "\x00room", "said", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "broadcast from", "one: start \x00room said", "one: done \x00room said <nil> from one",
			"two: delivered \x00room said to 1, remote=true, sent from one")
		if err := one.LocalBroadcast("\x00room", "said", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "local", "one: start \x00room said", "one: delivered \x00room said to 1, remote=false, from one",
			"one: done \x00room said <nil> from one")
		if err := one.SendTo(ctx, two.Node(), "\x00room", "said", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "send", "one: start \x00room said", "one: done \x00room said <nil> from one",
			"two: delivered \x00room said to 1, remote=true, sent from one")
		if err := one.Control().Broadcast(ctx, "bennu:x", "e", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "control")
		if n := len(here.got()); n != 3 {
			t.Errorf("received %d broadcasts, want 3", n)
		}

		offTwo()
		adapters.Stop()
		l.expect(t, "stop", "one: connected false")
		adapters.Start()
		synctest.Wait()
		l.mu.Lock()
		slices.Sort(l.lines)
		l.mu.Unlock()
		l.expect(t, "start", "one: connected true", "one: gap "+pubsubtest.ErrDown.Error())
		offOne()
		offOne()
		if err := one.Broadcast(ctx, "\x00room", "said", nil); err != nil {
			t.Error(err)
		}
		l.expect(t, "without hooks")
		cancel()
		wg.Wait()
	})
}

// TestHooksOfRecords follows a recorded broadcast, on a log of one process and on one of two nodes.
func TestHooksOfRecords(t *testing.T) {
	var l hookLog
	one := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	defer one.AddHooks(l.hooks("one"))()
	l.lines = nil
	one.Subscribe("room:1", &collector{by: serializer.V2()})
	if err := one.Broadcast(t.Context(), "room:1", "msg", nil); err != nil {
		t.Error(err)
	}
	want := []string{"one: start room:1 msg", "one: delivered room:1 msg to 1, remote=false, from one",
		"one: done room:1 msg <nil> from one"}
	if !slices.Equal(l.lines, want) {
		t.Errorf("got %q, want %q", l.lines, want)
	}

	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		adapters, store := pubsubtest.NewCluster(), fakelog.NewStore(1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var nodes []*pubsub.PubSub
		for _, name := range []string{"one", "two"} {
			ps := pubsub.NewRecorded(adapters.Node(name), store.Log(name), rules)
			h := l.hooks(name)
			h.Health = nil
			ps.AddHooks(h)
			ps.Subscribe("room:1", &collector{by: serializer.V2()})
			nodes = append(nodes, ps)
			wg.Go(func() { _ = ps.Run(ctx) })
		}
		synctest.Wait()
		if err := nodes[0].Broadcast(ctx, "room:1", "msg", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		l.mu.Lock()
		slices.Sort(l.lines)
		l.mu.Unlock()
		l.expect(t, "broadcast", "one: delivered room:1 msg to 1, remote=false, from one",
			"one: done room:1 msg <nil> from one", "one: start room:1 msg",
			"two: delivered room:1 msg to 1, remote=true, <nil>")
		cancel()
		wg.Wait()
	})
}

// TestLongTraceIsNotSent checks the bound of the text that travels with a broadcast.
func TestLongTraceIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		adapters := pubsubtest.NewCluster()
		ctx, cancel := context.WithCancel(t.Context())
		one, two := pubsub.New(adapters.Node("one")), pubsub.New(adapters.Node("two"))
		length := 1024
		one.AddHooks(&pubsub.Hooks{
			Inject:  func(context.Context) string { return strings.Repeat("x", length) },
			Extract: func(ctx context.Context, _ string) context.Context { return ctx },
		})
		two.AddHooks(&pubsub.Hooks{
			Inject: func(context.Context) string { return "" },
			Extract: func(ctx context.Context, text string) context.Context {
				return context.WithValue(ctx, traceKey{}, len(text))
			},
			Delivered: func(ctx context.Context, _ pubsub.Delivery) { l.add("%v", ctx.Value(traceKey{})) },
		})
		var wg sync.WaitGroup
		for _, ps := range []*pubsub.PubSub{one, two} {
			wg.Go(func() { _ = ps.Run(ctx) })
		}
		two.Subscribe("room", &collector{by: serializer.V2()})
		synctest.Wait()
		for _, want := range []string{"1024", "<nil>"} {
			if err := one.Broadcast(ctx, "room", "said", nil); err != nil {
				t.Error(err)
			}
			l.expect(t, fmt.Sprint(length, " bytes"), want)
			length++
		}
		cancel()
		wg.Wait()
	})
}
