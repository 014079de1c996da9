package offline_test

import (
	"context"
	"fmt"
	"time"

	"bennu.example/offline"
)

// A client stores a push before it sends it, and removes it when it was answered.
func ExampleStore() {
	ctx := context.Background()
	store := offline.NewMemory()
	defer store.Close()
	err := store.Apply(ctx, "ada", []offline.Op{
		{Put: &offline.Entry{Seq: 1, ID: "0193a", Topic: "room:1", Event: "msg", Payload: []byte(`{"body":"hi"}`)}},
		{Put: &offline.Entry{Seq: 2, ID: "0193b", Topic: "room:1", Event: "msg", Payload: []byte(`{"body":"ho"}`)}},
		{Keep: &offline.Mirror{Kind: "$client", Value: []byte("7c9e")}},
	})
	if err == nil {
		err = store.Apply(ctx, "ada", []offline.Op{{Drop: 1}})
	}
	if err == nil {
		err = store.Load(ctx, "ada", func(e offline.Entry, m *offline.Mirror) error {
			if m != nil {
				fmt.Printf("%s is %s\n", m.Kind, m.Value)
			} else {
				fmt.Printf("%d: %s %s %s\n", e.Seq, e.Topic, e.Event, e.Payload)
			}
			return nil
		})
	}
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// $client is 7c9e
	// 2: room:1 msg {"body":"ho"}
}

// The zero value of every field but Store is useful.
func ExampleConfig() {
	cfg := offline.Config{Store: offline.NewMemory(), Identity: "ada", Age: time.Hour}
	fmt.Println(cfg.Identity, cfg.Age)
	// Output: ada 1h0m0s
}

// A policy is a part of every mirror.
func ExamplePolicy() {
	m := offline.Mirror{Topic: "doc:1", Kind: "state", Value: []byte(`{}`), Policy: offline.KeepUpdating}
	fmt.Println(m.Policy)
	// Output: KeepUpdating
}

// A store rejects invalid operations before it applies the first of them.
func ExampleCheck() {
	fmt.Println(offline.Check("ada", []offline.Op{{Drop: 1}, {Drop: 2, Forget: "doc:1"}}))
	// Output: offline: invalid operation 1: 2 fields are set instead of one
}
