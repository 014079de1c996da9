package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// dial starts a server of shared objects, and returns a client that is connected to it.
func dial() (c *socket.Client, stop func()) {
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	cfg := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	rules := history.Rules{"notes:*": {Events: []string{"message"}}}
	h := socket.NewHandler(socket.Config{
		PubSub: pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules),
		Channels: channel.Routes{
			"cart:*": objects.Documents(cfg), "board:*": objects.Maps(cfg), "notes:*": objects.Streams(cfg),
			"todo:*": objects.Lists(cfg), "game:*": objects.Trees(cfg),
		},
	})
	server := httptest.NewServer(h)
	c, err := socket.Dial(context.Background(), server.URL, nil)
	if err != nil {
		panic(err)
	}
	return c, func() {
		_ = c.Close(context.Background())
		_ = h.Shutdown(context.Background())
		server.Close()
	}
}

func ExampleOpenDocument() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()

	type cart struct{ Apples, Pears int }
	d, err := mirror.OpenDocument[cart](ctx, client, "cart:42", &mirror.Options{Value: cart{Apples: 1}})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close(mirror.Forget)
	err = d.Update(ctx, func(c *cart) error {
		c.Pears += 2
		return nil
	})
	value, rev := d.Value()
	fmt.Println(value, rev, err)
	// Output: {1 2} 2 <nil>
}

func ExampleOpenMap() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()

	m, err := mirror.OpenMap[int](ctx, client, "board:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	for i, name := range []string{"bob", "ann", "cid"} {
		if err := m.Set(ctx, name, 10*i); err != nil {
			log.Fatal(err)
		}
	}
	for name, score := range m.All() {
		fmt.Println(name, score)
	}
	// Output:
	// ann 10
	// bob 0
	// cid 20
}

// A loop over the changes has the copy first, and then everything that happens to it.
func ExampleMap_Changes() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	m, err := mirror.OpenMap[int](ctx, client, "board:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	_ = m.Set(ctx, "ann", 3)

	show := func(c mirror.Change[int]) {
		if c.Kind == mirror.Put {
			fmt.Println("put", c.Key, c.Value, c.Old != nil)
		} else {
			fmt.Println(c.Reason, c.Key, *c.Old)
		}
	}
	for c, err := range m.Changes(ctx) {
		var overflow *channel.OverflowError
		switch {
		case errors.As(err, &overflow): // this loop was too slow; Reset and the copy follow
			continue
		case err != nil:
			log.Fatal(err)
		}
		switch c.Kind {
		case mirror.Put:
			show(c)
		case mirror.Delete:
			show(c)
			return
		case mirror.Reset:
			fmt.Println("begin anew")
		case mirror.Synced:
			fmt.Println("complete")
			_ = m.Set(ctx, "ann", 4)
			_ = m.Delete(ctx, "ann")
		}
	}
	// Output:
	// put ann 3 false
	// complete
	// put ann 4 true
	// deleted ann 4
}

// SetIf writes only what the program has seen. Update does this in a loop.
func ExampleConflictError() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	m, err := mirror.OpenMap[string](ctx, client, "board:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	_, rev := m.Get("e4") // zero: nobody has it
	fmt.Println(m.SetIf(ctx, "e4", rev, "ann"))
	err = m.SetIf(ctx, "e4", rev, "bob")
	var conflict *mirror.ConflictError
	if errors.As(err, &conflict) {
		fmt.Printf("%s belongs to %s\n", conflict.Key, conflict.Value)
	}
	// Output:
	// <nil>
	// e4 belongs to "ann"
}

// A batch is applied as a whole or not at all.
func ExampleMap_Batch() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	m, err := mirror.OpenMap[int](ctx, client, "board:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	minute := time.Minute
	keys, err := m.Batch(ctx,
		mirror.Op[int]{Key: "ann", Value: 1, If: new(uint64)}, // if nobody has it
		mirror.Op[int]{Key: "bob", Value: 2, TTL: &minute},
		mirror.Op[int]{Key: "cid", Delete: true},
	)
	fmt.Println(keys, m.Len(), err)
	_, err = m.Batch(ctx, mirror.Op[int]{Key: "bob", Value: 5}, mirror.Op[int]{Key: "ann", Value: 1, If: new(uint64)})
	bob, _ := m.Get("bob")
	fmt.Println(bob, err)
	// Output:
	// [ann bob cid] 2 <nil>
	// 2 mirror: batch to board:1: mirror: conflict: the item has revision 1
}

