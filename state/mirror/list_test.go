package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

func openList(t *testing.T, o mirror.Opener, opt *mirror.Options) *mirror.List[int] {
	t.Helper()
	l, err := mirror.OpenList[int](t.Context(), o, "list:1", opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// values returns the values of a list.
func values(l *mirror.List[int]) (all []int) {
	for _, v := range l.All() {
		all = append(all, v)
	}
	return all
}

func TestList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		a, b := openList(t, r.client(), nil), openList(t, r.client(), nil)
		changes := read(t, b.Changes(t.Context()))
		changes.kinds(mirror.Synced)
		next := func(want mirror.Change[int], old int) {
			t.Helper()
			got := changes.change()
			if has := got.Old != nil; has != (old != 0) || has && *got.Old != old {
				t.Errorf("%+v: the old value is wrong", got)
			}
			if got.Old = nil; got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		ctx := t.Context()
		must := func(key string, err error) string {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
		one := must(a.Append(ctx, 1))
		next(mirror.Change[int]{Key: one, Value: 1, Rev: 1}, 0)
		two := must(a.Append(ctx, 2))
		next(mirror.Change[int]{Key: two, Value: 2, Rev: 2, After: one, Index: 1}, 0)
		zero := must(a.Insert(ctx, "", 9))
		next(mirror.Change[int]{Key: zero, Value: 9, Rev: 3}, 0)
		half := must(a.Insert(ctx, one, 15))
		next(mirror.Change[int]{Key: half, Value: 15, Rev: 4, After: one, Index: 2}, 0)
		must("", a.Set(ctx, zero, 10))
		next(mirror.Change[int]{Key: zero, Value: 10, Rev: 5}, 9)
		moved := must(a.Move(ctx, zero, half))
		next(mirror.Change[int]{
			Kind: mirror.Move, Key: moved, From: zero, Value: 10, Rev: 7, After: half, Index: 2,
		}, 10)
		first := must(a.Move(ctx, two, ""))
		next(mirror.Change[int]{Kind: mirror.Move, Key: first, From: two, Value: 2, Rev: 9}, 2)
		must("", a.Delete(ctx, one))
		next(mirror.Change[int]{Kind: mirror.Delete, Key: one, Rev: 10, After: first, Index: 1, Reason: "deleted"}, 1)
		must("", a.Delete(ctx, one))
		if got := values(a); !slices.Equal(got, []int{2, 15, 10}) || a.Len() != 3 {
			t.Errorf("the list is %v", got)
		}
		if key, v := a.At(1); key != half || v != 15 {
			t.Errorf("at 1 is %q, %d", key, v)
		}
		for _, i := range []int{-1, 3} {
			if key, v := a.At(i); key != "" || v != 0 {
				t.Errorf("at %d is %q, %d", i, key, v)
			}
		}
		_, insertErr := a.Insert(ctx, zero, 1)
		_, moveErr := a.Move(ctx, two, "")
		for _, err := range []error{insertErr, moveErr, a.Set(ctx, one, 1)} {
			if !errors.Is(err, mirror.ErrNotFound) {
				t.Errorf("%v, want ErrNotFound", err)
			}
		}
		if a.Stale() {
			t.Error("the mirror has ended")
		}

		text, err := a.Save()
		must("", err)
		a.Close(mirror.Forget)
		must(b.Append(ctx, 3))
		again := openList(t, r.client(), &mirror.Options{Restore: text})
		if got := values(again); !slices.Equal(got, []int{2, 15, 10, 3}) {
			t.Errorf("the restored list is %v", got)
		}
	})
}

// TestListHistories writes, cuts connections and takes the network down at random. Whenever it
// rests, each mirror equals the store, and so does what its changes make by their places.
func TestListHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runListHistory(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

// listReplica is a mirror and what a loop over its changes has made of them.
type listReplica struct {
	*mirror.List[int]
	changes reader[int]
	keys    []string
	replay  []int
	moves   int
}

// follow reads changes until the replay ends with a mark and the copy is complete.
func (p *listReplica) follow(t *testing.T, mark int) {
	t.Helper()
	for synced := p.Synced(); !synced || len(p.replay) == 0 || p.replay[len(p.replay)-1] != mark; {
		c, err, ok := p.changes.next()
		var overflow *channel.OverflowError
		if errors.As(err, &overflow) {
			continue
		}
		if err != nil || !ok {
			t.Fatal(err)
		}
		if c.Kind == mirror.Move || c.Kind == mirror.Delete {
			key := c.Key
			if c.Kind == mirror.Move {
				key = c.From
				p.moves++
			}
			i := slices.Index(p.keys, key)
			if i < 0 || c.Kind == mirror.Delete && i != c.Index || c.Old == nil || *c.Old != p.replay[i] {
				t.Fatalf("%+v does not follow %v", c, p.replay)
			}
			p.keys, p.replay = slices.Delete(p.keys, i, i+1), slices.Delete(p.replay, i, i+1)
		}
		switch c.Kind {
		case mirror.Reset:
			p.keys, p.replay, synced = nil, nil, false
		case mirror.Synced:
			synced = true
		case mirror.Put, mirror.Move:
			if c.Kind == mirror.Put && c.Old != nil {
				if p.keys[c.Index] != c.Key || p.replay[c.Index] != *c.Old {
					t.Fatalf("%+v does not follow %v", c, p.replay)
				}
				p.replay[c.Index] = c.Value
				break
			}
			if c.Index > 0 && p.keys[c.Index-1] != c.After {
				t.Fatalf("%+v does not follow %v", c, p.replay)
			}
			p.keys, p.replay = slices.Insert(p.keys, c.Index, c.Key), slices.Insert(p.replay, c.Index, c.Value)
		}
	}
}

func runListHistory(t *testing.T, random *rand.Rand) {
	const rounds, steps = 5, 50
	r := newRig(t, state.Config{Limits: state.Limits{Changes: 30}})
	writer := openList(t, r.client(), nil)
	n := 0
	write := func() {
		n++
		someKey := func() string {
			key, _ := writer.At(random.IntN(max(writer.Len(), 1)))
			return key
		}
		key := someKey()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var err error
		switch k := random.IntN(10); {
		case k < 3 || key == "":
			_, err = writer.Append(ctx, n)
		case k < 5:
			_, err = writer.Insert(ctx, someKey(), n)
		case k == 5:
			_, err = writer.Insert(ctx, "", n)
		case k == 6:
			err = writer.Set(ctx, key, n)
		case k == 7:
			err = writer.Delete(ctx, key)
		default:
			_, err = writer.Move(ctx, key, someKey())
		}
		if err != nil && !errors.Is(err, mirror.ErrNotFound) { // Rebalance has given the item another key
			t.Fatal(err)
		}
	}
	for range 20 {
		write()
	}
	var all []*listReplica
	for range 2 {
		p := &listReplica{List: openList(t, r.client(), nil)}
		p.changes = read(t, p.Changes(t.Context()))
		all = append(all, p)
	}
	moves := 0
	for round := 1; round <= rounds; round++ {
		for range steps {
			switch k := random.IntN(20); {
			case k == 0:
				r.cut()
			case k == 1:
				r.setDown(true)
				r.setDown(false)
			case k < 5:
				<-time.After(time.Duration(random.IntN(30)) * time.Millisecond)
			case k == 5:
				if err := r.objects.Rebalance(t.Context(), "list:1"); err != nil {
					t.Fatal(err)
				}
			default:
				write()
			}
		}
		if _, err := writer.Append(t.Context(), -round); err != nil {
			t.Fatal(err)
		}
		page, err := r.store.Read(t.Context(), "list:1", state.Range{}, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		var want []int
		for _, it := range page.Items {
			var v int
			if _, err := fmt.Sscan(string(it.Value), &v); err != nil {
				t.Fatal(err)
			}
			want = append(want, v)
		}
		for i, p := range all {
			p.follow(t, -round)
			if got := values(p.List); !slices.Equal(got, want) || !slices.Equal(p.replay, want) {
				t.Fatalf("round %d: mirror %d has\n%v, its changes make\n%v, the store has\n%v", round, i, got, p.replay, want)
			}
			moves += p.moves
		}
	}
	if moves == 0 {
		t.Error("no mirror has seen a move")
	}
}
