package clientlink_test

import (
	"sync"
	"testing"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestInCallback(t *testing.T) {
	t.Parallel()
	if clientlink.InCallback() {
		t.Fatal("InCallback is true outside of callbacks")
	}
	ran := 0
	for _, deep := range []int{0, 1, 200} {
		clientlink.Callbacks(func(n int) {
			ran++
			var call func(int) bool
			call = func(n int) bool {
				if n == 0 {
					return clientlink.InCallback()
				}
				return call(n - 1)
			}
			if !call(n) {
				t.Errorf("InCallback is false %d calls deep in a callback", n)
			}
			other := make(chan bool)
			go func() { other <- clientlink.InCallback() }()
			if <-other {
				t.Error("InCallback is true on another goroutine")
			}
		})(deep)
	}
	if ran != 3 {
		t.Fatal(ran)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	var total clientlink.Gauge
	b := clientlink.Budget{Max: 100, Total: &total}
	if !b.Reserve(500) || b.Reserve(1) {
		t.Fatal("want any size to fit an empty budget, and nothing to fit a full one")
	}
	b.Release(500)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.Reserve(30) {
					if _, used := b.Gauge.Load(); used > 100 {
						t.Errorf("%d bytes reserved, limit 100", used)
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
}

func TestHold(t *testing.T) {
	t.Parallel()
	var total clientlink.Gauge
	b := clientlink.Budget{Max: 100, Total: &total}
	check := func(wantN int, wantBytes int64) {
		t.Helper()
		n, bytes := b.Gauge.Load()
		allN, allBytes := total.Load()
		if n != wantN || bytes != wantBytes || allN != wantN || allBytes != wantBytes {
			t.Fatalf("%d pushes of %d bytes, in all %d of %d, want %d of %d", n, bytes, allN, allBytes, wantN, wantBytes)
		}
	}
	var none clientlink.Hold
	none.Release()
	none.Retake(5)
	check(0, 0)

	var h, other clientlink.Hold
	if !h.Take(&b, 60) || other.Take(&b, 60) || other.IsHeld() {
		t.Fatal("the second does not fit")
	}
	check(1, 60)
	var wg sync.WaitGroup
	o := clientlink.Out{Size: 60, Hold: &h}
	for range 8 {
		wg.Go(o.Release)
	}
	wg.Wait()
	check(0, 0)
	if !other.Take(&b, 60) {
		t.Fatal("nothing was given back")
	}
	h.Retake(60)
	h.Retake(60)
	check(2, 120)
	h.Release()
	other.Release()
	check(0, 0)
}

func TestTracker(t *testing.T) {
	t.Parallel()
	var tr clientlink.Tracker
	if tr.Idle() != nil {
		t.Fatal("a new Tracker is not idle")
	}
	tr.Add()
	idle := tr.Idle()
	tr.Add()
	tr.Done()
	select {
	case <-idle:
		t.Fatal("idle while one is running")
	default:
	}
	tr.Done()
	<-idle
}
