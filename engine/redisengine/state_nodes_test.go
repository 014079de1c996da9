//go:build unix

package redisengine_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/state"
)

// Clients of two nodes increment a document while the connections to Redis are cut.
func TestMirrorsOfTwoNodes(t *testing.T) {
	t.Parallel()
	proxy := brokertest.NewProxy(t, newDurable(t).addr)
	cfg := quick(redisengine.Config{URL: "redis://" + proxy.Addr, Logger: new(zerolog.Nop())})
	brokertest.CheckMirrors(t, newStore(t, cfg), newStore(t, cfg), proxy.Cut)
}

// Wait: a write succeeds only if the replica has it, also one that is repeated by its ID.
func TestWritesWaitForReplicas(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	cfg := redisengine.Config{URL: "redis://" + primary.addr, Wait: 1}
	n, other := startStore(t, cfg), startStore(t, cfg)
	for i := range 20 {
		n.Write("o", brokertest.Put(fmt.Sprint("k", i), "1"))
		if got := replica.do(t, "HLEN", "bennu:o:{o}:i"); got != fmt.Sprint(i+1) {
			t.Fatalf("write %d returned before the replica had it: %s", i, got)
		}
	}
	once := func(n *brokertest.ObjectNode) (state.Applied, error) {
		return n.Apply(t.Context(), "o", []state.Op{brokertest.Put("once", "1")}, state.Tx{ID: "once"})
	}
	replica.signal(syscall.SIGSTOP)()
	for _, n := range []*brokertest.ObjectNode{n, n, other} { // the later calls store nothing, and must wait all the same
		if _, err := once(n); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("without a replica: %v", err)
		}
	}
	replica.signal(syscall.SIGCONT)()
	n.Until("replicated", func() bool { a, err := once(other); return err == nil && a.Repeated })
	n.Write("o", brokertest.Put("k0", "2"))
}
