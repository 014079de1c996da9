package mailbox_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"bennu.example/internal/mailbox"
)

// A mailbox whose function blocks delays no other, regardless of how many block.
func TestBlockedMailboxes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var workers mailbox.Workers
		gate := make(chan struct{})
		var blocked [10]*mailbox.Mailbox[int]
		for i := range blocked {
			blocked[i] = newMailbox(&workers, 100, func(int) { <-gate })
			if err := blocked[i].Enqueue(1, 1); err != nil {
				t.Fatal(err)
			}
			ran := false
			free := newMailbox(&workers, 100, func(int) { ran = true })
			if err := free.Enqueue(1, 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if !ran {
				t.Fatalf("with %d mailboxes blocked, another one was not run", i+1)
			}
		}
		close(gate)
		workers.Wait()
		for _, b := range blocked {
			if b.Used() != 0 {
				t.Error("a blocked mailbox did not continue")
			}
		}
	})
}

// A mailbox that is never empty yields to others, also on a single processor.
func TestTurns(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for name, workers := range map[string]*mailbox.Workers{"alone": nil, "workers": new(mailbox.Workers)} {
		var ran atomic.Int64
		var over atomic.Bool
		var busy *mailbox.Mailbox[int]
		busy = newMailbox(workers, 1<<20, func(int) {
			ran.Add(1)
			if !over.Load() {
				if err := busy.Enqueue(1, 1); err != nil {
					t.Error(err)
				}
			}
		})
		turn := make(chan int64)
		other := newMailbox(workers, 1<<20, func(int) { turn <- ran.Load() })
		for _, b := range []*mailbox.Mailbox[int]{busy, other} {
			if err := b.Enqueue(1, 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := <-turn; n > 1000 {
			t.Errorf("%s: another mailbox ran after %d items", name, n)
		}
		over.Store(true)
		for _, b := range []*mailbox.Mailbox[int]{busy, other} {
			b.Close(true)
			b.Wait()
		}
	}
}

// The queue of a pool that always has waiting mailboxes does not grow with time.
func TestWorkersNeverIdle(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // with few goroutines, most mailboxes wait
	const mailboxes, runs = 1000, 200_000
	var workers mailbox.Workers
	var all [mailboxes]*mailbox.Mailbox[int] // in pairs that enqueue for each other
	var ran, room atomic.Int64
	for i := range all {
		all[i] = newMailbox(&workers, 1<<20, func(int) {
			room.Store(max(room.Load(), int64(mailbox.WorkersQueueCap(&workers))))
			if ran.Add(1) < runs {
				if err := all[i^1].Enqueue(1, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := 0; i < mailboxes; i += 2 {
		if err := all[i].Enqueue(1, 1); err != nil {
			t.Fatal(err)
		}
	}
	workers.Wait()
	if n := room.Load(); n > 8*mailboxes {
		t.Errorf("%d mailboxes had a queue with room for %d", mailboxes, n)
	}
}

// All items of many mailboxes run in order, and no goroutine is left, with functions that call
// Goexit or yield at random.
func TestWorkersRandom(t *testing.T) {
	t.Parallel()
	const mailboxes, senders, items = 20, 4, 300
	var workers mailbox.Workers
	var all [mailboxes]*mailbox.Mailbox[[2]int]
	var got [mailboxes][senders][]int // without a lock, so that the race detector finds concurrent runs
	for i := range all {
		all[i] = newMailbox(&workers, 1<<20, func(v [2]int) {
			got[i][v[0]] = append(got[i][v[0]], v[1])
			switch rand.IntN(20) {
			case 0:
				runtime.Goexit()
			case 1, 2:
				runtime.Gosched()
			}
		})
	}
	var wg sync.WaitGroup
	for p := range senders {
		wg.Go(func() {
			for n := range items {
				for i := range all {
					if err := all[i].Enqueue([2]int{p, n}, 1); err != nil {
						t.Error(err)
					}
				}
				if n%50 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	workers.Wait()
	for i := range all {
		for p, ns := range got[i] {
			if len(ns) != items || !slices.IsSorted(ns) {
				t.Errorf("mailbox %d, sender %d: %d items, sorted %v", i, p, len(ns), slices.IsSorted(ns))
			}
		}
	}
}

// work needs a larger stack than a new goroutine has, as callbacks do.
//
//go:noinline
func work(depth int) byte {
	var frame [256]byte
	if depth == 0 {
		return frame[0]
	}
	frame[depth] = work(depth - 1)
	return frame[depth/2]
}

// Many readers enqueue one item each in mailboxes of their own, as a server's connections do.
func BenchmarkManyMailboxes(b *testing.B) {
	for name, workers := range map[string]*mailbox.Workers{"alone": nil, "workers": new(mailbox.Workers)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			const mailboxes = 100
			var wg sync.WaitGroup
			readers := make([]chan struct{}, mailboxes)
			for i := range readers {
				readers[i] = make(chan struct{}, 1)
				x := newMailbox(workers, 1<<20, func(int) { work(20); wg.Done() })
				go func() {
					for range readers[i] {
						if x.Enqueue(1, 1) != nil {
							panic("no room")
						}
					}
				}()
			}
			for b.Loop() {
				wg.Add(mailboxes)
				for _, r := range readers {
					r <- struct{}{}
				}
				wg.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/mailboxes, "ns/item")
			for _, r := range readers {
				close(r)
			}
		})
	}
}
