package embedded_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/natsengine"
	"bennu.example/engine/natsengine/embedded"
	"bennu.example/history"
	"bennu.example/serializer"
)

// A process keeps the history of its topics in a directory.
func Example() {
	dir, err := os.MkdirTemp("", "nats")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	srv, err := embedded.Start(embedded.Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	engine, err := natsengine.New(natsengine.Config{Options: []nats.Option{srv.Option()}})
	if err != nil {
		fmt.Println(err)
		return
	}

	// PubSub does the rest: pubsub.NewRecorded(engine.Adapter(), engine.History(), rules).
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error)
	go func() { done <- engine.History().Run(ctx, history.Inbox{}) }()
	for !engine.History().Health().Connected && ctx.Err() == nil {
		runtime.Gosched()
	}
	_, err = engine.History().Append(ctx, "room:lobby", history.Record{
		Event: "new_msg", Payload: serializer.Value(map[string]string{"body": "hello"}),
	}, history.Keep{})
	fmt.Println(err)
	page, err := engine.History().Before(ctx, "room:lobby", history.Position{}, 10)
	fmt.Println(len(page.Records), string(page.Records[0].Payload.Bytes()), err)
	stop()
	fmt.Println(<-done)
	// Output:
	// <nil>
	// 1 {"body":"hello"} <nil>
	// <nil>
}

// Other nodes connect to the server by TCP. A record is on disk before it is delivered.
func ExampleConfig() {
	cfg := embedded.Config{Dir: "/var/lib/app/nats", Sync: true, Addr: "10.0.0.1:4222"}
	fmt.Println(cfg.Addr)
	// Output: 10.0.0.1:4222
}

func ExampleServer() {
	dir, err := os.MkdirTemp("", "nats")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	srv, err := embedded.Start(embedded.Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%q\n", srv.Addr()) // only this process can connect
	srv.Close()
	// Output: ""
}

func ExampleStart() {
	_, err := embedded.Start(embedded.Config{})
	fmt.Println(err)
	// Output: embedded: no directory
}
