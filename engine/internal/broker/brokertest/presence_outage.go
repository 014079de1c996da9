package brokertest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

const (
	presenceTopic = "crowd:1"

	// converged limits the time after an outage until all nodes list the same presences.
	converged = 5 * time.Second
	// attempts is the number of attempts to connect after which the delay between them is longest.
	attempts = 7
)

// presenceNode is a node with a presence. It records the diffs that its subscribers received.
type presenceNode struct {
	*node
	who *presence.Presence

	mu      sync.Mutex
	state   presence.State      // the state according to the diffs
	changes map[string][]string // keys by "joined", "left" and "updated"
}

// owner owns presences until the test ends.
type owner struct{ _ byte }

func (*owner) OnEnd(func()) bool { return true }

func startPresence(t testing.TB, e Engine) *presenceNode {
	c := &presenceNode{node: start(t, e, e.Addr), changes: make(map[string][]string)}
	c.who = presence.New(c.ps, presence.Config{})
	c.ps.Subscribe(presenceTopic, c)
	t.Cleanup(func() {
		if err := c.who.Close(context.Background()); err != nil {
			t.Logf("%s: %v", c.a.Node(), err) // the engine may not be available
		}
	})
	return c
}

// Deliver implements pubsub.Subscriber.
func (c *presenceNode) Deliver(b *pubsub.Broadcast) error {
	var d presence.Diff
	if err := b.Payload.Decode(&d); err != nil || b.Event != presence.EventDiff {
		c.t.Errorf("%s: received %s: %v", c.a.Node(), b.Event, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range d.Joins.All() {
		how := "joined"
		if _, ok := d.Leaves.Get(key); ok {
			how = "updated"
		}
		c.changes[how] = append(c.changes[how], key)
	}
	for key := range d.Leaves.All() {
		if _, ok := d.Joins.Get(key); !ok {
			c.changes["left"] = append(c.changes["left"], key)
		}
	}
	c.state = presence.Merge(c.state, d, nil, nil)
	return nil
}

// takeChanges returns the changes since the last call, sorted by key.
func (c *presenceNode) takeChanges() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, keys := range c.changes {
		slices.Sort(keys)
	}
	text, err := json.Marshal(c.changes)
	if err != nil {
		c.t.Error(err)
	}
	clear(c.changes)
	return string(text)
}

// encode returns the metas by key as JSON, sorted by key, since the order of keys differs between
// nodes.
func encode(c *presenceNode, s presence.State) string {
	all := make(map[string]presence.Entry)
	maps.Insert(all, s.All())
	text, err := json.Marshal(all)
	if err != nil {
		c.t.Error(err)
	}
	return string(text)
}

// agree reports whether all nodes list the same presences, with the given number of keys, and the
// diffs that their subscribers received lead to the same state.
func agree(keys int, nodes ...*presenceNode) bool {
	want := encode(nodes[0], nodes[0].who.List(presenceTopic))
	for _, n := range nodes {
		n.mu.Lock()
		state := n.state
		n.mu.Unlock()
		list := n.who.List(presenceTopic)
		if list.Len() != keys || encode(n, list) != want || encode(n, state) != want {
			return false
		}
	}
	return true
}

// Presences are tracked while the engine is not available. All nodes know them soon after it is
// back, and no other presence leaves.
func presenceOutage(t *testing.T, e Engine) {
	a, b := startPresence(t, e), startPresence(t, e)
	waitJoined(a.node, b.node)
	nodes, owner := []*presenceNode{a, b}, new(owner)
	each := func(f func(n *presenceNode, name string) error) {
		t.Helper()
		for i, n := range nodes {
			if err := f(n, "ab"[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	type meta struct{ Device string }
	each(func(n *presenceNode, name string) error {
		for _, key := range []string{"stays ", "leaves ", "changes "} {
			if _, err := n.who.TrackFor(owner, presenceTopic, key+name, meta{"tab"}); err != nil {
				return err
			}
		}
		return nil
	})
	a.waitUntil("in agreement before the outage", func() bool { return agree(6, nodes...) })
	for _, n := range nodes {
		n.takeChanges()
	}

	e.Stop(t)
	for _, n := range nodes {
		n.waitUntil("disconnected for long", func() bool { return n.countLog("not connected") >= attempts })
	}
	each(func(n *presenceNode, name string) error {
		n.who.UntrackFor(owner, presenceTopic, "leaves "+name)
		_, err := n.who.UpdateFor(owner, presenceTopic, "changes "+name, meta{"phone"})
		if err == nil {
			_, err = n.who.TrackFor(owner, presenceTopic, "joins "+name, meta{"tab"})
		}
		return err
	})
	if agree(6, nodes...) {
		t.Error("the nodes agree without an engine")
	}
	e.Start(t)
	back := time.Now()
	a.waitUntil("in agreement", func() bool { return agree(6, nodes...) })
	d := time.Since(back)
	t.Logf("nodes agreed %v after the engine was back", d)
	if d > converged {
		t.Errorf("nodes agreed %v after the engine was back, want at most %v", d, converged)
	}

	each(func(n *presenceNode, name string) error { // later changes arrive as before
		_, err := n.who.TrackFor(owner, presenceTopic, "late "+name, nil)
		return err
	})
	a.waitUntil("in agreement again", func() bool { return agree(8, nodes...) })
	const want = `{"joined":["joins a","joins b","late a","late b"],` +
		`"left":["leaves a","leaves b"],"updated":["changes a","changes b"]}`
	for _, n := range nodes {
		if got := n.takeChanges(); got != want {
			t.Errorf("%s: its subscribers received\n%s, want\n%s", n.a.Node(), got, want)
		}
	}
}
