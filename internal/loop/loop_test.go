package loop_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/loop"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

type task func()

func (t task) Run() { t() }

func stop[T any](l *loop.Loop[T]) {
	l.Stop()
	<-l.Done()
}

func TestOrder(t *testing.T) {
	t.Parallel()
	var got []int // not synchronized, so that the race detector finds concurrent calls of run
	l := loop.New(func(i int) { got = append(got, i) }, nil)
	for i := range 1000 {
		if !l.Post(i) {
			t.Fatal("refused")
		}
	}
	stop(l)
	if len(got) != 1000 || !slices.IsSorted(got) {
		t.Fatalf("%d items, sorted %v", len(got), slices.IsSorted(got))
	}
	if l.Post(1) || l.PostWait(1, 1) {
		t.Fatal("Post succeeded after Stop")
	}
	l.Stop()
}

func TestStopUnstarted(t *testing.T) {
	t.Parallel()
	stop(loop.New(func(int) {}, nil))
}

func TestStopFromWithin(t *testing.T) {
	t.Parallel()
	ran := 0
	var l *loop.Loop[int]
	l = loop.New(func(i int) {
		ran++
		if i == 1 {
			l.Post(2) // still runs
			l.Stop()
		}
	}, nil)
	l.Post(1)
	<-l.Done()
	if ran != 2 {
		t.Fatalf("%d ran", ran)
	}
}

func TestPostWaitWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := loop.New(func(int) { <-gate }, nil)
		l.Post(0) // runs
		synctest.Wait()
		l.Post(1)
		l.Post(2)
		posted := make(chan bool, 2)
		go func() { posted <- l.PostWait(3, 2) }()
		synctest.Wait()
		select {
		case <-posted:
			t.Fatal("posted over the bound")
		default:
		}
		gate <- struct{}{}
		if !<-posted {
			t.Fatal("refused")
		}
		go func() { posted <- l.PostWait(4, 1) }()
		synctest.Wait()
		l.Stop()
		if <-posted {
			t.Fatal("Post succeeded after Stop")
		}
		close(gate)
		<-l.Done()
	})
}

func TestTimers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []int
		rested := 0
		l := loop.New(func(f func()) { f() }, func() { rested++ })
		timers := make([]loop.Timer, 200)
		due := make([]time.Duration, len(timers))
		l.Post(func() {
			for i := range timers {
				timers[i].Task = task(func() {
					if time.Since(start) != due[i] {
						t.Errorf("timer %d after %v, not %v", i, time.Since(start), due[i])
					}
					got = append(got, i)
				})
				due[i] = time.Duration(rand.IntN(50)) * time.Second
				l.Arm(&timers[i], due[i])
			}
			for i := range timers {
				switch i % 5 {
				case 0:
					l.Disarm(&timers[i])
					l.Disarm(&timers[i])
				case 1: // armed again
					due[i] = time.Duration(rand.IntN(50)) * time.Second
					l.Arm(&timers[i], due[i])
				}
				if timers[i].IsArmed() != (i%5 != 0) {
					t.Errorf("timer %d armed: %v", i, timers[i].IsArmed())
				}
			}
		})
		time.Sleep(time.Minute)
		stop(l)
		if len(got) != 160 || rested < 2 {
			t.Fatalf("%d timers ran, %d rests", len(got), rested)
		}
		for i := 1; i < len(got); i++ {
			if a, b := got[i-1], got[i]; due[a] == due[b] && a%5 != 1 && b%5 != 1 && a > b {
				t.Fatalf("timers %d and %d are due together and were armed the other way round", a, b)
			}
		}
	})
}

func TestTimerArmsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := 0
		l := loop.New(func(f func()) { f() }, nil)
		var tick loop.Timer
		tick.Task = task(func() {
			if n++; n < 10 {
				l.Arm(&tick, time.Second)
			}
		})
		l.Post(func() { l.Arm(&tick, -time.Second) })
		time.Sleep(time.Hour)
		stop(l)
		if n != 10 || time.Since(start) != time.Hour {
			t.Fatalf("%d ticks", n)
		}
	})
}

func TestManyPosters(t *testing.T) {
	t.Parallel()
	var got [8][]int
	l := loop.New(func(v [2]int) { got[v[0]] = append(got[v[0]], v[1]) }, nil)
	var wg sync.WaitGroup
	for p := range got {
		wg.Go(func() {
			for i := range 500 {
				if p%2 == 0 {
					l.Post([2]int{p, i})
				} else {
					l.PostWait([2]int{p, i}, 4)
				}
			}
		})
	}
	wg.Wait()
	stop(l)
	for p := range got {
		if len(got[p]) != 500 || !slices.IsSorted(got[p]) {
			t.Errorf("poster %d: %d items, sorted %v", p, len(got[p]), slices.IsSorted(got[p]))
		}
	}
}

func BenchmarkPost(b *testing.B) {
	b.ReportAllocs()
	l := loop.New(func([20]uint64) {}, nil)
	for b.Loop() {
		l.PostWait([20]uint64{}, 1024)
	}
	stop(l)
}

func BenchmarkArm(b *testing.B) {
	b.ReportAllocs()
	l := loop.New(func(f func()) { f() }, nil)
	done := make(chan struct{})
	l.Post(func() {
		timers := make([]loop.Timer, 1000)
		for i := 0; b.Loop(); i++ {
			l.Arm(&timers[i%1000], time.Hour)
		}
		close(done)
	})
	<-done
	stop(l)
}
