package pubsubtest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// events is a subscriber that buffers the events. Deliver must not block, so the buffer must be
// large enough for the whole test.
type events chan string

func (e events) Deliver(b *pubsub.Broadcast) error {
	e <- b.Event
	return nil
}

// start runs a node and waits until it is connected.
func start(ctx context.Context, n *pubsubtest.Node, done chan<- error) *pubsub.PubSub {
	ps := pubsub.New(n)
	go func() { done <- ps.Run(ctx) }()
	for !n.Health().Connected {
		runtime.Gosched()
	}
	return ps
}

// A test can cut the connection between two nodes. The nodes do not notice.
func ExampleCluster() {
	cluster := pubsubtest.NewCluster()
	a, b := cluster.Node("a"), cluster.Node("b")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	here, there := start(ctx, a, done), start(ctx, b, done)
	got := make(events, 10)
	there.Subscribe("room:lobby", got)
	send := func(event string) {
		if err := here.Broadcast(ctx, "room:lobby", event, nil); err != nil {
			fmt.Println(err)
		}
	}

	send("before")
	fmt.Println(<-got)
	cluster.Cut(a, b)
	send("meanwhile") // is lost, and nobody is notified
	cluster.Heal()
	send("after")
	fmt.Println(<-got)

	stop()
	<-done
	<-done
	// Output:
	// before
	// after
}

// A test can stop the engine, too. The nodes notice that, and receive a gap when it is back.
func ExampleCluster_Stop() {
	cluster := pubsubtest.NewCluster()
	node := cluster.Node("a")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	ps := start(ctx, node, done)
	gap := make(chan error, 1)
	ps.OnGap(func(reason error) { gap <- reason })

	cluster.Stop()
	err := ps.Broadcast(ctx, "room:lobby", "new_msg", nil)
	fmt.Println(errors.Is(err, pubsubtest.ErrDown))
	cluster.Start()
	fmt.Println(errors.Is(<-gap, pubsubtest.ErrDown))

	stop()
	<-done
	// Output:
	// true
	// true
}

// The test of an adapter gives the suite an engine. Here it is a cluster in memory.
func ExampleRun() {
	testAdapter := func(t *testing.T) { // func TestAdapter(t *testing.T), in its package
		pubsubtest.Run(t, func(t *testing.T) pubsubtest.Engine {
			engine := pubsubtest.NewCluster()
			return pubsubtest.Engine{
				New:   func(t testing.TB) pubsub.Adapter { return engine.Node("node") },
				Stop:  func(t testing.TB) { engine.Stop() },
				Start: func(t testing.TB) { engine.Start() },
			}
		})
	}
	_ = testAdapter
}

// Start ends the nodes at the end of a test, if the test did not do so before.
func ExampleStart() {
	testNodes := func(t *testing.T) { // func TestNodes(t *testing.T)
		cluster := pubsubtest.NewCluster()
		one, two := pubsub.New(cluster.Node("one")), pubsub.New(cluster.Node("two"))
		stopOne := pubsubtest.Start(t, one)
		pubsubtest.Start(t, two)
		got := make(events, 10)
		two.Subscribe("room:lobby", got)
		for !one.Health().Connected || !two.Health().Connected { // which does not take long
			runtime.Gosched()
		}
		if err := one.Broadcast(t.Context(), "room:lobby", "new_msg", nil); err != nil {
			t.Fatal(err)
		}
		if event := <-got; event != "new_msg" {
			t.Errorf("got %s", event)
		}
		stopOne() // before the end of the test, to see the effect on node two
	}
	_ = testNodes
}
