package broker_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/engine/internal/broker"
)

// hasGap reports whether got contains a gap with this reason.
func hasGap(got []string, reason string) bool {
	return slices.ContainsFunc(got, func(s string) bool {
		return strings.HasPrefix(s, "gap: ") && strings.Contains(s, reason)
	})
}

// gaps returns the number of gaps in got.
func gaps(got []string) (n int) {
	for _, s := range got {
		if strings.HasPrefix(s, "gap: ") {
			n++
		}
	}
	return n
}

const hole = "a probe of another node was missed"

// Nodes start, send and stop without a fault. There must be no gap and no reconnection.
func TestProbesWithoutFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		var nodes []*node
		for i := range 20 {
			n := start(t, e, broker.Config{Echo: true})
			n.Subscribe("x")
			nodes = append(nodes, n)
			advance(time.Duration(i) * 700 * time.Millisecond)
			n.mustPublish(t, "x", "hello")
		}
		advance(time.Hour)
		for _, n := range nodes[10:] {
			n.stop()
			advance(300 * time.Millisecond)
		}
		advance(time.Hour)
		if len(e.dials) != 20 {
			t.Errorf("%d connections were made", len(e.dials))
		}
		for i, n := range nodes {
			if got := n.takeTexts(); gaps(got) > 0 {
				t.Errorf("node %d: %q", i, got)
			}
			if h := n.Health(); i < 10 && (!h.Connected || h.Err != nil) {
				t.Errorf("node %d: health %+v", i, h)
			}
		}
	})
}

// Two servers do not forward to each other for a while. All nodes report gaps, including nodes that
// were started meanwhile, and none reconnects.
func TestMissingProbeIsGap(t *testing.T) {
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
			advance(time.Minute)
			e.set(func() { e.split = true })
			add() // one on each side
			add()
			for range int(split / (200 * time.Millisecond)) {
				for i, n := range nodes {
					n.mustPublish(t, "x", fmt.Sprint(i))
				}
				advance(200 * time.Millisecond)
			}
			for i, n := range nodes {
				if got := n.takeTexts(); slices.Contains(got, fmt.Sprint((i+3)%5)) && places[i] != places[(i+3)%5] {
					t.Fatalf("node %d received messages through the split: %q", i, got)
				}
			}
			e.set(func() { e.split = false })
			advance(10 * time.Second)
			for i, n := range nodes {
				if got := n.takeTexts(); !hasGap(got, hole) {
					t.Errorf("after %v node %d: %q", split, i, got)
				}
			}
			advance(time.Minute)
			for i, n := range nodes {
				if got := n.takeTexts(); len(got) > 0 {
					t.Errorf("long after %v node %d: %q", split, i, got)
				}
			}
			if len(e.dials) != len(nodes) {
				t.Errorf("%d connections for %d nodes", len(e.dials), len(nodes))
			}
		})
	}
}

// A node is alone on a server that lost the route to the others. It reports that in Health and
// reconnects. The others stay connected. All report gaps.
func TestIsolatedNodeReconnects(t *testing.T) {
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
		advance(time.Minute)
		e.set(func() { e.split = true })
		begun := time.Now()
		for lone.Health().Connected && time.Since(begun) < time.Minute {
			lone.mustPublish(t, "x", "not received")
			advance(10 * time.Millisecond)
		}
		// Three intervals of 5 s, the timeout of 5 s, and until the next check.
		if d := time.Since(begun); d < 15*time.Second || d > 26*time.Second {
			t.Errorf("noticed after %v", d)
		}
		if h := lone.Health(); h.Err == nil || !strings.HasSuffix(h.Err.Error(), "of 3 other nodes are silent") {
			t.Errorf("health %+v", h)
		}
		advance(10 * time.Second)
		if got := lone.takeTexts(); !hasGap(got, "of 3 other nodes are silent") {
			t.Errorf("the lone node: %q", got)
		}
		for i, n := range nodes {
			if h := n.Health(); !h.Connected || h.Err != nil {
				t.Errorf("node %d: health %+v", i, h)
			}
			if got := n.takeTexts(); n != lone && gaps(got) == 0 {
				t.Errorf("node %d: %q", i, got)
			}
		}
		if len(e.dials) != 5 {
			t.Errorf("%d connections", len(e.dials))
		}
		lone.mustPublish(t, "x", "received")
		nodes[0].wantReceived(t, "received")
	})
}

// A node disappears without its last probe. The other node reconnects a few times to look for it,
// and reports that in Health. Then it considers the node dead. A node that stopped orderly is not
// missed.
func TestSilentNodeIsPresumedDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		e.place = func() int { return (len(e.dials) - 1) % 2 } // the second is on its own server
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		advance(time.Minute)
		e.set(func() { e.split, e.place = true, func() int { return 0 } })
		e.set(func() { e.conns[1].cut(); e.down = true }) // b never comes back
		advance(25 * time.Second)
		if h := a.Health(); h.Connected {
			t.Errorf("health of the survivor: %+v", h)
		}
		b.stop()
		e.set(func() { e.down, e.dials = false, nil })
		advance(5 * time.Second)
		if h := a.Health(); !h.Connected || h.Err == nil || h.Err.Error() != "1 of 1 other nodes are silent" {
			t.Errorf("health while the other node is missing: %+v", h)
		}
		advance(10 * time.Minute)
		if h := a.Health(); !h.Connected || h.Err != nil || h.Gaps != 2 || len(e.dials) < 2 || len(e.dials) > 4 {
			t.Errorf("final health: %+v after %d connections", h, len(e.dials))
		}
		c := start(t, e, broker.Config{})
		advance(10 * time.Second)
		e.set(func() { e.dials = nil })
		a.take()
		c.stop()
		advance(10 * time.Minute)
		if h := a.Health(); !h.Connected || h.Err != nil || len(e.dials) > 0 {
			t.Errorf("after an orderly stop: %+v, %d connections", h, len(e.dials))
		}
		a.wantReceived(t)
	})
}

