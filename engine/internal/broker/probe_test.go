package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/engine/internal/broker"
)

// hasGap reports whether a gap with this reason is among what came.
func hasGap(got []string, reason string) bool {
	return slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "gap: ") && strings.Contains(s, reason) })
}

// gaps returns how many gaps are among what came.
func gaps(got []string) (n int) {
	for _, s := range got {
		if strings.HasPrefix(s, "gap: ") {
			n++
		}
	}
	return n
}

const hole = "a probe of another node was missed"

// Nodes that come, go and send without a fault cause no gap and no reconnection.
func TestProbesWithoutFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		var nodes []*node
		for i := range 20 {
			n := start(t, e, broker.Config{Echo: true})
			n.Subscribe("x")
			nodes = append(nodes, n)
			pass(time.Duration(i) * 700 * time.Millisecond)
			mustSay(t, n, "x", "hello")
		}
		pass(time.Hour)
		for _, n := range nodes[10:] {
			n.stop()
			pass(300 * time.Millisecond)
		}
		pass(time.Hour)
		if len(e.dials) != 20 {
			t.Errorf("%d connections were made", len(e.dials))
		}
		for i, n := range nodes {
			if got := n.heard(); gaps(got) > 0 {
				t.Errorf("node %d: %q", i, got)
			}
			if h := n.Health(); i < 10 && (!h.Connected || h.Err != nil) {
				t.Errorf("node %d: health %+v", i, h)
			}
		}
	})
}

// Two servers that do not forward to each other for a while: what was missed is announced on both sides, also to nodes that started
// meanwhile, and nobody connects anew.
func TestProbeHole(t *testing.T) {
	t.Parallel()
	for _, split := range []time.Duration{2 * time.Second, 6 * time.Second, 12 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			places := []int{0, 0, 0, 1, 1, 0, 1}
			e := &bus{}
			e.place = func() int { return places[(len(e.dials)-1)%len(places)] }
			var nodes []*node
			add := func() {
				n := start(t, e, broker.Config{})
				n.Subscribe("x")
				nodes = append(nodes, n)
			}
			for range 5 {
				add()
			}
			pass(time.Minute)
			e.set(func() { e.split = true })
			add() // one on each side
			add()
			for range int(split / (200 * time.Millisecond)) {
				for i, n := range nodes {
					mustSay(t, n, "x", fmt.Sprint(i))
				}
				pass(200 * time.Millisecond)
			}
			for i, n := range nodes {
				if got := n.heard(); slices.Contains(got, fmt.Sprint((i+3)%5)) && places[i] != places[(i+3)%5] {
					t.Fatalf("node %d heard through the split: %q", i, got)
				}
			}
			e.set(func() { e.split = false })
			pass(10 * time.Second)
			for i, n := range nodes {
				if got := n.heard(); !hasGap(got, hole) {
					t.Errorf("after %v node %d: %q", split, i, got)
				}
			}
			pass(time.Minute)
			for i, n := range nodes {
				if got := n.heard(); len(got) > 0 {
					t.Errorf("long after %v node %d: %q", split, i, got)
				}
			}
			if len(e.dials) != len(nodes) {
				t.Errorf("%d connections for %d nodes", len(e.dials), len(nodes))
			}
		})
	}
}

// A node that is alone on a server which lost the others says so and connects anew; the others stay. All announce it.
func TestSilentMajority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		places := []int{0, 0, 0, 1, 0}
		e := &bus{}
		e.place = func() int { return places[len(e.dials)-1] }
		var nodes []*node
		for range 4 {
			n := start(t, e, broker.Config{})
			n.Subscribe("x")
			nodes = append(nodes, n)
		}
		lone := nodes[3]
		pass(time.Minute)
		e.set(func() { e.split = true })
		begun := time.Now()
		for lone.Health().Connected && time.Since(begun) < time.Minute {
			mustSay(t, lone, "x", "unheard")
			pass(10 * time.Millisecond)
		}
		// Three intervals of 5 s, the timeout of 5 s, and until the next check.
		if d := time.Since(begun); d < 15*time.Second || d > 26*time.Second {
			t.Errorf("noticed after %v", d)
		}
		if h := lone.Health(); h.Err == nil || !strings.HasSuffix(h.Err.Error(), "of 3 other nodes are not heard") {
			t.Errorf("health %+v", h)
		}
		pass(10 * time.Second)
		if got := lone.heard(); !hasGap(got, "of 3 other nodes are not heard") {
			t.Errorf("the lone node: %q", got)
		}
		for i, n := range nodes {
			if h := n.Health(); !h.Connected || h.Err != nil {
				t.Errorf("node %d: health %+v", i, h)
			}
			if got := n.heard(); n != lone && gaps(got) == 0 {
				t.Errorf("node %d: %q", i, got)
			}
		}
		if len(e.dials) != 5 {
			t.Errorf("%d connections", len(e.dials))
		}
		mustSay(t, lone, "x", "heard")
		nodes[0].wants(t, "heard")
	})
}

