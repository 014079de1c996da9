package mirror_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

func openTree(t *testing.T, o mirror.Opener, opt *mirror.Options) *mirror.Tree {
	t.Helper()
	tree, err := mirror.OpenTree(t.Context(), o, "tree:1", opt)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// valueOf returns the value of a node as text.
func valueOf(t *testing.T, n mirror.Node) string {
	t.Helper()
	var v json.RawMessage
	exists, err := n.Value(&v)
	if err != nil || exists != (v != nil) {
		t.Errorf("%q: %v, %v", n.Path(), exists, err)
	}
	return string(v)
}

func TestTree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		a, b := openTree(t, r.client(), nil), openTree(t, r.client(), &mirror.Options{Path: "teams/red"})
		ctx := t.Context()
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		red := a.At("teams").At("red")
		check(red.Set(ctx, map[string]any{"name": "Red", "score": 1, "tags": []int{1, 2}, "none": nil}))
		check(a.At("teams").Set(ctx, map[string]any{"red": map[string]any{"score": 2}, "red-": 1, "blue": 3}))
		check(red.Merge(ctx, map[string]any{"players/ann": 5, "players/bob": 6, "score": nil}))
		check(mirror.Update(ctx, red.At("players/ann"), func(n *int) error { *n++; return nil }))
		check(mirror.Update(ctx, red.At("wins"), func(n *int) error { *n++; return nil }))
		const want = `{"players":{"ann":6,"bob":6},"wins":1}`
		if got := valueOf(t, a.At("")); got != `{"teams":{"blue":3,"red":`+want+`,"red-":1}}` {
			t.Errorf("the tree is %s", got)
		}
		if got := a.At("teams").Children(); !slices.Equal(got, []string{"blue", "red", "red-"}) {
			t.Errorf("children %q", got)
		}
		if got := red.At("players/ann").Children(); len(got) != 0 {
			t.Errorf("children %q of a leaf", got)
		}
		synctest.Wait() // b has the events
		if got := valueOf(t, b.At("teams")); got != `{"red":`+want+`}` {
			t.Errorf("the part is %s", got)
		}
		var typed struct{ Players map[string]int }
		if exists, err := red.Value(&typed); !exists || err != nil || typed.Players["bob"] != 6 {
			t.Errorf("%+v, %v, %v", typed, exists, err)
		}
		if exists, err := red.Value(new(int)); !exists || err == nil {
			t.Errorf("an object is an int: %v, %v", exists, err)
		}
		if exists, err := red.At("none").Value(new(int)); exists || err != nil {
			t.Errorf("%v, %v", exists, err)
		}
		if err := mirror.Update(ctx, red, func(*int) error { return nil }); !errors.Is(err, mirror.ErrInvalid) {
			t.Errorf("Update of an inner node: %v", err)
		}
		if _, err := red.At("a//b").Add(ctx, 1); !errors.Is(err, mirror.ErrInvalid) {
			t.Errorf("an invalid path: %v", err)
		}
		// Additions are children in the order of their names.
		var names []string
		for i := range 3 {
			n, err := a.At("log").Add(ctx, map[string]int{"n": i})
			check(err)
			names = append(names, strings.TrimPrefix(n.Path(), "log/"))
			if got := valueOf(t, n.At("n")); got != fmt.Sprint(i) {
				t.Errorf("%s is %s", n.Path(), got)
			}
		}
		if got := a.At("log").Children(); !slices.Equal(got, names) {
			t.Errorf("children %q, want %q", got, names)
		}
		// A leaf replaces a subtree, and the other way round.
		check(red.Set(ctx, 7))
		if got := valueOf(t, red) + valueOf(t, red.At("players")); got != "7" {
			t.Errorf("%s", got)
		}
		check(red.At("x/y").Set(ctx, true))
		if got := valueOf(t, red); got != `{"x":{"y":true}}` {
			t.Errorf("%s", got)
		}
		check(a.At("teams").Clear(ctx))
		check(a.At("nothing").Clear(ctx))
		text, err := a.Save()
		check(err)
		a.Close(mirror.Forget)
		check(b.At("teams/red/z").Set(ctx, 1))
		again := openTree(t, r.client(), &mirror.Options{Restore: text})
		if got := valueOf(t, again.At("teams")); got != `{"red":{"z":1}}` {
			t.Errorf("%s", got)
		}
		check(again.At("").Clear(ctx))
		if got := valueOf(t, again.At("")); got != "" {
			t.Errorf("%s", got)
		}
	})
}

