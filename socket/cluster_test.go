package socket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// clusterNode is one node of a cluster with its handler.
type clusterNode struct {
	*socket.Handler
	at  *pubsubtest.Node
	die func() // cuts it off from the cluster
}

// newClusterNode returns a node that runs until die is called.
func newClusterNode(t testing.TB, c *pubsubtest.Cluster, cfg socket.Config) *clusterNode {
	n := &clusterNode{at: c.Node("node")}
	cfg.PubSub, n.die = runPubSub(t, n.at)
	cfg.LongPoll.Secret = []byte("shared")
	if cfg.Channels == nil {
		cfg.Channels = channel.Routes{"room:*": echoes()}
	}
	logger := zerolog.New(t.Output()).Level(zerolog.WarnLevel)
	cfg.Logger = &logger
	n.Handler = socket.NewHandler(cfg)
	return n
}

// runPubSub runs a PubSub until stop is called or the test ends.
func runPubSub(t testing.TB, a pubsub.Adapter) (ps *pubsub.PubSub, stop func()) {
	ps = pubsub.New(a)
	stop = pubsubtest.Start(t, ps)
	for !ps.Health().Connected {
		runtime.Gosched()
	}
	return ps, stop
}

// balancer forwards each request of a client to a random live node.
type balancer struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []*clusterNode
	served map[*clusterNode]int
}

func newBalancer(nodes ...*clusterNode) *balancer {
	return &balancer{random: rand.New(rand.NewPCG(1, 2)), nodes: nodes, served: make(map[*clusterNode]int)}
}

func (b *balancer) use(nodes ...*clusterNode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = nodes
}

func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	n := b.nodes[b.random.IntN(len(b.nodes))]
	b.served[n]++
	b.mu.Unlock()
	w := httptest.NewRecorder()
	n.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (b *balancer) client() *socket.Client {
	return socket.NewClient("http://cluster/socket", &socket.ClientConfig{
		Transport: socket.TransportLongPoll, HTTPClient: &http.Client{Transport: b},
	})
}

func (b *balancer) end(t *testing.T, clients []*socket.Client, nodes ...*clusterNode) {
	for _, c := range clients {
		_ = c.Close(t.Context())
	}
	for _, n := range nodes {
		if err := n.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		n.die()
	}
}

// said is the payload of broadcasts in a room.
type said struct{ By, N int }

// TestClusterLongPoll has clients whose requests go to different nodes. Every broadcast must arrive
// once and in order.
func TestClusterLongPoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clients, shouts = 6, 40
		cluster := pubsubtest.NewCluster()
		nodes := []*clusterNode{
			newClusterNode(t, cluster, socket.Config{}), newClusterNode(t, cluster, socket.Config{}),
			newClusterNode(t, cluster, socket.Config{}),
		}
		b := newBalancer(nodes...)
		var all []*socket.Client
		var mu sync.Mutex
		received := map[[2]int][]int{} // by receiver and sender
		var rooms []*channel.Client
		for i := range clients {
			c := b.client()
			all = append(all, c)
			room := c.Channel("room:tea", nil)
			room.On("shout", func(p serializer.Payload) {
				var said said
				if err := p.Decode(&said); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				received[[2]int{i, said.By}] = append(received[[2]int{i, said.By}], said.N)
			})
			c.Connect()
			if _, err := room.Join().Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, room)
		}
		var talk sync.WaitGroup
		for i, room := range rooms {
			talk.Go(func() {
				for n := range shouts {
					room.Push("shout", said{i, n})
					if n%5 > 0 {
						continue
					}
					var back int
					if p, err := room.Push("echo", n).Wait(t.Context()); err != nil || p.Decode(&back) != nil || back != n {
						t.Errorf("client %d: echo of %d is %d, %v", i, n, back, err)
					}
				}
			})
		}
		talk.Wait()
		time.Sleep(time.Second)
		b.end(t, all, nodes...)
		for i := range clients {
			for j := range clients {
				got := received[[2]int{i, j}]
				for n, v := range got {
					if n != v {
						t.Fatalf("client %d received of %d: %v", i, j, got)
					}
				}
				if len(got) != shouts {
					t.Errorf("client %d received %d shouts of %d", i, len(got), j)
				}
			}
		}
		for _, c := range all {
			if n := c.Stats().Connections; n != 1 {
				t.Errorf("%d connections", n)
			}
		}
		for _, n := range nodes {
			if b.served[n] < 20 {
				t.Errorf("a node served %d requests", b.served[n])
			}
		}
	})
}

