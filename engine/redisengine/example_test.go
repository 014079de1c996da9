package redisengine_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/state"
)

// This example needs a Redis server, so it is only compiled.
func Example() {
	engine, err := redisengine.New(redisengine.Config{URL: os.Getenv("REDIS_URL")})
	if err != nil {
		fmt.Println(err)
		return
	}
	ps := pubsub.New(engine.Adapter()) // for socket.Config.PubSub and presence.New
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ps.Run(ctx) }() // connects, and reconnects when the connection is lost

	// A broadcast reaches the subscribers of all nodes. Any code may send it, such as a plain HTTP
	// handler or a job.
	if err := ps.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"}); err != nil {
		fmt.Println(err) // the subscribers of other nodes may not receive it
	}

	stop() // call it after Handler.Shutdown, which still notifies the other nodes
	if err := <-done; err != nil {
		fmt.Println(err)
	}
}

// Nodes that share objects at Redis. This example needs a Redis server, so it is only compiled.
func ExampleEngine_State() {
	engine, err := redisengine.New(redisengine.Config{URL: os.Getenv("REDIS_URL")})
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

// Nodes that share at Redis what channel.Once has seen: a push is handled once, whichever nodes
// receive it. This example needs a Redis server, so it is only compiled.
func ExampleEngine_Once() {
	engine, err := redisengine.New(redisengine.Config{URL: os.Getenv("REDIS_URL")})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The store has a connection while the PubSub of the adapter runs.
	cfg := push.OnceConfig{Window: 48 * time.Hour, Store: engine.Once()}
	_ = channel.Once[struct{}](cfg) // an option of channel.Define
}

// A cluster that keeps the history of its rooms at Redis. This example needs a Redis server, so it
// is only compiled.
func ExampleEngine_History() {
	engine, err := redisengine.New(redisengine.Config{URL: os.Getenv("REDIS_URL"), Wait: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	rules := history.Rules{"room:*": {Events: []string{"new_msg"}}}
	ps := pubsub.NewRecorded(engine.Adapter(), engine.History(), rules)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ps.Run(ctx) }()

	// A client of any node that is away now receives the event when it returns.
	if err := ps.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"}); err != nil {
		fmt.Println(err)
	}

	stop()
	if err := <-done; err != nil {
		fmt.Println(err)
	}
}

// A separate user over TLS, configured by a URL.
func ExampleConfig() {
	logger := zerolog.New(os.Stderr)
	engine, err := redisengine.New(redisengine.Config{
		URL:    "rediss://bennu:secret@redis.example.com:6379",
		Prefix: "bennu", // a different one for each cluster at the same server
		Name:   "web-1",
		Logger: &logger,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(engine.Adapter().Health().Connected) // PubSub.Run connects
	// Output: false
}

// A configuration by Options, here with Sentinels and TLS.
func ExampleConfig_sentinel() {
	engine, err := redisengine.New(redisengine.Config{Options: rueidis.ClientOption{
		InitAddress: []string{"sentinel-1.example.com:26379", "sentinel-2.example.com:26379"},
		Sentinel:    rueidis.SentinelOption{MasterSet: "main"},
		Username:    "bennu",
		Password:    os.Getenv("REDIS_PASSWORD"),
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(engine.Adapter().Health().Connected)
	// Output: false
}
