package natsengine_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/natsengine"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/state"
)

// inbox is a subscriber that stores broadcasts. Deliver must not block.
type inbox chan *pubsub.Broadcast

func (in inbox) Deliver(b *pubsub.Broadcast) error {
	select {
	case in <- b:
	default: // the inbox is full
	}
	return nil
}

// Two nodes are joined by a NATS server, here all in one process. A broadcast of one node reaches
// the subscribers of the other. It may be sent by any code, such as a plain HTTP handler or a job.
func Example() {
	nats, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	nats.Start()
	defer nats.WaitForShutdown()
	defer nats.Shutdown()
	if !nats.ReadyForConnections(10 * time.Second) {
		fmt.Println("the NATS server did not start")
		return
	}

	var nodes []*pubsub.PubSub
	for range 2 {
		engine, err := natsengine.New(natsengine.Config{URL: nats.ClientURL()})
		if err != nil {
			fmt.Println(err)
			return
		}
		nodes = append(nodes, pubsub.New(engine.Adapter()))
	}
	received := make(inbox, 10)
	nodes[1].Subscribe("room:lobby", received)

	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	for _, ps := range nodes {
		go func() { done <- ps.Run(ctx) }()
		for !ps.Health().Connected { // not necessary: earlier broadcasts are sent on connecting
			runtime.Gosched()
		}
	}

	err = nodes[0].Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"})
	fmt.Println(string((<-received).Payload.Bytes()), err)

	stop() // call it after Handler.Shutdown, which still notifies the other nodes
	for range nodes {
		fmt.Println(<-done)
	}
	// Output:
	// {"body":"hello"} <nil>
	// <nil>
	// <nil>
}

// Nodes that share by NATS what channel.Once has seen: a push is handled once, whichever nodes
// receive it. This example needs a NATS server, so it is only compiled.
func ExampleEngine_Once() {
	engine, err := natsengine.New(natsengine.Config{URL: os.Getenv("NATS_URL"), Replicas: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The store has a connection while the PubSub of the adapter runs.
	cfg := push.OnceConfig{Window: 48 * time.Hour, Store: engine.Once()}
	_ = channel.Once[struct{}](cfg) // an option of channel.Define
}

// Nodes that share objects in JetStream. This example needs a NATS server, so it is only compiled.
func ExampleEngine_State() {
	engine, err := natsengine.New(natsengine.Config{URL: os.Getenv("NATS_URL"), Replicas: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	objects := state.New(engine.State()) // whose Documents and Maps are handlers of channels
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- objects.Run(ctx) }()

	// All nodes may do this at the same time: no increment is lost.
	visits, err := state.Update(ctx, objects, "site", "visits", func(n *int) error { *n++; return nil })
	fmt.Println(visits, err)

	stop()
	if err := <-done; err != nil {
		fmt.Println(err)
	}
}

// A configuration with several servers, credentials and a log.
func ExampleConfig() {
	logger := zerolog.New(os.Stderr)
	engine, err := natsengine.New(natsengine.Config{
		URL:     "tls://nats-1.example.com:4222,tls://nats-2.example.com:4222",
		Options: []nats.Option{nats.UserInfo("bennu", os.Getenv("NATS_PASSWORD"))},
		Prefix:  "bennu", // a different one for each cluster at the same servers
		Name:    "web-1",
		Logger:  &logger,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ps := pubsub.New(engine.Adapter()) // for socket.Config.PubSub and presence.New
	fmt.Println(ps.Health().Connected)
	// Output: false
}
