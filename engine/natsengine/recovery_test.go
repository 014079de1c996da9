//go:build unix

package natsengine_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/listen"
)

// newRecovery starts nodes that use the NATS servers at these addresses.
func newRecovery(t *testing.T, cfg natsengine.Config, addresses ...string) *brokertest.Recovery {
	nop := zerolog.Nop()
	cfg.Timeout, cfg.Ping, cfg.Logger = brokertest.Timeout, brokertest.Ping, &nop
	var engines []brokertest.RecordingEngine
	for _, addr := range addresses {
		cfg.URL = addr
		engine, err := natsengine.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, engine)
	}
	return brokertest.NewRecovery(t, engines...)
}

// The server is killed, frozen and restarted, while clients move between two nodes. Nothing is lost
// or received twice, and every join is recovered.
func TestRecovery(t *testing.T) {
	srv := newChild(t)
	c := newRecovery(t, natsengine.Config{}, srv.addr(), srv.addr())
	c.Run(func() {
		for range 2 {
			srv.kill(t)
			c.WaitDisconnected(2)
			srv.start(t)
			c.WaitConnected()
			c.WaitAppended(50)
		}
		srv.signal(t, syscall.SIGSTOP)
		c.WaitDisconnected(2)
		srv.signal(t, syscall.SIGCONT)
		c.WaitConnected()
		c.WaitAppended(50)
		srv.signal(t, syscall.SIGSTOP) // for as long as an append waits
		c.WaitUncertain()
		srv.signal(t, syscall.SIGCONT)
		c.WaitConnected()
	})
	if n := c.Lost(); n > 0 {
		t.Errorf("%d joins were not continued", n)
	}
}

// The connections of one node, or of all, are cut and stalled.
func TestRecoveryAfterCuts(t *testing.T) {
	e := newServer(t, withJetStream(t))
	proxies := []*brokertest.Proxy{brokertest.NewProxy(t, e.addr()), brokertest.NewProxy(t, e.addr())}
	c := newRecovery(t, natsengine.Config{}, proxies[0].Addr, proxies[1].Addr)
	c.Run(func() {
		for i := range 10 {
			proxies[i%2].Cut()
			c.WaitAppended(3)
		}
		for _, p := range proxies {
			p.Stall()
			c.WaitDisconnected(1)
			p.Resume()
			c.WaitConnected()
		}
	})
}

// Three servers have each record. The one that leads the stream is paused, so that another takes
// over, and later its own state is old.
func TestRecoveryInCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 15 s, since the servers wait for each other")
	}
	servers, all := newChildren(t)
	c := newRecovery(t, natsengine.Config{Replicas: 3}, all, all)
	c.Run(func() {
		led := servers[leader(all, "bennu")]
		led.signal(t, syscall.SIGSTOP)
		brokertest.WaitUntil(t, "replaced", func() bool {
			name := leader(all, "bennu")
			return name != "" && servers[name] != led
		})
		c.WaitAppended(150)
		led.signal(t, syscall.SIGCONT)
		c.WaitAppended(150)
	})
}

// newChildren starts a cluster of three servers. It returns them by name, and their addresses.
func newChildren(t *testing.T) (servers map[string]*childServer, all string) {
	t.Helper()
	var routes []string
	for range 3 {
		routes = append(routes, fmt.Sprint("nats-route://127.0.0.1:", listen.FreePort(t)))
	}
	servers = make(map[string]*childServer)
	var addresses []string
	for i := range 3 {
		own := append(append([]string{}, routes[i:]...), routes[:i]...)
		srv := newChildWith(t, strings.Join(own, ","))
		servers[fmt.Sprint("server", srv.port)] = srv
		addresses = append(addresses, srv.addr())
	}
	return servers, strings.Join(addresses, ",")
}

// leader returns the name of the server that leads a stream, or "".
func leader(url, stream string) string {
	nc, err := nats.Connect(url, nats.Timeout(500*time.Millisecond))
	if err != nil {
		return ""
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		return ""
	}
	info, err := js.StreamInfo(stream, nats.MaxWait(500*time.Millisecond))
	if err != nil {
		return ""
	}
	return info.Cluster.Leader
}
