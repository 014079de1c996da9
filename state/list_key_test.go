package state_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"bennu.example/state"
)

func TestListKeys(t *testing.T) {
	t.Parallel()
	const n = 100_000
	t.Run("at random places", func(t *testing.T) {
		t.Parallel()
		rng := rand.New(rand.NewPCG(1, 1))
		gaps := [][2]string{{"", ""}} // where keys may be inserted
		for range n {
			gap := &gaps[rng.IntN(len(gaps))]
			lower, upper := gap[0], gap[1]
			key, err := state.ListKey(lower, upper)
			if err != nil || key <= lower || upper != "" && key >= upper || !state.IsListKey(key) || len(key) > 40 {
				t.Fatalf("%q between %q and %q: %v", key, lower, upper, err)
			}
			if next, err := state.ListKey(key[:len(key)-1], key); err != nil {
				t.Fatalf("no key between %q and what it begins with: %q, %v", key, next, err)
			}
			gap[1] = key
			gaps = append(gaps, [2]string{key, upper})
		}
		slices.SortFunc(gaps, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		for i := range n {
			if gaps[i][1] != gaps[i+1][0] {
				t.Fatalf("%q is not followed by %q", gaps[i], gaps[i+1])
			}
		}
	})
	for name, at := range map[string]func(n int) int{
		"at the end":       func(n int) int { return n },
		"at the beginning": func(int) int { return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, last := "", ""
			for i := range n {
				lower, upper := last, ""
				if at(i) == 0 {
					lower, upper = "", first
				}
				key, err := state.ListKey(lower, upper)
				if err != nil || key <= lower || upper != "" && key >= upper {
					t.Fatalf("%d: %q between %q and %q, %v", i, key, lower, upper, err)
				}
				first, last = key, key
			}
			if len(last) > 8 {
				t.Errorf("%q is long", last)
			}
		})
	}
	for name, at := range map[string]int{"after one key": 1, "before one key": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lower, upper := "a0V1", "a1V1"
			for i := 0; ; i++ {
				key, err := state.ListKey(lower, upper)
				if errors.Is(err, state.ErrQuota) {
					if i < 700 || i > 2000 {
						t.Errorf("%d insertions at one place", i)
					}
					return
				}
				if err != nil || key <= lower || key >= upper {
					t.Fatalf("%q between %q and %q: %v", key, lower, upper, err)
				}
				if at > 0 {
					upper = key
				} else {
					lower = key
				}
			}
		})
	}
}

// TestListIntegers has the order of the integers of keys.
func TestListIntegers(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"a0 a1", "a9 aA", "aZ aa", "az b00", "b0z b10", "bzz c000", "Zz a0", "Z0 Z1", "Yzz Z0", "Y00 Y01", "Xzzz Y00",
		"y" + strings.Repeat("z", 25) + " z" + strings.Repeat("0", 26),
		"A" + strings.Repeat("z", 26) + " B" + strings.Repeat("0", 25),
	} {
		low, high, _ := strings.Cut(s, " ")
		if got, err := state.AddInt(low, 1); got != high || err != nil || low >= high {
			t.Errorf("%s + 1 is %s, %v, want %s", low, got, err, high)
		}
		if got, err := state.AddInt(high, -1); got != low || err != nil {
			t.Errorf("%s - 1 is %s, %v, want %s", high, got, err, low)
		}
	}
	for end, by := range map[string]int{"z" + strings.Repeat("z", 26): 1, "A" + strings.Repeat("0", 26): -1} {
		if got, err := state.AddInt(end, by); !errors.Is(err, state.ErrQuota) {
			t.Errorf("%s %+d is %s, %v", end, by, got, err)
		}
	}
}

// FuzzListKey has keys that the server did not make.
func FuzzListKey(f *testing.F) {
	for _, s := range []string{"", "a0", "a0V1", "a0V", "a0V001", "a1", "b", "Zz", "a00", "a000", "zz", "az\x01",
		"b00", "A"} {
		f.Add(s, "")
		f.Add("", s)
		f.Add(s, "a0V1")
		f.Add("a0", s)
	}
	f.Fuzz(func(t *testing.T, lower, upper string) {
		key, err := state.ListKey(lower, upper)
		var limit *state.LimitError
		switch {
		case err == nil:
			if key <= lower || upper != "" && key >= upper || !state.IsListKey(key) {
				t.Fatalf("%q is not between %q and %q", key, lower, upper)
			}
		case errors.As(err, &limit):
		case !errors.Is(err, state.ErrInvalid):
			t.Fatal(err)
		case (lower == "" || state.IsListKey(lower)) && (upper == "" || state.IsListKey(upper)) &&
			(lower < upper || upper == "") && (upper == "" || !strings.HasSuffix(upper, "0")):
			t.Fatalf("nothing is between %q and %q", lower, upper)
		}
	})
}
