//go:build unix

package redisengine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// startObjectsNode starts a node whose documents are at Redis. It returns the address of its
// socket.
func startObjectsNode(t *testing.T, cfg redisengine.Config) (url string) {
	t.Helper()
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	objects := state.New(e.State())
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := objects.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	allow := func(context.Context, *channel.Channel, state.Access) error { return nil }
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"doc:*": objects.Documents(state.Config{Allow: allow})}, Logger: new(zerolog.Nop()),
	})
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(func() {
		shutdown, end := context.WithTimeout(context.Background(), time.Minute)
		defer end()
		if err := handler.Shutdown(shutdown); err != nil {
			t.Error(err)
		}
		server.Close()
		stop()
		running.Wait()
	})
	return "ws" + server.URL[len("http"):] + "/socket"
}

// Clients of two nodes increment a document while the connections to Redis are cut. No increment is
// lost, and all copies are equal in the end, although changes were not fed.
func TestMirrorsOfTwoNodes(t *testing.T) {
	t.Parallel()
	e := newDurable(t)
	proxy := brokertest.NewProxy(t, e.addr)
	cfg := quick(redisengine.Config{URL: "redis://" + proxy.Addr, Logger: new(zerolog.Nop())})
	urls := []string{startObjectsNode(t, cfg), startObjectsNode(t, cfg)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type counter struct{ N int64 }
	var docs []*mirror.Document[counter]
	for i := range 4 {
		c := socket.NewClient(urls[i%2], &socket.ClientConfig{
			ReconnectDelay: func(socket.Retry) time.Duration { return 5 * time.Millisecond },
			RejoinAfter:    func(int) time.Duration { return 5 * time.Millisecond }, Logger: new(zerolog.Nop()),
		})
		c.Connect()
		t.Cleanup(func() {
			end, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := c.Close(end); err != nil {
				t.Error(err)
			}
		})
		var d *mirror.Document[counter]
		brokertest.WaitUntil(t, "opened", func() bool {
			var err error
			if d, err = mirror.OpenDocument[counter](ctx, c, "doc:counter", nil); err != nil {
				t.Log(err) // Redis may not be connected yet
			}
			return err == nil
		})
		docs = append(docs, d)
	}
	var succeeded, uncertain atomic.Int64
	quit := make(chan struct{})
	var writers sync.WaitGroup
	for _, d := range docs {
		writers.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				switch err := d.Update(ctx, func(c *counter) error { c.N++; return nil }); {
				case err == nil:
					succeeded.Add(1)
				case errors.Is(err, history.ErrUnavailable):
					uncertain.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		before := succeeded.Load()
		brokertest.WaitUntil(t, "in progress", func() bool { return succeeded.Load() > before+30 || t.Failed() })
		proxy.Cut()
	}
	before := succeeded.Load()
	brokertest.WaitUntil(t, "in progress", func() bool { return succeeded.Load() > before+30 || t.Failed() })
	close(quit)
	writers.Wait()
	brokertest.WaitUntil(t, "all copies are equal", func() bool {
		first, rev := docs[0].Value()
		for _, d := range docs {
			if v, r := d.Value(); v != first || r != rev {
				return false
			}
		}
		return first.N >= succeeded.Load()
	})
	v, rev := docs[0].Value()
	if v.N > succeeded.Load()+uncertain.Load() || uint64(v.N) != rev {
		t.Errorf("the value is %d, revision %d, after %d increments and %d that may have failed",
			v.N, rev, succeeded.Load(), uncertain.Load())
	}
	t.Log(fmt.Sprint(v.N, " increments, ", uncertain.Load(), " of unknown outcome"))
}

// Wait: a write succeeds only if the replica has it, also one that is repeated by its ID.
func TestWritesWaitForReplicas(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	cfg := redisengine.Config{URL: "redis://" + primary.addr, Wait: 1}
	n, other := startStore(t, cfg), startStore(t, cfg)
	for i := range 20 {
		n.apply("o", putOp(fmt.Sprint("k", i), "1"))
		if got := replica.do(t, "HLEN", "bennu:o:{o}:i"); got != fmt.Sprint(i+1) {
			t.Fatalf("write %d returned before the replica had it: %s", i, got)
		}
	}
	once := func(n *stateNode) (state.Applied, error) {
		return n.Apply(t.Context(), "o", []state.Op{putOp("once", "1")}, state.Tx{ID: "once"})
	}
	replica.signal(syscall.SIGSTOP)()
	for _, n := range []*stateNode{n, n, other} { // the later calls store nothing, and must wait all the same
		if _, err := once(n); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("without a replica: %v", err)
		}
	}
	replica.signal(syscall.SIGCONT)()
	n.until("replicated", func() bool { a, err := once(other); return err == nil && a.Repeated })
	n.apply("o", putOp("k0", "2"))
}