// The engine has lost a subscription. The node notices that its own probe does not come back, with
// and without other nodes.
func TestMissingEchoReconnects(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			e := &bus{}
			a := start(t, e, broker.Config{Echo: true, Ping: 3 * time.Second, Timeout: 2 * time.Second})
			for range others {
				start(t, e, broker.Config{Echo: true, Ping: 3 * time.Second, Timeout: 2 * time.Second})
			}
			advance(time.Minute)
			e.set(func() { delete(e.conns[0].subs, "aall") })
			begun := time.Now()
			for a.Health().Gaps == 0 && time.Since(begun) < time.Minute {
				if others > 0 {
					a.mustPublish(t, "x", "a busy node sends probes more often")
				}
				advance(100 * time.Millisecond)
			}
			if d := time.Since(begun); d > 8*time.Second+200*time.Millisecond {
				t.Errorf("noticed after %v", d)
			}
			advance(time.Second)
			if got := a.takeTexts(); !hasGap(got, "does not deliver") || !a.Health().Connected {
				t.Errorf("got %q; health %+v", got, a.Health())
			}
			advance(time.Minute)
			a.wantReceived(t)
		})
	}
}

// A server that became a replica answers as before. Its nodes notice the change, connect to another
// server and report a gap. So do nodes that were started at the new primary and could not receive
// their messages.
func TestReplicaIsLeft(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server := 0
			e := &bus{split: true, demoted: make(map[int]bool), place: func() int { return server }}
			a, b := start(t, e, broker.Config{Echo: true}), start(t, e, broker.Config{Echo: true})
			a.Subscribe("x")
			b.Subscribe("x")
			advance(time.Minute)
			e.set(func() { server = 1 })
			c := start(t, e, broker.Config{Echo: true})
			c.Subscribe("x")
			advance(200 * time.Millisecond) // an earlier probe may be from before c connected
			e.set(func() { e.demoted[0] = true })
			a.mustPublish(t, "x", "not received by c")
			for range 600 {
				if busy {
					b.mustPublish(t, "other", "busy")
				}
				advance(10 * time.Millisecond)
			}
			advance(time.Second)
			for name, n := range map[string]*node{"a": a, "b": b, "c": c} {
				got := n.takeTexts()
				if h := n.Health(); gaps(got) == 0 || !h.Connected {
					t.Errorf("%s: %q; health %+v", name, got, h)
				}
				if name == "c" && slices.Contains(got, "not received by c") {
					t.Error("c received a message that was sent on the replica")
				}
			}
			a.mustPublish(t, "x", "received")
			c.wantReceived(t, "received")
		})
	}
}

// A change of the path to other nodes is a gap immediately and again a second later, whether
// messages are sent or not.
func TestPathChangeIsReportedTwice(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := &bus{}
			a := start(t, e, broker.Config{Ping: time.Minute})
			advance(time.Second)
			e.conns[0].receiver.PathChanged(errCut)
			a.wantReceived(t, "gap: the connection was cut")
			for range 99 {
				if busy {
					a.mustPublish(t, "x", "busy")
				}
				advance(10 * time.Millisecond)
			}
			a.wantReceived(t)
			advance(20 * time.Millisecond)
			a.mustPublish(t, "x", "busy")
			a.wantReceived(t, "gap: the connection was cut")
			advance(time.Hour)
			a.wantReceived(t)
		})
	}
}

// Each node receives at most about 20 probes a second, whatever the number of nodes.
func TestProbeRateIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const count = 200
		e := &bus{}
		var nodes []*node
		for range count {
			nodes = append(nodes, start(t, e, broker.Config{}))
		}
		advance(2 * time.Minute)
		e.set(func() {
			for _, c := range e.conns {
				c.batches = nil
			}
		})
		const minutes = 3
		for range minutes {
			for _, n := range nodes {
				n.mustPublish(t, "x", "busy")
			}
			advance(time.Minute)
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
			t.Errorf("%.1f probes per second", rate)
		}
	})
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	largest := binary.AppendUvarint(nil, math.MaxUint64)
	f.Add(slices.Concat(largest, []byte{0}, largest))
	f.Fuzz(func(t *testing.T, body []byte) {
		number, since, interval, ok := broker.ParseProbe(body)
		if !ok {
			return
		}
		if number == 0 || since < 0 || interval < 0 || interval > 10*time.Minute {
			t.Errorf("%x parsed as number %d, %v after the previous probe, interval %v", body, number, since, interval)
		}
		n, s, i, ok := broker.ParseProbe(broker.AppendProbe(nil, number, since, interval))
		if !ok || n != number || s != since || i != interval {
			t.Errorf("%d, %v, %v became %d, %v, %v", number, since, interval, n, s, i)
		}
	})
}
