package fifo_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/internal/fifo"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestRandomOperations compares a queue with a slice over random histories.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		var q fifo.Queue[int]
		var want []int
		for i := range 2000 {
			switch n := random.IntN(100); {
			case n < 50:
				q.Push(i)
				want = append(want, i)
			case n < 55:
				q.PushFront(i)
				want = slices.Insert(slices.Clone(want), 0, i)
			case n < 98 && len(want) > 0:
				if got := q.Pop(); got != want[0] {
					t.Fatalf("seed %d, step %d: Pop returned %d, want %d", seed, i, got, want[0])
				}
				want = want[1:]
			case n == 98:
				odd := func(v int) bool { return v%2 == 1 }
				q.Filter(odd)
				want = slices.DeleteFunc(slices.Clone(want), func(v int) bool { return !odd(v) })
			case n == 99 && random.IntN(20) == 0:
				q.Clear(random.IntN(64))
				want = nil
			}
			if q.Len() != len(want) || !slices.Equal(q.All(), want) {
				t.Fatalf("seed %d, step %d: queue is %v, want %v", seed, i, q.All(), want)
			}
			if last := q.Last(); (last == nil) != (len(want) == 0) || last != nil && *last != want[len(want)-1] {
				t.Fatalf("seed %d, step %d: Last is wrong", seed, i)
			}
		}
	}
}

// TestArrayStaysSmall passes many values through a queue that is never empty.
func TestArrayStaysSmall(t *testing.T) {
	var q fifo.Queue[*int]
	for range 10 {
		q.Push(new(int))
	}
	for range 100_000 {
		q.Push(new(int))
		q.Pop()
	}
	if q.Cap() > 256 {
		t.Errorf("the array of a queue with %d values holds %d", q.Len(), q.Cap())
	}
}

func TestClearKeepsOrReleasesTheArray(t *testing.T) {
	for _, c := range []struct{ keep, pushed, want int }{{100, 50, 50}, {10, 50, 0}} {
		var q fifo.Queue[int]
		for i := range c.pushed {
			q.Push(i)
		}
		q.Clear(c.keep)
		if q.Len() != 0 || (q.Cap() >= c.pushed) != (c.want > 0) {
			t.Errorf("Clear(%d) after %d values left an array of %d", c.keep, c.pushed, q.Cap())
		}
	}
}

func BenchmarkPushPop(b *testing.B) {
	b.ReportAllocs()
	var q fifo.Queue[int]
	q.Push(0)
	for i := range b.N {
		q.Push(i)
		q.Pop()
	}
}
