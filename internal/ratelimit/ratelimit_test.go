package ratelimit_test

import (
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/ratelimit"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// passed takes tokens until there is none, or limit of them.
func passed(l *ratelimit.Shared, limit int) (n int) {
	for n < limit && l.Take() {
		n++
	}
	return n
}

func TestShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ratelimit.Shared{Rate: ratelimit.PerSecond(10)}
		if n := passed(l, 100); n != 20 {
			t.Errorf("a burst of %d, want 20", n)
		}
		time.Sleep(350 * time.Millisecond) // in virtual time
		if n := passed(l, 100); n != 3 {
			t.Errorf("%d after 350 ms, want 3", n)
		}
		time.Sleep(time.Hour) // in virtual time
		if n := passed(l, 100); n != 20 {
			t.Errorf("%d after an hour, want 20", n)
		}
	})
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []int{0, -1} {
		if n := passed(&ratelimit.Shared{Rate: ratelimit.PerSecond(perSecond)}, 1000); n != 1000 {
			t.Errorf("%d per second: %d of 1000 passed", perSecond, n)
		}
	}
}

func TestTakeCost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b ratelimit.Bucket
		take := func(cost float64, want time.Duration) {
			t.Helper()
			if after := b.TakeCost(10, cost); after != want {
				t.Errorf("cost %v: wait %v, want %v", cost, after, want)
			}
		}
		take(100, 0) // a full bucket lets any cost pass
		take(1, 8100*time.Millisecond)
		time.Sleep(8 * time.Second) // in virtual time
		take(1, 100*time.Millisecond)
		time.Sleep(100 * time.Millisecond) // in virtual time
		take(1, 0)
		take(30, 2*time.Second)     // when the bucket is full
		time.Sleep(2 * time.Second) // in virtual time
		take(30, 0)
		if after := b.TakeCost(0, 1e9); after != 0 {
			t.Errorf("no limit: wait %v", after)
		}
		var tiny ratelimit.Bucket
		if tiny.TakeCost(1e-300, 1) != 0 || tiny.TakeCost(1e-300, 1) != time.Hour {
			t.Error("a tiny rate is wrong")
		}
	})
}