// TestClusterLongPollNodeDies checks that a client reconnects when its session's node dies, is cut
// off, or returns.
func TestClusterLongPollNodeDies(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(c *pubsubtest.Cluster, b *balancer, home, other *clusterNode){
		"dies": func(_ *pubsubtest.Cluster, b *balancer, home, other *clusterNode) {
			b.use(other)
			home.die()
		},
		"drains": func(_ *pubsubtest.Cluster, b *balancer, home, other *clusterNode) {
			b.use(other)
			_ = home.Shutdown(context.Background())
		},
		"is cut off": func(c *pubsubtest.Cluster, _ *balancer, home, other *clusterNode) {
			c.Cut(home.at, other.at)
			time.Sleep(15 * time.Second)
			c.Heal()
		},
		"loses the engine": func(c *pubsubtest.Cluster, _ *balancer, _, _ *clusterNode) {
			c.Stop()
			time.Sleep(15 * time.Second)
			c.Start()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			cluster := pubsubtest.NewCluster()
			home, other := newClusterNode(t, cluster, socket.Config{}), newClusterNode(t, cluster, socket.Config{})
			b := newBalancer(home)
			c := b.client()
			room := c.Channel("room:tea", nil)
			c.Connect()
			if _, err := room.Join().Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.use(home, other)
			done := make(chan struct{})
			go func() {
				defer close(done)
				fail(cluster, b, home, other)
			}()
			echo := func() error {
				_, err := room.PushWithTimeout("echo", 1, time.Second).Wait(t.Context())
				return err
			}
			for failing := true; failing; { // the client keeps pushing
				_ = echo()
				select {
				case <-done:
					failing = false
				case <-time.After(100 * time.Millisecond):
				}
			}
			start := time.Now()
			for err := echo(); err != nil; err = echo() {
				if time.Since(start) > 20*time.Second {
					t.Fatalf("a node that %s: still %v", name, err)
				}
			}
			t.Logf("a node that %s: a reply %v after the end", name, time.Since(start))
			b.end(t, []*socket.Client{c}, home, other)
		})
	}
}

// TestLongPollSessionsOfOneHandler checks that a handler answers 410 immediately for the session of
// another one, without an adapter and without a secret.
func TestLongPollSessionsOfOneHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps, stop := runPubSub(t, pubsubtest.NewCluster().Node("a"))
		shared := longpoll.Config{Secret: []byte("shared")}
		for _, cfg := range []socket.Config{{LongPoll: shared}, {PubSub: ps}} {
			a, b := socket.NewHandler(cfg), socket.NewHandler(cfg)
			get := func(h *socket.Handler, token string) string {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/longpoll?vsn=2.0.0&token="+token, nil))
				return w.Body.String()
			}
			_, token, _ := strings.Cut(get(a, ""), `"token":"`)
			token, _, _ = strings.Cut(token, `"`)
			start := time.Now()
			if got := get(b, token); !strings.HasPrefix(got, `{"status":410`) || time.Since(start) > 0 {
				t.Errorf("after %v: %s", time.Since(start), got)
			}
			for _, h := range []*socket.Handler{a, b} {
				if err := h.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		stop()
	})
}

// TestDisconnectReachesEveryNode checks that Disconnect ends the sockets of an id on every node,
// over both transports, and no others.
func TestDisconnectReachesEveryNode(t *testing.T) {
	t.Parallel()
	cluster := pubsubtest.NewCluster()
	cfg := socket.Config{Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
		var p struct{ User string }
		if err := r.Params.Decode(&p); err != nil {
			return nil, err
		}
		r.ID = "user:" + p.User
		return ctx, nil
	}}
	var nodes []*server
	for range 2 {
		cfg.PubSub, _ = runPubSub(t, cluster.Node("node"))
		nodes = append(nodes, serve(t, cfg))
	}
	const vsn = "vsn=2.0.0&user="
	ann1, ann2, bob := nodes[0].dial(vsn+"ann"), nodes[1].dial(vsn+"ann"), nodes[1].dial(vsn+"bob")
	closed := make(chan struct{})
	go func() { // one long-poll client
		defer close(closed)
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		token := ""
		for opened := 0; opened < 2; {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
				nodes[1].url+"/socket/longpoll?"+vsn+"ann&token="+token, nil)
			if err != nil {
				t.Error(err)
				return
			}
			var a struct {
				Status int
				Token  string
			}
			if err := getJSON(client, r, &a); err != nil {
				t.Error(err)
				return
			}
			if token = a.Token; a.Status == 410 {
				if opened++; opened == 1 {
					if err := nodes[0].h.Disconnect(t.Context(), "user:ann"); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}()
	ann1.wantClose(1001)
	ann2.wantClose(1001)
	<-closed
	bob.heartbeat()
}

// TestBroadcastReachesEveryNode checks that broadcasts from outside of channels reach the sockets
// of every node, in order.
func TestBroadcastReachesEveryNode(t *testing.T) {
	t.Parallel()
	cluster := pubsubtest.NewCluster()
	var nodes []*server
	var peers []*peer
	for range 2 {
		ps, _ := runPubSub(t, cluster.Node("node"))
		n := serve(t, socket.Config{PubSub: ps})
		p := n.dial("vsn=2.0.0")
		p.join("room:tea")
		nodes, peers = append(nodes, n), append(peers, p)
	}
	for i := range 10 {
		if err := nodes[i%2].h.PubSub().Broadcast(t.Context(), "room:tea", "news", said{N: i}); err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			p.want(fmt.Sprintf(`[null,null,"room:tea","news",{"By":0,"N":%d}]`, i))
		}
	}
}

func getJSON(c *http.Client, r *http.Request, v any) error {
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}
