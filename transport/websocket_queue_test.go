package transport

import (
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/serializer"
)

// The queue does what a simple one does that has no state but its frames, in any order of calls.
func TestFrameQueueModel(t *testing.T) {
	t.Parallel()
	type item struct {
		entry
		taken bool
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		q := &frameQueue{entries: make([]entry, 0, 4)}
		var model []item
		var taken []outgoing
		check := func(op string) {
			t.Helper()
			used, inHand, droppable := 0, 0, 0
			var frames []*serializer.Frame
			for _, i := range model {
				used += i.cost()
				if i.taken {
					inHand += i.cost()
				}
				if i.drop && !i.taken {
					droppable += i.cost()
				}
				frames = append(frames, i.frame)
			}
			if q.used != used || q.inHand != inHand || q.droppable != droppable {
				t.Fatalf("seed %d, after %s: used %d, in hand %d, droppable %d, want %d, %d, %d", seed, op, q.used, q.inHand, q.droppable, used, inHand, droppable)
			}
			var got []*serializer.Frame
			for _, e := range q.entries[q.head:] {
				if e.frame != nil {
					got = append(got, e.frame)
				}
			}
			if !slices.Equal(got, frames) {
				t.Fatalf("seed %d, after %s: %d frames, want %d, or others", seed, op, len(got), len(frames))
			}
			if q.empty() != (len(model) == 0) {
				t.Fatalf("seed %d, after %s: empty %v", seed, op, q.empty())
			}
		}
		for range 400 {
			switch k := rnd.IntN(10); {
			case k < 5:
				f, drop := &serializer.Frame{Data: make([]byte, rnd.IntN(300))}, rnd.IntN(3) > 0
				q.push(f, drop)
				model = append(model, item{entry{f, drop}, false})
				check("push")
			case k < 7:
				need := rnd.IntN(1000)
				n, ok := q.dropOldest(need)
				want := 0
				sum := 0
				for _, i := range model {
					if i.drop && !i.taken {
						sum += i.cost()
					}
				}
				if sum >= need {
					for i := 0; need > 0; {
						if m := model[i]; m.drop && !m.taken {
							need -= m.cost()
							model = slices.Delete(model, i, i+1)
							want++
						} else {
							i++
						}
					}
				}
				if n != want || ok != (need <= 0) {
					t.Fatalf("seed %d: dropOldest says %d %v, want %d", seed, n, ok, want)
				}
				check("dropOldest")
			case k < 8 && len(taken) == 0:
				size := rnd.IntN(1000)
				taken = q.take(taken[:0], size)
				for i := 0; i < len(model) && (size > 0 || i == 0); i++ {
					model[i].taken = true
					size -= model[i].cost()
					if i >= len(taken) || taken[i].frame != model[i].frame {
						t.Fatalf("seed %d: take gives %d frames, or others", seed, len(taken))
					}
				}
				check("take")
			case k < 9 && len(taken) > 0:
				n := rnd.IntN(len(taken) + 1)
				partly := n < len(taken) && rnd.IntN(2) == 0
				last := q.written(n, partly)
				if n > 0 && last != taken[n-1].frame {
					t.Fatalf("seed %d: written returns another frame", seed)
				}
				model = slices.Delete(model, 0, n)
				for i := range model {
					model[i].taken = i == 0 && partly
				}
				taken = taken[:0]
				check("written")
			case rnd.IntN(20) == 0:
				q.dropAll()
				model = slices.DeleteFunc(model, func(i item) bool { return !i.taken })
				check("dropAll")
			}
		}
	}
}

// However long a client stalls under policy DropOldest, its queue does not grow.
func TestFrameQueueStaysSmall(t *testing.T) {
	t.Parallel()
	q := &frameQueue{entries: make([]entry, 0, 16)}
	f := &serializer.Frame{Data: make([]byte, 100)}
	q.push(f, false)
	q.take(nil, 1) // and never write it
	for range 100_000 {
		if over := q.used + 164 - 5000; over > 0 {
			if _, ok := q.dropOldest(over); !ok {
				t.Fatal("nothing to drop")
			}
		}
		q.push(f, true)
	}
	if n := cap(q.entries); n > 300 {
		t.Errorf("room for %d entries", n)
	}
}
