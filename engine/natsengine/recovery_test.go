//go:build unix

package natsengine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

const recoveryTopic = "room:1"

// recovery is a cluster of two nodes with clients that move between them. Everything is recorded.
type recovery struct {
	*histcheck.Recorder
	t         *testing.T
	nodes     []*recoveryNode
	ids       atomic.Int64
	uncertain atomic.Int64
	appended  atomic.Int64
}

type recoveryNode struct {
	ps   *pubsub.PubSub
	addr string
}

// newRecovery starts two nodes that use the NATS servers at these addresses.
func newRecovery(t *testing.T, cfg natsengine.Config, addresses ...string) *recovery {
	c := &recovery{t: t, Recorder: new(histcheck.Recorder)}
	for _, addr := range addresses {
		cfg.URL = addr
		c.nodes = append(c.nodes, c.startNode(cfg))
	}
	waitUntil(t, "connected", c.connected)
	return c
}

func (c *recovery) connected() bool {
	for _, n := range c.nodes {
		if !n.ps.LogHealth().Connected || !n.ps.Health().Connected {
			return false
		}
	}
	return true
}

func (c *recovery) disconnected() bool {
	for _, n := range c.nodes {
		if n.ps.LogHealth().Connected {
			return false
		}
	}
	return true
}

func (c *recovery) startNode(cfg natsengine.Config) *recoveryNode {
	t, nop := c.t, zerolog.Nop()
	cfg.Timeout, cfg.Ping, cfg.Logger = brokertest.Timeout, brokertest.Ping, &nop
	engine, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rules := history.Rules{"room:*": {Count: 10_000, Bytes: 8 << 20, MaxReplay: 10_000}}
	n := &recoveryNode{ps: pubsub.NewRecorded(engine.Adapter(), engine.History(), rules)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.ps.Run(ctx) }()
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(joinRoom)}, PubSub: n.ps, Logger: &nop,
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := handler.Shutdown(end); err != nil {
			t.Error(err)
		}
		_ = server.Close()
		<-served
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

type recoveryRoom struct{}

func joinRoom(_ *recoveryRoom, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
	return map[string]any{"since": c.Resume().Since}, nil
}

// broadcast appends records at a node until ctx ends. An append that is uncertain may be stored
// later than those that follow it, as if somebody else made it: a server that was frozen still has
// it. So a new sender continues.
func (c *recovery) broadcast(ctx context.Context, name string, n *recoveryNode) {
	sender := name
	tick := time.NewTicker(3 * time.Millisecond) // the load
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		id := fmt.Sprint("r", c.ids.Add(1))
		c.Append(sender, id, "")
		pos, err := n.ps.Append(context.Background(), recoveryTopic, "msg", map[string]string{"id": id})
		switch {
		case errors.Is(err, history.ErrUncertain):
			c.Uncertain(id)
			sender = fmt.Sprint(name, ".", c.uncertain.Add(1))
		case errors.Is(err, history.ErrUnavailable):
			c.Failed(id)
		case err != nil:
			c.t.Error(err)
			c.Failed(id)
		default:
			c.Appended(id, pos.String())
			c.appended.Add(1)
		}
	}
}

// recoveryClient is a client that moves between the nodes.
type recoveryClient struct {
	c    *recovery
	name string
	sock *socket.Client
	ch   *channel.Client
	got  atomic.Int64
}

func (c *recovery) startClient(name string) *recoveryClient {
	nop := zerolog.Nop()
	dial := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.nodes[rand.IntN(len(c.nodes))].addr)
		},
		DisableKeepAlives: true,
	}
	r := &recoveryClient{c: c, name: name}
	soon := func() time.Duration { return 20 * time.Millisecond }
	r.sock = socket.NewClient("ws://node", &socket.ClientConfig{
		HTTPClient: &http.Client{Transport: dial}, Logger: &nop,
		ReconnectDelay: func(socket.Retry) time.Duration { return soon() },
		RejoinAfter:    func(int) time.Duration { return soon() },
	})
	r.ch = r.sock.Channel(recoveryTopic, nil)
	r.ch.Resume(channel.ResumeConfig{})
	r.ch.OnJoin(r.joined)
	r.ch.OnError(func(error) { c.Cut(name) })
	r.ch.On("msg", r.received)
	r.sock.Connect()
	r.ch.Join()
	return r
}

func (r *recoveryClient) joined(reply serializer.Payload) {
	var in struct {
		Since   history.Position
		History struct {
			Pos       history.Position
			Recovered bool
			Why       string
		} `json:"$history"`
	}
	if err := reply.Decode(&in); err != nil {
		r.c.t.Errorf("%s: %v", r.name, err)
		return
	}
	h := in.History
	r.c.Join(r.name, in.Since.String(), true)
	r.c.Joined(r.name, histcheck.Reply{Pos: h.Pos.String(), Recovered: h.Recovered, Why: h.Why})
}

func (r *recoveryClient) received(p serializer.Payload) {
	var in struct {
		ID  string
		Pos string `json:"$pos"`
	}
	if err := p.Decode(&in); err != nil {
		r.c.t.Errorf("%s: %v", r.name, err)
		return
	}
	r.c.Received(r.name, in.Pos, in.ID)
	r.got.Add(1)
}

