package pubsubtest_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestCluster(t *testing.T) {
	pubsubtest.Run(t, func(*testing.T) pubsubtest.Engine {
		c := pubsubtest.NewCluster()
		return pubsubtest.Engine{
			New:   func(testing.TB) pubsub.Adapter { return c.Node("n") },
			Stop:  func(testing.TB) { c.Stop() },
			Start: func(testing.TB) { c.Start() },
		}
	})
}

func TestCutDropsBroadcasts(t *testing.T) {
	c := pubsubtest.NewCluster()
	var nodes []*pubsubtest.Node
	var all []*pubsub.PubSub
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for i := range 3 {
		n := c.Node(fmt.Sprint(i))
		ps := pubsub.New(n)
		ps.Subscribe("t", recorder{i, got})
		nodes, all = append(nodes, n), append(all, ps)
		go func() { done <- ps.Run(ctx) }()
		for !n.Health().Connected { // until Run has begun, which does not take long
			runtime.Gosched()
		}
	}
	expect := func(from int, event string, at ...string) {
		t.Helper()
		if err := all[from].Broadcast(ctx, "t", event, nil); err != nil {
			t.Fatal(err)
		}
		want := make(map[string]bool)
		for _, a := range at {
			want[a+event] = true
		}
		for range at {
			if g := <-got; !want[g] {
				t.Errorf("got %s, want %v", g, want)
			}
		}
	}
	expect(0, "x", "0", "1", "2")
	c.Cut(nodes[0], nodes[2])
	expect(0, "y", "0", "1")
	expect(2, "z", "2", "1")
	c.Heal()
	expect(2, "w", "2", "1", "0")
	cancel()
	for range nodes {
		<-done
	}
	if len(got) > 0 {
		t.Errorf("got %s, want no more broadcasts", <-got)
	}
}

type recorder struct {
	at  int
	got chan string
}

func (r recorder) Deliver(b *pubsub.Broadcast) error {
	r.got <- fmt.Sprint(r.at, b.Event)
	return nil
}
