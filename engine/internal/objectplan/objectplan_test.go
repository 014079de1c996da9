package objectplan_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"bennu.example/engine/internal/objectplan"
	"bennu.example/history"
	"bennu.example/state"
)

func Example() {
	o := object{items: map[string]state.Item{"a": {Key: "a", Value: []byte("1"), Rev: 1}}}
	ops := []state.Op{{Key: "b", From: "a"}}
	tx := state.Tx{Limits: state.Limits{}.WithDefaults()}
	w, err := objectplan.New(o, objectplan.Object{Rev: 1, Items: 1, Bytes: 2}, ops, &tx, time.Now())
	for _, it := range w.Items {
		fmt.Printf("%d %s %q %q\n", it.Rev, it.Key, it.Value, it.Deleted)
	}
	fmt.Println(w.Revs, err)
	// Output:
	// 2 a "" "deleted"
	// 3 b "1" ""
	// [3] <nil>
}

// object is a View.
type object struct{ items map[string]state.Item }

func (o object) Item(key string) (state.Item, bool, error) {
	it, ok := o.items[key]
	return it, ok, nil
}

func (o object) Under(key string, f func(it state.Item)) error {
	for _, k := range slices.Sorted(maps.Keys(o.items)) {
		if state.Subtree(key).Has(k) {
			f(o.items[k])
		}
	}
	return nil
}

// count returns what the plan needs to know of the object.
func (o object) count(rev uint64) objectplan.Object {
	has := objectplan.Object{Rev: rev}
	for _, it := range o.items {
		if it.Deleted == "" {
			has.Items++
			has.Bytes += len(it.Key) + len(it.Value)
		}
	}
	return has
}

// perform makes the changes.
func (o object) perform(items []state.Item) {
	for _, it := range items {
		if it.Under {
			maps.DeleteFunc(o.items, func(k string, _ state.Item) bool { return state.Subtree(it.Key).Has(k) })
		} else {
			o.items[it.Key] = it
		}
	}
}

// Writes at random have the same results as those of a state.Memory.
func TestPlanIsThatOfMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := state.NewMemory(state.MemoryConfig{})
	o := object{make(map[string]state.Item)}
	rev := uint64(0)
	hour := time.Hour
	outcomes := make(map[string]int)
	for i := range 20_000 {
		var ops []state.Op
		for range 1 + rng.IntN(3) {
			ops = append(ops, randomOp(rng, o, &hour, i))
		}
		tx := state.Tx{Writer: fmt.Sprint(rng.IntN(2)), Limits: state.Limits{Items: 12, Bytes: 120, Changes: 1 << 20}}
		if state.Check(ops, tx) != nil {
			continue
		}
		now := time.Now()
		want, wantErr := m.Apply(t.Context(), "o", ops, tx)
		tx.Limits = tx.Limits.WithDefaults()
		got, err := objectplan.New(o, o.count(rev), ops, &tx, now)
		outcomes[fmt.Sprintf("%T", err)]++
		if describe(err) != describe(wantErr) {
			t.Fatalf("%+v: %s, want %s", ops, describe(err), describe(wantErr))
		}
		if err != nil {
			continue
		}
		// A memory remembers when something expires to the nanosecond.
		for j := range want.Items {
			if d := got.Items[j].Expires.Sub(want.Items[j].Expires); d < -time.Minute || d > time.Minute {
				t.Fatalf("expires at %v, want %v", got.Items[j].Expires, want.Items[j].Expires)
			}
			want.Items[j].Expires = got.Items[j].Expires
		}
		if len(got.Items) != len(want.Items) || len(want.Items) > 0 && !reflect.DeepEqual(got.Items, want.Items) ||
			!slices.Equal(got.Revs, want.Revs) {
			t.Fatalf("%+v:\n%+v, revisions %v, want\n%+v, revisions %v", ops, got.Items, got.Revs, want.Items, want.Revs)
		}
		o.perform(got.Items)
		if after := o.count(rev + uint64(len(got.Items))); got.After != after {
			t.Fatalf("%+v: the object is %+v, want %+v", ops, got.After, after)
		}
		if rev += uint64(len(got.Items)); want.Position != (history.Position{}) && want.Position.Offset() != rev {
			t.Fatalf("revision %d, want %s", rev, want.Position)
		}
	}
	for _, outcome := range []string{"<nil>", "*state.ConflictError", "*state.LimitError", "*errors.errorString"} {
		if outcomes[outcome] < 100 {
			t.Errorf("outcomes are %v", outcomes)
		}
	}
}

// describe returns everything that an error says.
func describe(err error) string {
	var conflict *state.ConflictError
	if errors.As(err, &conflict) {
		return fmt.Sprintf("%+v", *conflict)
	}
	return fmt.Sprint(err)
}

func randomOp(rng *rand.Rand, o object, hour *time.Duration, i int) state.Op {
	key := func() string {
		segments := make([]string, 1+rng.IntN(3))
		for i := range segments {
			segments[i] = string(rune('a' + rng.IntN(3)))
		}
		return strings.Join(segments, "\x01")
	}
	op := state.Op{Key: key(), Under: rng.IntN(4) == 0, Own: rng.IntN(4) == 0}
	switch rng.IntN(5) {
	case 0:
		op.Delete = true
	case 1:
		op.From, op.Under = key(), false
	default:
		op.Value = fmt.Append(nil, i%1000)
	}
	if !op.Delete && rng.IntN(4) == 0 {
		op.TTL = hour
	}
	if rng.IntN(5) == 0 {
		rev := o.items[op.Key].Rev
		if rng.IntN(3) == 0 {
			rev = uint64(rng.IntN(3))
		}
		op.If = &rev
	}
	return op
}
