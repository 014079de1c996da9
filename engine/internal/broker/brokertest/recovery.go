package brokertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// RecordingEngine is an engine with a history.
type RecordingEngine interface {
	Adapter() pubsub.Adapter
	History() history.Log
}

// Recovery is a cluster with clients that move between its nodes. Everything that is broadcast is
// recorded, and so is what the clients receive.
type Recovery struct {
	*histcheck.Recorder
	t         testing.TB
	nodes     []*recoveryNode
	uncertain atomic.Int64 // appends
	lost      atomic.Int64 // see Lost
}

// recoveryNode is a node of a Recovery.
type recoveryNode struct {
	ps       *pubsub.PubSub
	addr     string
	appended atomic.Int64
	failed   atomic.Pointer[error] // the last failure of an append
}

const (
	recoveryTopic = "room:1"
	// recoveryCount bounds the records that are kept. It is never reached.
	recoveryCount = 100_000
)

// NewRecovery starts a node for each engine, and waits until all are connected.
func NewRecovery(t testing.TB, engines ...RecordingEngine) *Recovery {
	c := &Recovery{Recorder: new(histcheck.Recorder), t: t}
	for _, e := range engines {
		c.nodes = append(c.nodes, c.startNode(e))
	}
	c.WaitConnected()
	return c
}

func (c *Recovery) startNode(e RecordingEngine) *recoveryNode {
	t, nop := c.t, zerolog.Nop()
	rules := history.Rules{"room:*": {Count: recoveryCount, Bytes: 100 << 20, MaxReplay: recoveryCount}}
	ps := pubsub.NewRecorded(e.Adapter(), e.History(), rules)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ps.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define((*recoveryRoom).join)}, PubSub: ps, Logger: &nop,
	})
	return &recoveryNode{ps: ps, addr: serve(t, handler, func() { stop(); running.Wait() })}
}

// serve serves a handler until the test ends, and returns its address. It calls end after that.
func serve(t testing.TB, handler *socket.Handler, end func()) (addr string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) //nolint:forbidigo // http.Server takes no other
	server.Start()
	t.Cleanup(func() {
		shutdown, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := handler.Shutdown(shutdown); err != nil {
			t.Error(err)
		}
		server.Close()
		end()
	})
	return server.Listener.Addr().String()
}

// recoveryRoom is the state of a channel.
type recoveryRoom struct{}

func (*recoveryRoom) join(_ context.Context, c *channel.Channel, _ struct{}) (any, error) {
	return map[string]any{"since": c.Resume().Since}, nil
}

// connected returns the number of nodes that are connected.
func (c *Recovery) connected() (n int) {
	for _, node := range c.nodes {
		if node.ps.LogHealth().Connected && node.ps.Health().Connected {
			n++
		}
	}
	return n
}

// WaitConnected waits until all nodes are connected.
func (c *Recovery) WaitConnected() {
	c.t.Helper()
	WaitUntil(c.t, "connected", func() bool { return c.connected() == len(c.nodes) })
}

// WaitDisconnected waits until so many nodes are not connected.
func (c *Recovery) WaitDisconnected(nodes int) {
	c.t.Helper()
	WaitUntil(c.t, "disconnected", func() bool { return len(c.nodes)-c.connected() >= nodes })
}

// WaitAppended waits until each node has appended count more records.
func (c *Recovery) WaitAppended(count int64) {
	c.t.Helper()
	for i, n := range c.nodes {
		before := n.appended.Load()
		for deadline := time.Now().Add(2 * patience); n.appended.Load() < before+count; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				var last error
				if p := n.failed.Load(); p != nil {
					last = *p
				}
				c.t.Fatalf("node %d has appended %d of %d; the last failure: %v; the log: %+v",
					i, n.appended.Load()-before, count, last, n.ps.LogHealth())
			}
		}
	}
}

// WaitUncertain waits until the result of one more append is uncertain.
func (c *Recovery) WaitUncertain() {
	c.t.Helper()
	before := c.uncertain.Load()
	WaitUntil(c.t, "uncertain", func() bool { return c.uncertain.Load() > before })
}

// Lost returns how many joins did not continue, except for the first of each client.
func (c *Recovery) Lost() int { return int(c.lost.Load()) }

