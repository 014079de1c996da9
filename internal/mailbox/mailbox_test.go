package mailbox_test

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/mailbox"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func newMailbox[T any](workers *mailbox.Workers, max int, run func(T)) *mailbox.Mailbox[T] {
	b := new(mailbox.Mailbox[T])
	b.InitShared(workers, max, run)
	return b
}

// each runs a test of one mailbox on its own goroutine and on the goroutines of a pool.
func each(t *testing.T, test func(t *testing.T, workers *mailbox.Workers)) {
	t.Parallel()
	t.Run("alone", func(t *testing.T) { test(t, nil) })
	t.Run("workers", func(t *testing.T) {
		workers := new(mailbox.Workers)
		test(t, workers)
		workers.Wait()
	})
}

func TestRunsInOrderOneAtATime(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		var got []int // without a lock, so that the race detector finds concurrent runs
		b := newMailbox(workers, 1<<20, func(i int) { got = append(got, i) })
		for i := range 1000 {
			if err := b.Enqueue(i, 1); err != nil {
				t.Fatal(err)
			}
		}
		b.Close(true, 1000)
		b.Wait()
		if len(got) != 1001 || !slices.IsSorted(got) {
			t.Fatalf("%d items, sorted %v", len(got), slices.IsSorted(got))
		}
		if b.Used() != 0 {
			t.Fatalf("%d bytes in use when idle", b.Used())
		}
		if err := b.Enqueue(1, 1); !errors.Is(err, mailbox.ErrClosed) {
			t.Fatalf("enqueue after close: %v", err)
		}
	})
}

func TestManySenders(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		var got [8][]int
		b := newMailbox(workers, 1<<24, func(v [2]int) { got[v[0]] = append(got[v[0]], v[1]) })
		var wg sync.WaitGroup
		for p := range len(got) {
			wg.Go(func() {
				for i := range 500 {
					if err := b.Enqueue([2]int{p, i}, 8); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		b.Close(true)
		b.Wait()
		for p := range got {
			if len(got[p]) != 500 || !slices.IsSorted(got[p]) {
				t.Errorf("sender %d: %d items, sorted %v", p, len(got[p]), slices.IsSorted(got[p]))
			}
		}
	})
}

func TestBound(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		gate := make(chan struct{})
		b := newMailbox(workers, 1000, func(int) { <-gate })
		if err := b.Enqueue(0, 5000); err != nil {
			t.Fatalf("an item of any size fits in an empty mailbox: %v", err)
		}
		if err := b.Enqueue(1, 1); !errors.Is(err, mailbox.ErrFull) {
			t.Fatalf("enqueue in a full mailbox: %v", err)
		}
		gate <- struct{}{}
		for b.Used() > 0 { // the size is subtracted just after the function has returned
			runtime.Gosched()
		}
		for range 3 {
			if err := b.Enqueue(1, 200); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Enqueue(1, 300); !errors.Is(err, mailbox.ErrFull) {
			t.Fatalf("enqueue beyond the bound: %v", err)
		}
		close(gate)
		b.Close(true)
		b.Wait()
	})
}

// Items of the mailbox's own function have four times as much room as others, and count for both
// bounds. See docs/limits.md.
func TestEnqueueAlwaysHasNoBound(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		const bound, size = 1000, 36 // with its overhead, an item counts as 100 bytes
		gate := make(chan struct{})
		var got []int
		b := newMailbox(workers, bound, func(v int) { <-gate; got = append(got, v) })
		for v := range 100 {
			if err := b.EnqueueAlways(v, size); err != nil || b.Used() != (v+1)*100 {
				t.Fatalf("item %d: %d bytes in use, %v", v, b.Used(), err)
			}
		}
		if err := b.Enqueue(0, size); !errors.Is(err, mailbox.ErrFull) {
			t.Errorf("enqueue beyond the bound: %v", err)
		}
		b.Close(true)
		if err := b.EnqueueAlways(0, size); !errors.Is(err, mailbox.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		close(gate)
		b.Wait()
		for v := range 100 {
			if len(got) != 100 || got[v] != v {
				t.Fatalf("got %v", got)
			}
		}
	})
}