// A server limits what clients write.
func ExampleLimitError() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	d, err := mirror.OpenDocument[[]byte](ctx, client, "cart:42", nil)
	if err != nil {
		log.Fatal(err)
	}
	err = d.Set(ctx, make([]byte, 100_000))
	var limit *mirror.LimitError
	if errors.As(err, &limit) {
		fmt.Println(limit.Max, errors.Is(err, mirror.ErrTooLarge), limit.After)
	}
	// Output: 65536 true 0s
}

// A program that starts again continues where it was.
func ExampleMirror_Save() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	m, err := mirror.OpenMap[int](ctx, client, "board:1", &mirror.Options{Mode: mirror.New, Prefix: "a"})
	if err != nil {
		log.Fatal(err)
	}
	_ = m.Set(ctx, "ann", 1)
	saved, err := m.Save() // for a file
	if err != nil {
		log.Fatal(err)
	}
	m.Close(mirror.Forget)

	m, err = mirror.OpenMap[int](ctx, client, "board:1", &mirror.Options{Prefix: "a", Restore: saved})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Len(), m.Synced())
	// Output: 1 true
}

// Close with Keep leaves the topic. The copy can still be read.
func ExampleMirror_Close() {
	client, stop := dial()
	defer stop()
	d, err := mirror.OpenDocument[string](context.Background(), client, "cart:42", &mirror.Options{Value: "pears"})
	if err != nil {
		log.Fatal(err)
	}
	d.Close(mirror.Keep)
	value, _ := d.Value()
	fmt.Println(value, d.Stale())
	// Output: pears true
}

// Any client that makes channels can open mirrors.
func ExampleOpener() {
	client := socket.NewClient("ws://localhost:4000/socket", nil) // not connected yet
	defer client.Close(context.Background())
	var o mirror.Opener = client
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := mirror.OpenDocument[int](ctx, o, "cart:42", nil)
	fmt.Println(err)
	// Output: mirror: open cart:42: context deadline exceeded
}

func ExampleOpenList() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()

	l, err := mirror.OpenList[string](ctx, client, "todo:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	milk, _ := l.Append(ctx, "milk")
	bread, _ := l.Append(ctx, "bread")
	_, _ = l.Insert(ctx, milk, "eggs")
	if _, err := l.Move(ctx, bread, ""); err != nil {
		log.Fatal(err)
	}
	for _, v := range l.All() {
		fmt.Println(v)
	}
	// Output:
	// bread
	// milk
	// eggs
}

func ExampleOpenTree() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()

	game, err := mirror.OpenTree(ctx, client, "game:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	type player struct {
		Name  string `json:"name"`
		Score int    `json:"score"`
	}
	players := game.At("players")
	_ = players.At("ann").Set(ctx, player{"Ann", 3})
	_ = players.Merge(ctx, map[string]any{"bob": player{"Bob", 5}, "ann/score": 4})
	if err := mirror.Update(ctx, players.At("ann/score"), func(n *int) error { *n *= 2; return nil }); err != nil {
		log.Fatal(err)
	}
	for _, name := range players.Children() {
		var p player
		exists, err := players.At(name).Value(&p)
		fmt.Println(name, p.Score, exists, err)
	}
	// Output:
	// ann 8 true <nil>
	// bob 5 true <nil>
}

// A loop over the values of a node has the whole value after each change below it.
func ExampleNode_Watch() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	game, err := mirror.OpenTree(ctx, client, "game:1", nil)
	if err != nil {
		log.Fatal(err)
	}
	_ = game.At("round").Set(ctx, map[string]int{"number": 1})
	for value, err := range game.At("round").Watch(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(value))
		if string(value) == `{"number":2}` {
			break
		}
		_ = game.At("round/number").Set(ctx, 2)
	}
	// Output:
	// {"number":1}
	// {"number":2}
}

// A program adds up the numbers of a stream. One that begins later has the sum from the snapshot.
func ExampleOpenStream() {
	client, stop := dial()
	defer stop()
	ctx := context.Background()
	numbers, err := mirror.OpenStream[int](ctx, client, "notes:1", history.Position{})
	if err != nil {
		log.Fatal(err)
	}
	defer numbers.Close()
	for n := 1; n <= 3; n++ {
		if _, err := numbers.Publish(ctx, n); err != nil {
			log.Fatal(err)
		}
	}
	sum := 0
	add := func(m mirror.Message[int]) {
		if m.Reset {
			sum = 0 // and Value is the snapshot, if there is one
		}
		sum += m.Value
	}
	for m, err := range numbers.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if add(m); m.Value == 3 {
			fmt.Println(sum, numbers.Snapshot(ctx, m.Position, sum))
			break
		}
	}
	// Output: 6 <nil>
}