// Run lets clients and senders work while it calls faults. Then it waits until the clients have
// caught up, and checks what was recorded.
func (c *Recovery) Run(faults func()) {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var sending, moving sync.WaitGroup
	for i := range 4 {
		sending.Go(func() { c.send(ctx, i) })
	}
	var clients []*recoveryClient
	for i := range 4 {
		r := c.connect(fmt.Sprint("client ", i))
		clients = append(clients, r)
		if i > 0 { // the first one stays where it is
			moving.Go(func() { r.move(ctx) })
		}
	}
	WaitUntil(c.t, "received", func() bool { return clients[0].received.Load() > 10 })
	faults()
	c.WaitAppended(10)
	stop()
	sending.Wait()
	moving.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range clients {
		if err := r.ch.CatchUp(ctx); err != nil {
			c.t.Errorf("%s does not catch up: %v", r.name, err)
		}
	}
	violations := c.Check(histcheck.Limits{Count: recoveryCount, MaxReplay: recoveryCount})
	for i, v := range violations {
		if i == 20 {
			c.t.Errorf("and %d more", len(violations)-i)
			break
		}
		c.t.Error(v)
	}
	for _, r := range clients {
		if err := r.sock.Close(ctx); err != nil {
			c.t.Errorf("%s: %v", r.name, err)
		}
		c.t.Logf("%s joined %d times and received %d", r.name, r.joins, r.received.Load())
	}
	c.t.Logf("%d uncertain", c.uncertain.Load())
}

// send appends records until ctx ends. Every second sender stays at a node, and the others append
// with an ID at any node. An append that is uncertain may be stored later than those that follow
// it, as if somebody else made it: a server that was frozen still has it. So a new sender
// continues.
func (c *Recovery) send(ctx context.Context, number int) {
	name := fmt.Sprint("sender ", number)
	sender := name
	tick := time.NewTicker(2 * time.Millisecond) // the load, with which clients on a busy machine keep up
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-tick.C
		id := fmt.Sprintf("%s/%d", name, i)
		n, once := c.nodes[number/2%len(c.nodes)], ""
		if number%2 == 1 {
			n, once = c.nodes[rand.N(len(c.nodes))], id
		}
		c.Append(sender, id, "")
		pos, err := n.ps.AppendOnce(context.Background(), once, recoveryTopic, "msg", map[string]string{"id": id})
		if err != nil {
			n.failed.Store(&err)
		}
		switch {
		case err == nil:
			c.Appended(id, pos.String())
			n.appended.Add(1)
		case errors.Is(err, history.ErrUncertain):
			c.Uncertain(id)
			c.uncertain.Add(1)
			sender = fmt.Sprint(name, " after ", i)
		case errors.Is(err, history.ErrUnavailable):
			c.Failed(id)
		default:
			c.t.Errorf("append: %v", err)
			c.Failed(id)
		}
	}
}

// recoveryClient is a Go client that moves between the nodes.
type recoveryClient struct {
	c        *Recovery
	name     string
	sock     *socket.Client
	ch       *channel.Client
	joins    int // by the goroutine of the callbacks
	received atomic.Int64
}

// connect starts a client. Each of its connections goes to any of the nodes.
func (c *Recovery) connect(name string) *recoveryClient {
	nop := zerolog.Nop()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, c.nodes[rand.N(len(c.nodes))].addr)
	}
	r := &recoveryClient{c: c, name: name}
	r.sock = socket.NewClient("ws://node", &socket.ClientConfig{
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, Logger: &nop,
		ReconnectDelay: func(socket.Retry) time.Duration { return 20 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 20 * time.Millisecond },
	})
	r.ch = r.sock.Channel(recoveryTopic, nil)
	r.ch.Resume(channel.ResumeConfig{})
	r.ch.OnJoin(r.onJoin)
	r.ch.OnError(func(error) { c.Cut(name) })
	r.ch.On("msg", r.onMessage)
	r.sock.Connect()
	r.ch.Join()
	return r
}

// move breaks the connection now and then, until ctx ends.
func (r *recoveryClient) move(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(20*time.Millisecond + rand.N(400*time.Millisecond)): // a connection lasts this long
			r.sock.Pause()
			r.sock.Connect()
		case <-ctx.Done():
		}
	}
}

func (r *recoveryClient) onJoin(reply serializer.Payload) {
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
	if r.joins++; r.joins > 1 && !h.Recovered {
		r.c.lost.Add(1)
	}
	r.c.Join(r.name, in.Since.String(), true)
	r.c.Joined(r.name, histcheck.Reply{Pos: h.Pos.String(), Recovered: h.Recovered, Why: h.Why})
}

func (r *recoveryClient) onMessage(p serializer.Payload) {
	var in struct {
		ID  string
		Pos string `json:"$pos"`
	}
	if err := p.Decode(&in); err != nil {
		r.c.t.Errorf("%s: %v", r.name, err)
		return
	}
	r.c.Received(r.name, in.Pos, in.ID)
	r.received.Add(1)
}
