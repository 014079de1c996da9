package will_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/serializer"
	"bennu.example/will"
)

// A will is claimed after the end of its connection. A newer connection of the client would have
// deleted it.
func ExampleStore() {
	ctx := context.Background()
	store := will.NewMemory()
	ann := will.Connection{ID: "connection-1", Subject: "ann", ClientID: "0123456789abcdef"}
	w := will.Will{
		ID: "will-1", Topic: "room:1", Event: "gone", Payload: serializer.Value(map[string]string{"user": "ann"}),
		Connection: ann, Node: "node-1",
	}
	if err := store.Put(ctx, w); err != nil {
		fmt.Println(err)
	}
	if err := store.End(ctx, w.Topic, ann, w.ID); err != nil {
		fmt.Println(err)
	}
	due, err := store.Claim(ctx, 10, time.Minute)
	for _, w := range due {
		fmt.Println(w.Topic, w.Event, w.Connection.Subject)
		err = errors.Join(err, store.Delete(ctx, w.Topic, w.Connection, w.ID))
	}
	fmt.Println(err)
	// Output:
	// room:1 gone ann
	// <nil>
}

// A newer connection of a client deletes the wills of the older ones, which can set no more.
func ExampleConnection() {
	ctx := context.Background()
	store := will.NewMemory()
	older := will.Connection{ID: "connection-1", ClientID: "0123456789abcdef", Order: 1}
	newer := will.Connection{ID: "connection-2", ClientID: "0123456789abcdef", Order: 2}
	for _, c := range []will.Connection{older, newer} {
		if _, err := store.Arrive(ctx, "room:1", c); err != nil {
			fmt.Println(err)
		}
	}
	err := store.Put(ctx, will.Will{ID: "will-1", Topic: "room:1", Event: "gone", Connection: older, Node: "node-1"})
	fmt.Println(errors.Is(err, will.ErrFenced))
	// Output: true
}

// Handlers of one process may share a memory. A Handler without a store of its own has one.
func ExampleNewMemory() {
	store := will.NewMemory()
	kept, err := store.Lease(context.Background(), "node-1", time.Minute)
	fmt.Println(kept, err)
	// Output: false <nil>
}

// slowTable is a table that reports how long the database takes.
type slowTable struct{ will.Table }

func (t slowTable) Get(ctx context.Context, key string) (will.Entry, error) {
	begun := time.Now()
	defer func() { _ = time.Since(begun) }()
	return t.Table.Get(ctx, key)
}

// A database becomes a Store if it can compare and swap.
func ExampleNewStore() {
	var database will.Table // of your own
	store := will.NewStore(slowTable{database}, 0)
	fmt.Println(store != nil)
	// Output: true
}

// The wills that a process has saved are due when the next one starts.
func ExampleNewLocal() {
	disk := make(map[string][]byte)
	save := func(key string, value []byte) error {
		if value == nil {
			delete(disk, key)
		} else {
			disk[key] = value
		}
		return nil
	}
	ctx := context.Background()
	store, err := will.NewLocal(nil, save, 0)
	if err == nil {
		c := will.Connection{ID: "connection-1", ClientID: "0123456789abcdef"}
		err = store.Put(ctx, will.Will{ID: "will-1", Topic: "room:1", Event: "gone", Connection: c, Node: "node-1"})
	}
	fmt.Println(len(disk), err)

	store, err = will.NewLocal(disk, save, 0) // in the next process
	if err == nil {
		err = store.Expire(ctx)
	}
	due, claimErr := store.Claim(ctx, 10, time.Minute)
	fmt.Println(len(due), errors.Join(err, claimErr))
	// Output:
	// 1 <nil>
	// 1 <nil>
}

// The entry of a key has an index by time and one by node.
func ExampleEntry() {
	e := will.Entry{Value: []byte("{}"), At: time.Unix(0, 0), Nodes: []string{"node-1"}}
	fmt.Println(len(e.Value), e.At.Unix(), e.Nodes)
	// Output: 2 0 [node-1]
}

// When a lease has ended, the wills of its node become due.
func ExampleLease() {
	l := will.Lease{Node: "node-1", End: time.Unix(60, 0)}
	fmt.Println(l.Node, l.End.Unix())
	// Output: node-1 60
}
