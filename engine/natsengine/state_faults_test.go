//go:build unix

package natsengine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/state"
)

// Nodes increment a number, while the server is killed, frozen and cut off.
func TestObjectsUnderFaults(t *testing.T) {
	t.Parallel()
	srv := newChild(t)
	proxy := brokertest.NewProxy(t, srv.addr())
	cfg := natsengine.Config{URL: proxy.Addr}
	start := func() *brokertest.ObjectNode { return startObjects(t, cfg) }
	brokertest.CountUnderFaults(t, start, func(progress func()) {
		for range 3 {
			proxy.Cut()
			progress()
			srv.signal(t, syscall.SIGSTOP)
			time.Sleep(rand.N(2 * time.Second)) // shorter and longer than the timeout of writes
			srv.signal(t, syscall.SIGCONT)
			progress()
			srv.kill(t)
			srv.start(t)
			progress()
		}
	})
}

// The connection is lost while writes without an ID wait for their answers. The node finds out
// whether they were stored, and stores none twice.
func TestLostAnswersOfWrites(t *testing.T) {
	t.Parallel()
	proxy := brokertest.NewProxy(t, newServer(t, withJetStream(t)).addr())
	n := startObjects(t, natsengine.Config{URL: proxy.Addr})
	var written atomic.Int64
	quit := make(chan struct{})
	var writers sync.WaitGroup
	write := func(object string) {
		last := n.Write(object, brokertest.Put("a", "0")).Position
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			a, err := n.Apply(t.Context(), object, []state.Op{brokertest.Put("a", fmt.Sprint(i))}, state.Tx{})
			switch {
			case errors.Is(err, history.ErrUnavailable):
				last = history.Position{} // it may have been stored
				continue
			case err != nil:
				t.Error(err)
			case !last.IsZero() && a.Prev != last:
				t.Errorf("%s follows %s, want %s", a.Position, a.Prev, last)
			}
			last = a.Position
			written.Add(1)
		}
	}
	for i := range 64 {
		writers.Go(func() { write(fmt.Sprint("o", i)) })
	}
	for range 4 {
		before := written.Load()
		n.Until("written", func() bool { return written.Load() > before+500 })
		proxy.Cut()
	}
	close(quit)
	writers.Wait()
}

// Three servers have the objects, and the one that leads their stream is frozen, and later killed.
func TestObjectsInCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 15 s, since the servers wait for each other")
	}
	t.Parallel()
	servers, all := newChildren(t)
	cfg := natsengine.Config{URL: all, Replicas: 3}
	start := func() *brokertest.ObjectNode { return startObjects(t, cfg) }
	brokertest.CountUnderFaults(t, start, func(progress func()) {
		for _, fault := range []struct{ begin, end func(led *childServer) }{
			{
				func(led *childServer) { led.signal(t, syscall.SIGSTOP) },
				func(led *childServer) { led.signal(t, syscall.SIGCONT) },
			},
			{func(led *childServer) { led.kill(t) }, func(led *childServer) { led.start(t) }},
		} {
			led := servers[leader(all, "bennu-objects")]
			fault.begin(led)
			brokertest.WaitUntil(t, "replaced", func() bool {
				name := leader(all, "bennu-objects")
				return name != "" && servers[name] != led
			})
			progress()
			fault.end(led)
			progress()
		}
	})
}

// Clients of two nodes increment a document while the connections to the server are cut.
func TestMirrorsOfTwoNodes(t *testing.T) {
	t.Parallel()
	proxy := brokertest.NewProxy(t, newServer(t, withJetStream(t)).addr())
	open := func() state.Store { return newObjects(t, natsengine.Config{URL: proxy.Addr}) }
	brokertest.CheckMirrors(t, open(), open(), proxy.Cut)
}
