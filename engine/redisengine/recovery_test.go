//go:build unix

package redisengine_test

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
)

// newRecovery starts a node for each configuration.
func newRecovery(t *testing.T, configs ...redisengine.Config) *brokertest.Recovery {
	var engines []brokertest.RecordingEngine
	for _, cfg := range configs {
		engine, err := redisengine.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, engine)
	}
	return brokertest.NewRecovery(t, engines...)
}

// Clients move between two nodes while the connections to Redis are cut, and Redis is frozen and
// killed. Nobody misses anything, and every join continues.
func TestRecoveryUnderFaults(t *testing.T) {
	t.Parallel()
	e := newDurable(t)
	var configs []redisengine.Config
	var proxies []*brokertest.Proxy
	for range 2 {
		p := brokertest.NewProxy(t, e.addr)
		proxies = append(proxies, p)
		configs = append(configs, quick(redisengine.Config{URL: "redis://" + p.Addr}))
	}
	c := newRecovery(t, configs...)
	c.Run(func() {
		for range 2 {
			c.WaitAppended(50)
			proxies[0].Cut()
			c.WaitAppended(50)
			e.signal(syscall.SIGSTOP)()
			time.Sleep(rand.N(3 * time.Second)) // shorter and longer than the timeout of appends
			e.signal(syscall.SIGCONT)()
			c.WaitAppended(50)
			e.stop()
			e.start(t)
			c.WaitAppended(50)
			proxies[1].Stall()
			time.Sleep(rand.N(3 * time.Second)) // as above
			proxies[1].Resume()
		}
		c.WaitAppended(50)
	})
	if n := c.Lost(); n > 0 {
		t.Errorf("%d joins were not continued", n)
	}
}

// Clients move between two nodes while the primary and its replica change their roles. Every record
// whose append succeeded is on both, because of Wait. Only clients that have received others may
// not be continued.
func TestRecoveryUnderFailover(t *testing.T) {
	t.Parallel()
	one := newServer(t)
	two := newReplica(t, one)
	cfg := quick(redisengine.Config{URL: "redis://" + one.addr, Wait: 1})
	c := newRecovery(t, cfg, cfg)
	c.Run(func() {
		for range 2 {
			c.WaitAppended(50)
			promote(t, two, one)
			for _, why := range []string{"ahead", "tag"} {
				c.Fault(why) // of records that were appended until now; nodes return only after some time
			}
			one, two = two, one
		}
		c.WaitAppended(50)
	})
	t.Logf("%d joins were not continued", c.Lost())
}

// A Sentinel promotes the replica of a primary that was killed. The log follows it and continues.
func TestLogFollowsSentinel(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	sentinel := newSentinel(t, primary, replica)
	n := startLog(t, quick(redisengine.Config{URL: "redis://" + sentinel.addr + "?master_set=bennu", Wait: 1}))
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	all := n.mustAdd("t", 3) // the replica has them, because of Wait
	primary.stop()
	n.until("ready again", func() bool { return n.count("ready") == 2 && n.count("gap") == 1 })
	n.wantRead("t", all[0].Position, 2, nil)
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUncertain) {
		t.Errorf("append without a replica: %v", err)
	}
	n.until("fed", func() bool { all := n.records(); return len(all) > 0 && all[len(all)-1].Event == "e" })
	n.wantRead("t", all[2].Position, 1, nil)
}