// TestTreeChanges has the changes of a tree, also those of a subtree.
func TestTreeChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		tree := openTree(t, r.client(), nil)
		if err := tree.At("").Set(t.Context(), map[string]any{"a": map[string]int{"x": 1, "y": 2}, "b": 3}); err != nil {
			t.Fatal(err)
		}
		changes := read(t, tree.Changes(t.Context()))
		text := func() string {
			t.Helper()
			c := changes.change()
			return fmt.Sprintf("%v %s=%s at %d after %q", c.Kind, c.Key, c.Value, c.Index, c.After)
		}
		for _, want := range []string{
			`put a/x=1 at 0 after ""`, `put a/y=2 at 1 after "a/x"`, `put b=3 at 2 after "a/y"`, `synced = at 0 after ""`,
		} {
			if got := text(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		if err := tree.At("a").Set(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`delete a/x= at 0 after ""`, `delete a/y= at 0 after ""`, `put a=4 at 0 after ""`,
		} {
			if got := text(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}

func TestTreeWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		tree := openTree(t, r.client(), nil)
		ctx := t.Context()
		next, stop := iter.Pull2(tree.At("a").Watch(ctx))
		defer stop()
		want := func(text string) {
			t.Helper()
			if v, err, ok := next(); string(v) != text || err != nil || !ok {
				t.Errorf("%s, %v, %v, want %s", v, err, ok, text)
			}
		}
		set := func(path string, v any) {
			t.Helper()
			if err := tree.At(path).Set(ctx, v); err != nil {
				t.Fatal(err)
			}
		}
		want("null")
		set("a/b", 1)
		want(`{"b":1}`)
		set("c", 1)
		set("a/b", 2)
		set("a/d", 3) // the loop is slow
		want(`{"b":2,"d":3}`)
		r.cut()
		set("a", "leaf")
		want(`"leaf"`)
		set("", nil)
		want("null")
		tree.Close(mirror.KeepUpdating)
		if _, err, ok := next(); ok {
			t.Errorf("the sequence goes on: %v", err)
		}

		next, stop = iter.Pull2(tree.At("").Watch(ctx))
		defer stop()
		want("null")
		if err := r.objects.Remove(ctx, "tree:1"); err != nil {
			t.Fatal(err)
		}
		if _, err, ok := next(); !ok || !errors.Is(err, channel.ErrClosed) {
			t.Errorf("the object was removed: %v, %v", err, ok)
		}
		if _, _, ok := next(); ok {
			t.Error("the sequence goes on")
		}
		for range tree.At("").Watch(ctx) {
			break
		}
	})
}

// TestTreeHistories writes, cuts connections and takes the network down at random. Whenever it
// rests, each mirror equals the store, and so does what its changes make.
func TestTreeHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runTreeHistory(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func runTreeHistory(t *testing.T, random *rand.Rand) {
	const rounds, steps = 5, 50
	r := newRig(t, state.Config{Limits: state.Limits{Changes: 30}})
	writer := openTree(t, r.client(), nil)
	path := func() string {
		segments := make([]string, 1+random.IntN(3))
		for i := range segments {
			segments[i] = []string{"a", "a-", "b"}[random.IntN(3)]
		}
		return strings.Join(segments, "/")
	}
	n := 0
	write := func() {
		n++
		node := writer.At(path())
		var err error
		switch random.IntN(8) {
		case 0:
			err = node.Clear(t.Context())
		case 1:
			err = node.Set(t.Context(), map[string]any{"a": n, "b": map[string]int{"a": n, "a-": n}})
		case 2:
			err = node.Merge(t.Context(), map[string]any{"a/b": n, "b": nil})
		case 3:
			err = writer.At("a").Clear(t.Context())
		default:
			err = node.Set(t.Context(), n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	type treeReplica struct {
		*mirror.Tree
		path   string
		replay map[string]string
		next   reader[json.RawMessage]
	}
	var all []*treeReplica
	for _, path := range []string{"", "a", "b/a"} {
		p := &treeReplica{
			Tree: openTree(t, r.client(), &mirror.Options{Path: path}), path: path, replay: map[string]string{},
		}
		p.next = read(t, p.Changes(t.Context()))
		all = append(all, p)
	}
	for round := 1; round <= rounds; round++ {
		for range steps {
			switch k := random.IntN(20); {
			case k == 0:
				r.cut()
			case k == 1: // a longer absence of the readers, in which the store may forget
				r.setDown(true)
				for range random.IntN(12) {
					key := state.PathKey(path())
					r.put("tree:1", state.Op{Key: key, Delete: true, Under: true})
				}
				r.setDown(false)
			case k < 5:
				<-time.After(time.Duration(random.IntN(30)) * time.Millisecond)
			default:
				write()
			}
		}
		for i, p := range all {
			mark := fmt.Sprintf("%s/mark%d", p.path, round)
			if p.path == "" {
				mark = mark[1:]
			}
			if err := writer.At(mark).Set(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			page, err := r.store.Read(t.Context(), "tree:1", state.Subtree(state.PathKey(p.path)), "", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range page.Items {
				want[strings.ReplaceAll(it.Key, "\x01", "/")] = string(it.Value)
			}
			for p.replay[mark] == "" {
				c, err, ok := p.next.next()
				var overflow *channel.OverflowError
				switch {
				case errors.As(err, &overflow):
				case err != nil || !ok:
					t.Fatal(err)
				case c.Kind == mirror.Reset:
					clear(p.replay)
				case c.Kind == mirror.Put:
					p.replay[c.Key] = string(c.Value)
				case c.Kind == mirror.Delete:
					if _, had := p.replay[c.Key]; !had {
						t.Errorf("the deleted key %s was not there", c.Key)
					}
					delete(p.replay, c.Key)
				}
			}
			for !p.Synced() { // the mark was on one of several pages
				<-time.After(time.Millisecond)
			}
			if text := fmt.Sprint(p.replay); text != fmt.Sprint(want) {
				t.Fatalf("round %d: the changes of mirror %d make\n%s, the store has\n%v", round, i, text, want)
			}
			got := map[string]string{}
			leaves(t, got, p.At(p.path))
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("round %d: mirror %d has\n%s, the store has\n%v", round, i, got, want)
			}
		}
	}
}

// leaves adds the leaves of a node by their paths.
func leaves(t *testing.T, all map[string]string, n mirror.Node) {
	t.Helper()
	children := n.Children()
	if text := valueOf(t, n); len(children) == 0 && text != "" {
		all[n.Path()] = text
	}
	for _, name := range children {
		leaves(t, all, n.At(name))
	}
}