// move disconnects the client now and then, until ctx ends.
func (r *recoveryClient) move(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(20+rand.IntN(300)) * time.Millisecond): // a client that moves
			r.sock.Pause()
			r.sock.Connect()
		case <-ctx.Done():
		}
	}
}

// run runs clients and broadcasts while it calls faults, and checks the recording.
func (c *recovery) run(faults func()) {
	t := c.t
	ctx, stop := context.WithCancel(context.Background())
	var clients []*recoveryClient
	var moving, jobs sync.WaitGroup
	for i := range 4 {
		r := c.startClient(fmt.Sprint("c", i))
		clients = append(clients, r)
		moving.Go(func() { r.move(ctx) })
	}
	for i := range 4 {
		jobs.Go(func() { c.broadcast(ctx, fmt.Sprint("job", i), c.nodes[i%len(c.nodes)]) })
	}
	waitUntil(t, "received", func() bool { return clients[0].got.Load() > 10 })
	faults()
	c.waitAppended(20)
	stop()
	jobs.Wait()
	moving.Wait()
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range clients {
		if err := r.ch.CatchUp(end); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	for _, v := range c.Check(histcheck.Limits{Count: 10_000, MaxReplay: 10_000}) {
		t.Error(v)
	}
	for _, r := range clients {
		if err := r.sock.Close(end); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	t.Logf("%d appended, %d uncertain, %d received by the first client",
		c.appended.Load(), c.uncertain.Load(), clients[0].got.Load())
}

// waitAppended waits until count more records were appended.
func (c *recovery) waitAppended(count int64) {
	c.t.Helper()
	end := c.appended.Load() + count
	waitUntil(c.t, "appended", func() bool { return c.appended.Load() > end })
}

// The server is killed, frozen and restarted, while clients move between two nodes. Nothing is lost
// or received twice, and every join is recovered.
func TestRecovery(t *testing.T) {
	srv := newChild(t)
	c := newRecovery(t, natsengine.Config{}, srv.addr(), srv.addr())
	c.run(func() {
		for range 2 {
			srv.kill(t)
			waitUntil(t, "disconnected", c.disconnected)
			srv.start(t)
			waitUntil(t, "connected", c.connected)
			c.waitAppended(100)
		}
		srv.signal(t, syscall.SIGSTOP)
		waitUntil(t, "disconnected", c.disconnected)
		srv.signal(t, syscall.SIGCONT)
		waitUntil(t, "connected", c.connected)
		c.waitAppended(100)
		before := c.uncertain.Load()
		srv.signal(t, syscall.SIGSTOP) // for as long as an append waits
		waitUntil(t, "uncertain", func() bool { return c.uncertain.Load() > before })
		srv.signal(t, syscall.SIGCONT)
		waitUntil(t, "connected", c.connected)
	})
}

// The connections of one node, or of all, are cut and stalled.
func TestRecoveryAfterCuts(t *testing.T) {
	e := newServer(t, withJetStream(t))
	proxies := []*brokertest.Proxy{brokertest.NewProxy(t, e.addr()), brokertest.NewProxy(t, e.addr())}
	c := newRecovery(t, natsengine.Config{}, proxies[0].Addr, proxies[1].Addr)
	c.run(func() {
		for i := range 10 {
			proxies[i%2].Cut()
			c.waitAppended(5)
		}
		for _, p := range proxies {
			p.Stall()
			waitUntil(t, "disconnected", func() bool {
				return !c.nodes[0].ps.LogHealth().Connected || !c.nodes[1].ps.LogHealth().Connected
			})
			p.Resume()
			waitUntil(t, "connected", c.connected)
		}
	})
}

// Three servers have each record. The one that leads the stream is paused, so that another takes
// over, and later its own state is old.
func TestRecoveryInCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 15 s, since the servers wait for each other")
	}
	var routes []string
	for range 3 {
		routes = append(routes, fmt.Sprint("nats-route://127.0.0.1:", brokertest.Port(t)))
	}
	servers := make(map[string]*childServer)
	var addresses []string
	for i := range 3 {
		own := append(append([]string{}, routes[i:]...), routes[:i]...)
		srv := newChildWith(t, strings.Join(own, ","))
		servers[fmt.Sprint("server", srv.port)] = srv
		addresses = append(addresses, srv.addr())
	}
	all := strings.Join(addresses, ",")
	c := newRecovery(t, natsengine.Config{Replicas: 3}, all, all)
	c.run(func() {
		leader := servers[c.leader(all)]
		leader.signal(t, syscall.SIGSTOP)
		waitUntil(t, "replaced", func() bool { name := c.leader(all); return name != "" && servers[name] != leader })
		c.waitAppended(300)
		leader.signal(t, syscall.SIGCONT)
		c.waitAppended(300)
	})
}

// leader returns the name of the server that leads the stream, or "".
func (c *recovery) leader(url string) string {
	nc, err := nats.Connect(url, nats.Timeout(500*time.Millisecond))
	if err != nil {
		return ""
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		return ""
	}
	info, err := js.StreamInfo("bennu", nats.MaxWait(500*time.Millisecond))
	if err != nil {
		return ""
	}
	return info.Cluster.Leader
}
