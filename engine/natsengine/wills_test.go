package natsengine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

// runWills returns the store of a node that runs until the test ends.
func runWills(t *testing.T, addr string, keep time.Duration) will.Store {
	t.Helper()
	e, err := natsengine.New(natsengine.Config{
		URL: addr, Timeout: brokertest.Timeout, Ping: brokertest.Ping, Logger: new(zerolog.Nop()),
	})
	if err != nil {
		t.Fatal(err)
	}
	e.KeepWills(keep)
	return brokertest.StartWills(t, e)
}

func TestWills(t *testing.T) {
	server := newServer(t, withJetStream(t))
	var first, second *brokertest.Proxy
	willtest.Run(t, willtest.Config{
		New: func(t *testing.T, keep time.Duration) (a, b will.Store) {
			nc := server.connect(t)
			defer nc.Close()
			js, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream("bennu-wills"); err != nil && !errors.Is(err, nats.ErrStreamNotFound) {
				t.Fatal(err)
			}
			first, second = brokertest.NewProxy(t, server.addr()), brokertest.NewProxy(t, server.addr())
			return runWills(t, first.Addr, keep), runWills(t, second.Addr, keep)
		},
		Reopen: func(t *testing.T) will.Store {
			server.stop()
			server.start(t)
			return runWills(t, server.addr(), will.Keep)
		},
		Faults: func(t *testing.T) (stop func()) {
			stall := func(p *brokertest.Proxy) func() {
				return func() {
					p.Stall()
					time.Sleep(250 * time.Millisecond) // longer than a claim
					p.Resume()
				}
			}
			return brokertest.Repeat(stall(first), stall(second), func() { first.Cut() }, func() {
				server.stop()
				server.start(t)
			})
		},
	})
}
