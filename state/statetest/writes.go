package statetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"bennu.example/state"
)

func putAndRead(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.apply("o", put("b", `{"x":1}`), put("a", `"one"`))
	n.apply("o", put("b", `2`))
	n.apply("o", put("ü/z", `null`))
	n.apply("other", put("a", `"another"`))
	got := n.all("o")
	if len(got) != 3 || string(got["a"].Value) != `"one"` || string(got["b"].Value) != `2` ||
		string(got["ü/z"].Value) != `null` || got["a"].Writer != "w" {
		t.Errorf("%v", got)
	}
	n.apply("doc", put("", `{}`))
	if d := n.all("doc"); len(d) != 1 || string(d[""].Value) != `{}` {
		t.Errorf("a document is %v", d)
	}
}

func revisions(t *testing.T, e Engine) {
	n := start(t, e.Store)
	empty := n.top("o")
	if !empty.IsBeginning() || empty.Offset() != 0 {
		t.Errorf("the position of an object that does not exist is %s", empty)
	}
	prev, rev := empty, uint64(0)
	for i := range 20 {
		a := n.apply("o", put("a", number(i)), put("b", number(i)), del("c"))
		if a.Prev != prev {
			t.Fatalf("write %d: Prev is %s, want %s", i, a.Prev, prev)
		}
		if a.Position.IsBeginning() || a.Position != n.top("o") || i > 0 && a.Position.Epoch() != prev.Epoch() {
			t.Fatalf("write %d: position %s after %s, top %s", i, a.Position, prev, n.top("o"))
		}
		if a.Revs[0] <= rev || a.Revs[1] <= a.Revs[0] || a.Revs[2] != 0 || a.Revs[1] != a.Position.Offset() {
			t.Fatalf("write %d: revisions %v after %d, position %s", i, a.Revs, rev, a.Position)
		}
		if len(a.Items) != 2 || a.Items[0].Key != "a" || a.Items[1].Rev != a.Revs[1] || a.Repeated {
			t.Fatalf("write %d: items %+v", i, a.Items)
		}
		prev, rev = a.Position, a.Revs[1]
	}
	if a := n.apply("o", del("c")); a.Position != prev || a.Prev != prev || len(a.Items) != 0 {
		t.Errorf("a write without effect: %+v", a)
	}
	if a := n.apply("absent", del("c")); !a.Position.IsBeginning() || !n.top("absent").IsBeginning() {
		t.Errorf("a write without effect has created an object: %+v", a)
	}
}

func conditions(t *testing.T, e Engine) {
	n := start(t, e.Store)
	var conflict *state.ConflictError
	if err := n.failure("o", state.Tx{}, nil, when(3, put("a", `1`))); !errors.As(err, &conflict) || conflict.Rev != 0 {
		t.Errorf("a condition on nothing: %v", err)
	}
	rev := n.apply("o", when(0, put("a", `1`))).Revs[0]
	for _, wrong := range []uint64{0, rev + 1, 1 << 50} {
		err := n.failure("o", state.Tx{}, nil, put("b", `1`), when(wrong, put("a", `2`)))
		if !errors.As(err, &conflict) || conflict.Op != 1 || conflict.Key != "a" || conflict.Rev != rev ||
			string(conflict.Value) != `1` {
			t.Errorf("if %d: %v", wrong, err)
		}
	}
	rev2 := n.apply("o", when(rev, put("a", `2`))).Revs[0]
	n.fails("o", state.Tx{}, nil, when(rev, del("a")))
	n.apply("o", when(rev2, del("a")))
	err := n.failure("o", state.Tx{}, nil, when(rev2, put("a", `3`)))
	if !errors.As(err, &conflict) || conflict.Rev != 0 || conflict.Value != nil {
		t.Errorf("a condition on a deleted item: %v", err)
	}
	n.apply("o", when(0, put("a", `4`)))
	n.apply("o", when(0, del("z"))) // it does not exist, and stays so
}

func conditionsRaced(t *testing.T, e Engine) {
	n := start(t, e.Store)
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				increment(t, n.Store, "o")
			}
		})
	}
	wg.Wait()
	if got := string(n.all("o")["n"].Value); got != number(writers*each) {
		t.Errorf("%s, want %d", got, writers*each)
	}
}

