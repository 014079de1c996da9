package longpoll

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetGrantsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &budget{free: 10}
		var mu sync.Mutex
		var got []int64
		var all sync.WaitGroup
		ask := func(n int64, wait time.Duration, want bool) {
			all.Go(func() {
				if ok := b.take(n, time.Now().Add(wait), t.Context().Done()); ok != want {
					t.Errorf("%d bytes: %v", n, ok)
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, n)
			})
			synctest.Wait()
		}
		ask(7, time.Hour, true)
		ask(8, time.Second, false) // times out
		ask(3, time.Hour, true)    // 3 bytes are free, but an earlier caller waits
		ask(5, time.Hour, true)
		ask(1, time.Hour, true)
		time.Sleep(2 * time.Second)
		b.give(3)
		synctest.Wait()
		b.give(3 + 7 - 6 + 2)
		all.Wait()
		if len(got) != 5 || got[0] != 7 || got[1] != 8 || got[2] != 3 {
			t.Errorf("got %v", got)
		}
		if b.free != 10-7-3-5-1+3+6 || len(b.waiting) != 0 {
			t.Errorf("%d bytes are free, %d wait", b.free, len(b.waiting))
		}
	})
}

func TestBudgetTakeCancelled(t *testing.T) {
	t.Parallel()
	b := &budget{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b.take(1, time.Now().Add(time.Hour), ctx.Done()) {
		t.Error("got bytes that there are not")
	}
}

// At no time are more bytes taken than the budget has, and in the end all are free.
func TestBudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const total = 100
		b := &budget{free: total}
		var used, refused atomic.Int64
		var all sync.WaitGroup
		for seed := range uint64(50) {
			all.Go(func() {
				r := rand.New(rand.NewPCG(seed, 1))
				for range 50 {
					n := r.Int64N(total) + 1
					wait := time.Now().Add(time.Duration(r.IntN(200)) * time.Millisecond)
					if !b.take(n, wait, nil) {
						refused.Add(1)
						continue
					}
					if sum := used.Add(n); sum > total {
						t.Errorf("%d bytes are in use", sum)
					}
					time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
					used.Add(-n)
					b.give(n)
				}
			})
		}
		all.Wait()
		if b.free != total || len(b.waiting) != 0 || refused.Load() == 0 {
			t.Errorf("%d bytes are free, %d wait, %d were refused", b.free, len(b.waiting), refused.Load())
		}
	})
}
