package statetest

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"bennu.example/state"
)

// deletionIDs repeats writes that delete something. Each must return the first result again and
// change nothing, also if the key was made again meanwhile.
func deletionIDs(t *testing.T, e Engine) {
	n := start(t, e.Store)
	leaf := path("t", "b")
	for _, test := range []struct {
		name string
		ops  []state.Op
	}{
		{"document", []state.Op{del("")}},
		{"item", []state.Op{del("a")}},
		{"item that is absent", []state.Op{del("absent")}},
		{"batch", []state.Op{del("a"), put("c", `2`), del("absent")}},
		{"move", []state.Op{{Key: "z", From: "a"}}},
		{"subtree", []state.Op{under(del("t"))}},
		{"put over a subtree", []state.Op{under(put("t", `1`))}},
	} {
		t.Run(test.name, func(t *testing.T) {
			everything := []state.Op{put("", `1`), put("a", `1`), put("t", `1`), put(leaf, `1`)}
			n.apply(test.name, everything...)
			tx := state.Tx{ID: "once", Writer: "w"}
			first, err := n.Apply(ctxOf(t), test.name, test.ops, tx)
			if err != nil || first.Repeated {
				t.Fatalf("%+v, %v", first, err)
			}
			for _, between := range [][]state.Op{nil, everything} {
				if between != nil {
					n.apply(test.name, between...)
				}
				top, items := n.top(test.name), len(n.all(test.name))
				again, err := n.Apply(ctxOf(t), test.name, test.ops, tx)
				if err != nil || !again.Repeated || !slices.Equal(again.Revs, first.Revs) ||
					again.Prev != first.Prev || again.Position != first.Position || len(again.Items) != len(first.Items) {
					t.Errorf("repeated: %+v, %v, first %+v", again, err, first)
				}
				if now := n.top(test.name); now != top || len(n.all(test.name)) != items {
					t.Errorf("a repeated write was applied: at %s, was %s", now, top)
				}
			}
		})
	}
}

// unchangedIDs makes many writes that change nothing, and so have no revisions. The ID of a write
// that changed something must stay.
func unchangedIDs(t *testing.T, e Engine) {
	n := start(t, e.Store)
	flood := func(name string, writes int, op state.Op) {
		t.Helper()
		const callers = 8
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for i := c; i < writes; i += callers {
					a, err := n.Apply(ctxOf(t), "o", []state.Op{op}, state.Tx{ID: name + number(i)})
					if err != nil || a.Repeated {
						t.Errorf("%s %d: %+v, %v", name, i, a, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	once := func(value string) state.Applied {
		t.Helper()
		a, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", value)}, state.Tx{ID: "once"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	n.apply("o", put("a", `1`))
	first := once(`2`)
	flood("unchanged", 600, del("absent"))
	if top := n.top("o"); top != first.Position {
		t.Errorf("deletions of an absent item have moved the object from %s to %s", first.Position, top)
	}
	flood("changed", 500, put("b", `1`))
	again := once(`3`)
	if !again.Repeated || !slices.Equal(again.Revs, first.Revs) || again.Position != first.Position {
		t.Errorf("repeated: %+v, first %+v", again, first)
	}
	if got := string(n.all("o")["a"].Value); got != `2` {
		t.Errorf("a repeated write was applied: %s", got)
	}
}

// removalIDs repeats the removal of an object. It must succeed again, and must not remove the
// object that was made in its place. Several concurrent ones remove it once.
func removalIDs(t *testing.T, e Engine) {
	nodes := []*node{start(t, e.Store)}
	if e.Node != nil {
		nodes = append(nodes, start(t, e.Node(t)))
	}
	n, other := nodes[0], nodes[len(nodes)-1]
	removed := func(n *node, id string) {
		t.Helper()
		if err := n.Remove(ctxOf(t), "o", id); err != nil {
			t.Errorf("remove with ID %q: %v", id, err)
		}
	}
	absent := func(object, id string) {
		t.Helper()
		if err := n.Remove(ctxOf(t), object, id); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("remove with ID %q: %v", id, err)
		}
	}
	absent("o", "one")
	for _, id := range []string{"one", "two"} {
		n.apply("o", put("a", `1`))
		removed(n, id)
		for range 2 {
			removed(n, id)
			removed(other, id)
			removed(other, "one") // also after another removal
			absent("o", "")
			absent("o", "another")
		}
	}
	absent("p", "one")
	made := n.apply("o", put("a", `2`))
	for _, n := range nodes {
		for _, id := range []string{"one", "two"} {
			removed(n, id)
			if got := string(n.all("o")["a"].Value); got != `2` || n.top("o") != made.Position {
				t.Errorf("a repeated removal has removed a new object: %q", got)
			}
		}
	}

	const callers = 8
	n.apply("raced", put("a", `1`))
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if err := nodes[i%len(nodes)].Remove(ctxOf(t), "raced", "once"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	absent("raced", "")

	if e.Restart == nil || !e.Durable {
		return
	}
	n.stop()
	if other != n {
		other.stop()
	}
	n = start(t, e.Restart(t))
	removed(n, "one")
	if got := string(n.all("o")["a"].Value); got != `2` {
		t.Errorf("after a restart, a repeated removal has removed a new object: %q", got)
	}
	removed(n, "three")
	absent("o", "")
}