// increment adds 1 to a number by conditional writes.
func increment(t testing.TB, s state.Store, object string) {
	for {
		p, err := s.Read(ctxOf(t), object, state.Range{}, "", 1)
		if err != nil {
			t.Error(err)
			return
		}
		v, rev := 0, uint64(0)
		if len(p.Items) > 0 {
			rev = p.Items[0].Rev
			if _, err := fmt.Sscan(string(p.Items[0].Value), &v); err != nil {
				t.Error(err)
				return
			}
		}
		_, err = s.Apply(ctxOf(t), object, []state.Op{when(rev, put("n", number(v+1)))}, state.Tx{})
		var conflict *state.ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
}

func allOrNothing(t *testing.T, e Engine) {
	n := start(t, e.Store)
	rev := n.apply("o", put("a", `1`), put("b", `1`)).Revs[1]
	n.fails("o", state.Tx{}, nil, put("a", `2`), put("c", `2`), when(rev-1, put("b", `2`)))
	n.fails("o", state.Tx{}, state.ErrInvalid, put("a", `2`), put("c", `{`))
	n.fails("o", state.Tx{}, state.ErrInvalid, put("a", `2`), put("a", `3`))
	n.fails("o", state.Tx{Limits: state.Limits{Items: 2}}, state.ErrQuota, put("a", `2`), put("c", `2`))
	n.fails("new", state.Tx{}, nil, put("a", `2`), when(7, put("b", `2`)))
	if !n.top("new").IsBeginning() {
		t.Error("a failed write has created an object")
	}
}

func deletions(t *testing.T, e Engine) {
	n := start(t, e.Store)
	first := n.apply("o", put("a", `1`), put("b", `1`))
	a := n.apply("o", del("a"))
	if a.Revs[0] <= first.Revs[1] || len(a.Items) != 1 || a.Items[0].Deleted != state.ReasonDeleted ||
		a.Items[0].Value != nil {
		t.Errorf("%+v", a)
	}
	if again := n.apply("o", del("a")); again.Revs[0] != a.Revs[0] || again.Position != a.Position {
		t.Errorf("deleted again: %+v, want revision %d", again, a.Revs[0])
	}
	if items := n.all("o"); len(items) != 1 {
		t.Errorf("%v", items)
	}
	back := n.apply("o", put("a", `2`))
	if back.Revs[0] <= a.Revs[0] || string(n.all("o")["a"].Value) != `2` {
		t.Errorf("made again: %+v", back)
	}
}

func own(t *testing.T, e Engine) {
	n := start(t, e.Store)
	ops := []state.Op{put("mine", `1`), put("theirs", `1`)}
	if _, err := n.Apply(ctxOf(t), "o", ops, state.Tx{Writer: "me"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Apply(ctxOf(t), "o", ops[1:], state.Tx{Writer: "they"}); err != nil {
		t.Fatal(err)
	}
	before := n.all("o")
	will := []state.Op{
		{Key: "mine", Value: []byte(`2`), Own: true}, {Key: "theirs", Delete: true, Own: true},
		{Key: "nobody's", Value: []byte(`2`), Own: true},
	}
	a, err := n.Apply(ctxOf(t), "o", will, state.Tx{Writer: "me"})
	if err != nil || len(a.Items) != 1 || a.Revs[1] != before["theirs"].Rev || a.Revs[2] != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if now := n.all("o"); len(now) != 2 || string(now["mine"].Value) != `2` || string(now["theirs"].Value) != `1` {
		t.Errorf("%v", now)
	}
}

func modes(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.fails("o", state.Tx{Create: state.ModeExisting}, state.ErrNotFound, put("a", `1`))
	a, err := n.Apply(ctxOf(t), "o", nil, state.Tx{Create: state.ModeNew})
	if err != nil || a.Position.IsBeginning() || !a.Prev.IsBeginning() || a.Position != n.top("o") {
		t.Errorf("created without items: %+v, %v", a, err)
	}
	n.fails("o", state.Tx{Create: state.ModeNew}, state.ErrExists, put("a", `1`))
	for _, mode := range []state.Mode{state.ModeExisting, state.ModeOpen} {
		if _, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`)}, state.Tx{Create: mode}); err != nil {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
	n.fails("o", state.Tx{Create: "maybe"}, state.ErrInvalid, put("a", `1`))
}

func creationRaced(t *testing.T, e Engine) {
	nodes := []*node{start(t, e.Store)}
	if e.Node != nil {
		nodes = append(nodes, start(t, e.Node(t)))
	}
	for round := range 20 {
		object := fmt.Sprint("o", round)
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				ops := []state.Op{put("by", number(i))}
				_, err := nodes[i%len(nodes)].Apply(ctxOf(t), object, ops, state.Tx{Create: state.ModeNew})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, state.ErrExists):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 15 {
			t.Fatalf("%d have created the object, %d have not", won, lost)
		}
	}
}

func ids(t *testing.T, e Engine) {
	n := start(t, e.Store)
	tx := state.Tx{ID: "once"}
	first, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`), del("b")}, tx)
	if err != nil || first.Repeated {
		t.Fatalf("%+v, %v", first, err)
	}
	n.apply("o", put("a", `2`))
	again, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `3`), del("b")}, tx)
	if err != nil || !again.Repeated || again.Revs[0] != first.Revs[0] || again.Position != first.Position ||
		len(again.Items) != 1 || again.Items[0].Key != "a" {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	if got := string(n.all("o")["a"].Value); got != `2` {
		t.Errorf("a repeated write was applied: %s", got)
	}
	tx.ID = "conflict"
	n.fails("o", tx, nil, when(1<<40, put("a", `4`)))
	if a, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `4`)}, tx); err != nil || a.Repeated {
		t.Errorf("the id of a failed write was remembered: %+v, %v", a, err)
	}
	if a, err := n.Apply(ctxOf(t), "other", []state.Op{put("a", `4`)}, state.Tx{ID: "once"}); err != nil || a.Repeated {
		t.Errorf("an id counts for another object: %+v, %v", a, err)
	}
}

