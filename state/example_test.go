package state_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
)

// A server shares carts. A client of the protocol joins one, changes it, and receives the change.
func Example() {
	ctx := context.Background()
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	carts := objects.Documents(state.Config{
		Allow: func(context.Context, *channel.Channel, state.Access) error { return nil },
	})
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"cart:*": carts}})
	server := httptest.NewServer(h)
	defer server.Close()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, nil)
	client.Connect()
	defer client.Close(ctx)
	cart := client.Channel("cart:42", map[string]any{"$state": map[string]any{"value": map[string]int{"apples": 1}}})
	changes := cart.Events("put")
	if _, err := cart.Join().Wait(ctx); err != nil {
		log.Fatal(err)
	}
	type put struct {
		Rev   uint64         `json:"rev"`
		Value map[string]int `json:"value"`
	}
	change := map[string]any{"value": map[string]any{"pears": map[string]int{"$inc": 2}}}
	if _, err := channel.Call[put](ctx, cart, "merge", change); err != nil {
		log.Fatal(err)
	}
	for m, err := range changes {
		var p put
		if err == nil {
			err = m.Payload.Decode(&p)
		}
		fmt.Println(p.Rev, p.Value, err)
		break
	}
	// Output: 2 map[apples:1 pears:2] <nil>
}

// A program may write an object that clients have joined.
func ExampleObjects_Apply() {
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	ctx := context.Background()
	ops := []state.Op{{Key: "ann", Value: []byte(`3`)}, {Key: "bob", Value: []byte(`5`)}}
	a, err := objects.Apply(ctx, "scores:1", ops, state.Tx{})
	fmt.Println(a.Revs, len(a.Items), err)

	_, err = objects.Apply(ctx, "scores:2", ops, state.Tx{Create: state.ModeExisting})
	fmt.Println(err)

	_, err = objects.Apply(ctx, "scores:1", []state.Op{{Key: "ann", Value: []byte(`4`), If: new(uint64)}}, state.Tx{})
	var conflict *state.ConflictError
	if errors.As(err, &conflict) {
		fmt.Printf("%s has revision %d: %s\n", conflict.Key, conflict.Rev, conflict.Value)
	}
	// Output:
	// [1 2] 2 <nil>
	// state: not found
	// ann has revision 1: 3
}

