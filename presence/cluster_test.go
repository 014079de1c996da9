package presence_test

import (
	"context"
	"fmt"
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

// eventually lets virtual time go on until all nodes list the same keys, at most for d.
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

// check holds that the diffs have led to what the list is, and that none was told twice.
func (n *node) check() {
	n.t.Helper()
	synctest.Wait()
	list := byKey(n.List(topic))
	n.mu.Lock()
	defer n.mu.Unlock()
	if told := byKey(n.state); !maps.Equal(told, list) {
		n.t.Errorf("%s: diffs give %v but the list is %v", n.wire.name, told, list)
	}
}

func kinds(all []sent) map[string]int {
	n := map[string]int{}
	for _, s := range all {
		n[s.kind]++
	}
	return n
}

// TestCluster is N286, O292 to O294: what is tracked on one node is listed and told on the others, soon, and an update in one diff.
func TestCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		all := []*node{a, b, c}
		o := new(owner)
		a.track(o, "u1", device{"device": "tab"})
		eventually(t, 2*time.Second, all, "u1")
		time.Sleep(time.Second)
		b.track(new(owner), "u2", nil)
		eventually(t, 0, all, "u1", "u2") // after some quiet, at once
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
			n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"A","phx_ref_prev":"B","device":"phone"}]}},"leaves":{"u1":{"metas":[{"phx_ref":"B","device":"tab"}]}}}`)
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

// TestBeats is O305: a quiet node gives a sign of life every (Silence + 1) periods, and asks for nothing.
func TestBeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
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
					t.Fatalf("%s: %v between two signs of life, not %v", name, got, every)
				}
			}
		}
	})
}

// TestNewcomer is O306, and O312: it is filled in by one transfer, also if someone before it has gone.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
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

// TestAsksDominant is O307: of two that know more, the one that knows all is asked.
func TestAsksDominant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		time.Sleep(10 * time.Second)
		net.setFate(func(_, to string) []time.Duration { // c hears nothing
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

// TestPartition is O308 and property 8: each side drops the other's after Down, and both have all again when they hear each other, with no
// diff about who never left its side, and no transfer if nothing changed.
func TestPartition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
		all := []*node{a, b, c}
		for _, n := range all {
			n.track(new(owner), n.wire.name, nil)
		}
		eventually(t, 2*time.Second, all, "a", "b", "c")
		time.Sleep(10 * time.Second)
		net.split("c")
		for _, n := range all {
			n.take(&n.names)
		}
		time.Sleep(20 * time.Second) // heard at most 9 s ago
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
				t.Errorf("%s was told of its own:\n%s", n.wire.name, got)
			}
			if n != c && (strings.Count(got, `"c":`) != 2 || strings.Contains(got, `"a":`) || strings.Contains(got, `"b":`)) {
				t.Errorf("%s was told\n%s", n.wire.name, got)
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
				t.Errorf("%s was told of one who has left meanwhile:\n%s", n.wire.name, got)
			}
		}
	})
}

// TestRestart is O309 and property 9: a node that starts again takes the place of its former life.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		named := func(c *presence.Config) { c.Node = "host-1" }
		a, old := net.join(t, "a"), net.join(t, "b1", named)
		old.track(new(owner), "before", nil)
		eventually(t, 2*time.Second, []*node{a, old}, "before")
		old.crash()
		time.Sleep(time.Second)
		b := net.join(t, "b2", named)
		b.track(new(owner), "after", nil)
		eventually(t, time.Second, []*node{a, b}, "after")
		if members, replicas := a.Members(); members != 1 || replicas != 1 {
			t.Errorf("knows %d members and %d replicas", members, replicas)
		}
		time.Sleep(time.Hour)
		eventually(t, 0, []*node{a, b}, "after")
	})
}

// TestPermdown is O310 and property 11.
func TestPermdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b := net.join(t, "a"), net.join(t, "b")
		a.track(new(owner), "a", nil)
		b.track(new(owner), "b", nil)
		eventually(t, 2*time.Second, []*node{a, b}, "a", "b")
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
		eventually(t, 12*time.Second, []*node{a, b}, "a", "b")
	})
}

// TestGoodbye is O311: Close tells the others, unless it is not to.
func TestGoodbye(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b := net.join(t, "a"), net.join(t, "b")
		c := net.join(t, "c", func(c *presence.Config) { c.KeepOnClose = true })
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

// TestShards is O314 and property 14.
func TestShards(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2, 8, 512} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var net network
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

// TestConfig is O313.
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
			presence.New(nil, &cfg)
		})
	}
}

// TestOutage holds that all is well within 5 s after an engine's outage, without a leave if that was shorter than Down.
func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
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
				t.Errorf("%s was told\n%s", n.wire.name, got)
			}
		}
	})
}

// TestStopped holds that a process which was stopped for long does not take the others for dead when it goes on.
func TestStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b := net.join(t, "a"), net.join(t, "b")
		a.track(new(owner), "a", nil)
		b.track(new(owner), "b", nil)
		eventually(t, 2*time.Second, []*node{a, b}, "a", "b")
		net.split("b")
		time.Sleep(28 * time.Second)
		a.Tick(20 * time.Second)
		time.Sleep(19 * time.Second)
		eventually(t, 0, []*node{a}, "a", "b")
		time.Sleep(10 * time.Second)
		eventually(t, 0, []*node{a}, "a")
	})
}

// TestSameName holds that two nodes of one name do not take turns: the later one is seen.
func TestSameName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		named := func(c *presence.Config) { c.Node = "twin" }
		a, b1 := net.join(t, "a"), net.join(t, "b1", named)
		b1.track(new(owner), "b1", nil)
		time.Sleep(2 * time.Second)
		b2 := net.join(t, "b2", named)
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

// TestRefused holds that what an adapter did not take is made up for as soon as it takes something again, though nobody says so.
func TestRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		var log strings.Builder
		logger := zerolog.New(&log)
		a, b := net.join(t, "a", func(c *presence.Config) { c.Logger = &logger }), net.join(t, "b")
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

// TestGap holds that a node which may have missed something asks soon.
func TestGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
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
		a.wire.setCut(false) // only says that there was a gap
		b.wire.setCut(false)
		eventually(t, 300*time.Millisecond, []*node{a, b}, "u1")
	})
}

// TestKeep holds that a node which others are to keep tells them the last of its news.
func TestKeep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		a, b := net.join(t, "a"), net.join(t, "b", func(c *presence.Config) { c.KeepOnClose = true })
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

// TestGarbage holds that what is no message between nodes is dropped.
func TestGarbage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		var log strings.Builder
		logger := zerolog.New(&log)
		a, b := net.join(t, "a", func(c *presence.Config) { c.Logger = &logger }), net.join(t, "b")
		a.track(new(owner), "u1", nil)
		eventually(t, 2*time.Second, []*node{a, b}, "u1")
		for _, payload := range []any{nil, 1, "x", serializer.Binary(nil), serializer.Binary([]byte{1, 1}), serializer.Binary(make([]byte, 100))} {
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

// TestFlood holds that what other nodes send is bounded, and that what is dropped then comes later.
func TestFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var net network
		var log strings.Builder
		logger := zerolog.New(&log)
		hold := make(chan struct{})
		a := net.join(t, "a")
		b := net.join(t, "b", func(c *presence.Config) { c.Logger = &logger })
		time.Sleep(10 * time.Second)
		b.ps.Subscribe(topic, stuck(hold))
		for i := range 20 {
			a.track(new(owner), fmt.Sprint(i), device{"x": strings.Repeat("x", 1<<20)})
			time.Sleep(200 * time.Millisecond)
		}
		synctest.Wait()
		if got := b.Count(topic); got != 1 {
			t.Errorf("b takes what comes behind a subscriber that blocks: %d", got)
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

// stuck is a subscriber that does what it must not: it blocks until the channel is closed.
type stuck chan struct{}

func (s stuck) Deliver(*pubsub.Broadcast) error { <-s; return nil }