func idsRaced(t *testing.T, e Engine) {
	nodes := []*node{start(t, e.Store)}
	if e.Node != nil {
		nodes = append(nodes, start(t, e.Node(t)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied, revs := 0, make(map[uint64]bool)
	for i := range 16 {
		wg.Go(func() {
			a, err := nodes[i%len(nodes)].Apply(ctxOf(t), "o", []state.Op{put("a", number(i))}, state.Tx{ID: "once"})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			revs[a.Revs[0]] = true
			if !a.Repeated {
				applied++
			}
		})
	}
	wg.Wait()
	if applied != 1 || len(revs) != 1 {
		t.Errorf("%d writes were applied, with %d revisions", applied, len(revs))
	}
}

func refused(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.apply("o", put("a", `1`))
	big := `"` + strings.Repeat("x", 64<<10) + `"`
	many := make([]state.Op, 101)
	for i := range many {
		many[i] = put(number(i), `1`)
	}
	var heavy []state.Op
	for i := range 6 {
		heavy = append(heavy, put(number(i), `"`+strings.Repeat("x", 60<<10)+`"`))
	}
	for _, test := range []struct {
		name string
		want error
		ops  []state.Op
	}{
		{"no JSON", state.ErrInvalid, []state.Op{put("a", `{`)}},
		{"no value", state.ErrInvalid, []state.Op{put("a", ``)}},
		{"bytes that are not UTF-8", state.ErrInvalid, []state.Op{put("a", "\"\xff\"")}},
		{"a value of a deletion", state.ErrInvalid, []state.Op{{Key: "a", Delete: true, Value: []byte(`1`)}}},
		{"a lifetime of a deletion", state.ErrInvalid, []state.Op{lasting(1, del("a"))}},
		{"a negative lifetime", state.ErrInvalid, []state.Op{lasting(-1, put("a", `1`))}},
		{"a key that is not UTF-8", state.ErrInvalid, []state.Op{put("\xff", `1`)}},
		{"a key with control characters", state.ErrInvalid, []state.Op{put("a\n", `1`)}},
		{"an empty segment", state.ErrInvalid, []state.Op{put(path("a", "", "b"), `1`)}},
		{"a segment with control characters", state.ErrInvalid, []state.Op{put(path("a", "b\x7f"), `1`)}},
		{"a long segment", state.ErrTooLarge, []state.Op{put(path("a", strings.Repeat("x", 129)), `1`)}},
		{"a deep path", state.ErrTooLarge, []state.Op{put("a"+strings.Repeat("\x01a", 32), `1`)}},
		{"a long path", state.ErrTooLarge, []state.Op{put("a"+strings.Repeat("\x01"+strings.Repeat("x", 127), 8), `1`)}},
		{"a value of a move", state.ErrInvalid, []state.Op{{Key: "a", From: "b", Value: []byte(`1`)}}},
		{"a move that deletes", state.ErrInvalid, []state.Op{{Key: "a", From: "b", Delete: true}}},
		{"a move to the same key", state.ErrInvalid, []state.Op{{Key: "a", From: "a"}}},
		{"a move and a put", state.ErrInvalid, []state.Op{{Key: "a", From: "b"}, put("b", `1`)}},
		{"two moves", state.ErrInvalid, []state.Op{{Key: "c", From: "a"}, {Key: "d", From: "a"}}},
		{"a put before its subtree", state.ErrInvalid, []state.Op{put(path("a", "b"), `1`), under(del("a"))}},
		{"a deletion below a subtree", state.ErrInvalid, []state.Op{under(del("a")), del(path("a", "b"))}},
		{"a long key", state.ErrTooLarge, []state.Op{put(strings.Repeat("x", 257), `1`)}},
		{"a large value", state.ErrTooLarge, []state.Op{put("a", big)}},
		{"many ops", state.ErrTooLarge, many},
		{"a large batch", state.ErrTooLarge, heavy},
	} {
		t.Run(test.name, func(*testing.T) { n.fails("o", state.Tx{}, test.want, test.ops...) })
	}
	n.apply("o", put(strings.Repeat("x", 256), big[:64<<10-1]+`"`))
	n.apply("o", put(strings.Repeat(strings.Repeat("x", 31)+"\x01", 31)+strings.Repeat("y", 32), `1`))
}

func quotas(t *testing.T, e Engine) {
	n := start(t, e.Store)
	tx := state.Tx{Limits: state.Limits{Items: 3, Bytes: 100}}
	apply := func(ops ...state.Op) {
		t.Helper()
		if _, err := n.Apply(ctxOf(t), "o", ops, tx); err != nil {
			t.Errorf("%v: %v", ops, err)
		}
	}
	apply(put("a", `1`), put("b", `1`), put("c", `1`))
	var limit *state.LimitError
	if err := n.failure("o", tx, state.ErrQuota, put("d", `1`)); !errors.As(err, &limit) || limit.Max != 3 {
		t.Errorf("%v", err)
	}
	apply(put("a", `2`))
	apply(del("a"), put("d", `1`))
	apply(del("b"), del("c"))
	long := `"` + strings.Repeat("x", 110) + `"`
	if err := n.failure("o", tx, state.ErrQuota, put("d", long)); !errors.As(err, &limit) || limit.Max != 100 {
		t.Errorf("%v", err)
	}
	apply(put("d", long[:90]+`"`))
	apply(put("d", `1`), put("e", long[:80]+`"`))
	n.apply("o", put("f", `1`), put("g", `1`)) // with the default limits
	apply(put("f", `2`))                       // it does not grow
	apply(del("f"))
}

// manyObjects fills a store. It must refuse more, keep what it has, and forget what was removed.
func manyObjects(t *testing.T, e Engine) {
	if e.MaxObjects == 0 {
		t.Skip("MaxObjects is zero")
	}
	n := start(t, e.Store)
	for i := range e.MaxObjects {
		n.apply(fmt.Sprint("o", i), put("a", number(i)))
	}
	n.fails("more", state.Tx{}, state.ErrQuota, put("a", `1`))
	n.fails("more", state.Tx{Create: state.ModeNew}, state.ErrQuota)
	n.apply("o0", put("b", `1`))
	if err := n.Remove(ctxOf(t), "o1", ""); err != nil {
		t.Fatal(err)
	}
	n.apply("more", put("a", `1`))
	n.fails("o1", state.Tx{}, state.ErrQuota, put("a", `1`))
	if got := string(n.all("o2")["a"].Value); got != `2` {
		t.Errorf("an object was lost: %q", got)
	}
}
