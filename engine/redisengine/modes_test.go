//go:build unix

package redisengine_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

func TestConfig(t *testing.T) {
	addresses := rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}
	for name, cfg := range map[string]redisengine.Config{
		"URL":   {URL: "http://127.0.0.1"},
		"both":  {URL: "redis://127.0.0.1", Options: addresses},
		"RESP2": {Options: rueidis.ClientOption{InitAddress: addresses.InitAddress, AlwaysRESP2: true}},
	} {
		if _, err := redisengine.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	a := newAdapter(t, redisengine.Config{Name: "web", Options: addresses})
	if !strings.HasPrefix(a.Node(), "web-") || a.Health().Connected {
		t.Errorf("%s: %+v", a.Node(), a.Health())
	}
	if err := a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Payload: serializer.Value(1)}); err == nil {
		t.Error("published before Run")
	}
}

// run runs an adapter until the test ends. received reports whether the adapter has delivered an
// event.
func run(t *testing.T, cfg redisengine.Config) (a pubsub.Adapter, received func(event string) bool) {
	a = newAdapter(t, cfg)
	var mu sync.Mutex
	events := make(map[string]bool)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- a.Run(ctx, pubsub.Inbox{
			Deliver: func(b *pubsub.Broadcast) {
				mu.Lock()
				defer mu.Unlock()
				events[b.Event] = true
			},
			Gap: func(error) {},
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return a, func(event string) bool {
		mu.Lock()
		defer mu.Unlock()
		return events[event]
	}
}

// waitReceived runs two adapters and waits until one receives a broadcast of the other. again sends
// another broadcast and waits for it.
func waitReceived(t *testing.T, from, to redisengine.Config) (again func()) {
	t.Helper()
	a, _ := run(t, from)
	b, received := run(t, to)
	b.Subscribe("t")
	n := 0
	again = func() {
		n++
		event := fmt.Sprint("event ", n)
		brokertest.WaitUntil(t, "received", func() bool {
			_ = a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Event: event})
			return received(event)
		})
	}
	again()
	return again
}

// waitFailure waits until an adapter fails to connect for this reason.
func waitFailure(t *testing.T, cfg redisengine.Config, reason string) {
	t.Helper()
	a, _ := run(t, cfg)
	brokertest.WaitUntil(t, "failed with "+reason, func() bool {
		err := a.Health().Err
		return err != nil && strings.Contains(err.Error(), reason)
	})
	if h := a.Health(); !h.Since.IsZero() {
		t.Errorf("it was connected: %+v", h)
	}
}

// The permissions in the package documentation are sufficient for a node. A user without the
// permission to publish receives the reason.
func TestPermissions(t *testing.T) {
	e := newServer(t)
	user := redisengine.Config{URL: "redis://bennu:secret@" + e.addr}
	e.do(t, append([]string{"ACL", "SETUSER"}, documentedUsers(t)[0]...)...)
	waitReceived(t, user, user)
	waitFailure(t, redisengine.Config{URL: user.URL, Prefix: "other"}, "NOPERM")
	waitFailure(t, redisengine.Config{URL: "redis://bennu:guess@" + e.addr}, "WRONGPASS")
}

// A server without RESP3 is refused before anything is published.
func TestOldServerIsRefused(t *testing.T) {
	e := newServer(t, "--rename-command", "HELLO", "")
	waitFailure(t, redisengine.Config{URL: "redis://" + e.addr}, "RESP2")
}

// Nodes receive from each other through different nodes of a Redis Cluster.
func TestCluster(t *testing.T) {
	_, bus1 := freePort(t)
	_, bus2 := freePort(t)
	one := newServer(t, "--cluster-enabled", "yes", "--cluster-port", bus1)
	two := newServer(t, "--cluster-enabled", "yes", "--cluster-port", bus2)
	one.do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
	two.do(t, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
	host, port, _ := net.SplitHostPort(two.addr)
	one.do(t, "CLUSTER", "MEET", host, port, bus2)
	brokertest.WaitUntil(t, "one cluster", func() bool {
		const ok = "cluster_state:ok"
		return strings.Contains(one.do(t, "CLUSTER", "INFO"), ok) && strings.Contains(two.do(t, "CLUSTER", "INFO"), ok)
	})
	waitReceived(t, redisengine.Config{URL: "redis://" + one.addr}, redisengine.Config{URL: "redis://" + two.addr})
	// If the first address fails, the next one is tried.
	dead, _ := freePort(t)
	second := rueidis.ClientOption{InitAddress: []string{dead, two.addr}}
	waitReceived(t, redisengine.Config{URL: "redis://" + one.addr}, redisengine.Config{Options: second})
}

// When a Sentinel promotes a replica, nodes connect to the new primary.
func TestSentinel(t *testing.T) {
	master := newServer(t)
	host, port, _ := net.SplitHostPort(master.addr)
	replica := newServer(t, "--replicaof", host+" "+port)
	addr, sentinelPort := freePort(t)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor bennu %s %s 1\n"+
		"sentinel down-after-milliseconds bennu 500\n", sentinelPort, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := startServer(t, addr, []string{conf, "--sentinel"})
	brokertest.WaitUntil(t, "watched", func() bool {
		return strings.Contains(sentinel.do(t, "SENTINEL", "REPLICAS", "bennu"), replica.addr)
	})
	cfg := redisengine.Config{
		Options: rueidis.ClientOption{InitAddress: []string{addr}, Sentinel: rueidis.SentinelOption{MasterSet: "bennu"}},
		Timeout: 2 * time.Second, Ping: 200 * time.Millisecond,
	}
	again := waitReceived(t, cfg, cfg)
	master.stop()
	again()
	if !strings.Contains(replica.do(t, "ROLE"), "master") {
		t.Error("the replica is not the primary")
	}
}
