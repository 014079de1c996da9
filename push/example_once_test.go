package push_test

import (
	"context"
	"fmt"
	"time"

	"bennu.example/push"
)

// The store of one process. Handlers on several nodes need one that they share.
func ExampleNewOnceMemory() {
	store := push.NewOnceMemory(10_000)
	ctx := context.Background()
	mine, _, err := store.Begin(ctx, "ann.1", "node 1", 30*time.Second)
	fmt.Println(mine, err)
	_, err = store.Finish(ctx, "ann.1", "node 1", []byte("stored"), 10*time.Minute)
	fmt.Println(err)
	mine, reply, err := store.Begin(ctx, "ann.1", "node 2", 30*time.Second)
	fmt.Println(mine, string(reply), err)
	// Output:
	// true <nil>
	// <nil>
	// false stored <nil>
}

// Several handlers may share one store.
func ExampleOnceConfig() {
	cfg := push.OnceConfig{Window: 48 * time.Hour, Store: push.NewOnceMemory(0)}
	fmt.Println(cfg.Window)
	// Output: 48h0m0s
}

// ExampleOnceStore shows what channel.Once does with a store.
func ExampleOnceStore() {
	handle := func(ctx context.Context, s push.OnceStore, key, holder string) ([]byte, error) {
		mine, reply, err := s.Begin(ctx, key, holder, 30*time.Second)
		if !mine || err != nil {
			return reply, err // no reply if another holder has the key
		}
		return s.Finish(ctx, key, holder, []byte("the result"), 10*time.Minute)
	}
	store := push.NewOnceMemory(0)
	for range 2 {
		reply, err := handle(context.Background(), store, "ann.1", "holder")
		fmt.Println(string(reply), err)
	}
	// Output:
	// the result <nil>
	// the result <nil>
}
