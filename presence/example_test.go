package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// A person is one client in a room.
type person struct {
	who  *presence.Presence
	name string
}

type (
	personParams struct{ Name string }
	personMeta   struct {
		Status string `json:"status"`
	}
	personJoined struct{} // to itself: tracking is for those who have joined
)

func (p *person) join(_ context.Context, c *channel.Channel, params personParams) (any, error) {
	p.name = params.Name
	return nil, c.Send(personJoined{})
}

func (p *person) joined(_ context.Context, c *channel.Channel, _ personJoined) error {
	if _, err := p.who.Track(c, p.name, personMeta{"here"}); err != nil {
		return err
	}
	return p.who.Push(c)
}

// A server tracks its clients, and a client shows who comes and goes.
func Example() {
	ctx := context.Background()
	ps := pubsub.New(nil)
	who := presence.New(ps, nil)
	people := channel.Define(
		func(p *person, ctx context.Context, c *channel.Channel, params personParams) (any, error) {
			p.who = who
			return p.join(ctx, c, params)
		},
		channel.Info((*person).joined))
	h := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": people}})
	server := httptest.NewServer(h)
	defer server.Close()
	defer who.Close(ctx)
	defer h.Shutdown(ctx)

	enter := func(name string, follow func(*channel.Client)) func() {
		client, err := socket.Dial(ctx, server.URL, nil)
		if err != nil {
			panic(err)
		}
		room := client.Channel("room:lobby", personParams{name})
		follow(room)
		room.Join()
		return func() { client.Close(ctx) }
	}

	lines := make(chan string)
	leave := enter("ann", func(room *channel.Client) {
		c := presence.NewClient(room, nil)
		c.OnJoin(func(key string, current, joined presence.Entry) {
			metas, err := presence.Metas[personMeta](joined)
			if err != nil || len(current.Metas) > 0 {
				return // one more device, or another status
			}
			lines <- fmt.Sprintf("%s is %s", key, metas[0].Status)
		})
		c.OnLeave(func(key string, current, _ presence.Entry) {
			if len(current.Metas) == 0 {
				lines <- key + " is gone"
			}
		})
	})
	defer leave()
	fmt.Println(<-lines)
	leaveBob := enter("bob", func(*channel.Client) {})
	fmt.Println(<-lines)
	fmt.Println(who.Count("room:lobby"), "in the room")
	leaveBob()
	fmt.Println(<-lines)
	// Output:
	// ann is here
	// bob is here
	// 2 in the room
	// bob is gone
}

// What the database knows of users goes beside their metas, asked for once for all keys of a list or a diff.
func ExampleConfig_fetch() {
	who := presence.New(pubsub.New(nil), &presence.Config{
		Fetch: func(_ context.Context, _ string, keys []string) (map[string]any, error) {
			users := map[string]any{}
			for _, key := range keys {
				users[key] = map[string]string{"name": strings.ToUpper(key)}
			}
			return users, nil
		},
	})
	defer who.Close(context.Background())
	if _, err := who.TrackFor(new(owner), "room:1", "ann", nil); err != nil {
		panic(err)
	}
	e, _ := who.Get("room:1", "ann")
	var user struct{ Name string }
	fmt.Println(e.Decode(&user), user.Name)
	// Output: <nil> ANN
}

// Presence outlives short losses of the connection, tells large rooms what changed once a second, and knows who is online anywhere.
func ExampleConfig_grace() {
	who := presence.New(pubsub.New(nil), &presence.Config{Grace: 15 * time.Second, Window: time.Second, WindowFrom: 200})
	defer who.Close(context.Background())
	o := new(owner)
	for _, key := range []string{"ann", "bob"} {
		if _, err := who.TrackFor(o, "room:1", key, nil); err != nil {
			panic(err)
		}
	}
	o.end() // their connection is lost
	fmt.Println(who.Online("ann", "bob", "cid"))
	// Output: [ann bob]
}

// Merge is for programs that get states and diffs in another way than by a channel of this module.
func ExampleMerge() {
	var s presence.State
	var d presence.Diff
	for payload, v := range map[string]any{
		`{"ann":{"metas":[{"phx_ref":"1"}]}}`:                                                        &s,
		`{"joins":{"bob":{"metas":[{"phx_ref":"2"}]}},"leaves":{"ann":{"metas":[{"phx_ref":"1"}]}}}`: &d,
	} {
		if err := json.Unmarshal([]byte(payload), v); err != nil {
			panic(err)
		}
	}
	s = presence.Merge(s, d,
		func(key string, _, _ presence.Entry) { fmt.Println("+", key) },
		func(key string, _, _ presence.Entry) { fmt.Println("-", key) })
	json.NewEncoder(os.Stdout).Encode(s)
	// Output:
	// + bob
	// - ann
	// {"bob":{"metas":[{"phx_ref":"2"}]}}
}
