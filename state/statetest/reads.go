package statetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"bennu.example/history"
	"bennu.example/state"
)

func pages(t *testing.T, e Engine) {
	n := start(t, e.Store)
	want := make(map[string]state.Item)
	fill := func(keys ...string) {
		var ops []state.Op
		for _, k := range keys {
			ops = append(ops, put(k, `"`+k+`"`))
		}
		for i, rev := range n.apply("o", ops...).Revs {
			want[keys[i]] = state.Item{Key: keys[i], Value: ops[i].Value, Rev: rev}
		}
	}
	for _, i := range rand.Perm(600) {
		fill(fmt.Sprintf("k%03d", i))
	}
	fill("", "a", "k", "l/1", "l/2", "ü")
	for _, i := range rand.Perm(600)[:300] {
		key := fmt.Sprintf("k%03d", i)
		n.apply("o", del(key))
		delete(want, key)
	}
	for _, r := range []state.Range{
		{}, {From: "k1"}, {To: "k2"}, {From: "k100", To: "k1005"}, {Prefix: "k"}, {Prefix: "k05"}, {Prefix: "l/"},
		{From: "k3", Prefix: "k"}, {To: "k3", Prefix: "k"}, {From: "z", To: "b"}, {Prefix: "ü"}, {Prefix: "nothing"},
	} {
		part := make(map[string]state.Item)
		for key, it := range want {
			if r.Has(key) {
				part[key] = it
			}
		}
		for _, limit := range []int{1, 7, 1000} {
			r.Reverse = false
			equal(t, n.read("o", r, limit), part)
			r.Reverse = true
			backwards := maps.Clone(part)
			delete(backwards, "")
			equal(t, n.read("o", r, limit), backwards)
		}
	}
}

// pagesRaced reads pages while items are written. An item that is not written is read exactly once.
func pagesRaced(t *testing.T, e Engine) {
	n := start(t, e.Store)
	for i := range 100 {
		n.apply("o", put(fmt.Sprintf("still%03d", i), `1`))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				op := put(fmt.Sprintf("still%03d.%d", i*7%100, w), number(i))
				if i%3 == 0 {
					op = del(op.Key)
				}
				if _, err := n.Apply(ctxOf(t), "o", []state.Op{op}, state.Tx{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		items := n.read("o", state.Range{Reverse: i%2 == 1}, 9)
		for i := range 100 {
			if _, ok := items[fmt.Sprintf("still%03d", i)]; !ok {
				t.Errorf("item %d was not read", i)
			}
		}
	}
	cancel()
	wg.Wait()
}

func readingCreatesNothing(t *testing.T, e Engine) {
	n := start(t, e.Store)
	before := n.top("o")
	for i := range 2000 {
		name := fmt.Sprint("absent", i)
		if len(n.all(name)) != 0 || n.top(name) != before {
			t.Fatalf("%s has something, or position %s, not %s", name, n.top(name), before)
		}
		if items, err := n.since(name, before, 10); err != nil || len(items) != 0 {
			t.Fatalf("%v, %v", items, err)
		}
	}
	if err := n.Remove(ctxOf(t), "absent", ""); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("an absent object was removed: %v", err)
	}
}

// position returns a position that differs from p in one part.
func position(t *testing.T, epoch string, rev uint64, tag string) history.Position {
	t.Helper()
	p, err := history.NewPosition(epoch, rev, tag)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// otherTag returns a tag that is not tag.
func otherTag(tag string) string {
	if tag == "0z0z" {
		return "z0z0"
	}
	return "0z0z"
}

func changesSince(t *testing.T, e Engine) {
	n := start(t, e.Store)
	beginning := n.top("o")
	a := n.apply("o", put("a", `1`), put("b", `1`))
	b := n.apply("o", put("c", `1`), del("a"))
	c := n.apply("o", put("a", `2`), put("d", `1`))
	top := c.Position
	other := n.apply("other", put("a", `1`)).Position
	if err := n.Remove(ctxOf(t), "other", ""); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		since history.Position
		want  error
		keys  string // with + for an item and - for a deletion
	}{
		{"nothing", history.Position{}, history.ErrPosition, ""},
		{"the beginning", beginning, nil, "+b +c +a +d"},
		{"the first", a.Position, nil, "+c +a +d"},
		{"the middle", b.Position, nil, "+a +d"},
		{"the top", top, nil, ""},
		{"the top with another tag", position(t, top.Epoch(), top.Offset(), otherTag(top.Tag())), history.ErrTag, ""},
		{
			"the middle with another tag",
			position(t, top.Epoch(), b.Position.Offset(), otherTag(b.Position.Tag())), history.ErrTag, "",
		},
		{"beyond the top", position(t, top.Epoch(), top.Offset()+1, "0z0z"), history.ErrAhead, ""},
		{"far beyond the top", position(t, top.Epoch(), 1<<52, "0z0z"), history.ErrAhead, ""},
		{"another epoch", position(t, "zzzzzzzz", 1, "0z0z"), history.ErrEpoch, ""},
		{"another object", other, history.ErrEpoch, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, validity := n.Changes(ctxOf(t), "o", test.since, state.Range{}, 0)
			p, err := n.Changes(ctxOf(t), "o", test.since, state.Range{}, 100)
			if !errors.Is(err, test.want) || !errors.Is(validity, test.want) {
				t.Fatalf("errors %v and %v, want %v", err, validity, test.want)
			}
			keys := ""
			for _, it := range p.Items {
				sign := " +"
				if it.Deleted != "" {
					sign = " -"
				}
				keys += sign + it.Key
			}
			if test.keys != "" {
				test.keys = " " + test.keys
			}
			if keys != test.keys || err == nil && (p.Position != top || p.More) {
				t.Errorf("changes%s up to %s, want%s up to %s", keys, p.Position, test.keys, top)
			}
		})
	}
	d := n.apply("o", del("d"))
	p, err := n.Changes(ctxOf(t), "o", top, state.Range{}, 100)
	if err != nil || len(p.Items) != 1 || p.Items[0].Key != "d" || p.Items[0].Deleted != state.ReasonDeleted ||
		p.Items[0].Rev != d.Revs[0] || p.Items[0].Value != nil {
		t.Errorf("a deletion: %+v, %v", p, err)
	}
	p, err = n.Changes(ctxOf(t), "o", top, state.Range{Prefix: "x"}, 100)
	if err != nil || len(p.Items) != 0 || p.Position != d.Position {
		t.Errorf("outside the range: %+v, %v", p, err)
	}
	if p, err = n.Changes(ctxOf(t), "o", top, state.Range{}, 0); err != nil || !p.More || p.Position != top {
		t.Errorf("without items: %+v, %v", p, err)
	}
	removed := d.Position
	if err := n.Remove(ctxOf(t), "o", ""); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"removed", "made again"} {
		if _, err := n.since("o", removed, 10); !errors.Is(err, history.ErrEpoch) {
			t.Errorf("%s: %v", what, err)
		}
		n.apply("o", put("a", `1`))
	}
}