// A node that vanished without a word is looked for on new connections a few times, and Health says so; then it counts as dead. One that
// ended in order is not.
func TestSilentDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		e.place = func() int { return (len(e.dials) - 1) % 2 } // the second is on its own server
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		pass(time.Minute)
		e.set(func() { e.split, e.place = true, func() int { return 0 } })
		e.set(func() { e.conns[1].cut(); e.down = true }) // b never comes back
		pass(25 * time.Second)
		if h := a.Health(); h.Connected {
			t.Errorf("health of the survivor: %+v", h)
		}
		b.stop()
		e.set(func() { e.down, e.dials = false, nil })
		pass(5 * time.Second)
		if h := a.Health(); !h.Connected || h.Err == nil || h.Err.Error() != "1 of 1 other nodes are not heard" {
			t.Errorf("health while it looks for the other: %+v", h)
		}
		pass(10 * time.Minute)
		if h := a.Health(); !h.Connected || h.Err != nil || h.Gaps != 2 || len(e.dials) < 2 || len(e.dials) > 4 {
			t.Errorf("health at last: %+v after %d connections", h, len(e.dials))
		}
		c := start(t, e, broker.Config{})
		pass(10 * time.Second)
		e.set(func() { e.dials = nil })
		a.take()
		c.stop()
		pass(10 * time.Minute)
		if h := a.Health(); !h.Connected || h.Err != nil || len(e.dials) > 0 {
			t.Errorf("after an orderly end: %+v, %d connections", h, len(e.dials))
		}
		a.wants(t)
	})
}

// A subscription that the engine has forgotten is found out by the probe that does not come back, with other nodes and without.
func TestNoEcho(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			e := &bus{}
			a := start(t, e, broker.Config{Echo: true, Ping: 3 * time.Second, Timeout: 2 * time.Second})
			for range others {
				start(t, e, broker.Config{Echo: true, Ping: 3 * time.Second, Timeout: 2 * time.Second})
			}
			pass(time.Minute)
			e.set(func() { delete(e.conns[0].subs, "aall") })
			begun := time.Now()
			for a.Health().Gaps == 0 && time.Since(begun) < time.Minute {
				if others > 0 {
					mustSay(t, a, "x", "a busy node sends probes more often")
				}
				pass(100 * time.Millisecond)
			}
			if d := time.Since(begun); d > 8*time.Second+200*time.Millisecond {
				t.Errorf("noticed after %v", d)
			}
			pass(time.Second)
			if got := a.heard(); !hasGap(got, "does not deliver") || !a.Health().Connected {
				t.Errorf("got %q; health %+v", got, a.Health())
			}
			pass(time.Minute)
			a.wants(t)
		})
	}
}

// A server that became a replica answers as before. Its nodes find that out, go on to another server, and announce a gap; so do nodes that
// started at the new primary and could not hear them.
func TestDemoted(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server := 0
			e := &bus{split: true, demoted: make(map[int]bool), place: func() int { return server }}
			a, b := start(t, e, broker.Config{Echo: true}), start(t, e, broker.Config{Echo: true})
			a.Subscribe("x")
			b.Subscribe("x")
			pass(time.Minute)
			e.set(func() { server, e.demoted[0] = 1, true })
			c := start(t, e, broker.Config{Echo: true})
			c.Subscribe("x")
			synctest.Wait()
			mustSay(t, a, "x", "unheard by c")
			for range 600 {
				if busy {
					mustSay(t, b, "other", "busy")
				}
				pass(10 * time.Millisecond)
			}
			pass(time.Second)
			for name, n := range map[string]*node{"a": a, "b": b, "c": c} {
				got := n.heard()
				if h := n.Health(); gaps(got) == 0 || !h.Connected {
					t.Errorf("%s: %q; health %+v", name, got, h)
				}
				if name == "c" && slices.Contains(got, "unheard by c") {
					t.Error("c heard what it could not")
				}
			}
			mustSay(t, a, "x", "heard")
			c.wants(t, "heard")
		})
	}
}

// A change of the path to other nodes is a gap at once and again a second later, whether messages are sent or not.
func TestChanged(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := &bus{}
			a := start(t, e, broker.Config{Ping: time.Minute})
			pass(time.Second)
			e.conns[0].in.Changed(errCut)
			a.wants(t, "gap: the connection was cut")
			for range 99 {
				if busy {
					mustSay(t, a, "x", "busy")
				}
				pass(10 * time.Millisecond)
			}
			a.wants(t)
			pass(20 * time.Millisecond)
			mustSay(t, a, "x", "busy")
			a.wants(t, "gap: the connection was cut")
			pass(time.Hour)
			a.wants(t)
		})
	}
}

// However many nodes there are, each receives at most about twenty probes a second.
func TestProbeRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const count = 200
		e := &bus{}
		var nodes []*node
		for range count {
			nodes = append(nodes, start(t, e, broker.Config{}))
		}
		pass(2 * time.Minute)
		e.set(func() {
			for _, c := range e.conns {
				c.batches = nil
			}
		})
		const minutes = 3
		for range minutes {
			for _, n := range nodes {
				mustSay(t, n, "x", "busy")
			}
			pass(time.Minute)
		}
		probes := 0
		e.set(func() {
			for _, c := range e.conns {
				for _, batch := range c.batches {
					for _, m := range batch.Messages {
						if m.Channel == "aall" {
							probes++
						}
					}
				}
			}
		})
		if rate := float64(probes) / (minutes * 60); rate < 15 || rate > 27 {
			t.Errorf("%.1f probes each second", rate)
		}
	})
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		number, since, interval, ok := broker.ParseProbe(body)
		if !ok {
			return
		}
		if number == 0 || since < 0 || interval < 0 || interval > 10*time.Minute {
			t.Errorf("%x is probe %d, %v after the one before, interval %v", body, number, since, interval)
		}
		n, s, i, ok := broker.ParseProbe(broker.AppendProbe(nil, number, since, interval))
		if !ok || n != number || s != since || i != interval {
			t.Errorf("%d, %v, %v became %d, %v, %v", number, since, interval, n, s, i)
		}
	})
}
