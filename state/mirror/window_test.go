package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// even is a query of the numbers that leave a rest.
var even = state.Query("rest", func(rest int, _ string, n int) bool { return n%2 == rest })

// TestWindows has mirrors of parts of a map. They equal the store's whenever they rest, also after
// interruptions.
func TestWindows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, state.Config{Queries: []state.QueryDef{even}})
			random := rand.New(rand.NewPCG(seed, 9))
			key := func() string { return fmt.Sprintf("k%02d", random.IntN(40)) }
			for range 30 {
				r.put("map:1", state.Op{Key: key(), Value: fmt.Append(nil, random.IntN(100))})
			}
			type part struct {
				*mirror.Map[int]
				keep func(key string, n int) bool
				n    int // the first, or the last if it is negative
			}
			all := func(string, int) bool { return true }
			var parts []part
			for _, p := range []struct {
				opt  mirror.Options
				keep func(key string, n int) bool
				n    int
			}{
				{mirror.Options{First: 5}, all, 5},
				{mirror.Options{Last: 5, Prefix: "k1"}, func(k string, _ int) bool { return strings.HasPrefix(k, "k1") }, -5},
				{mirror.Options{Query: "rest", Args: 1}, func(_ string, n int) bool { return n%2 == 1 }, 0},
				{mirror.Options{Query: "rest"}, func(_ string, n int) bool { return n%2 == 0 }, 0},
			} {
				parts = append(parts, part{openMap(t, r.client(), "map:1", &p.opt), p.keep, p.n})
			}
			for range 6 {
				for range 50 {
					switch random.IntN(12) {
					case 0:
						r.cut()
					case 1:
						<-time.After(time.Duration(random.IntN(20)) * time.Millisecond)
					case 2, 3, 4:
						r.put("map:1", state.Op{Key: key(), Delete: true})
					default:
						r.put("map:1", state.Op{Key: key(), Value: fmt.Append(nil, random.IntN(100))})
					}
				}
				<-time.After(5 * time.Second) // until the mirrors rest
				synctest.Wait()
				stored := stored(t, r, "map:1", state.Range{})
				for i, p := range parts {
					want := map[string]int{}
					for _, k := range slices.Sorted(maps.Keys(stored)) {
						if p.keep(k, stored[k]) {
							want[k] = stored[k]
						}
					}
					keys := slices.Sorted(maps.Keys(want))
					switch n := len(keys); {
					case p.n > 0 && n > p.n:
						keys = keys[p.n:]
					case p.n < 0 && n > -p.n:
						keys = keys[:n+p.n]
					default:
						keys = nil
					}
					for _, k := range keys {
						delete(want, k)
					}
					if got := maps.Collect(p.All()); !maps.Equal(got, want) || !p.Synced() {
						t.Fatalf("mirror %d has\n%v, want\n%v", i, got, want)
					}
				}
			}
		})
	}
}

// TestWindowOptions has what a mirror of a window does differently.
func TestWindowOptions(t *testing.T) {
	t.Parallel()
	r := newRig(t, state.Config{Queries: []state.QueryDef{even}})
	r.put("map:1", state.Op{Key: "a", Value: []byte("1")}, state.Op{Key: "b", Value: []byte("2")})
	m := openMap(t, r.client(), "map:1", &mirror.Options{First: 2})
	changes := read(t, m.Changes(t.Context()))
	changes.kinds(mirror.Put, mirror.Put, mirror.Synced)
	if err := m.Set(t.Context(), "z", 7); err != nil { // it does not wait for what never comes
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if c := changes.change(); c.Kind != mirror.Delete || c.Key != "a" || c.Reason != "deleted" {
		t.Errorf("%+v", c)
	}
	if c := changes.change(); c.Kind != mirror.Put || c.Key != "z" || c.Value != 7 || c.After != "b" {
		t.Errorf("%+v", c)
	}
	r.put("map:1", state.Op{Key: "c", Value: []byte("3")})
	changes.kinds(mirror.Put)
	if c := changes.change(); c.Kind != mirror.Delete || c.Key != "z" || c.Reason != "window" {
		t.Errorf("%+v", c)
	}
	for name, opt := range map[string]*mirror.Options{
		"both ends": {First: 1, Last: 1}, "too many": {First: 1001}, "first and query": {First: 1, Query: "rest"},
		"no such query": {Query: "none"}, "wrong arguments": {Query: "rest", Args: "x"},
	} {
		if _, err := mirror.OpenMap[int](t.Context(), r.client(), "map:1", opt); !errors.Is(err, mirror.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	opt := &mirror.Options{Query: "rest", Args: func() {}}
	if _, err := mirror.OpenMap[int](t.Context(), r.client(), "map:1", opt); err == nil {
		t.Error("arguments that are not JSON")
	}
}

// TestWindowUncertain has a write whose reply is lost. It must not be repeated, because the mirror
// cannot know whether the server has forgotten its id.
func TestWindowUncertain(t *testing.T) {
	t.Parallel()
	var r *rig
	cut := make(chan struct{}, 1)
	r = newRig(t, state.Config{Allow: func(_ context.Context, _ *channel.Channel, a state.Access) error {
		if a.Op.Key == "cut" {
			select {
			case <-cut:
				r.cut()
			default:
			}
		}
		return nil
	}})
	cut <- struct{}{}
	m := openMap(t, r.client(), "map:1", &mirror.Options{Last: 3})
	if err := m.Set(t.Context(), "cut", 1); !errors.Is(err, history.ErrUncertain) {
		t.Errorf("the error is %v", err)
	}
	if err := m.Set(t.Context(), "cut", 2); err != nil {
		t.Error(err)
	}
}