func ExampleUpdate() {
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	ctx := context.Background()
	type cart struct{ Apples int }
	for range 2 {
		rev, err := state.Update(ctx, objects, "cart:42", "", func(c *cart) error {
			c.Apples++
			return nil
		})
		fmt.Println(rev, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
}

// Everyone may read a board, but a user writes only keys that begin with the user's name.
func ExampleConfig() {
	cfg := state.Config{
		Allow: func(ctx context.Context, c *channel.Channel, a state.Access) error {
			user := "ann" // of the context, as Connect or Verify has set it
			switch a.Action {
			case state.Read, state.Create:
				return nil
			case state.Write:
				if strings.HasPrefix(a.Op.Key, user+"/") {
					return nil
				}
			}
			return state.ErrForbidden
		},
		Limits: state.Limits{Value: 4 << 10, Items: 1000, Rate: 50},
	}
	objects := state.New(state.NewMemory(state.MemoryConfig{MaxBytes: 1 << 30}))
	_ = channel.Routes{"board:*": objects.Maps(cfg)}
	// Output:
}

// A handler may have callbacks of its own, and a value for each channel.
func ExampleSession() {
	type user struct{ name string }
	hello := func(s *state.Session, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
		s.Data = user{"ann"}
		return push.OK(p), nil
	}
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	_ = objects.Maps(state.Config{Options: []channel.Option[state.Session]{channel.On("hello", hello)}})
	// Output:
}

// A copy of an object is brought up to date from its position.
func ExampleMemory_Changes() {
	var store state.Store = state.NewMemory(state.MemoryConfig{})
	ctx := context.Background()
	write := func(ops ...state.Op) history.Position {
		a, err := store.Apply(ctx, "map:1", ops, state.Tx{})
		if err != nil {
			log.Fatal(err)
		}
		return a.Position
	}
	write(state.Op{Key: "a", Value: []byte(`1`)}, state.Op{Key: "b", Value: []byte(`1`)})
	since := write(state.Op{Key: "b", Value: []byte(`2`)})
	write(state.Op{Key: "a", Delete: true}, state.Op{Key: "c", Value: []byte(`1`)})
	write(state.Op{Key: "c", Value: []byte(`2`)})

	page, err := store.Changes(ctx, "map:1", since, state.Range{From: "a", To: "d"}, 100)
	show := func(p state.Page, it state.Item) {
		fmt.Printf("%s=%s%s, more: %v\n", it.Key, it.Value, it.Deleted, p.More)
	}
	for _, it := range page.Items {
		show(page, it)
	}
	fmt.Println(err)
	// Output:
	// a=deleted, more: false
	// c=2, more: false
	// <nil>
}

// audit is a store that prints what changes.
type audit struct{ state.Store }

func (s audit) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	if err := state.Check(ops, tx); err != nil {
		return state.Applied{}, err
	}
	return s.Store.Apply(ctx, object, ops, tx)
}

func (s audit) Run(ctx context.Context, in state.Inbox) error {
	feed := in.Change
	in.Change = func(c state.Change) {
		fmt.Println(c.Object, len(c.Items))
		feed(c)
	}
	return s.Store.Run(ctx, in)
}

// A store may be wrapped. Then Run must be called.
func ExampleStore() {
	ctx, cancel := context.WithCancel(context.Background())
	store := audit{state.NewMemory(state.MemoryConfig{})}
	objects := state.New(store)
	done := make(chan error)
	go func() { done <- objects.Run(ctx) }()
	ready := make(chan error, 1)
	store.Watch("map:1", func(err error) { ready <- err })
	<-ready // Run feeds the store's changes

	_, _ = objects.Apply(ctx, "map:1", []state.Op{{Key: "a", Value: []byte(`1`)}}, state.Tx{})
	large := `"` + strings.Repeat("x", 100) + `"`
	tx := state.Tx{Limits: state.Limits{Value: 50}}
	_, err := objects.Apply(ctx, "map:1", []state.Op{{Key: "a", Value: []byte(large)}}, tx)
	var limit *state.LimitError
	if errors.As(err, &limit) {
		fmt.Println(limit.What, limit.Max, errors.Is(err, state.ErrTooLarge))
	}
	cancel()
	fmt.Println(<-done)
	// Output:
	// map:1 1
	// value 50 true
	// <nil>
}

// A store deletes a key and everything below it as one change. The separator of paths sorts first,
// so that these keys are neighbours.
func ExampleSubtree() {
	sub := state.Subtree("teams")
	for _, key := range []string{"teams", "teams\x01red", "teams-old"} {
		fmt.Println(sub.Has(key))
	}
	ctx := context.Background()
	store := state.NewMemory(state.MemoryConfig{})
	put := func(key string) state.Op { return state.Op{Key: key, Value: []byte(`1`)} }
	_, _ = store.Apply(ctx, "tree:1", []state.Op{put("teams\x01red"), put("teams\x01blue")}, state.Tx{})
	a, err := store.Apply(ctx, "tree:1", []state.Op{{Key: "teams", Delete: true, Under: true}}, state.Tx{})
	fmt.Println(len(a.Items), "deletion,", err)
	// Output:
	// true
	// true
	// false
	// 1 deletion, <nil>
}

// Server code counts a visit in a tree, whose clients see it at "stats/visits".
func ExamplePathKey() {
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	for range 2 {
		_, err := state.Update(context.Background(), objects, "tree:1", state.PathKey("stats/visits"), func(n *int) error {
			*n++
			fmt.Println(*n)
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 1
	// 2
}

// A client subscribes to the result of a query, and receives what enters and leaves it.
func ExampleQuery() {
	ctx := context.Background()
	type player struct {
		Name  string `json:"name"`
		Score int    `json:"score"`
	}
	atLeast := state.Query("at least", func(least int, _ string, p player) bool { return p.Score >= least })
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	maps := objects.Maps(state.Config{Queries: []state.QueryDef{atLeast}})
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"game:*": maps}})
	server := httptest.NewServer(h)
	defer server.Close()
	defer h.Shutdown(ctx)
	put := func(id, value string) {
		if _, err := objects.Apply(ctx, "game:1", []state.Op{{Key: id, Value: []byte(value)}}, state.Tx{}); err != nil {
			log.Fatal(err)
		}
	}
	put("1", `{"name":"ann","score":7}`)
	put("2", `{"name":"bob","score":3}`)

	client := socket.NewClient(server.URL, nil)
	client.Connect()
	defer client.Close(ctx)
	query := map[string]any{"name": "at least", "args": 5}
	game := client.Channel("game:1", map[string]any{"$state": map[string]any{"query": query}})
	changes := game.Events("put", "del")
	reply, err := game.Join().Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	var joined struct {
		State struct{ Items []struct{ Value player } } `json:"$state"`
	}
	fmt.Println(reply.Decode(&joined), joined.State.Items)
	put("2", `{"name":"bob","score":5}`)
	for m, err := range changes {
		var p struct{ Value player }
		if err == nil {
			err = m.Payload.Decode(&p)
		}
		fmt.Println(m.Event, p.Value, err)
		break
	}
	// Output:
	// <nil> [{{ann 7}}]
	// put {bob 5} <nil>
}
