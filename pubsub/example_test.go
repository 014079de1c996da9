package pubsub_test

import (
	"context"
	"errors"
	"fmt"

	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
)

// inbox is a subscriber that buffers broadcasts. Deliver must not block, so it drops what does not
// fit.
type inbox chan *pubsub.Broadcast

func (in inbox) Deliver(b *pubsub.Broadcast) error {
	select {
	case in <- b:
	default: // the buffer is full
	}
	return nil
}

// Within one process there is nothing to run and nothing to close.
func Example() {
	ps := pubsub.New(nil)
	got := make(inbox, 10)
	sub := ps.Subscribe("room:lobby", got)
	defer sub.Cancel()

	err := ps.Broadcast(context.Background(), "room:lobby", "new_msg", map[string]string{"body": "hello"})
	if err != nil {
		fmt.Println(err)
	}
	b := <-got
	fmt.Println(b.Topic, b.Event, string(b.Payload.Bytes()))
	// Output: room:lobby new_msg {"body":"hello"}
}

// printer is a Subscriber. Its Deliver runs on the broadcaster's goroutine, so it must not block
// and must not call the PubSub.
type printer struct{ name string }

func (p *printer) Deliver(b *pubsub.Broadcast) error {
	var v struct{ Body string }
	if err := b.Payload.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", p.name, err) // returned to the broadcaster; the other subscribers get the broadcast
	}
	fmt.Println(p.name, "got", v.Body)
	return nil
}

// Subscribers of this process receive a broadcast before Broadcast returns. BroadcastFrom leaves
// out one subscriber, usually the sender.
func ExampleSubscriber() {
	ps := pubsub.New(nil)
	ann, bob := &printer{"ann"}, &printer{"bob"}
	ps.Subscribe("room:lobby", ann)
	sub := ps.Subscribe("room:lobby", bob)

	ctx := context.Background()
	fmt.Println(ps.BroadcastFrom(ctx, ann, "room:lobby", "new_msg", map[string]string{"body": "hello"}))
	sub.Cancel() // after it returns, bob receives nothing
	fmt.Println(ps.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "anyone?"}))
	fmt.Println(ps.Subscribers("room:lobby"))
	// Output:
	// bob got hello
	// <nil>
	// ann got anyone?
	// <nil>
	// 1
}

// Cancel may also be deferred, because further calls have no effect.
func ExampleSubscription_Cancel() {
	ps := pubsub.New(nil)
	sub := ps.Subscribe("room:lobby", make(inbox, 1))
	fmt.Println(ps.Subscribers("room:lobby"))
	sub.Cancel()
	fmt.Println(ps.Subscribers("room:lobby"))
	// Output:
	// 1
	// 0
}

// An adapter connects the nodes of a cluster. Run receives the broadcasts of the other nodes.
func ExampleNew() {
	cluster := pubsubtest.NewCluster() // natsengine or redisengine, outside of a test
	one, two := pubsub.New(cluster.Node("one")), pubsub.New(cluster.Node("two"))

	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	for _, ps := range []*pubsub.PubSub{one, two} {
		go func() { done <- ps.Run(ctx) }()
	}
	waitFor(one, two)

	got := make(inbox, 10)
	two.Subscribe("room:lobby", got)
	if err := one.Broadcast(ctx, "room:lobby", "new_msg", nil); err != nil {
		fmt.Println(err)
	}
	fmt.Println((<-got).Event)

	stop() // when the sockets are shut down
	for range 2 {
		fmt.Println(<-done)
	}
	// Output:
	// new_msg
	// <nil>
	// <nil>
}

// LocalBroadcast notifies only the clients of this node, for example of its shutdown.
func ExamplePubSub_LocalBroadcast() {
	ps := pubsub.New(nil)
	got := make(inbox, 1)
	ps.Subscribe("room:lobby", got)
	fmt.Println(ps.LocalBroadcast("room:lobby", "maintenance", map[string]int{"minutes": 5}))
	fmt.Println(string((<-got).Payload.Bytes()))
	// Output:
	// <nil>
	// {"minutes":5}
}