// changesInPages continues at the position of every page.
func changesInPages(t *testing.T, e Engine) {
	n := start(t, e.Store)
	since := n.apply("o", put("first", `0`)).Position
	copied := n.all("o")
	for i := range 300 {
		n.apply("o", put(fmt.Sprint("k", i*7%40), number(i)), put(fmt.Sprint("j", i%9), number(i)))
		if i%5 == 0 {
			n.apply("o", del(fmt.Sprint("k", i%40)))
		}
	}
	for _, limit := range []int{1, 3, 1000} {
		got := map[string]state.Item{"first": copied["first"]}
		changes, err := n.since("o", since, limit)
		if err != nil {
			t.Fatal(err)
		}
		update(got, changes)
		equal(t, got, n.all("o"))
	}
}

func changesTrimmed(t *testing.T, e Engine) {
	n := start(t, e.Store)
	beginning := n.top("o")
	old := n.apply("o", put("a", `1`)).Position
	tx := state.Tx{Limits: state.Limits{Changes: 10}}
	var all []history.Position
	for i := range 40 {
		a, err := n.Apply(ctxOf(t), "o", []state.Op{put("b", number(i))}, tx)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a.Position)
	}
	for _, p := range []history.Position{old, beginning, all[20]} {
		items, err := n.since("o", p, 10)
		if err == nil && len(items) == 0 || err != nil && !errors.Is(err, history.ErrTrimmed) {
			t.Errorf("since %s: %v, %v", p, items, err)
		}
	}
	for _, p := range all[31:] {
		if _, err := n.since("o", p, 10); err != nil {
			t.Errorf("since %s: %v", p, err)
		}
	}
}

// deletionsTrimmed deletes more than is remembered. A position before must not be continued.
func deletionsTrimmed(t *testing.T, e Engine) {
	n := start(t, e.Store)
	for i := range 60 {
		n.apply("o", put(fmt.Sprintf("k%02d", i), `1`))
	}
	copied, since := n.all("o"), n.top("o")
	tx := state.Tx{Limits: state.Limits{Changes: 10}}
	for i := range 50 {
		if _, err := n.Apply(ctxOf(t), "o", []state.Op{del(fmt.Sprintf("k%02d", i))}, tx); err != nil {
			t.Fatal(err)
		}
		changes, err := n.since("o", since, 7)
		if err != nil {
			if !errors.Is(err, history.ErrTrimmed) || i < 5 {
				t.Errorf("after %d deletions: %v", i+1, err)
			}
			continue
		}
		now := make(map[string]state.Item)
		update(now, copied)
		update(now, changes)
		equal(t, now, n.all("o"))
	}
	if _, err := n.since("o", since, 7); err == nil && e.MaxObjects > 0 {
		t.Error("nothing was trimmed") // a store with a bound has this one, too
	}
}

// changesModel writes at random and brings copies up to date from any of their positions.
func changesModel(t *testing.T, e Engine) {
	n := start(t, e.Store)
	type copyAt struct {
		items map[string]state.Item
		at    history.Position
	}
	copies := []*copyAt{{make(map[string]state.Item), n.top("o")}}
	rng := rand.New(rand.NewPCG(1, 2))
	tx := state.Tx{Limits: state.Limits{Changes: 100}}
	continued := 0
	for i := range 600 {
		var ops []state.Op
		for _, k := range rng.Perm(20)[:1+rng.IntN(3)] {
			op := put(fmt.Sprint("k", k), number(i))
			if rng.IntN(3) == 0 {
				op = del(op.Key)
			}
			ops = append(ops, op)
		}
		if _, err := n.Apply(ctxOf(t), "o", ops, tx); err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 {
			continue
		}
		c := copies[rng.IntN(len(copies))]
		if changes, err := n.since("o", c.at, 1+rng.IntN(9)); err == nil {
			continued++
			update(c.items, changes)
		} else {
			if !errors.Is(err, history.ErrTrimmed) {
				t.Fatalf("since %s: %v", c.at, err)
			}
			c.items = n.all("o")
		}
		c.at = n.top("o")
		equal(t, c.items, n.all("o"))
		if len(copies) < 5 {
			copies = append(copies, &copyAt{make(map[string]state.Item), c.at})
			update(copies[len(copies)-1].items, c.items)
		}
	}
	if continued < 20 {
		t.Errorf("only %d of 200 copies continued", continued)
	}
}
