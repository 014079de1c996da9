package redispubsub_test

import (
	"context"
	"log"
	"os"

	"bennu.example/pubsub"
	"bennu.example/pubsub/redispubsub"
)

func Example() {
	adapter, err := redispubsub.New(redispubsub.Config{URL: os.Getenv("REDIS_URL")})
	if err != nil {
		log.Fatal(err)
	}
	ps := pubsub.New(adapter)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ps.Run(ctx) }()

	// Broadcasts reach the subscribers of all nodes, also from a plain HTTP handler or a job.
	if err := ps.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"}); err != nil {
		log.Print(err)
	}

	stop()
	<-done
}
