package mailbox_test

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/mailbox"
)

// TestPending checks that a pending mailbox runs nothing before its holder starts it, and that it
// counts as running until then.
func TestPending(t *testing.T) {
	for name, begin := range map[string]func(b *mailbox.Mailbox[int]){
		"work":  func(b *mailbox.Mailbox[int]) { b.Work() },
		"start": func(b *mailbox.Mailbox[int]) { b.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				workers := new(mailbox.Workers)
				var got []int
				b := newMailbox(workers, 1<<20, func(i int) { got = append(got, i) })
				want := func(want ...int) {
					t.Helper()
					synctest.Wait()
					if !slices.Equal(got, want) {
						t.Fatalf("ran %v, want %v", got, want)
					}
				}
				for i := range 3 {
					pending, err := b.EnqueuePending(i, 10, time.Second)
					if err != nil || pending != (i == 0) {
						t.Fatalf("item %d: pending %v, %v", i, pending, err)
					}
				}
				if err := b.Enqueue(3, 10); err != nil {
					t.Fatal(err)
				}
				b.Resume() // nothing is held
				want()
				if !b.HasNext() {
					t.Error("no item waits")
				}
				begin(b)
				want(0, 1, 2, 3)
				if pending, err := b.EnqueuePending(4, 10, time.Second); err != nil || !pending {
					t.Fatalf("the idle mailbox: pending %v, %v", pending, err)
				}
				b.Close(true, 5)
				if b.WaitFor(time.Second) {
					t.Fatal("the pending mailbox counts as idle")
				}
				begin(b)
				b.Wait()
				want(0, 1, 2, 3, 4, 5)
				if pending, err := b.EnqueuePending(6, 10, time.Second); pending || !errors.Is(err, mailbox.ErrClosed) {
					t.Fatalf("the closed mailbox: pending %v, %v", pending, err)
				}
				workers.Wait()
			})
		})
	}
}

// TestPendingGoexit checks that the rest of the queue is handled on another goroutine if the first
// item ends the one that called Work.
func TestPendingGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		workers := new(mailbox.Workers)
		var got []int
		b := newMailbox(workers, 1<<20, func(i int) {
			got = append(got, i)
			if i == 0 {
				runtime.Goexit()
			}
		})
		for i := range 2 {
			if _, err := b.EnqueuePending(i, 10, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			b.Work()
			t.Error("Work returned")
		}()
		synctest.Wait()
		b.Close(true)
		b.Wait()
		if !slices.Equal(got, []int{0, 1}) {
			t.Errorf("ran %v", got)
		}
		workers.Wait()
	})
}

type workFunc func()

func (f workFunc) Work() { f() }

// TestWorkersPoll checks that a goroutine of the pool that has nothing to do polls, and does what
// that adds.
func TestWorkersPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var workers mailbox.Workers
		var left, done atomic.Int32
		left.Store(1000)
		workers.Poll = func() bool {
			if left.Add(-1) < 0 {
				return false
			}
			workers.Add(workFunc(func() { done.Add(1) }))
			return true
		}
		synctest.Wait()
		if done.Load() != 0 {
			t.Fatal("polled without a goroutine")
		}
		workers.Add() // nothing
		synctest.Wait()
		if done.Load() != 0 {
			t.Fatal("started a goroutine for nothing")
		}
		workers.Add(workFunc(func() { done.Add(1) }), workFunc(func() { done.Add(1) }))
		workers.Wait()
		if n := done.Load(); n != 1002 {
			t.Errorf("did %d of 1,002", n)
		}
	})
}

// TestWorkersWait checks Wait while goroutines start and end, and while others wait.
func TestWorkersWait(t *testing.T) {
	t.Parallel()
	var workers mailbox.Workers
	var all sync.WaitGroup
	var done atomic.Int32
	for range 8 {
		all.Go(func() {
			for range 200 {
				workers.Add(workFunc(func() { done.Add(1) }))
				workers.Wait()
			}
		})
	}
	all.Wait()
	if n := done.Load(); n != 8*200 {
		t.Errorf("%d of 1,600 done", n)
	}
}

// TestBlockedWork checks that work that blocks delays nothing else.
func TestBlockedWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var workers mailbox.Workers
		var done atomic.Int32
		gate := make(chan struct{})
		for range 100 {
			workers.Add(workFunc(func() { <-gate }), workFunc(func() { done.Add(1) }))
		}
		synctest.Wait()
		if n := done.Load(); n != 100 {
			t.Errorf("%d of 100 done while others block", n)
		}
		close(gate)
		workers.Wait()
	})
}
