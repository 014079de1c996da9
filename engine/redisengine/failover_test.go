//go:build unix

package redisengine_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
)

// quick returns cfg with settings with which a node notices faults soon.
func quick(cfg redisengine.Config) redisengine.Config {
	cfg.Timeout, cfg.Ping = brokertest.Timeout, brokertest.Ping
	return cfg
}

// newReplica starts a replica of a server and waits until it is synchronized.
func newReplica(t testing.TB, of *testServer, args ...string) *testServer {
	host, port, _ := net.SplitHostPort(of.addr)
	e := newServer(t, append([]string{"--replicaof", host + " " + port, "--repl-diskless-sync-delay", "0"}, args...)...)
	brokertest.WaitUntil(t, "synchronized", func() bool {
		return strings.Contains(e.do(t, "INFO", "replication"), "master_link_status:up")
	})
	return e
}

// promote makes a replica the primary, and the primary its replica. The connections to both remain
// open.
func promote(t testing.TB, replica, primary *testServer) {
	replica.do(t, "REPLICAOF", "NO", "ONE")
	host, port, _ := net.SplitHostPort(replica.addr)
	primary.do(t, "REPLICAOF", host, port)
}

// newSentinel starts a Sentinel that monitors a primary under the name bennu, and waits until it
// knows the replica.
func newSentinel(t testing.TB, primary, replica *testServer, lines ...string) *testServer {
	host, port, _ := net.SplitHostPort(primary.addr)
	addr, sentinelPort := freePort(t)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	lines = append([]string{
		"port " + sentinelPort, "bind 127.0.0.1", fmt.Sprintf("sentinel monitor bennu %s %s 1", host, port),
		"sentinel down-after-milliseconds bennu 1000", "sentinel failover-timeout bennu 5000",
	}, lines...)
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := startServer(t, addr, []string{conf, "--sentinel"})
	brokertest.WaitUntil(t, "watched", func() bool {
		answer := sentinel.do(t, "SENTINEL", "REPLICAS", "bennu")
		return strings.Contains(answer, replica.addr) && strings.Contains(answer, "master-link-status:ok")
	})
	return sentinel
}

// A primary becomes a replica and keeps its connections. Its nodes connect to the new primary. All
// nodes that may have missed something report gaps, including a node that was started at the new
// primary.
func TestNodesLeaveReplica(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	c := brokertest.NewNumbered(t)
	old := quick(redisengine.Config{URL: "redis://" + primary.addr})
	old.Ping = 2 * time.Second // the nodes notice the change only after a while
	one, two := c.Start(newAdapter(t, old)), c.Start(newAdapter(t, old))
	c.WaitHealed()
	promote(t, replica, primary)
	three := c.Start(newAdapter(t, quick(redisengine.Config{URL: "redis://" + replica.addr})))
	if missed := c.Check(); missed == 0 {
		t.Error("nothing was missed, so the test has tested nothing")
	}
	for i, n := range []*brokertest.NumberedNode{one, two, three} {
		if h := n.PubSub.Health(); n.Gaps() == 0 || !h.Connected || h.Err != nil {
			t.Errorf("node %d: %d gaps, health %+v", i, n.Gaps(), h)
		}
	}
}

// A node whose user may not call ROLE connects to the next configured address. Without another
// address, Health contains the reason why it is not connected.
func TestNodesLeaveReplicaWithoutRole(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	for _, e := range []*testServer{primary, replica} {
		rules := "on >secret resetchannels &bennu:* -@all +hello +ping +publish +subscribe +unsubscribe"
		e.do(t, append([]string{"ACL", "SETUSER", "bennu"}, strings.Fields(rules)...)...)
	}
	one := quick(redisengine.Config{URL: "redis://bennu:secret@" + primary.addr})
	both := quick(redisengine.Config{Options: rueidis.ClientOption{
		InitAddress: []string{primary.addr, replica.addr}, Username: "bennu", Password: "secret",
	}})
	c := brokertest.NewNumbered(t)
	c.Start(newAdapter(t, both))
	c.Start(newAdapter(t, both))
	stuck, _ := run(t, one)
	brokertest.WaitUntil(t, "connected", func() bool { return stuck.Health().Connected })
	c.WaitHealed()
	promote(t, replica, primary)
	c.Check()
	brokertest.WaitUntil(t, "notified of the replica", func() bool {
		h := stuck.Health()
		return !h.Connected && strings.Contains(fmt.Sprint(h.Err), "replica")
	})
	primary.do(t, "REPLICAOF", "NO", "ONE")
	brokertest.WaitUntil(t, "connected again", func() bool { return stuck.Health().Connected && stuck.Health().Gaps > 0 })
}

