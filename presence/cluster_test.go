package presence_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// clusterTest runs f with an empty network in a synctest bubble, in parallel with other tests.
func clusterTest(t *testing.T, f func(t *testing.T, net *network)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, new(network)) })
}

// populate joins nodes, each of which tracks its own name, and waits until all list all.
func (n *network) populate(t *testing.T, names ...string) (all []*node) {
	t.Helper()
	for _, name := range names {
		all = append(all, n.join(t, name))
		all[len(all)-1].track(new(owner), name, nil)
	}
	eventually(t, 2*time.Second, all, names...)
	return all
}

// named is an option of join that sets Config.Node.
func named(name string) func(*presence.Config) {
	return func(c *presence.Config) { c.Node = name }
}

// keepOnClose is an option of join.
func keepOnClose(c *presence.Config) { c.KeepOnClose = true }

// logTo is an option of join that writes the log to w. A test must call synctest.Wait before it
// reads w.
func logTo(w io.Writer) func(*presence.Config) {
	logger := zerolog.New(w)
	return func(c *presence.Config) { c.Logger = &logger }
}

// eventually advances the virtual clock until all nodes list exactly the given keys. It fails the
// test after d.
func eventually(t *testing.T, d time.Duration, nodes []*node, keys ...string) {
	t.Helper()
	slices.Sort(keys)
	begin := time.Now()
	for {
		synctest.Wait()
		var wrong string
		for _, n := range nodes {
			if got := slices.Sorted(maps.Keys(byKey(n.List(topic)))); !slices.Equal(got, keys) {
				wrong = fmt.Sprintf("%s has %q instead of %q", n.wire.name, got, keys)
			}
		}
		if wrong == "" {
			break
		}
		if time.Since(begin) >= d {
			t.Fatalf("after %v: %s", d, wrong)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// check compares the list with the state that the subscriber computed from the diffs.
func (n *node) check() {
	n.t.Helper()
	synctest.Wait()
	list := byKey(n.List(topic))
	n.mu.Lock()
	defer n.mu.Unlock()
	if got := byKey(n.state); !maps.Equal(got, list) {
		n.t.Errorf("%s: diffs give %v but the list is %v", n.wire.name, got, list)
	}
}

// kinds returns the number of messages of each kind.
func kinds(all []sent) map[string]int {
	n := map[string]int{}
	for _, s := range all {
		n[s.kind]++
	}
	return n
}

// TestCluster tracks and updates presences on one node. The other nodes list them and send their
// diffs soon, and an update is a single diff (N286, O292 to O294).
func TestCluster(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		all := []*node{a, b, c}
		o := new(owner)
		a.track(o, "u1", device{"device": "tab"})
		eventually(t, 2*time.Second, all, "u1")
		time.Sleep(time.Second)
		b.track(new(owner), "u2", nil)
		eventually(t, 0, all, "u1", "u2") // immediately, because nothing was sent for Delay
		time.Sleep(time.Second)
		for _, n := range all {
			n.take(&n.names)
		}
		if _, err := a.UpdateFor(o, topic, "u1", device{"device": "phone"}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for _, n := range all {
			n.refs = nil
			n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"A","phx_ref_prev":"B","device":"phone"}]}},` +
				`"leaves":{"u1":{"metas":[{"phx_ref":"B","device":"tab"}]}}}`)
			n.check()
		}
		time.Sleep(time.Second)
		a.track(o, "u3", nil)
		a.track(o, "u4", nil)
		a.UntrackFor(o, topic, "u3")
		eventually(t, 150*time.Millisecond, all, "u1", "u2", "u4")
		o.end()
		eventually(t, 150*time.Millisecond, all, "u2")
		for _, n := range all {
			n.check()
		}
		if got := a.Online("u1", "u2", "u9"); !slices.Equal(got, []string{"u2"}) {
			t.Errorf("online: %q", got)
		}
		if _, err := c.TrackFor(new(owner), "room:8", "u9", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got := a.Online("u1", "u2", "u9"); !slices.Equal(got, []string{"u2", "u9"}) {
			t.Errorf("online: %q", got)
		}
		if got := a.Count("room:8"); got != 1 {
			t.Errorf("count: %d", got)
		}
	})
}

// TestHeartbeats has two nodes without changes. Each sends a heartbeat every (Silence + 1) periods
// and no requests (O305).
func TestHeartbeats(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b := net.join(t, "a"), net.join(t, "b", func(c *presence.Config) { c.Silence = 10 })
		a.track(new(owner), "u1", nil)
		eventually(t, 2*time.Second, []*node{a, b}, "u1")
		time.Sleep(30 * time.Second)
		net.take()
		time.Sleep(time.Hour)
		at := map[string][]time.Time{}
		for _, s := range net.take() {
			if s.kind != "beat" || s.to != "" {
				t.Fatalf("%s sent %s to %q", s.from, s.kind, s.to)
			}
			at[s.from] = append(at[s.from], s.at)
		}
		for name, every := range map[string]time.Duration{"a": 9 * time.Second, "b": 16500 * time.Millisecond} {
			for i, when := range at[name][1:] {
				if got := when.Sub(at[name][i]); got != every {
					t.Fatalf("%s: %v between two heartbeats, not %v", name, got, every)
				}
			}
		}
	})
}

// TestNewNode has a node join late. It receives everything in one transfer, even if another node is
// down (O306, O312).
func TestNewNode(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b := net.join(t, "a"), net.join(t, "b")
		gone := net.join(t, "gone")
		for i := range 200 {
			a.track(new(owner), fmt.Sprintf("a%d", i), nil)
			gone.track(new(owner), fmt.Sprintf("g%d", i), nil)
		}
		time.Sleep(5 * time.Second)
		gone.crash()
		time.Sleep(40 * time.Second)
		var keys []string
		for i := range 200 {
			keys = append(keys, fmt.Sprintf("a%d", i))
		}
		eventually(t, 0, []*node{a, b}, keys...)
		net.take()
		c := net.join(t, "c")
		c.track(new(owner), "c", nil)
		eventually(t, 3*time.Second, []*node{a, b, c}, append(keys, "c")...)
		time.Sleep(10 * time.Minute)
		got := kinds(net.take())
		if got["request"] > 2 || got["answer full"]+got["answer delta"] > 2 {
			t.Errorf("sent %v", got)
		}
	})
}

// TestRequestsFromDominantNode has a node miss changes of two others. It sends its request to the
// one that has both changes (O307).
func TestRequestsFromDominantNode(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		time.Sleep(10 * time.Second)
		net.setFate(func(_, to string) []time.Duration { // c receives nothing
			if to == "c" {
				return nil
			}
			return []time.Duration{0}
		})
		a.track(new(owner), "a", nil)
		time.Sleep(200 * time.Millisecond)
		b.track(new(owner), "b", nil)
		time.Sleep(200 * time.Millisecond)
		eventually(t, 0, []*node{a, b}, "a", "b")
		eventually(t, 0, []*node{c})
		net.heal()
		net.take()
		eventually(t, 15*time.Second, []*node{a, b, c}, "a", "b")
		time.Sleep(time.Minute)
		if got := kinds(net.take()); got["request"] != 1 {
			t.Errorf("sent %v", got)
		}
	})
}

// TestPartition separates a node from two others. After Down, each side removes the presences of
// the other. When they are connected again, both list all. No side sends a diff about its own
// presences, and nothing is transferred if nothing changed (O308, property 8).
func TestPartition(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		all := net.populate(t, "a", "b", "c")
		a, b, c := all[0], all[1], all[2]
		time.Sleep(10 * time.Second)
		net.split("c")
		for _, n := range all {
			n.take(&n.names)
		}
		time.Sleep(20 * time.Second) // the last heartbeat is at most 29 s old, less than Down
		eventually(t, 0, all, "a", "b", "c")
		time.Sleep(13 * time.Second)
		eventually(t, 0, []*node{a, b}, "a", "b")
		eventually(t, 0, []*node{c}, "c")
		net.take()
		net.heal()
		eventually(t, 9*time.Second, all, "a", "b", "c")
		for _, n := range all {
			got := strings.Join(n.take(&n.names), "\n")
			if strings.Contains(got, `"`+n.wire.name+`"`) {
				t.Errorf("%s sent a diff about its own presence:\n%s", n.wire.name, got)
			}
			if n != c && (strings.Count(got, `"c":`) != 2 || strings.Contains(got, `"a":`) || strings.Contains(got, `"b":`)) {
				t.Errorf("diffs of %s:\n%s", n.wire.name, got)
			}
		}
		if got := kinds(net.take()); got["request"] > 0 {
			t.Errorf("sent %v", got)
		}

		gone := new(owner)
		c.track(gone, "gone", nil)
		eventually(t, time.Second, all, "a", "b", "c", "gone")
		net.split("c")
		time.Sleep(40 * time.Second)
		eventually(t, 0, []*node{a, b}, "a", "b")
		for _, n := range all {
			n.take(&n.names)
		}
		o := new(owner)
		a.track(o, "a2", nil)
		c.track(new(owner), "c2", nil)
		gone.end()
		time.Sleep(time.Second)
		o.end()
		net.heal()
		eventually(t, 12*time.Second, all, "a", "b", "c", "c2")
		for _, n := range []*node{a, b} {
			if got := strings.Join(n.take(&n.names), "\n"); strings.Contains(got, "gone") {
				t.Errorf("%s sent a diff about a presence that left during the partition:\n%s", n.wire.name, got)
			}
		}
	})
}

// TestRestart starts a node again under the same Config.Node. The other node removes the presences
// of the previous process as soon as it receives a message from the new one (O309, property 9).
func TestRestart(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		host := named("host-1")
		a, old := net.join(t, "a"), net.join(t, "b1", host)
		old.track(new(owner), "before", nil)
		eventually(t, 2*time.Second, []*node{a, old}, "before")
		old.crash()
		time.Sleep(time.Second)
		b := net.join(t, "b2", host)
		b.track(new(owner), "after", nil)
		eventually(t, time.Second, []*node{a, b}, "after")
		if members, replicas := a.Members(); members != 1 || replicas != 1 {
			t.Errorf("%d members and %d replicas are known", members, replicas)
		}
		time.Sleep(time.Hour)
		eventually(t, 0, []*node{a, b}, "after")
	})
}

// TestPermdown separates two nodes for longer than Permdown. Each deletes everything about the
// other, and both list all when they are connected again (O310, property 11).
func TestPermdown(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		all := net.populate(t, "a", "b")
		a := all[0]
		net.split("b")
		time.Sleep(time.Minute)
		eventually(t, 0, []*node{a}, "a")
		if members, _ := a.Members(); members != 1 {
			t.Errorf("%d members after Down", members)
		}
		time.Sleep(20 * time.Minute)
		if members, replicas := a.Members(); members != 0 || replicas != 0 {
			t.Errorf("%d members and %d replicas after Permdown", members, replicas)
		}
		net.heal()
		eventually(t, 12*time.Second, all, "a", "b")
	})
}

// TestGoodbye closes two nodes. The presences of a closed node leave immediately, or after Down if
// KeepOnClose is set (O311).
func TestGoodbye(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b := net.join(t, "a"), net.join(t, "b")
		c := net.join(t, "c", keepOnClose)
		for _, n := range []*node{a, b, c} {
			n.track(new(owner), n.wire.name, nil)
		}
		eventually(t, 2*time.Second, []*node{a, b, c}, "a", "b", "c")
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		eventually(t, 0, []*node{a, c}, "a", "c")
		if members, replicas := a.Members(); members != 1 || replicas != 1 {
			t.Errorf("%d members and %d replicas", members, replicas)
		}
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		time.Sleep(15 * time.Second)
		eventually(t, 0, []*node{a}, "a", "c")
		time.Sleep(20 * time.Second)
		eventually(t, 0, []*node{a}, "a")
	})
}

// TestShards tracks many topics with different numbers of shards (O314, property 14).
func TestShards(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2, 8, 512} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			clusterTest(t, func(t *testing.T, net *network) {
				with := func(c *presence.Config) { c.Shards = shards }
				a, b := net.join(t, "a", with), net.join(t, "b", with)
				o := new(owner)
				a.track(o, "u1", nil)
				for i := range 20 {
					if _, err := a.TrackFor(o, fmt.Sprint("t", i), "u2", nil); err != nil {
						t.Error(err)
					}
				}
				eventually(t, 2*time.Second, []*node{a, b}, "u1")
				if got := b.Online("u1", "u2", "u3"); !slices.Equal(got, []string{"u1", "u2"}) {
					t.Errorf("online: %q", got)
				}
				a.UntrackAll(o)
				eventually(t, time.Second, []*node{a, b})
				time.Sleep(time.Second)
				if n := b.Rooms(); n > 0 {
					t.Errorf("%d topics left", n)
				}
			})
		})
	}
}

// TestConfig checks that New panics if the config is invalid (O313).
func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]presence.Config{
		"down too short":     {Period: time.Second, Down: 1999 * time.Millisecond},
		"permdown too short": {Down: time.Minute, Permdown: time.Minute},
		"negative":           {Grace: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			presence.New(nil, cfg)
		})
	}
}

// TestOutage disconnects all nodes for less than Down. The lists are right within 2 s after that,
// and presences that stayed neither leave nor join.
func TestOutage(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		all := []*node{a, b, c}
		o := new(owner)
		a.track(o, "stays", nil)
		b.track(o, "goes", nil)
		eventually(t, 2*time.Second, all, "stays", "goes")
		time.Sleep(10 * time.Second)
		for _, n := range all {
			n.take(&n.names)
			n.wire.setCut(true)
		}
		b.UntrackAll(o)
		c.track(new(owner), "comes", nil)
		time.Sleep(15 * time.Second)
		eventually(t, 0, []*node{a}, "stays", "goes")
		for _, n := range all {
			n.wire.setCut(false)
		}
		eventually(t, 2*time.Second, all, "stays", "comes")
		for _, n := range all {
			if got := strings.Join(n.take(&n.names), "\n"); strings.Contains(got, "stays") {
				t.Errorf("diffs of %s:\n%s", n.wire.name, got)
			}
		}
	})
}

// TestSuspendedProcess has a tick run 20 s late, as in a process that was suspended. The time of
// the suspension does not count towards Down.
func TestSuspendedProcess(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a := net.populate(t, "a", "b")[0]
		net.split("b")
		time.Sleep(28 * time.Second)
		a.Tick(20 * time.Second)
		time.Sleep(19 * time.Second)
		eventually(t, 0, []*node{a}, "a", "b")
		time.Sleep(10 * time.Second)
		eventually(t, 0, []*node{a}, "a")
	})
}

// TestSameName has two nodes with the same Config.Node. Only the presences of the later one are
// listed, and the list does not alternate between them.
func TestSameName(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		twin := named("twin")
		a, b1 := net.join(t, "a"), net.join(t, "b1", twin)
		b1.track(new(owner), "b1", nil)
		time.Sleep(2 * time.Second)
		b2 := net.join(t, "b2", twin)
		b2.track(new(owner), "b2", nil)
		time.Sleep(time.Minute)
		eventually(t, 0, []*node{a}, "b2")
		a.take(&a.names)
		time.Sleep(time.Minute)
		a.want()
		b2.crash()
		time.Sleep(time.Minute)
		eventually(t, 0, []*node{a}, "b1") // as after a clock that was set back
	})
}

// TestPublishFails has the adapter refuse messages for a while. The changes reach the other node as
// soon as the adapter accepts messages again, although it reports no gap.
func TestPublishFails(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		var log strings.Builder
		a, b := net.join(t, "a", logTo(&log)), net.join(t, "b")
		time.Sleep(10 * time.Second)
		a.wire.refuse(true)
		a.track(new(owner), "u1", nil)
		time.Sleep(4 * time.Second)
		eventually(t, 0, []*node{b})
		a.wire.refuse(false)
		eventually(t, 2*time.Second, []*node{a, b}, "u1")
		if n := strings.Count(log.String(), "broadcast to other nodes"); n != 2 {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
	})
}

// TestGap has a node miss a change. It recovers soon after its adapter has reported a gap.
func TestGap(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b := net.join(t, "a"), net.join(t, "b")
		time.Sleep(10 * time.Second)
		net.setFate(func(_, to string) []time.Duration {
			if to == "b" {
				return nil
			}
			return []time.Duration{0}
		})
		a.track(new(owner), "u1", nil)
		time.Sleep(time.Second)
		net.heal()
		a.wire.setCut(false) // only reports a gap
		b.wire.setCut(false)
		eventually(t, 300*time.Millisecond, []*node{a, b}, "u1")
	})
}

// TestKeepOnClose checks that Close sends the last changes even if it sends no goodbye.
func TestKeepOnClose(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		a, b := net.join(t, "a"), net.join(t, "b", keepOnClose)
		o := new(owner)
		b.track(o, "u1", nil)
		b.track(o, "u2", nil)
		eventually(t, 2*time.Second, []*node{a}, "u1", "u2")
		time.Sleep(time.Second)
		b.track(o, "u3", nil)
		b.UntrackFor(o, topic, "u1")
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		eventually(t, 0, []*node{a}, "u2", "u3")
	})
}

// TestMalformedMessages checks that malformed messages of other nodes are dropped and logged.
func TestMalformedMessages(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		var log strings.Builder
		a, b := net.join(t, "a", logTo(&log)), net.join(t, "b")
		a.track(new(owner), "u1", nil)
		eventually(t, 2*time.Second, []*node{a, b}, "u1")
		for _, payload := range []any{
			nil, 1, "x", serializer.Binary(nil), serializer.Binary([]byte{1, 1}), serializer.Binary(make([]byte, 100)),
		} {
			if err := b.ps.Control().Broadcast(t.Context(), "bennu:presence:presence:0", "gossip", payload); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "message dropped"); n != 6 {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
		eventually(t, 0, []*node{a, b}, "u1")
	})
}

// TestFlood sends a node more than it can queue. The queue is bounded, and the node recovers later
// what it dropped.
func TestFlood(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		var log strings.Builder
		hold := make(chan struct{})
		a, b := net.join(t, "a"), net.join(t, "b", logTo(&log))
		time.Sleep(10 * time.Second)
		b.ps.Subscribe(topic, blocking(hold))
		for i := range 20 {
			a.track(new(owner), fmt.Sprint(i), device{"x": strings.Repeat("x", 1<<20)})
			time.Sleep(200 * time.Millisecond)
		}
		synctest.Wait()
		if got := b.Count(topic); got != 1 {
			t.Errorf("b has %d presences while a subscriber blocks", got)
		}
		close(hold)
		time.Sleep(12 * time.Second)
		if got := b.Count(topic); got != 20 {
			t.Errorf("b has %d of 20", got)
		}
		if !strings.Contains(log.String(), "inbox full") {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

// blocking is a subscriber that blocks until the channel is closed, which subscribers must not do.
type blocking chan struct{}

func (b blocking) Deliver(*pubsub.Broadcast) error { <-b; return nil }
