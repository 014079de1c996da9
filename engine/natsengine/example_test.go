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

	"bennu.example/engine/natsengine"
	"bennu.example/pubsub"
)

// inbox keeps what is delivered to it. Deliver must not block.
type inbox chan *pubsub.Broadcast

func (in inbox) Deliver(b *pubsub.Broadcast) error {
	select {
	case in <- b:
	default: // nobody reads
	}
	return nil
}

// Two nodes, here in one process, and so is the NATS server between them. A broadcast of one reaches the subscribers of the other, also
// when it comes from a plain HTTP handler or a job.
func Example() {
	engine, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	engine.Start()
	defer engine.WaitForShutdown()
	defer engine.Shutdown()
	if !engine.ReadyForConnections(10 * time.Second) {
		fmt.Println("the NATS server does not start")
		return
	}

	var nodes []*pubsub.PubSub
	for range 2 {
		adapter, err := natsengine.New(natsengine.Config{URL: engine.ClientURL()})
		if err != nil {
			fmt.Println(err)
			return
		}
		nodes = append(nodes, pubsub.New(adapter))
	}
	heard := make(inbox, 10)
	nodes[1].Subscribe("room:lobby", heard)

	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	for _, ps := range nodes {
		go func() { done <- ps.Run(ctx) }()
		for !ps.Health().Connected { // a server need not wait: what it broadcasts meanwhile is sent then
			runtime.Gosched()
		}
	}

	err = nodes[0].Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"})
	fmt.Println(string((<-heard).Payload.Bytes()), err)

	stop() // after the shutdown of the sockets, which has to tell the other nodes
	for range nodes {
		fmt.Println(<-done)
	}
	// Output:
	// {"body":"hello"} <nil>
	// <nil>
	// <nil>
}

// Several servers, credentials, and what an operator should know.
func ExampleConfig() {
	logger := zerolog.New(os.Stderr)
	adapter, err := natsengine.New(natsengine.Config{
		URL:     "tls://nats-1.example.com:4222,tls://nats-2.example.com:4222",
		Options: []nats.Option{nats.UserInfo("bennu", os.Getenv("NATS_PASSWORD"))}, // who may use bennu.> needs nothing else
		Prefix:  "bennu",                                                           // another one for each cluster at the same servers
		Name:    "web-1",
		Logger:  &logger,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ps := pubsub.New(adapter) // for socket.Config.PubSub, and presence.New
	fmt.Println(ps.Health().Connected)
	// Output: false
}