func TestEnqueueOwnHasFourTimesTheRoom(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		const bound, size = 1000, 36 // with its overhead, an item counts as 100 bytes
		gate := make(chan struct{})
		b := newMailbox(workers, bound, func(int) { <-gate })
		for range 10 {
			if err := b.Enqueue(0, size); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Enqueue(1, size); !errors.Is(err, mailbox.ErrFull) {
			t.Fatalf("enqueue beyond the bound: %v", err)
		}
		for range 30 {
			if err := b.EnqueueOwn(2, size); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.EnqueueOwn(3, size); !errors.Is(err, mailbox.ErrFull) || b.Used() != 4*bound {
			t.Fatalf("enqueue an own item with %d bytes in use: %v", b.Used(), err)
		}
		close(gate)
		b.Close(true)
		b.Wait()
	})
}

func TestEnqueueWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		ran := 0
		b := newMailbox(nil, 100, func(int) { <-gate; ran++ })
		if err := b.EnqueueWait(1, 100, time.Second); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err := b.EnqueueWait(2, 100, 5*time.Second)
		if took := time.Since(start); !errors.Is(err, mailbox.ErrFull) || took != 5*time.Second {
			t.Fatalf("no room: %v after %v", err, took)
		}
		go func() { time.Sleep(time.Second); gate <- struct{}{} }()
		start = time.Now()
		if err := b.EnqueueWait(3, 100, 5*time.Second); err != nil || time.Since(start) != time.Second {
			t.Fatalf("room after a second: %v after %v", err, time.Since(start))
		}
		if b.WaitFor(time.Second) {
			t.Fatal("idle while it runs")
		}
		done := make(chan error)
		go func() { done <- b.EnqueueWait(4, 100, time.Hour) }()
		synctest.Wait()
		b.Close(true)
		if err := <-done; !errors.Is(err, mailbox.ErrClosed) {
			t.Fatalf("closed while it waited: %v", err)
		}
		gate <- struct{}{}
		if !b.WaitFor(time.Second) || ran != 2 {
			t.Fatalf("ran %d", ran)
		}
	})
}

func TestCloseDropsOrKeeps(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		for _, test := range []struct {
			name  string
			close func(b *mailbox.Mailbox[int])
			want  []int
		}{
			{"keep", func(b *mailbox.Mailbox[int]) { b.Close(true, 99) }, []int{0, 1, 2, 3, 99}},
			{"drop", func(b *mailbox.Mailbox[int]) { b.Close(false, 99) }, []int{0, 99}},
			{"keep, then drop", func(b *mailbox.Mailbox[int]) { b.Close(true, 99); b.Close(false, 100) }, []int{0, 99}},
			{"without last", func(b *mailbox.Mailbox[int]) { b.Close(false) }, []int{0}},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				var got []int
				gate := make(chan struct{})
				b := newMailbox(workers, 1<<20, func(i int) { <-gate; got = append(got, i) })
				for i := range 4 {
					if err := b.Enqueue(i, 1); err != nil {
						t.Fatal(err)
					}
				}
				test.close(b)
				close(gate)
				b.Wait()
				if !slices.Equal(got, test.want) {
					t.Fatalf("got %v, want %v", got, test.want)
				}
				if b.Used() != 0 {
					t.Fatalf("%d bytes in use", b.Used())
				}
			})
		}
	})
}

func TestCloseIdleRunsLast(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		got := 0
		b := newMailbox(workers, 1, func(i int) { got = i })
		b.Close(false, 7)
		b.Wait()
		if got != 7 {
			t.Fatalf("got %d", got)
		}
		b.Wait() // may be called again
	})
}

func TestSurvivesGoexit(t *testing.T) {
	each(t, func(t *testing.T, workers *mailbox.Workers) {
		var got []int
		b := newMailbox(workers, 1<<20, func(i int) {
			got = append(got, i)
			if i%2 == 0 {
				runtime.Goexit()
			}
		})
		for i := range 5 {
			if err := b.Enqueue(i, 1); err != nil {
				t.Fatal(err)
			}
		}
		b.Close(true)
		b.Wait()
		if !slices.Equal(got, []int{0, 1, 2, 3, 4}) || b.Used() != 0 {
			t.Fatalf("got %v, %d bytes in use", got, b.Used())
		}
	})
}

func BenchmarkEnqueueIdle(b *testing.B) {
	b.ReportAllocs()
	done := make(chan struct{})
	x := newMailbox(nil, 1<<20, func(int) { done <- struct{}{} })
	for b.Loop() {
		if err := x.Enqueue(1, 1); err != nil {
			b.Fatal(err)
		}
		<-done
	}
}

func BenchmarkEnqueueBusy(b *testing.B) {
	b.ReportAllocs()
	x := newMailbox(nil, 1<<30, func(int) {})
	for b.Loop() {
		if err := x.EnqueueWait(1, 1, time.Minute); err != nil {
			b.Fatal(err)
		}
	}
}
