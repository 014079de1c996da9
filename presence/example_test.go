package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
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
	personJoined struct{} // sent to itself, because nothing can be pushed before the join is answered
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

// A server tracks its clients, and a client prints who joins and leaves.
func Example() {
	ctx := context.Background()
	ps := pubsub.New(nil)
	who := presence.New(ps, presence.Config{})
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
				return // another device or another status
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

// Fetch adds fields from a database to the entries. It is called once for all keys of a list or
// diff.
func ExampleConfig_fetch() {
	who := presence.New(pubsub.New(nil), presence.Config{
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

// Grace keeps presences across short losses of the connection. Window merges the diffs of large
// rooms.
func ExampleConfig_grace() {
	who := presence.New(pubsub.New(nil), presence.Config{
		Grace:      15 * time.Second,
		Window:     time.Second, // at most one diff per second
		WindowFrom: 200,         // in rooms with this many keys or more
	})
	defer who.Close(context.Background())
	o := new(owner)
	for _, key := range []string{"ann", "bob"} {
		if _, err := who.TrackFor(o, "room:1", key, nil); err != nil {
			panic(err)
		}
	}
	o.end() // as if the connection were lost
	fmt.Println(who.Online("ann", "bob", "cid"))
	// Output: [ann bob]
}

// Merge is for programs that receive states and diffs without a channel of this module.
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

// serveRoom runs a server and joins a client to room:lobby. It calls follow before the join.
func serveRoom(
	cfg presence.Config, handler func(who *presence.Presence) *channel.Handler, follow func(*channel.Client),
) (end func()) {
	ctx := context.Background()
	ps := pubsub.New(nil)
	who := presence.New(ps, cfg)
	h := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": handler(who)}})
	server := httptest.NewServer(h)
	client := socket.NewClient(server.URL, nil)
	client.Connect()
	room := client.Channel("room:lobby", personParams{"ann"})
	follow(room)
	room.Join()
	return func() {
		client.Close(ctx)
		h.Shutdown(ctx)
		who.Close(ctx)
		server.Close()
	}
}

// people returns a handler whose clients can change their status.
func people(who *presence.Presence) *channel.Handler {
	return channel.Define(
		func(p *person, ctx context.Context, c *channel.Channel, params personParams) (any, error) {
			p.who = who
			return p.join(ctx, c, params)
		},
		channel.Info((*person).joined),
		channel.On("status", (*person).status))
}

func (p *person) status(_ context.Context, c *channel.Channel, status string) (push.Reply, error) {
	_, err := presence.Change(p.who, c, p.name, func(m *personMeta) { m.Status = status })
	if errors.Is(err, presence.ErrNotTracked) {
		return push.NoReply, push.Reject("not here")
	}
	return push.OK(nil), err
}

// Change modifies a part of a meta in one step, even if others change it at the same time.
func ExampleChange() {
	statuses := make(chan string, 10)
	var room *channel.Client
	end := serveRoom(presence.Config{}, people, func(c *channel.Client) {
		room = c
		list := presence.NewClient(c, nil)
		shown := ""
		list.OnSync(func() {
			ann, _ := list.Get("ann")
			metas, err := presence.Metas[personMeta](ann)
			if err != nil || len(metas) != 1 || metas[0].Status == shown {
				return
			}
			shown = metas[0].Status
			statuses <- shown
		})
	})
	defer end()
	fmt.Println(<-statuses)
	room.Push("status", "away")
	fmt.Println(<-statuses)
	// Output:
	// here
	// away
}

// An update is a join and a leave of one key. OnUpdate has both metas.
func ExampleClient_OnUpdate() {
	updates := make(chan string, 10)
	var room *channel.Client
	end := serveRoom(presence.Config{}, people, func(c *channel.Client) {
		room = c
		presence.NewClient(c, nil).OnUpdate(func(key string, _ presence.Entry, old, updated presence.Meta) {
			var before, after personMeta
			if errors.Join(old.Decode(&before), updated.Decode(&after)) == nil {
				updates <- fmt.Sprint(key, " was ", before.Status, " and is ", after.Status)
			}
		})
	})
	defer end()
	room.Push("status", "away")
	fmt.Println(<-updates)
	// Output: ann was here and is away
}

// A program that displays the list draws it again in OnSync.
func ExampleClient_OnSync() {
	lists := make(chan string, 10)
	end := serveRoom(presence.Config{}, people, func(room *channel.Client) {
		c := presence.NewClient(room, nil)
		c.OnSync(func() {
			var keys []string
			for key, e := range c.All() { // in the order in which they joined
				keys = append(keys, fmt.Sprint(key, " by ", len(e.Metas)))
			}
			if c.Synced() {
				lists <- strings.Join(keys, ", ")
			}
		})
	})
	defer end()
	fmt.Println(<-lists)
	// Output: ann by 1
}

// A presence is tracked after the join. It ends with its channel, or earlier with Untrack.
func ExamplePresence_Track() {
	type left struct{}
	news := make(chan string, 10)
	end := serveRoom(presence.Config{}, func(who *presence.Presence) *channel.Handler {
		return channel.Define(
			func(p *person, ctx context.Context, c *channel.Channel, params personParams) (any, error) {
				return p.join(ctx, c, params)
			},
			channel.Info(func(p *person, _ context.Context, c *channel.Channel, _ personJoined) error {
				if err := who.Push(c); err != nil { // the presences so far
					return err
				}
				if _, err := who.Track(c, p.name, personMeta{"here"}); err != nil {
					return err
				}
				return c.Send(left{})
			}),
			channel.Info(func(p *person, _ context.Context, c *channel.Channel, _ left) error {
				who.Untrack(c, p.name)
				return nil
			}))
	}, func(room *channel.Client) {
		c := presence.NewClient(room, nil)
		c.OnJoin(func(key string, _, _ presence.Entry) { news <- key + " came" })
		c.OnLeave(func(key string, _, _ presence.Entry) { news <- key + " left" })
	})
	defer end()
	fmt.Println(<-news)
	fmt.Println(<-news)
	// Output:
	// ann came
	// ann left
}

// job is an Owner that is not a channel.
type job struct {
	mu    sync.Mutex
	over  bool
	onEnd []func()
}

func (j *job) OnEnd(f func()) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return false
	}
	j.onEnd = append(j.onEnd, f)
	return true
}

func (j *job) finish() {
	j.mu.Lock()
	over, fs := j.over, j.onEnd
	j.over = true
	j.mu.Unlock()
	if over {
		return
	}
	for _, f := range fs {
		f()
	}
}

// An Owner can be anything that ends once, such as a job on the topic of those who watch it.
func ExampleOwner() {
	who := presence.New(pubsub.New(nil), presence.Config{})
	defer who.Close(context.Background())
	j := new(job)
	if _, err := who.TrackFor(j, "jobs", "backup", map[string]int{"percent": 0}); err != nil {
		fmt.Println(err)
		return
	}
	_, err := presence.ChangeFor(who, j, "jobs", "backup", func(meta *map[string]any) {
		(*meta)["percent"] = 50
	})
	if err != nil {
		fmt.Println(err)
	}
	e, _ := who.Get("jobs", "backup")
	metas, err := presence.Metas[struct{ Percent int }](e)
	fmt.Println(metas, err)
	j.finish()
	fmt.Println(who.Count("jobs"))
	// Output:
	// [{50}] <nil>
	// 0
}

// Online searches all topics, Count and Get search one. All include the presences of other nodes.
func ExamplePresence_Online() {
	who := presence.New(pubsub.New(nil), presence.Config{})
	defer who.Close(context.Background())
	for topic, key := range map[string]string{"room:1": "ann", "room:2": "bob"} {
		if _, err := who.TrackFor(new(owner), topic, key, nil); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(who.Online("ann", "bob", "cid"))
	fmt.Println(who.Count("room:1"))
	_, there := who.Get("room:1", "bob")
	fmt.Println(there)
	// Output:
	// [ann bob]
	// 1
	// false
}

// A topic with thousands of keys is displayed in pages. No key is on two of them, even if others
// join and leave meanwhile.
func ExamplePresence_Page() {
	who := presence.New(pubsub.New(nil), presence.Config{})
	defer who.Close(context.Background())
	for _, key := range []string{"ann", "bob", "cid", "dan", "eve"} {
		if _, err := who.TrackFor(new(owner), "stadium", key, nil); err != nil {
			fmt.Println(err)
		}
	}
	for cursor := ""; ; {
		page, next := who.Page("stadium", cursor, 2)
		var keys []string
		for key := range page.All() {
			keys = append(keys, key)
		}
		fmt.Println(keys)
		if next == "" {
			break
		}
		cursor = next
	}
	// Output:
	// [ann bob]
	// [cid dan]
	// [eve]
}

// OnDiff is called with every diff. This server reacts when a room becomes empty.
func ExampleConfig_onDiff() {
	empty := make(chan string, 1)
	who := presence.New(pubsub.New(nil), presence.Config{
		OnDiff: func(topic string, _ presence.Diff, now presence.State) {
			if now.Len() == 0 {
				empty <- topic
			}
		},
	})
	defer who.Close(context.Background())
	o := new(owner)
	if _, err := who.TrackFor(o, "room:1", "ann", nil); err != nil {
		fmt.Println(err)
	}
	o.end()
	fmt.Println(<-empty, "is empty")
	// Output: room:1 is empty
}

// A State keeps the order in which keys joined. Its JSON form is that of Phoenix.
func ExampleState() {
	var s presence.State
	const raw = `{"bob":{"metas":[{"phx_ref":"1","device":"phone"},{"phx_ref":"2","device":"desk"}]}}`
	err := json.Unmarshal([]byte(raw), &s)
	if err != nil {
		fmt.Println(err)
		return
	}
	for key, e := range s.All() {
		for _, m := range e.Metas {
			var meta struct{ Device string }
			if err := m.Decode(&meta); err != nil {
				fmt.Println(err)
			}
			fmt.Println(key, "by", meta.Device, "as", m.Ref)
		}
	}
	// Output:
	// bob by phone as 1
	// bob by desk as 2
}

// A meta decodes into the type that was tracked. Its Ref changes with every update.
func ExampleMeta_Decode() {
	who := presence.New(pubsub.New(nil), presence.Config{})
	defer who.Close(context.Background())
	ref, err := who.TrackFor(new(owner), "room:1", "ann", personMeta{"here"})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, _ := who.Get("room:1", "ann")
	var m presence.Meta = e.Metas[0]
	var meta personMeta
	fmt.Println(m.Decode(&meta), meta.Status, m.Ref == ref)
	// Output: <nil> here true
}

// Sync computes the differences to a new state, such as the one after a lost connection.
func ExampleSync() {
	var before, after presence.State
	for raw, s := range map[string]*presence.State{
		`{"ann":{"metas":[{"phx_ref":"1"}]},"bob":{"metas":[{"phx_ref":"2"}]}}`: &before,
		`{"bob":{"metas":[{"phx_ref":"2"}]},"cid":{"metas":[{"phx_ref":"3"}]}}`: &after,
	} {
		if err := json.Unmarshal([]byte(raw), s); err != nil {
			fmt.Println(err)
		}
	}
	now := presence.Sync(before, after,
		func(key string, _, _ presence.Entry) { fmt.Println("+", key) },
		func(key string, _, _ presence.Entry) { fmt.Println("-", key) })
	fmt.Println(now.Len())
	// Output:
	// + cid
	// - ann
	// 2
}

// Nodes with an adapter list each other's presences.
func ExampleNew() {
	engine := pubsubtest.NewCluster() // a program would use natsengine or redisengine
	ctx, stop := context.WithCancel(context.Background())
	left := make(chan error)
	var nodes []*presence.Presence
	news := make(chan string, 10)
	for _, name := range []string{"web-1", "web-2"} {
		ps := pubsub.New(engine.Node(name))
		go func() { left <- ps.Run(ctx) }()
		for !ps.Health().Connected {
			runtime.Gosched()
		}
		nodes = append(nodes, presence.New(ps, presence.Config{
			Node: name, // after a restart, the presences of the previous process leave at once
			OnDiff: func(topic string, d presence.Diff, _ presence.State) {
				news <- fmt.Sprint(name, " knows ", d.Joins.Len())
			},
		}))
	}
	if _, err := nodes[0].TrackFor(new(owner), "room:1", "ann", nil); err != nil {
		fmt.Println(err)
	}
	fmt.Println(<-news)
	fmt.Println(<-news)
	fmt.Println(nodes[1].Count("room:1"))

	for _, who := range nodes {
		if err := who.Close(ctx); err != nil { // notifies the others through the engine
			fmt.Println(err)
		}
	}
	stop()
	<-left
	<-left
	// Unordered output:
	// web-1 knows 1
	// web-2 knows 1
	// 1
}

// Hooks count the diffs and what they cost: each is sent to every subscriber.
func ExampleHooks() {
	sent := 0
	p := presence.New(pubsub.New(nil), presence.Config{Hooks: []*presence.Hooks{{
		Tracked: func(op, topic, key string, err error) { fmt.Println(op, key, "on", topic, err) },
		Diff:    func(_ string, _, _, subscribers int) { sent += subscribers },
	}}})
	defer p.Close(context.Background())
	if _, err := p.TrackFor(new(job), "room:lobby", "ann", nil); err != nil {
		fmt.Println(err)
	}
	// Output: track ann on room:lobby <nil>
}
