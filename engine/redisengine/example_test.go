package redisengine_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/redisengine"
	"bennu.example/pubsub"
)

// It needs a Redis, and so is compiled only.
func Example() {
	adapter, err := redisengine.New(redisengine.Config{URL: os.Getenv("REDIS_URL")})
	if err != nil {
		fmt.Println(err)
		return
	}
	ps := pubsub.New(adapter) // for socket.Config.PubSub, and presence.New
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ps.Run(ctx) }() // connects, and again whenever the connection is lost

	// Broadcasts reach the subscribers of all nodes, also from a plain HTTP handler or a job.
	if err := ps.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"}); err != nil {
		fmt.Println(err) // this node's subscribers got it; the others may not
	}

	stop() // after the shutdown of the sockets, which has to tell the other nodes
	if err := <-done; err != nil {
		fmt.Println(err)
	}
}

// A user of its own over TLS, by a URL.
func ExampleConfig() {
	logger := zerolog.New(os.Stderr)
	adapter, err := redisengine.New(redisengine.Config{
		URL:    "rediss://bennu:secret@redis.example.com:6379",
		Prefix: "bennu", // another one for each cluster at the same server
		Name:   "web-1",
		Logger: &logger, // gets what an operator should know, never payloads
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(adapter.Health().Connected) // it connects when it is run: see pubsub.PubSub.Run
	// Output: false
}

// What no URL says, such as Sentinels, goes into the Options.
func ExampleConfig_sentinel() {
	adapter, err := redisengine.New(redisengine.Config{Options: rueidis.ClientOption{
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
	fmt.Println(adapter.Health().Connected)
	// Output: false
}
