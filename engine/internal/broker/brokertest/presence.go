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
	crowd = "crowd:1" // the topic of the presences

	// converged is how soon after an outage presence has to be right.
	converged = 5 * time.Second
	// attempts is after how many of them a node waits longest for the next.
	attempts = 7
)

// crowded is a node with a presence, and what its subscribers were told of it.
type crowded struct {
	*node
	who *presence.Presence

	mu    sync.Mutex
	told  presence.State      // what the diffs have led to
	moved map[string][]string // by "joined", "left" and "updated": keys
}

// guest owns presences, until the test ends.
type guest struct{ _ byte }

func (*guest) OnEnd(func()) bool { return true }

func startCrowded(t testing.TB, e Engine) *crowded {
	c := &crowded{node: start(t, e, e.Addr), moved: make(map[string][]string)}
	c.who = presence.New(c.ps, nil)
	c.ps.Subscribe(crowd, c)
	t.Cleanup(func() {
		if err := c.who.Close(context.Background()); err != nil {
			t.Logf("%s: %v", c.a.Node(), err) // the engine may be away
		}
	})
	return c
}

// Deliver is part of pubsub.Subscriber.
func (c *crowded) Deliver(b *pubsub.Broadcast) error {
	var d presence.Diff
	if err := b.Payload.Decode(&d); err != nil || b.Event != presence.EventDiff {
		c.t.Errorf("%s: got %s: %v", c.a.Node(), b.Event, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range d.Joins.All() {
		how := "joined"
		if _, ok := d.Leaves.Get(key); ok {
			how = "updated"
		}
		c.moved[how] = append(c.moved[how], key)
	}
	for key := range d.Leaves.All() {
		if _, ok := d.Joins.Get(key); !ok {
			c.moved["left"] = append(c.moved["left"], key)
		}
	}
	c.told = presence.Merge(c.told, d, nil, nil)
	return nil
}

// takeMoved is what the diffs said since the last call, in order.
func (c *crowded) takeMoved() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, keys := range c.moved {
		slices.Sort(keys)
	}
	text, err := json.Marshal(c.moved)
	if err != nil {
		c.t.Error(err)
	}
	clear(c.moved)
	return string(text)
}

// present is the metas by key, in an order of their own: nodes learn of keys in different orders.
func present(c *crowded, s presence.State) string {
	all := make(map[string]presence.Entry)
	maps.Insert(all, s.All())
	text, err := json.Marshal(all)
	if err != nil {
		c.t.Error(err)
	}
	return string(text)
}

// agree reports whether nodes list the same keys, so many, and their subscribers were told so.
func agree(keys int, nodes ...*crowded) bool {
	want := present(nodes[0], nodes[0].who.List(crowd))
	for _, n := range nodes {
		n.mu.Lock()
		told := n.told
		n.mu.Unlock()
		list := n.who.List(crowd)
		if list.Len() != keys || present(n, list) != want || present(n, told) != want {
			return false
		}
	}
	return true
}

// What is tracked while the engine is away is known everywhere soon after it is back, and nobody leaves who did not.
func crowds(t *testing.T, e Engine) {
	a, b := startCrowded(t, e), startCrowded(t, e)
	joined(a.node, b.node)
	nodes, owner := []*crowded{a, b}, new(guest)
	each := func(f func(n *crowded, name string) error) {
		t.Helper()
		for i, n := range nodes {
			if err := f(n, "ab"[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	type meta struct{ Device string }
	each(func(n *crowded, name string) error {
		for _, who := range []string{"stays ", "leaves ", "changes "} {
			if _, err := n.who.TrackFor(owner, crowd, who+name, meta{"tab"}); err != nil {
				return err
			}
		}
		return nil
	})
	a.until("of one mind before the outage", func() bool { return agree(6, nodes...) })
	for _, n := range nodes {
		n.takeMoved()
	}

	e.Stop(t)
	for _, n := range nodes {
		n.until("away for long", func() bool { return n.logged("not connected") >= attempts })
	}
	each(func(n *crowded, name string) error {
		n.who.UntrackFor(owner, crowd, "leaves "+name)
		_, err := n.who.UpdateFor(owner, crowd, "changes "+name, meta{"phone"})
		if err == nil {
			_, err = n.who.TrackFor(owner, crowd, "joins "+name, meta{"tab"})
		}
		return err
	})
	if agree(6, nodes...) {
		t.Error("the nodes agree without an engine")
	}
	e.Start(t)
	back := time.Now()
	a.until("of one mind", func() bool { return agree(6, nodes...) })
	d := time.Since(back)
	t.Logf("of one mind %v after the engine was back", d)
	if d > converged {
		t.Errorf("of one mind %v after the engine was back, more than %v", d, converged)
	}

	each(func(n *crowded, name string) error { // it goes on as before
		_, err := n.who.TrackFor(owner, crowd, "late "+name, nil)
		return err
	})
	a.until("of one mind again", func() bool { return agree(8, nodes...) })
	const want = `{"joined":["joins a","joins b","late a","late b"],"left":["leaves a","leaves b"],"updated":["changes a","changes b"]}`
	for _, n := range nodes {
		if got := n.takeMoved(); got != want {
			t.Errorf("%s: its subscribers were told\n%s, want\n%s", n.a.Node(), got, want)
		}
	}
}
