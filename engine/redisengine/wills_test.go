//go:build unix

package redisengine_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

// runWills returns the store of a node that runs until the test ends.
func runWills(t *testing.T, addr string, keep time.Duration) will.Store {
	t.Helper()
	e, err := redisengine.New(redisengine.Config{
		URL: "redis://" + addr, Timeout: brokertest.Timeout, Ping: brokertest.Ping, Logger: new(zerolog.Nop()),
	})
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
