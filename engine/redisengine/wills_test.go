//go:build unix

package redisengine_test

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

// runWills returns the store of a node that runs until the test ends.
func runWills(t *testing.T, addr string, keep time.Duration) will.Store {
	t.Helper()
	return startWills(t, redisengine.Config{URL: "redis://" + addr}, keep)
}

func startWills(t *testing.T, cfg redisengine.Config, keep time.Duration) will.Store {
	t.Helper()
	cfg = quick(cfg)
	cfg.Logger = new(zerolog.Nop())
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.KeepWills(keep)
	return brokertest.StartWills(t, e)
}

// The permissions in the package documentation are sufficient for wills.
func TestWillsPermissions(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	for _, line := range documentedUsers(t) {
		server.do(t, append([]string{"ACL", "SETUSER"}, line...)...)
	}
	store := runWills(t, "bennu:secret@"+server.addr, will.Keep)
	c := will.Connection{ID: "1", ClientID: "client"}
	for _, id := range []string{"a", "b"} {
		if err := store.Put(t.Context(), will.Will{ID: id, Topic: "room", Connection: c, Node: "gone"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(store.Delete(t.Context(), "room", c, "a"), store.Expire(t.Context())); err != nil {
		t.Error(err)
	}
	if got, err := store.Claim(t.Context(), 10, time.Hour); len(got) != 1 || err != nil {
		t.Errorf("%d wills, %v", len(got), err)
	}
}

// A replica becomes the primary, and another one in a Redis Cluster, where the wills are on one
// server. Users have the documented permissions.
func TestWillsUnderFailover(t *testing.T) {
	t.Parallel()
	t.Run("promoted by hand", func(t *testing.T) {
		t.Parallel()
		one := newServer(t)
		two := newReplica(t, one)
		cfg := redisengine.Config{URL: "redis://" + one.addr, Wait: 1}
		a, b := startWills(t, cfg, will.Keep), startWills(t, cfg, will.Keep)
		brokertest.CheckWills(t, a, b, func() { promote(t, two, one) })
	})
	t.Run("by a Sentinel", func(t *testing.T) {
		t.Parallel()
		primary := newServer(t)
		replica := newReplica(t, primary)
		sentinel := newSentinel(t, primary, replica)
		cfg := redisengine.Config{URL: "redis://" + sentinel.addr + "?master_set=bennu"}
		a, b := startWills(t, cfg, will.Keep), startWills(t, cfg, will.Keep)
		brokertest.CheckWills(t, a, b, func() {
			// Nothing is written meanwhile, except for pings.
			brokertest.WaitUntil(t, "replicated", func() bool { return offset(t, primary) <= offset(t, replica) })
			primary.stop()
		})
	})
	t.Run("in a Redis Cluster", func(t *testing.T) {
		t.Parallel()
		other, replica := newCluster(t)
		cfg := redisengine.Config{Options: rueidis.ClientOption{
			InitAddress: []string{other.addr, replica.addr}, Username: "bennu", Password: "secret",
		}}
		a, b := startWills(t, cfg, will.Keep), startWills(t, cfg, will.Keep)
		brokertest.CheckWills(t, a, b, func() { failOver(t, replica) })
	})
}

// offset returns how much a server has written for its replicas, or received.
func offset(t *testing.T, e *testServer) int {
	t.Helper()
	_, rest, _ := strings.Cut(e.do(t, "INFO", "replication"), "master_repl_offset:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWills(t *testing.T) {
	server := newDurable(t)
	willtest.Run(t, willtest.Config{
		New: func(t *testing.T, keep time.Duration) (a, b will.Store) {
			server.do(t, "FLUSHALL")
			return runWills(t, server.addr, keep), runWills(t, server.addr, keep)
		},
		Reopen: func(t *testing.T) will.Store {
			server.stop()
			server.start(t)
			return runWills(t, server.addr, will.Keep)
		},
		Faults: func(t *testing.T) (stop func()) {
			return brokertest.Repeat(func() {
				server.signal(syscall.SIGSTOP)()
				time.Sleep(250 * time.Millisecond) // longer than a claim
				server.signal(syscall.SIGCONT)()
			}, func() {
				server.stop()
				server.start(t)
			})
		},
	})
}

// serveWills is the main function of a process with a node.
func serveWills() {
	brokertest.ServeWills(func(url string, logger *zerolog.Logger) (*redisengine.Engine, error) {
		return redisengine.New(quick(redisengine.Config{URL: url, Logger: logger}))
	})
}

// Nodes are killed while clients set wills, come back and leave, and so is Redis.
func TestWillsOfKilledNodes(t *testing.T) {
	t.Parallel()
	brokertest.RunWills(t, func(t *testing.T) brokertest.WillCluster {
		server := newDurable(t)
		return brokertest.WillCluster{URL: "redis://" + server.addr, Restart: func() { server.stop(); server.start(t) }}
	})
}

func BenchmarkWills(b *testing.B) {
	for name, newServer := range map[string]func(testing.TB) *testServer{
		"in memory": func(t testing.TB) *testServer { return newServer(t) }, "on disk": newDurable,
	} {
		b.Run(name, func(b *testing.B) {
			server := newServer(b)
			brokertest.BenchmarkWills(b, func(b *testing.B) brokertest.WillEngine {
				e, err := redisengine.New(quick(redisengine.Config{URL: "redis://" + server.addr}))
				if err != nil {
					b.Fatal(err)
				}
				return e
			})
		})
	}
}