// A Sentinel performs a failover, planned or after a crash. Nodes are configured by URL and by
// options, and some are started meanwhile.
func TestFailover(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, primary, sentinel *testServer){
		"planned": func(t *testing.T, _, sentinel *testServer) {
			// The Sentinel may refuse the first attempts, as long as it considers the replica unsuitable.
			brokertest.WaitUntil(t, "started", func() bool {
				_, err := sentinel.try("SENTINEL", "FAILOVER", "bennu")
				return err == nil
			})
		},
		"killed": func(_ *testing.T, primary, _ *testServer) { primary.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := newServer(t)
			replica := newReplica(t, primary)
			sentinel := newSentinel(t, primary, replica)
			dead, _ := freePort(t)
			byURL := quick(redisengine.Config{URL: "redis://" + dead + "?master_set=bennu&addr=" + sentinel.addr})
			byOptions := quick(redisengine.Config{Options: rueidis.ClientOption{
				InitAddress: []string{sentinel.addr}, Sentinel: rueidis.SentinelOption{MasterSet: "bennu"},
			}})
			c := brokertest.NewNumbered(t)
			nodes := []*brokertest.NumberedNode{c.Start(newAdapter(t, byURL)), c.Start(newAdapter(t, byOptions))}
			c.WaitHealed()
			fail(t, primary, sentinel)
			nodes = append(nodes, c.Start(newAdapter(t, byURL)), c.Start(newAdapter(t, byURL)))
			brokertest.WaitUntil(t, "promoted", func() bool { return strings.HasPrefix(replica.do(t, "ROLE"), "[master") })
			nodes = append(nodes, c.Start(newAdapter(t, byOptions)))
			brokertest.WaitUntil(t, "notified", func() bool { return nodes[0].Gaps() > 0 && nodes[1].Gaps() > 0 })
			t.Logf("%d were missed", c.Check())
			for i, n := range nodes {
				if h := n.PubSub.Health(); !h.Connected {
					t.Errorf("node %d: health %+v", i, h)
				}
			}
		})
	}
}

// The error names the cause if a Sentinel does not know the master set, or requires a password.
func TestSentinelErrors(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	sentinel := newSentinel(t, primary, replica)
	waitFailure(t, redisengine.Config{URL: "redis://" + sentinel.addr + "?master_set=other"}, `unknown master set "other"`)
	closed := newSentinel(t, primary, replica)
	closed.do(t, "ACL", "SETUSER", "node", "on", ">secret", "-@all", "+hello", "+sentinel|get-master-addr-by-name")
	closed.do(t, "ACL", "SETUSER", "default", "resetpass", ">guarded")
	opts := rueidis.ClientOption{InitAddress: []string{closed.addr}, Sentinel: rueidis.SentinelOption{MasterSet: "bennu"}}
	waitFailure(t, redisengine.Config{Options: opts}, "NOAUTH")
	opts.Sentinel.Password = "guarded"
	waitReceived(t, redisengine.Config{Options: opts}, redisengine.Config{Options: opts})
	// The permissions in the package documentation are sufficient.
	opts.Sentinel.Username, opts.Sentinel.Password = "node", "secret"
	waitReceived(t, redisengine.Config{Options: opts}, redisengine.Config{Options: opts})
}

// The nodes of a Redis Cluster forward messages, including replicas.
func TestClusterReplica(t *testing.T) {
	t.Parallel()
	_, bus1 := freePort(t)
	_, bus2 := freePort(t)
	one := newServer(t, "--cluster-enabled", "yes", "--cluster-port", bus1)
	two := newServer(t, "--cluster-enabled", "yes", "--cluster-port", bus2)
	one.do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	host, port, _ := net.SplitHostPort(two.addr)
	one.do(t, "CLUSTER", "MEET", host, port, bus2)
	id := strings.TrimSpace(one.do(t, "CLUSTER", "MYID"))
	brokertest.WaitUntil(t, "a replica", func() bool { _, err := two.try("CLUSTER", "REPLICATE", id); return err == nil })
	brokertest.WaitUntil(t, "one cluster", func() bool {
		return strings.Contains(two.do(t, "CLUSTER", "INFO"), "cluster_state:ok") &&
			strings.HasPrefix(two.do(t, "ROLE"), "[slave")
	})
	waitReceived(t, redisengine.Config{URL: "redis://" + one.addr}, redisengine.Config{URL: "redis://" + two.addr})
	waitReceived(t, redisengine.Config{URL: "redis://" + two.addr}, redisengine.Config{URL: "redis://" + one.addr})
}

// failOver makes a replica in a Redis Cluster the primary, when it has what the primary has.
func failOver(t *testing.T, replica *testServer) {
	t.Helper()
	brokertest.WaitUntil(t, "replicated", func() bool {
		return strings.Contains(replica.do(t, "INFO", "replication"), "link_status:up")
	})
	var asked time.Time
	brokertest.WaitUntil(t, "failed over", func() bool {
		// A replica that did not get the votes within 5 s gives up.
		if time.Since(asked) > 6*time.Second {
			if _, err := replica.try("CLUSTER", "FAILOVER"); err == nil {
				asked = time.Now()
			}
		}
		return strings.Contains(replica.do(t, "INFO", "replication"), "role:master")
	})
}
