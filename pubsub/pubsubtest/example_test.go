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

// events keeps the names of what is delivered, with room for all of a test: Deliver must not block.
type events chan string

func (e events) Deliver(b *pubsub.Broadcast) error {
	e <- b.Event
	return nil
}

// start runs a node, and returns when it is connected.
func start(ctx context.Context, n *pubsubtest.Node, done chan<- error) *pubsub.PubSub {
	ps := pubsub.New(n)
	go func() { done <- ps.Run(ctx) }()
	for !n.Health().Connected {
		runtime.Gosched()
	}
	return ps
}

// Two nodes that a test can keep from each other: neither notices.
func ExampleCluster() {
	cluster := pubsubtest.NewCluster()
	a, b := cluster.Node("a"), cluster.Node("b")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	here, there := start(ctx, a, done), start(ctx, b, done)
	got := make(events, 10)
	there.Subscribe("room:lobby", got)
	say := func(event string) {
		if err := here.Broadcast(ctx, "room:lobby", event, nil); err != nil {
			fmt.Println(err)
		}
	}

	say("before")
	fmt.Println(<-got)
	cluster.Cut(a, b)
	say("meanwhile") // is lost, and nobody is told
	cluster.Heal()
	say("after")
	fmt.Println(<-got)

	stop()
	<-done
	<-done
	// Output:
	// before
	// after
}

// The engine can be away, too: then nodes know, and are told of a gap when it is back.
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

// The test of an adapter gives the suite its engine, here a cluster in memory.
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

// A test of what happens between nodes starts them, and is sure that they have ended when it ends.
func ExampleStart() {
	testNodes := func(t *testing.T) { // func TestNodes(t *testing.T)
		cluster := pubsubtest.NewCluster()
		one, two := pubsub.New(cluster.Node("one")), pubsub.New(cluster.Node("two"))
		stopOne := pubsubtest.Start(t, one)
		pubsubtest.Start(t, two)
		got := make(events, 10)
		two.Subscribe("room:lobby", got)
		for !one.Health().Connected || !two.Health().Connected { // in a moment they are
			runtime.Gosched()
		}
		if err := one.Broadcast(t.Context(), "room:lobby", "new_msg", nil); err != nil {
			t.Fatal(err)
		}
		if event := <-got; event != "new_msg" {
			t.Errorf("got %s", event)
		}
		stopOne() // before the end, to see what two makes of it
	}
	_ = testNodes
}
