package statetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"bennu.example/history"
	"bennu.example/state"
)

// nodesOf starts the nodes of an engine, two if it has them.
func nodesOf(t *testing.T, e Engine) []*node {
	nodes := []*node{start(t, e.Store)}
	if e.Node != nil {
		nodes = append(nodes, start(t, e.Node(t)))
	}
	return nodes
}

// linear writes one object from all nodes at once. The writes must have one order, which each
// writer's own writes are a part of, and every node must be fed and return the same.
func linear(t *testing.T, e Engine) {
	nodes := nodesOf(t, e)
	for _, n := range nodes {
		n.watch("o")
	}
	beginning := nodes[0].top("o")
	var mu sync.Mutex
	next := make(map[history.Position]state.Applied)
	var wg sync.WaitGroup
	const writers, each = 6, 30
	for w := range writers {
		n := nodes[w%len(nodes)]
		wg.Go(func() {
			last := uint64(0)
			for i := range each {
				ops := []state.Op{put(fmt.Sprint("w", w), number(i)), put("all", number(w))}
				a, err := n.Apply(ctxOf(t), "o", ops, state.Tx{ID: fmt.Sprint(w, " ", i)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := next[a.Prev]; ok {
					t.Errorf("both %s and %s follow %s", other.Position, a.Position, a.Prev)
				}
				next[a.Prev] = a
				mu.Unlock()
				if a.Revs[0] <= last || a.Revs[1] <= a.Revs[0] {
					t.Errorf("writer %d has revisions %v after %d", w, a.Revs, last)
				}
				last = a.Revs[1]
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	at, steps := beginning, 0
	copied := make(map[string]state.Item)
	for a, ok := next[at]; ok; a, ok = next[at] {
		for _, it := range a.Items {
			copied[it.Key] = it
		}
		at, steps = a.Position, steps+1
	}
	if steps != writers*each {
		t.Fatalf("the order ends after %d of %d writes, at %s", steps, writers*each, at)
	}
	for _, n := range nodes {
		if top := n.top("o"); top != at {
			t.Errorf("the position is %s, want %s", top, at)
		}
		equal(t, n.all("o"), copied)
		n.await("every write", func(changes []state.Change, uncertain int) bool {
			fed := make(map[history.Position]history.Position)
			for _, c := range changes {
				if c.Object == "o" {
					if a, ok := next[c.Prev]; !ok || a.Position != c.Position {
						t.Errorf("fed %s after %s, which nobody wrote", c.Position, c.Prev)
					}
					fed[c.Prev] = c.Position
				}
			}
			return len(fed) == len(next) || uncertain > 0
		})
	}
}

// counted increments a number by state.Update on all nodes at once.
func counted(t *testing.T, e Engine) {
	stores := []state.Store{e.Store}
	if e.Node != nil {
		stores = append(stores, e.Node(t))
	}
	ctx, cancel := context.WithCancel(ctxOf(t))
	var running, updating sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var first *state.Objects
	const each = 50
	for _, s := range stores {
		objects := state.New(s)
		first = objects
		running.Go(func() {
			if err := objects.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for range 2 {
			updating.Go(func() {
				for range each {
					if _, err := state.Update(ctx, objects, "o", "n", func(n *int) error { *n++; return nil }); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	updating.Wait()
	_, err := state.Update(ctx, first, "o", "n", func(n *int) error {
		if want := each * 2 * len(stores); *n != want {
			t.Errorf("the number is %d, want %d", *n, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
