package live

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/testenv/leak"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

func TestMain(m *testing.M) { leak.Main(m) }

const (
	patience = 20 * time.Second
	often    = 50 * time.Millisecond // the interval of summaries in tests
	recheck  = time.Minute           // longer than tests
)

// node is a server with rooms and a page.
type node struct {
	t       testing.TB
	ps      *pubsub.PubSub
	sockets *socket.Handler
	who     *presence.Presence
	page    *Handler
	url     string
	log     *logs
}

// logs is a log that tests can read.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// levels are the values of the header with which the requests of tests state their level.
var levels = map[string]Level{"view": View, "operate": Operate}

// authorize takes the level from a header, or from a cookie that a browser has.
func authorize(r *http.Request) Level {
	if c, err := r.Cookie("level"); err == nil {
		return levels[c.Value]
	}
	return levels[r.Header.Get("X-Level")]
}

// serve starts a node. A nil PubSub means that it is the only one.
func serve(t testing.TB, ps *pubsub.PubSub, change func(*Config)) *node {
	t.Helper()
	if ps == nil {
		ps = pubsub.New(nil)
	}
	n := &node{t: t, ps: ps, log: new(logs)}
	logger := zerolog.New(n.log)
	quiet := zerolog.Nop()
	n.who = presence.New(ps, presence.Config{Logger: &quiet})
	cfg := Config{
		Authorize: authorize, PubSub: ps, Presences: []*presence.Presence{n.who}, Events: true, Logger: &logger,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if n.page, err = newHandler(cfg, often, recheck); err != nil {
		t.Fatal(err)
	}
	n.sockets = socket.NewHandler(socket.Config{
		PubSub: ps, Channels: channel.Routes{"room:*": n.room()}, Hooks: []*socket.Hooks{n.page.Hooks()}, Logger: &quiet,
		OnSlow: transport.DropOldest,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var p struct{ User string }
			err := r.Params.Decode(&p)
			r.ID = p.User
			return ctx, err
		},
	})
	n.page.Watch(n.sockets)
	mux := http.NewServeMux()
	mux.Handle("/socket/", n.sockets)
	mux.Handle("/admin/live/", n.page)
	mux.HandleFunc("/login/{level}", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "level", Value: r.PathValue("level"), Path: "/"})
		http.Redirect(w, r, "/admin/live/", http.StatusSeeOther)
	})
	server := httptest.NewServer(mux)
	n.url = server.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, shutdown := range []func(context.Context) error{n.page.Shutdown, n.sockets.Shutdown} {
			if err := shutdown(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := n.who.Close(ctx); err != nil && ps.Health().Connected {
			t.Error(err)
		}
		server.Close()
	})
	return n
}

// room is a channel that tracks its client, can crash, and broadcasts.
func (n *node) room() *channel.Handler {
	type none struct{}
	return channel.Define(
		func(_ *none, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
			if p.User == "" {
				return nil, nil
			}
			_, err := n.who.Track(c, p.User, map[string]string{"mood": "<b>well</b>"})
			return nil, err
		},
		channel.On("crash",
			func(_ *none, _ context.Context, _ *channel.Channel, p struct{ Text string }) (push.Reply, error) {
				panic(p.Text)
			}),
		channel.On("say", func(_ *none, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("said", p)
		}),
	)
}

// cluster starts nodes that are connected.
func cluster(t *testing.T, names ...string) (nodes []*node) {
	t.Helper()
	all := pubsubtest.NewCluster()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, len(names))
	t.Cleanup(func() { // after the nodes
		stop()
		for range names {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	for _, name := range names {
		engine := all.Node(name)
		ps := pubsub.New(engine)
		go func() { ended <- ps.Run(ctx) }()
		await(t, "the engine", func() bool { return engine.Health().Connected })
		nodes = append(nodes, serve(t, ps, nil))
	}
	return nodes
}

// await waits until a condition holds that another goroutine makes true without an event.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

// join connects a client of the rooms, and joins a topic.
func (n *node) join(user, topic string) (*socket.Client, *channel.Client) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := socket.Dial(ctx, n.url+"/socket", &socket.ClientConfig{Params: map[string]string{"user": user}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { client.Close(context.Background()) })
	c := client.Channel(topic, map[string]string{"user": user})
	if _, err := c.Join().Wait(ctx); err != nil {
		n.t.Fatal(err)
	}
	return client, c
}

// pageClient is what a browser with the page is for the server.
type pageClient struct {
	t         testing.TB
	client    *socket.Client
	live      *channel.Client
	greeting  greeting
	summaries chan *summary
	members   chan *memberList
	views     chan *topicView
}

// open opens the page with a level.
func (n *node) open(level string) *pageClient {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := &socket.ClientConfig{Header: http.Header{"X-Level": {level}}}
	client, err := socket.Dial(ctx, n.url+"/admin/live/socket", cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { client.Close(context.Background()) })
	p := &pageClient{
		t: n.t, client: client, live: client.Channel(topicLive, nil), summaries: make(chan *summary, 1000),
		members: make(chan *memberList, 1000), views: make(chan *topicView, 1000),
	}
	p.live.On(eventSummary, receive(n.t, p.summaries))
	reply, err := p.live.Join().Wait(ctx)
	if err == nil {
		err = reply.Decode(&p.greeting)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// receive returns a function that decodes payloads into a channel, and drops what has no room.
func receive[T any](t testing.TB, to chan<- *T) func(serializer.Payload) {
	return func(p serializer.Payload) {
		v := new(T)
		if err := p.Decode(v); err != nil {
			t.Error(err)
		}
		select {
		case to <- v:
		default:
		}
	}
}

// look opens a topic.
func (p *pageClient) look(topic string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := p.client.Channel(topicPrefix+topic, nil)
	c.On(eventMembers, receive(p.t, p.members))
	c.On("view", receive(p.t, p.views))
	if _, err := c.Join().Wait(ctx); err != nil {
		p.t.Fatal(err)
	}
}

// until receives values until one is wanted, and returns it.
func until[T any](t testing.TB, from <-chan *T, what string, wanted func(*T) bool) *T {
	t.Helper()
	timeout := time.After(patience)
	var last *T
	for {
		select {
		case last = <-from:
			if wanted(last) {
				return last
			}
		case <-timeout:
			t.Fatalf("timeout: %s; the last was %+v", what, last)
		}
	}
}

// act pushes an action, and returns its error.
func (p *pageClient) act(event string, payload any) error {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := p.live.Push(event, payload).Wait(ctx)
	return err
}
