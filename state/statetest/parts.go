package statetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/state"
)

// path returns the key of a path.
func path(segments ...string) string { return strings.Join(segments, "\x01") }

func move(from, to string) state.Op { return state.Op{Key: to, From: from} }

// under returns op with Under.
func under(op state.Op) state.Op {
	op.Under = true
	return op
}

// by returns op with Own.
func by(op state.Op) state.Op {
	op.Own = true
	return op
}

// holds fails the test if an object does not have these keys, in this order.
func holds(t *testing.T, n *node, want ...string) {
	t.Helper()
	p, err := n.Read(ctxOf(t), "o", state.Range{}, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range p.Items {
		got = append(got, strings.ReplaceAll(it.Key, "\x01", "/"))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the object has %q, want %q", got, want)
	}
}

func moves(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.fails("o", state.Tx{}, state.ErrNotFound, move("a", "b"))
	first := n.apply("o", put("a", `1`), lasting(time.Hour, put("b", `2`)), put("c", `3`))
	a := n.apply("o", move("b", "d"))
	if len(a.Items) != 2 || a.Items[0].Key != "b" || a.Items[0].Deleted != state.ReasonDeleted ||
		a.Items[0].Rev <= first.Revs[2] || a.Items[1].Key != "d" || a.Items[1].From != "b" ||
		string(a.Items[1].Value) != `2` || a.Items[1].Rev != a.Revs[0] || a.Items[1].Rev <= a.Items[0].Rev {
		t.Errorf("%+v", a)
	}
	if !a.Items[1].Expires.Equal(first.Items[1].Expires) {
		t.Errorf("the moved item expires at %v, not at %v", a.Items[1].Expires, first.Items[1].Expires)
	}
	holds(t, n, "a", "c", "d")
	changes, err := n.since("o", first.Position, 1)
	if err != nil || len(changes) != 2 || changes["b"].Deleted == "" || string(changes["d"].Value) != `2` {
		t.Errorf("changes %v, %v", changes, err)
	}
	n.fails("o", state.Tx{}, state.ErrNotFound, put("x", `1`), move("b", "e"))
	n.fails("o", state.Tx{}, nil, when(0, move("a", "c")))
	n.apply("o", when(0, move("a", "b")), put("e", `5`)) // a key that was deleted
	n.apply("o", lasting(0, move("d", "c")))             // onto another item
	holds(t, n, "b", "c", "e")
	if it := n.all("o")["c"]; string(it.Value) != `2` || !it.Expires.IsZero() || it.Writer != "w" {
		t.Errorf("%+v", it)
	}
	n.apply("o", put("a", `1`))
	n.apply("o", del("b"), del("c"), move("e", "f"))
	holds(t, n, "a", "f")
}

func subtrees(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.apply("o",
		put("a", `1`), put(path("a", "b"), `1`), lasting(time.Hour, put(path("a", "b", "c"), `1`)),
		put("a-", `1`), put("a/b", `1`), put("b", `1`), put("ab", `1`))
	holds(t, n, "a", "a/b", "a/b/c", "a-", "a/b", "ab", "b")
	before := n.top("o")
	a := n.apply("o", under(del(path("a", "b"))), del("ab"))
	if len(a.Items) != 2 || !a.Items[0].Under || a.Items[0].Key != path("a", "b") || a.Items[0].Rev != a.Revs[0] ||
		a.Items[0].Deleted != state.ReasonDeleted || a.Items[1].Under {
		t.Errorf("%+v", a)
	}
	holds(t, n, "a", "a-", "a/b", "b")
	for _, key := range []string{path("a", "b"), "z", path("a", "x")} {
		if a := n.apply("o", under(del(key))); len(a.Items) != 0 || a.Position != a.Prev {
			t.Errorf("nothing is below %q: %+v", key, a)
		}
	}
	n.apply("o", put(path("b", "x"), `1`), del("b")) // the item only
	n.apply("o", under(del("b")), put(path("b", "y"), `2`), put(path("b", "x"), `2`))
	holds(t, n, "a", "a-", "a/b", "b/x", "b/y")
	a = n.apply("o", under(del("")), put("c", `1`)) // everything
	if len(a.Items) != 2 || !a.Items[0].Under || a.Items[0].Key != "" {
		t.Errorf("%+v", a)
	}
	holds(t, n, "c")
	copied := map[string]state.Item{"a": {}, path("b", "x"): {}, "q": {}}
	changes, err := n.inOrder("o", before, 2)
	for _, it := range changes {
		updateItem(copied, it)
	}
	if err != nil || len(copied) != 1 || copied["c"].Rev != a.Revs[1] {
		t.Errorf("changes %+v, %v, give %v", changes, err, copied)
	}
}

func putsOverSubtrees(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.apply("o", put(path("a", "b"), `1`), put(path("a", "c"), `1`), put("b", `1`))
	a := n.apply("o", under(put("a", `2`)), under(put("b", `2`)), under(put("c", `2`)))
	if len(a.Items) != 4 || !a.Items[0].Under || a.Items[0].Key != "a" || a.Items[1].Key != "a" || a.Items[1].Under ||
		string(a.Items[1].Value) != `2` || a.Items[1].Rev != a.Revs[0] || a.Items[2].Rev != a.Revs[1] ||
		a.Items[3].Rev != a.Revs[2] {
		t.Errorf("%+v", a)
	}
	holds(t, n, "a", "b", "c")
	if a := n.apply("o", under(put("a", `3`))); len(a.Items) != 1 || string(a.Items[0].Value) != `3` {
		t.Errorf("nothing was below: %+v", a)
	}
	if it := n.all("o")["a"]; string(it.Value) != `3` || it.Writer != "w" {
		t.Errorf("%+v", it)
	}
}

// putsInSubtrees puts over a subtree, and over a part of it by the same write.
func putsInSubtrees(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.apply("o",
		put("a", `1`), put(path("a", "b"), `1`), put(path("a", "b", "c"), `1`), put(path("a", "b", "d"), `1`),
		put(path("a", "e"), `1`), put("ab", `1`), put("b", `1`), put("c", `1`))
	before, since := n.all("o"), n.top("o")
	n.fails("o", state.Tx{}, nil, under(put("a", `2`)), when(before[path("a", "b")].Rev, under(put(path("a", "b"), `2`))))
	a := n.apply("o", under(put("a", `2`)), under(put(path("a", "b"), `2`)), under(put(path("a", "b", "c"), `2`)))
	holds(t, n, "a", "a/b", "a/b/c", "ab", "b", "c")
	if len(a.Items) != 4 || !a.Items[0].Under || a.Items[0].Key != "a" || a.Revs[2] != a.Items[3].Rev {
		t.Errorf("%+v", a)
	}
	changes, err := n.inOrder("o", since, 1)
	for _, it := range changes {
		updateItem(before, it)
	}
	if err != nil {
		t.Error(err)
	}
	equal(t, before, n.all("o"))
	// The items below count once.
	tx := state.Tx{Limits: state.Limits{Items: 6}}
	n.fails("o", tx, state.ErrQuota, put("d", `1`))
	n.apply("o", del("a"), del(path("a", "b")), del(path("a", "b", "c")), del("ab"), del("b"), del("c"))
	holds(t, n)
}

func subtreeConditions(t *testing.T, e Engine) {
	n := start(t, e.Store)
	rev := n.apply("o", put("a", `1`)).Revs[0]
	var conflict *state.ConflictError
	for _, op := range []state.Op{del("a"), put("a", `2`)} {
		err := n.failure("o", state.Tx{}, nil, put("z", `1`), under(when(rev+1, op)))
		if !errors.As(err, &conflict) || conflict.Op != 1 || conflict.Rev != rev || string(conflict.Value) != `1` {
			t.Errorf("%v", err)
		}
	}
	rev = n.apply("o", under(when(rev, put("a", `2`)))).Revs[0]
	n.apply("o", put(path("a", "b"), `1`))
	for _, op := range []state.Op{del("a"), put("a", `2`)} { // something is below
		err := n.failure("o", state.Tx{}, nil, under(when(rev, op)))
		if !errors.As(err, &conflict) || conflict.Rev != rev {
			t.Errorf("%v", err)
		}
	}
	n.apply("o", del("a"))
	n.fails("o", state.Tx{}, nil, under(when(0, put("a", `2`))))
	// Conditions are on the object before the write.
	below := n.all("o")[path("a", "b")].Rev
	n.fails("o", state.Tx{}, nil, under(del("a")), when(0, put(path("a", "b"), `2`)))
	n.apply("o", under(del("a")), when(below, put(path("a", "b"), `2`)))
	holds(t, n, "a/b")
	n.apply("o", under(del("a")))
	n.apply("o", under(when(0, put("a", `2`))))
	holds(t, n, "a")
}

func ownParts(t *testing.T, e Engine) {
	n := start(t, e.Store)
	write := func(writer string, ops ...state.Op) state.Applied {
		t.Helper()
		a, err := n.Apply(ctxOf(t), "o", ops, state.Tx{Writer: writer})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	skipped := func(writer string, ops ...state.Op) {
		t.Helper()
		if a := write(writer, ops...); len(a.Items) != 0 || a.Position != a.Prev {
			t.Errorf("%v: %+v", ops, a)
		}
	}
	skipped("me", by(move("a", "b")), by(under(del("d"))), by(under(put("c", `1`))))
	write("me", put("a", `1`), put(path("b", "1"), `1`), put(path("b", "2"), `1`), put(path("c", "1"), `1`))
	write("they", put(path("c", "2"), `1`))
	skipped("they", by(move("a", "d")), by(under(del("b"))), by(under(put("c", `1`))))
	skipped("me", by(under(del("c"))), by(under(put("d", `1`))))
	write("me", by(move("a", "d")), by(under(put("b", `2`))))
	holds(t, n, "b", "c/1", "c/2", "d")
	write("me", by(under(del("b"))), by(del(path("c", "1"))))
	skipped("me", by(under(del("c"))))
	write("they", by(under(del("c"))))
	holds(t, n, "d")
}

// partQuotas checks what moves and subtrees count.
func partQuotas(t *testing.T, e Engine) {
	n := start(t, e.Store)
	tx := state.Tx{Limits: state.Limits{Items: 3, Bytes: 100}}
	for range 50 {
		for _, ops := range [][]state.Op{
			{put(path("a", "1"), `1`), put(path("a", "2"), `1`), put("b", `"`+strings.Repeat("x", 70)+`"`)},
			{move("b", "c")},
			{under(put("a", `1`)), put("d", `1`)},
			{under(del("")), put("a", `1`), put("b", `1`), put("c", `"`+strings.Repeat("x", 80)+`"`)},
			{under(del(""))},
		} {
			if _, err := n.Apply(ctxOf(t), "o", ops, tx); err != nil {
				t.Fatalf("%v: %v", ops, err)
			}
		}
		holds(t, n)
	}
	n.apply("o", put(path("a", "1"), `1`), put("b", `1`), put("c", `1`))
	n.fails("o", tx, state.ErrQuota, under(put("a", `1`)), put("d", `1`))
	n.fails("o", tx, state.ErrQuota, under(del("b")), put("d", `1`), put("e", `1`))
}

// subtreeChanges deletes a subtree, and puts its key again. A client that was away must not miss
// the deletion.
func subtreeChanges(t *testing.T, e Engine) {
	n := start(t, e.Store)
	since := n.apply("o", put(path("a", "b"), `1`), put(path("a", "c"), `1`), put(path("d", "e"), `1`)).Position
	copied := n.all("o")
	n.apply("o", under(del("a")))
	n.apply("o", put("a", `1`))
	n.apply("o", under(del("a")))
	n.apply("o", under(del("d")), put(path("d", "f"), `1`))
	n.apply("o", put("a", `2`))
	n.apply("o", under(put("d", `1`)))
	check := func(n *node) {
		t.Helper()
		for _, limit := range []int{1, 2, 100} {
			now := make(map[string]state.Item)
			update(now, copied)
			changes, err := n.inOrder("o", since, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range changes {
				updateItem(now, it)
			}
			equal(t, now, n.all("o"))
		}
	}
	check(n)
	for _, test := range []struct {
		r      state.Range
		unders int
	}{
		{state.Subtree(path("a", "b")), 2}, {state.Subtree(path("d", "x", "y")), 2}, {state.Subtree("b"), 0},
		{state.Range{Prefix: path("a", "")}, 2}, {state.Range{From: path("a", "b"), To: path("d", "a")}, 4},
		{state.Range{Prefix: "d"}, 2}, {state.Range{To: "a"}, 0}, {state.Range{From: "e"}, 0},
	} {
		p, err := n.Changes(ctxOf(t), "o", since, test.r, 100)
		unders := 0
		for _, it := range p.Items {
			if it.Under {
				unders++
			}
		}
		if err != nil || unders != test.unders {
			t.Errorf("%+v: %d deletions of subtrees, %v, want %d", test.r, unders, err, test.unders)
		}
	}
	if e.Durable && e.Restart != nil {
		n.stop()
		check(start(t, e.Restart(t)))
	}
}

// subtreesTrimmed deletes more subtrees than are remembered.
func subtreesTrimmed(t *testing.T, e Engine) {
	n := start(t, e.Store)
	tx := state.Tx{Limits: state.Limits{Changes: 20}}
	write := func(ops ...state.Op) {
		t.Helper()
		if _, err := n.Apply(ctxOf(t), "o", ops, tx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		write(put(path(number(i), "x"), `1`), put(path(number(i), "y"), `1`))
	}
	copied, since := n.all("o"), n.top("o")
	for i := range 60 {
		write(under(del(number(i))))
		now := make(map[string]state.Item)
		update(now, copied)
		changes, err := n.inOrder("o", since, 7)
		if err != nil {
			if !errors.Is(err, history.ErrTrimmed) || i < 10 {
				t.Errorf("after %d deletions: %v", i+1, err)
			}
			continue
		}
		for _, it := range changes {
			updateItem(now, it)
		}
		equal(t, now, n.all("o"))
	}
	if _, err := n.inOrder("o", since, 7); err == nil && e.MaxObjects > 0 {
		t.Error("nothing was trimmed") // a store with a bound has this one, too
	}
}

// subtreesModel writes at random, compares the object with a model, and brings copies up to date.
func subtreesModel(t *testing.T, e Engine) {
	n := start(t, e.Store)
	type copyAt struct {
		items map[string]state.Item
		at    history.Position
	}
	copies := []*copyAt{{make(map[string]state.Item), n.top("o")}}
	model := make(map[string]state.Item)
	rng := rand.New(rand.NewPCG(3, 4))
	key := func() string {
		segments := make([]string, 1+rng.IntN(3))
		for i := range segments {
			segments[i] = string(rune('a' + rng.IntN(3)))
		}
		return path(segments...)
	}
	tx := state.Tx{Limits: state.Limits{Changes: 120}}
	continued := 0
	for i := range 800 {
		var op state.Op
		switch k := key(); rng.IntN(8) {
		case 0:
			op = del(k)
		case 1:
			op = under(del(k))
		case 2:
			op = under(put(k, number(i)))
		case 3:
			if op = move(key(), k); op.From == k {
				continue
			}
		default:
			op = put(k, number(i))
		}
		_, exists := model[op.From]
		a, err := n.Apply(ctxOf(t), "o", []state.Op{op}, tx)
		if op.From != "" && !exists && errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", op, err)
		}
		for _, it := range a.Items {
			updateItem(model, it)
		}
		if i%3 != 0 {
			continue
		}
		equal(t, n.all("o"), model)
		c := copies[rng.IntN(len(copies))]
		if changes, err := n.inOrder("o", c.at, 1+rng.IntN(9)); err == nil {
			continued++
			for _, it := range changes {
				updateItem(c.items, it)
			}
		} else {
			if !errors.Is(err, history.ErrTrimmed) {
				t.Fatalf("since %s: %v", c.at, err)
			}
			c.items = n.all("o")
		}
		c.at = n.top("o")
		equal(t, c.items, model)
		if t.Failed() {
			t.Fatalf("after write %d", i)
		}
		if len(copies) < 5 {
			copies = append(copies, &copyAt{n.all("o"), c.at})
		}
	}
	if continued < 20 {
		t.Errorf("only %d copies continued", continued)
	}
}

func partsFeed(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.watch("o")
	n.apply("o", put("a", `1`), put(path("b", "c"), `1`))
	want := []state.Applied{n.apply("o", move("a", "d")), n.apply("o", under(del("b"))), n.apply("o", put("b", `1`))}
	n.await("all changes", func(changes []state.Change, uncertain int) bool {
		fed := make(map[history.Position][]state.Item)
		for _, c := range changes {
			fed[c.Position] = c.Items
		}
		for _, a := range want {
			items, ok := fed[a.Position]
			if !ok {
				return uncertain > 0
			}
			if len(items) != len(a.Items) {
				t.Errorf("fed %+v, want %+v", items, a.Items)
				continue
			}
			for i, w := range a.Items {
				it := items[i]
				if it.Key != w.Key || it.From != w.From || it.Under != w.Under || it.Rev != w.Rev ||
					it.Deleted != w.Deleted || string(it.Value) != string(w.Value) {
					t.Errorf("fed %+v, want %+v", it, w)
				}
			}
		}
		return true
	})
}
