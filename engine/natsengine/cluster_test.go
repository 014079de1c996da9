package natsengine_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
)

// newCluster starts three servers that are connected with each other. All routes to the third one lead through a proxy: it does not
// connect by itself.
func newCluster(t *testing.T) (servers []*engine, third *brokertest.Proxy) {
	var ports []int
	for range 3 {
		ports = append(ports, brokertest.Port(t))
	}
	third = brokertest.NewProxy(t, fmt.Sprint("127.0.0.1:", ports[2]))
	addresses := []string{fmt.Sprint("127.0.0.1:", ports[0]), fmt.Sprint("127.0.0.1:", ports[1]), third.Addr}
	for i, routes := range [][]int{{1, 2}, {0, 2}, nil} {
		servers = append(servers, newEngine(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("server", i)
			o.Cluster = server.ClusterOpts{Name: "bennu", Host: "127.0.0.1", Port: ports[i], Advertise: addresses[i]}
			for _, to := range routes {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: addresses[to]})
			}
		}))
	}
	until(t, "a cluster", func() bool { return routed(servers, 2) })
	return servers, third
}

// routed reports whether each server has routes to so many others.
func routed(servers []*engine, others int) bool {
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

// at is a configuration for a node that tries these servers, and notices faults soon.
func at(servers ...*engine) natsengine.Config {
	var addresses []string
	for _, e := range servers {
		addresses = append(addresses, "nats://"+e.addr())
	}
	return natsengine.Config{URL: strings.Join(addresses, ", "), Timeout: brokertest.Timeout, Ping: brokertest.Ping}
}

// A server that lost its routes for a moment: what was missed on both sides is announced, also at nodes that started meanwhile.
func TestRoutesFlap(t *testing.T) {
	t.Parallel()
	servers, proxy := newCluster(t)
	c := brokertest.NewNumbered(t)
	for _, e := range servers {
		c.Start(newAdapter(t, at(e)))
	}
	c.Heals()
	proxy.Cut() // the routes come back by themselves, after a second
	c.Start(newAdapter(t, at(servers[2])))
	c.Start(newAdapter(t, at(servers[0])))
	if c.Check() == 0 {
		t.Error("nothing was missed: the test tests nothing")
	}
}

// A server that lost its routes for long: a node that is alone there says so in Health and goes on to another server. A node that knows no
// other server stays, and all is announced when the routes are back.
func TestRoutesLost(t *testing.T) {
	t.Parallel()
	servers, proxy := newCluster(t)
	c := brokertest.NewNumbered(t)
	var log buffer
	moved := at(servers[2], servers[0], servers[1])
	first, second := c.Start(newAdapter(t, at(servers[0]))), c.Start(newAdapter(t, at(servers[1])))
	// Servers are tried in a random order: this node is made until it is on the third one.
	var lone *brokertest.NumberedNode
	for lone == nil || servers[2].server().NumClients() == 0 {
		if lone != nil {
			lone.Stop()
		}
		lone = c.Start(newAdapter(t, logged(moved, &log)))
	}
	c.Heals()
	proxy.Deaf()
	proxy.Cut()
	until(t, "told", func() bool { return strings.Contains(log.String(), "other nodes are not heard") })
	until(t, "moved", func() bool { return servers[2].server().NumClients() == 0 && lone.PubSub.Health().Connected })
	c.Heals()
	stuck := c.Start(newAdapter(t, at(servers[2])))
	until(t, "well", func() bool {
		return first.PubSub.Health().Err == nil && second.PubSub.Health().Err == nil && lone.PubSub.Health().Err == nil
	})
	proxy.Hear()
	if c.Check() == 0 {
		t.Error("nothing was missed: the test tests nothing")
	}
	for i, n := range []*brokertest.NumberedNode{first, second, lone, stuck} {
		if h := n.PubSub.Health(); !h.Connected || n.Gaps() == 0 {
			t.Errorf("node %d: %d gaps, health %+v", i, n.Gaps(), h)
		}
	}
}

// Servers that end in order or at once: their nodes go on to others, and all is announced, also at nodes that start meanwhile.
func TestServerEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(e *engine){
		"planned": func(e *engine) { go e.server().LameDuckShutdown() },
		"killed":  func(e *engine) { e.server().Shutdown() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers, _ := newCluster(t)
			c := brokertest.NewNumbered(t)
			for i := range 3 {
				c.Start(newAdapter(t, at(servers[i], servers[(i+1)%3], servers[(i+2)%3])))
			}
			c.Heals()
			end(servers[1])
			c.Start(newAdapter(t, at(servers[0])))
			c.Start(newAdapter(t, at(servers...)))
			servers[1].server().WaitForShutdown()
			t.Logf("%d were missed", c.Check())
		})
	}
}
