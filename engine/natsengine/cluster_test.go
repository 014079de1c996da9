package natsengine_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/listen"
)

// newCluster starts three connected servers. All routes to the third one pass through a proxy,
// since it does not connect by itself.
func newCluster(t *testing.T) (servers []*testServer, third *brokertest.Proxy) {
	var ports []int
	for range 3 {
		ports = append(ports, listen.FreePort(t))
	}
	third = brokertest.NewProxy(t, fmt.Sprint("127.0.0.1:", ports[2]))
	addresses := []string{fmt.Sprint("127.0.0.1:", ports[0]), fmt.Sprint("127.0.0.1:", ports[1]), third.Addr}
	for i, routes := range [][]int{{1, 2}, {0, 2}, nil} {
		servers = append(servers, newServer(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("server", i)
			o.Cluster = server.ClusterOpts{Name: "bennu", Host: "127.0.0.1", Port: ports[i], Advertise: addresses[i]}
			for _, to := range routes {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: addresses[to]})
			}
		}))
	}
	brokertest.WaitUntil(t, "a cluster", func() bool { return routed(servers, 2) })
	return servers, third
}

// routed reports whether each server has routes to the given number of other servers.
func routed(servers []*testServer, others int) bool {
	for _, e := range servers {
		z, err := e.server().Routez(nil)
		if err != nil {
			return false
		}
		remotes := make(map[string]bool)
		for _, r := range z.Routes {
			remotes[r.RemoteID] = true
		}
		if len(remotes) != others {
			return false
		}
	}
	return true
}

// at returns a configuration for these servers, with which a node notices faults soon.
func at(servers ...*testServer) natsengine.Config {
	var addresses []string
	for _, e := range servers {
		addresses = append(addresses, "nats://"+e.addr())
	}
	return natsengine.Config{URL: strings.Join(addresses, ", "), Timeout: brokertest.Timeout, Ping: brokertest.Ping}
}

// A server loses its routes for a moment. Nodes on both sides report gaps, including nodes that are
// started meanwhile.
func TestShortLossOfRoutes(t *testing.T) {
	t.Parallel()
	servers, proxy := newCluster(t)
	c := brokertest.NewNumbered(t)
	for _, e := range servers {
		c.Start(newAdapter(t, at(e)))
	}
	c.WaitHealed()
	proxy.Cut() // the servers restore the routes after a second
	c.Start(newAdapter(t, at(servers[2])))
	c.Start(newAdapter(t, at(servers[0])))
	if c.Check() == 0 {
		t.Error("nothing was missed, so the test has tested nothing")
	}
}

// A server loses its routes for longer. A node that is alone there reports that in Health and
// connects to another server. A node without another server stays. When the routes are back, all
// nodes report gaps.
func TestLongLossOfRoutes(t *testing.T) {
	t.Parallel()
	servers, proxy := newCluster(t)
	c := brokertest.NewNumbered(t)
	var log brokertest.Log
	moved := at(servers[2], servers[0], servers[1])
	first, second := c.Start(newAdapter(t, at(servers[0]))), c.Start(newAdapter(t, at(servers[1])))
	// Servers are tried in random order, so nodes are started until one is connected to the third
	// server.
	var lone *brokertest.NumberedNode
	for lone == nil || servers[2].server().NumClients() == 0 {
		if lone != nil {
			lone.Stop()
		}
		lone = c.Start(newAdapter(t, withLog(moved, &log)))
	}
	c.WaitHealed()
	proxy.Stall()
	proxy.Cut()
	brokertest.WaitUntil(t, "notified", func() bool { return strings.Contains(log.String(), "other nodes are silent") })
	brokertest.WaitUntil(t, "moved", func() bool {
		return servers[2].server().NumClients() == 0 && lone.PubSub.Health().Connected
	})
	c.WaitHealed()
	stuck := c.Start(newAdapter(t, at(servers[2])))
	brokertest.WaitUntil(t, "healthy", func() bool {
		return first.PubSub.Health().Err == nil && second.PubSub.Health().Err == nil && lone.PubSub.Health().Err == nil
	})
	proxy.Resume()
	if c.Check() == 0 {
		t.Error("nothing was missed, so the test has tested nothing")
	}
	for i, n := range []*brokertest.NumberedNode{first, second, lone, stuck} {
		if h := n.PubSub.Health(); !h.Connected || n.Gaps() == 0 {
			t.Errorf("node %d: %d gaps, health %+v", i, n.Gaps(), h)
		}
	}
}

// A server stops, orderly or not. Its nodes connect to other servers, and all nodes report gaps,
// including nodes that are started meanwhile.
func TestServerStops(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(e *testServer){
		"planned": func(e *testServer) { go e.server().LameDuckShutdown() },
		"killed":  func(e *testServer) { e.server().Shutdown() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers, _ := newCluster(t)
			c := brokertest.NewNumbered(t)
			for i := range 3 {
				c.Start(newAdapter(t, at(servers[i], servers[(i+1)%3], servers[(i+2)%3])))
			}
			c.WaitHealed()
			end(servers[1])
			c.Start(newAdapter(t, at(servers[0])))
			c.Start(newAdapter(t, at(servers...)))
			servers[1].server().WaitForShutdown()
			t.Logf("%d were missed", c.Check())
		})
	}
}
