//go:build unix

package redisengine_test

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func startOnce(t *testing.T, cfg redisengine.Config) (store push.OnceStore, stop func()) {
	t.Helper()
	cfg = quick(cfg)
	cfg.Logger = new(zerolog.Nop())
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return brokertest.StartOnce(t, e)
}

// Users have the documented permissions.
func TestOnce(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	for _, line := range documentedUsers(t) {
		server.do(t, append([]string{"ACL", "SETUSER"}, line...)...)
	}
	oncetest.Run(t, oncetest.Config{New: func(t *testing.T) (a, b push.OnceStore) {
		server.do(t, "FLUSHALL")
		cfg := redisengine.Config{URL: "redis://bennu:secret@" + server.addr}
		a, _ = startOnce(t, cfg)
		b, _ = startOnce(t, cfg)
		return a, b
	}})
}

func TestOnceOfNodeThatEnds(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	a, stop := startOnce(t, redisengine.Config{URL: "redis://" + server.addr})
	b, _ := startOnce(t, redisengine.Config{URL: "redis://" + server.addr})
	brokertest.CheckOnceDeath(t, a, stop, b)
}

func TestOnceWithoutServer(t *testing.T) {
	t.Parallel()
	t.Run("frozen", func(t *testing.T) {
		t.Parallel()
		server := newServer(t)
		store, _ := startOnce(t, redisengine.Config{URL: "redis://" + server.addr})
		brokertest.CheckOnceOutage(t, store, server.signal(syscall.SIGSTOP), server.signal(syscall.SIGCONT))
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		server := newDurable(t)
		store, _ := startOnce(t, redisengine.Config{URL: "redis://" + server.addr})
		brokertest.CheckOnceOutage(t, store, server.stop, func() { server.start(t) })
	})
}

// TestOnceExpires checks that Redis has no key after the last reply has expired, and few bytes
// before.
func TestOnceExpires(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	store, _ := startOnce(t, redisengine.Config{URL: "redis://" + server.addr})
	begun := time.Now()
	reply := make([]byte, 64<<10)
	for i := range 200 {
		key := fmt.Sprint("ann.room.", i)
		if mine, _, err := store.Begin(t.Context(), key, "h", time.Second); !mine || err != nil {
			t.Fatal(mine, err)
		}
		if _, err := store.Finish(t.Context(), key, "h", reply, 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	size, err := strconv.Atoi(server.do(t, "HGET", "{bennu}:q:v:ann.room", ""))
	if err != nil || size < 1<<20 || size > 4<<20 {
		t.Errorf("%d bytes, %v", size, err)
	}
	brokertest.WaitUntil(t, "expired", func() bool { return server.do(t, "DBSIZE") == "0" })
	if time.Since(begun) < 2*time.Second {
		t.Error("expired early")
	}
}