// A request to all nodes, and a response to the node that sent the request.
func ExamplePubSub_SendTo() {
	cluster := pubsubtest.NewCluster()
	one, two := pubsub.New(cluster.Node("one")), pubsub.New(cluster.Node("two"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	for _, ps := range []*pubsub.PubSub{one, two} {
		go func() { done <- ps.Run(ctx) }()
	}
	waitFor(one, two)
	defer func() { stop(); <-done; <-done }()

	requests, responses := make(inbox, 1), make(inbox, 1)
	two.Subscribe("requests", requests)
	one.Subscribe("responses", responses)
	if err := one.Broadcast(ctx, "requests", "count", map[string]string{"from": one.Node()}); err != nil {
		fmt.Println(err)
	}
	var q struct{ From string }
	if err := (<-requests).Payload.Decode(&q); err != nil {
		fmt.Println(err)
	}
	if err := two.SendTo(ctx, q.From, "responses", "count", map[string]int{"n": 3}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(string((<-responses).Payload.Bytes()))
	// Output: {"n":3}
}

// Code that depends on every broadcast must request the whole state after a gap. Health is for
// monitoring.
func ExamplePubSub_OnGap() {
	cluster := pubsubtest.NewCluster()
	ps := pubsub.New(cluster.Node("one"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ps.Run(ctx) }()
	waitFor(ps)
	defer func() { stop(); <-done }()

	gaps := make(chan error, 1)
	off := ps.OnGap(func(reason error) {
		select {
		case gaps <- reason: // another goroutine requests the state: this one must not block
		default: // a request is pending already
		}
	})
	defer off()

	cluster.Stop()
	h := ps.Health()
	fmt.Println(h.Connected, h.Err)
	cluster.Start()
	fmt.Println(<-gaps)
	fmt.Println(ps.Health().Connected)
	// Output:
	// false pubsubtest: the cluster is down
	// pubsubtest: the cluster is down
	// true
}

// Health reports whether the engine responds, and how much waits to be sent to it.
func ExampleHealth() {
	ps := pubsub.New(nil)
	var h pubsub.Health = ps.Health()
	fmt.Println(h.Connected, h.Queued, h.Dropped) // without an adapter, Connected is true
	// Output: true 0 0
}

// A broadcast is encoded once for each serializer, regardless of the number of connections.
func ExampleBroadcast_Frame() {
	ps := pubsub.New(nil)
	got := make(inbox, 1)
	ps.Subscribe("room:lobby", got)
	if err := ps.Broadcast(context.Background(), "room:lobby", "moved", map[string]int{"x": 3}); err != nil {
		fmt.Println(err)
	}
	b := <-got
	f, err := b.Frame(serializer.V2())
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := b.Frame(serializer.V2())
	fmt.Println(string(f.Data), f == again, err)
	// Output: [null,null,"room:lobby","moved",{"x":3}] true <nil>
}

// A job that may run twice records its event once.
func ExamplePubSub_AppendOnce() {
	ctx := context.Background()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"orders": {}})
	first, err := ps.AppendOnce(ctx, "order-7-paid", "orders", "paid", map[string]int{"id": 7})
	if err != nil {
		fmt.Println(err)
	}
	again, err := ps.AppendOnce(ctx, "order-7-paid", "orders", "paid", map[string]int{"id": 7})
	fmt.Println(again == first, err)
	// Output: true <nil>
}

// The newest records of a topic, and the ones before them.
func ExamplePubSub_Before() {
	ctx := context.Background()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"orders": {}})
	for id := range 5 {
		if err := ps.Broadcast(ctx, "orders", "placed", map[string]int{"id": id}); err != nil {
			fmt.Println(err)
		}
	}
	before := history.Position{} // the zero Position: the newest of all
	for more := true; more; {
		page, err := ps.Before(ctx, "orders", before, 2)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, r := range page.Records {
			fmt.Print(string(r.Payload.Bytes()))
		}
		fmt.Println()
		before, more = page.Records[0].Position, page.More
	}
	// Output:
	// {"id":3}{"id":4}
	// {"id":1}{"id":2}
	// {"id":0}
}

// After Forget, positions that were given out are invalid: clients and jobs start anew.
func ExamplePubSub_Forget() {
	ctx := context.Background()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"orders": {}})
	last, err := ps.Append(ctx, "orders", "placed", map[string]int{"id": 1})
	if err != nil {
		fmt.Println(err)
	}
	if err := ps.Forget(ctx, "orders"); err != nil {
		fmt.Println(err)
	}
	_, err = ps.Since(ctx, "orders", last, 100)
	fmt.Println(errors.Is(err, history.ErrEpoch))
	// Output: true
}

// A recorded broadcast can be read later. A job that was away continues after the last position
// that it has.
func ExampleNewRecorded() {
	ctx := context.Background()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{
		"orders": {Events: []string{"placed"}},
	})
	last, err := ps.Append(ctx, "orders", "placed", map[string]int{"id": 1})
	if err != nil {
		fmt.Println(err)
	}
	for id := 2; id <= 3; id++ {
		if err := ps.Broadcast(ctx, "orders", "placed", map[string]int{"id": id}); err != nil {
			fmt.Println(err)
		}
	}

	missed, err := ps.Since(ctx, "orders", last, 100)
	for _, r := range missed.Records {
		fmt.Println(r.Event, string(r.Payload.Bytes()))
	}
	fmt.Println(missed.More, err)
	// Output:
	// placed {"id":2}
	// placed {"id":3}
	// false <nil>
}

// Hooks count the broadcasts, and how many subscribers each had.
func ExampleHooks() {
	ps := pubsub.New(nil)
	off := ps.AddHooks(&pubsub.Hooks{
		BroadcastDone: func(_ context.Context, topic, event string, err error) { fmt.Println(topic, event, err) },
		Delivered:     func(_ context.Context, d pubsub.Delivery) { fmt.Println(d.Event, "to", d.Subscribers) },
		Gap:           func(reason error) { fmt.Println("missed broadcasts:", reason) },
	})
	defer off()
	got := make(inbox, 1)
	ps.Subscribe("room:lobby", got)
	if err := ps.Broadcast(context.Background(), "room:lobby", "new_msg", nil); err != nil {
		fmt.Println(err)
	}
	// Output:
	// new_msg to 1
	// room:lobby new_msg <nil>
}
