//go:build unix

package redisengine_test

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
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

const recordedTopic = "room:1"

// site is a cluster of two nodes, and what its clients saw.
type site struct {
	t *testing.T
	*histcheck.Recorder
	nodes []*siteNode
	falls atomic.Int64 // joins that were not continued, except for the first of each client
}

type siteNode struct {
	ps   *pubsub.PubSub
	addr string
}

// siteRoom is the state of a channel.
type siteRoom struct{}

func (*siteRoom) join(_ context.Context, c *channel.Channel, _ struct{}) (any, error) {
	return map[string]any{"since": c.Resume().Since}, nil
}

func newSite(t *testing.T, configs ...redisengine.Config) *site {
	s := &site{t: t, Recorder: new(histcheck.Recorder)}
	nop := zerolog.Nop()
	keep := history.Keep{Count: 100_000, Bytes: 100 << 20, MaxReplay: 100_000}
	for _, cfg := range configs {
		e, err := redisengine.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ps := pubsub.NewRecorded(e.Adapter(), e.History(), history.Rules{"room:*": keep})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := ps.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		handler := socket.NewHandler(socket.Config{
			Channels: channel.Routes{"room:*": channel.Define((*siteRoom).join)}, PubSub: ps, Logger: &nop,
		})
		server := httptest.NewUnstartedServer(handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Start()
		t.Cleanup(func() {
			shutdown, end := context.WithTimeout(context.Background(), time.Minute)
			defer end()
			if err := handler.Shutdown(shutdown); err != nil {
				t.Error(err)
			}
			server.Close()
			cancel()
			running.Wait()
		})
		s.nodes = append(s.nodes, &siteNode{ps, server.Listener.Addr().String()})
	}
	for _, n := range s.nodes {
		waitUntil(t, "connected", func() bool { return n.ps.LogHealth().Connected && n.ps.Health().Connected })
	}
	return s
}

// send appends records at one of the nodes until quit is closed. A record whose append was
// uncertain may be stored later than the next one, so it is the last one of a sender.
func (s *site) send(name string, quit <-chan struct{}) {
	sender := name
	for i := 0; ; i++ {
		select {
		case <-quit:
			return
		case <-time.After(time.Millisecond): // so that clients can keep up on a busy machine
		}
		id := fmt.Sprintf("%s/%d", name, i)
		s.Append(sender, id, "")
		ps := s.nodes[rand.N(len(s.nodes))].ps
		pos, err := ps.AppendOnce(context.Background(), id, recordedTopic, "msg", map[string]string{"id": id})
		switch {
		case err == nil:
			s.Appended(id, pos.String())
		case errors.Is(err, history.ErrUncertain):
			s.Uncertain(id)
			sender = fmt.Sprint(name, " after ", i)
		case errors.Is(err, history.ErrUnavailable):
			s.Failed(id)
		default:
			s.t.Errorf("append: %v", err)
			s.Failed(id)
		}
	}
}

// siteClient is a Go client that moves between the nodes.
type siteClient struct {
	s      *site
	name   string
	socket *socket.Client
	ch     *channel.Client
	joins  int
}

// connect starts a client. Each of its connections goes to any of the nodes.
func (s *site) connect(name string) *siteClient {
	nop := zerolog.Nop()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.nodes[rand.N(len(s.nodes))].addr)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	c := &siteClient{s: s, name: name}
	c.socket = socket.NewClient("ws://127.0.0.1:1", &socket.ClientConfig{
		HTTPClient: &http.Client{Transport: transport}, Logger: &nop,
		ReconnectDelay: func(socket.Retry) time.Duration { return 20 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 50 * time.Millisecond },
	})
	c.ch = c.socket.Channel(recordedTopic, nil)
	c.ch.Resume(channel.ResumeConfig{})
	c.ch.OnJoin(c.joined)
	c.ch.OnError(func(error) { s.Cut(name) })
	c.ch.On("msg", c.received)
	c.socket.Connect()
	c.ch.Join()
	return c
}

// move breaks the connection until quit is closed.
func (c *siteClient) move(quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(50*time.Millisecond + rand.N(500*time.Millisecond)): // a connection lasts this long
			c.socket.Pause()
			c.socket.Connect()
		}
	}
}

func (c *siteClient) joined(reply serializer.Payload) {
	var r struct {
		Since   history.Position
		History struct {
			Pos       history.Position
			Recovered bool
			Why       string
		} `json:"$history"`
	}
	if err := reply.Decode(&r); err != nil {
		c.s.t.Errorf("%s: %v", c.name, err)
		return
	}
	if c.joins++; c.joins > 1 && !r.History.Recovered {
		c.s.falls.Add(1)
	}
	since := ""
	if !r.Since.IsZero() {
		since = r.Since.String()
	}
	c.s.Join(c.name, since, true)
	c.s.Joined(c.name, histcheck.Reply{Pos: r.History.Pos.String(), Recovered: r.History.Recovered, Why: r.History.Why})
}

