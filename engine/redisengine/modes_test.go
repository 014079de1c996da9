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
		t.Error("an adapter that does not run publishes")
	}
}

// run runs an adapter until the test ends, with the events that come.
func run(t *testing.T, cfg redisengine.Config) (a *redisengine.Adapter, heard func(event string) bool) {
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

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not ", what)
		}
	}
}

// hear runs two adapters and waits until one hears the other; again waits for that once more.
func hear(t *testing.T, from, to redisengine.Config) (again func()) {
	t.Helper()
	a, _ := run(t, from)
	b, heard := run(t, to)
	b.Subscribe("t")
	n := 0
	again = func() {
		n++
		event := fmt.Sprint("event ", n)
		until(t, "heard", func() bool {
			_ = a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Event: event})
			return heard(event)
		})
	}
	again()
	return again
}

// fails waits until an adapter cannot connect, and for this reason.
func fails(t *testing.T, cfg redisengine.Config, reason string) {
	t.Helper()
	a, _ := run(t, cfg)
	until(t, "told of "+reason, func() bool {
		err := a.Health().Err
		return err != nil && strings.Contains(err.Error(), reason)
	})
	if h := a.Health(); !h.Since.IsZero() {
		t.Errorf("it was connected: %+v", h)
	}
}

// The user that the package's documentation recommends can do all that a node does, and one that may not publish is told so.
func TestUsers(t *testing.T) {
	e := newEngine(t)
	doc, err := os.ReadFile("redisengine.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(doc), "//\tACL SETUSER ")
	line, _, _ = strings.Cut(line, "\n")
	if !ok {
		t.Fatal("the documentation recommends no user")
	}
	user := redisengine.Config{URL: "redis://bennu:secret@" + e.addr}
	e.do(t, append([]string{"ACL", "SETUSER"}, strings.Fields(line)...)...)
	hear(t, user, user)
	fails(t, redisengine.Config{URL: user.URL, Prefix: "other"}, "NOPERM")
	fails(t, redisengine.Config{URL: "redis://bennu:guess@" + e.addr}, "WRONGPASS")
}

// A server that does not speak RESP3 is found out before anything is published.
func TestOldServer(t *testing.T) {
	e := newEngine(t, "--rename-command", "HELLO", "")
	fails(t, redisengine.Config{URL: "redis://" + e.addr}, "RESP2")
}

// Nodes hear each other through different nodes of a Redis Cluster.
func TestCluster(t *testing.T) {
	_, bus1 := freePort(t)
	_, bus2 := freePort(t)
	one, two := newEngine(t, "--cluster-enabled", "yes", "--cluster-port", bus1), newEngine(t, "--cluster-enabled", "yes", "--cluster-port", bus2)
	one.do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
	two.do(t, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
	host, port, _ := net.SplitHostPort(two.addr)
	one.do(t, "CLUSTER", "MEET", host, port, bus2)
	until(t, "one cluster", func() bool {
		return strings.Contains(one.do(t, "CLUSTER", "INFO"), "cluster_state:ok") && strings.Contains(two.do(t, "CLUSTER", "INFO"), "cluster_state:ok")
	})
	hear(t, redisengine.Config{URL: "redis://" + one.addr}, redisengine.Config{URL: "redis://" + two.addr})
	// The first address is dead: the next one is tried.
	dead, _ := freePort(t)
	hear(t, redisengine.Config{URL: "redis://" + one.addr}, redisengine.Config{Options: rueidis.ClientOption{InitAddress: []string{dead, two.addr}}})
}

// When Sentinel makes a replica the master, nodes follow.
func TestSentinel(t *testing.T) {
	master := newEngine(t)
	host, port, _ := net.SplitHostPort(master.addr)
	replica := newEngine(t, "--replicaof", host+" "+port)
	addr, sentinelPort := freePort(t)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor bennu %s %s 1\nsentinel down-after-milliseconds bennu 500\n", sentinelPort, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := startEngine(t, addr, []string{conf, "--sentinel"})
	until(t, "watched", func() bool {
		return strings.Contains(sentinel.do(t, "SENTINEL", "REPLICAS", "bennu"), replica.addr)
	})
	cfg := redisengine.Config{
		Options: rueidis.ClientOption{InitAddress: []string{addr}, Sentinel: rueidis.SentinelOption{MasterSet: "bennu"}},
		Timeout: 2 * time.Second, Ping: 200 * time.Millisecond,
	}
	again := hear(t, cfg, cfg)
	master.stop()
	again()
	if !strings.Contains(replica.do(t, "ROLE"), "master") {
		t.Error("the replica is no master")
	}
}
