package link_test

import (
	"sync"
	"testing"

	"bennu.example/internal/leak"
	"bennu.example/internal/link"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestInCallback(t *testing.T) {
	t.Parallel()
	if link.InCallback() {
		t.Fatal("in a callback, outside of any")
	}
	ran := 0
	for _, deep := range []int{0, 1, 200} {
		link.Callbacks(func(n int) {
			ran++
			var call func(int) bool
			call = func(n int) bool {
				if n == 0 {
					return link.InCallback()
				}
				return call(n - 1)
			}
			if !call(n) {
				t.Errorf("not in a callback, %d calls deep", n)
			}
			other := make(chan bool)
			go func() { other <- link.InCallback() }()
			if <-other {
				t.Error("another goroutine counts as in the callback")
			}
		})(deep)
	}
	if ran != 3 {
		t.Fatal(ran)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	var total link.Gauge
	b := link.Budget{Max: 100, Total: &total}
	if !b.Reserve(500) || b.Reserve(1) {
		t.Fatal("anything fits in an empty budget, and nothing in a full one")
	}
	b.Release(500)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.Reserve(30) {
					if _, used := b.Gauge.Load(); used > 100 {
						t.Errorf("%d bytes of 100", used)
					}
					b.Release(30)
				}
			}
		})
	}
	wg.Wait()
	if n, bytes := total.Load(); n != 0 || bytes != 0 {
		t.Fatal(n, bytes)
	}
	o := link.Out{Size: 10, Room: &b}
	b.Reserve(10)
	o.Release()
	o.Release()
	if n, _ := b.Gauge.Load(); n != 0 {
		t.Fatal("released twice, or not at all")
	}
}

func TestTracker(t *testing.T) {
	t.Parallel()
	var tr link.Tracker
	if tr.Idle() != nil {
		t.Fatal("not idle")
	}
	tr.Add()
	idle := tr.Idle()
	tr.Add()
	tr.Done()
	select {
	case <-idle:
		t.Fatal("idle while one runs")
	default:
	}
	tr.Done()
	<-idle
}