func (c *siteClient) received(p serializer.Payload) {
	var r struct {
		ID  string
		Pos string `json:"$pos"`
	}
	if err := p.Decode(&r); err != nil {
		c.s.t.Errorf("%s: %v", c.name, err)
		return
	}
	c.s.Received(c.name, r.Pos, r.ID)
}

// run lets clients and senders work while faults happens, and returns the verdict.
func (s *site) run(faults func(progress func())) {
	s.t.Helper()
	quit := make(chan struct{})
	var senders, movers sync.WaitGroup
	for i := range 3 {
		senders.Go(func() { s.send(fmt.Sprint("sender ", i), quit) })
	}
	var clients []*siteClient
	for i := range 4 {
		c := s.connect(fmt.Sprint("client ", i))
		clients = append(clients, c)
		if i > 0 { // the first one stays where it is
			movers.Go(func() { c.move(quit) })
		}
	}
	faults(func() {
		s.t.Helper()
		for i, n := range s.nodes {
			start := n.ps.LogHealth().Appended
			waitUntil(s.t, fmt.Sprint("in progress at node ", i), func() bool { return n.ps.LogHealth().Appended > start+50 })
		}
	})
	close(quit)
	senders.Wait()
	movers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range clients {
		if err := c.ch.CatchUp(ctx); err != nil {
			s.t.Errorf("%s does not catch up: %v", c.name, err)
		}
	}
	violations := s.Check(histcheck.Limits{Count: 100_000, MaxReplay: 100_000})
	for i, v := range violations {
		if i == 20 {
			s.t.Errorf("and %d more", len(violations)-i)
			break
		}
		s.t.Error(v)
	}
	for _, c := range clients {
		if err := c.socket.Close(ctx); err != nil {
			s.t.Error(err)
		}
		s.t.Logf("%s joined %d times", c.name, c.joins)
	}
}

// Clients move between two nodes while the connections to Redis are cut, and Redis is frozen and
// killed. Nobody misses anything, and every join continues.
func TestRecoveryUnderFaults(t *testing.T) {
	t.Parallel()
	e := newDurable(t)
	var configs []redisengine.Config
	var proxies []*brokertest.Proxy
	for range 2 {
		p := brokertest.NewProxy(t, e.addr)
		proxies = append(proxies, p)
		configs = append(configs, quick(redisengine.Config{URL: "redis://" + p.Addr}))
	}
	s := newSite(t, configs...)
	s.run(func(progress func()) {
		for range 2 {
			progress()
			proxies[0].Cut()
			progress()
			e.signal(syscall.SIGSTOP)()
			time.Sleep(rand.N(3 * time.Second)) // shorter and longer than the timeout of appends
			e.signal(syscall.SIGCONT)()
			progress()
			e.stop()
			e.start(t)
			progress()
			proxies[1].Stall()
			time.Sleep(rand.N(3 * time.Second)) // as above
			proxies[1].Resume()
		}
		progress()
	})
	if n := s.falls.Load(); n > 0 {
		t.Errorf("%d joins were not continued", n)
	}
}

// Clients move between two nodes while the primary and its replica change their roles. Every record
// whose append succeeded is on both, because of Wait. Only clients that have received others may
// not be continued.
func TestRecoveryUnderFailover(t *testing.T) {
	t.Parallel()
	one := newServer(t)
	two := newReplica(t, one)
	cfg := quick(redisengine.Config{URL: "redis://" + one.addr, Wait: 1})
	s := newSite(t, cfg, cfg)
	s.run(func(progress func()) {
		for range 2 {
			progress()
			promote(t, two, one)
			for _, why := range []string{"ahead", "tag"} {
				s.Fault(why) // of records that were appended until now; nodes return only after some time
			}
			one, two = two, one
		}
		progress()
	})
	t.Logf("%d joins were not continued", s.falls.Load())
}

// A Sentinel promotes the replica of a primary that was killed. The log follows it and continues.
func TestLogFollowsSentinel(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	sentinel := newSentinel(t, primary, replica)
	n := startLog(t, quick(redisengine.Config{URL: "redis://" + sentinel.addr + "?master_set=bennu", Wait: 1}))
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	all := n.mustAdd("t", 3) // the replica has them, because of Wait
	primary.stop()
	n.until("ready again", func() bool { return n.count("ready") == 2 && n.count("gap") == 1 })
	n.wantRead("t", all[0].Position, 2, nil)
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUncertain) {
		t.Errorf("append without a replica: %v", err)
	}
	n.until("fed", func() bool { all := n.records(); return len(all) > 0 && all[len(all)-1].Event == "e" })
	n.wantRead("t", all[2].Position, 1, nil)
}
