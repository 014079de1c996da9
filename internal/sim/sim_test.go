package sim

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/histcheck"
	"bennu.example/internal/testenv/leak"
)

var (
	seeds   = flag.Int("seeds", 0, "how many seeds to run; zero: 200 in CI, on one node and on three, and fewer elsewhere")
	from    = flag.Int("from", 0, "the first of these seeds")
	oneSeed = flag.Int("seed", -1, "run this seed only")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the heap is small, and a quarter of the time went into collecting it
	leak.Main(m)
}

// TestOneNode runs a server with the memory log.
func TestOneNode(t *testing.T) {
	simulate(t, 120, func(w *world, rnd *rand.Rand) []histcheck.Violation {
		w.plan = newPlan(rnd)
		w.plan.clocks = newClocks(w.seed, 1)
		w.plan.reduce(t)
		return w.run(rnd, 1, busy, settle, w.disturbOne)
	})
}

// simulate runs the seeds. In CI without the race detector there are so many, and otherwise fewer.
func simulate(t *testing.T, inCI int, run func(w *world, rnd *rand.Rand) []histcheck.Violation) {
	first, n := *from, *seeds
	if n == 0 {
		n = defaultSeeds
		if os.Getenv("CI") == "true" && !raceEnabled {
			n = inCI
		}
	}
	if *oneSeed >= 0 {
		first, n = *oneSeed, 1
	}
	seed := first
	defer func() { // a failure in a bubble ends this goroutine
		if *shrink && t.Failed() {
			shrinkSeed(t, seed)
		}
	}()
	for ; seed < first+n; seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: t, seed: uint64(seed), Recorder: new(histcheck.Recorder)}
			rnd := rand.New(rand.NewPCG(w.seed, 0))
			for _, v := range run(w, rnd) {
				t.Errorf("seed %d: %v", seed, v)
			}
			if t.Failed() {
				t.Logf("seed %d: %+v", seed, w.plan)
			}
		})
	}
}

// Times of a run.
const (
	busy   = 3 * time.Second
	settle = time.Minute
)

// run runs so many nodes for some time, calls disturb again and again, and lets the clients settle.
func (w *world) run(
	rnd *rand.Rand, nodes int, busy, settle time.Duration, disturb func(rnd *rand.Rand),
) []histcheck.Violation {
	w.nodes, w.clocks = make([]*node, nodes), make([]clock, nodes)
	for i := range nodes {
		w.nodes[i] = w.start(i)
	}
	var calm atomic.Bool
	var clients, jobs sync.WaitGroup
	all, stop := context.WithCancel(context.Background())
	during, pause := context.WithTimeout(all, busy)
	defer pause()
	for i := range 5 {
		c := &client{
			w: w, name: fmt.Sprintf("c%d", i), asked: i < 4 || !w.plan.promisesAll(), calm: &calm,
			rnd: rand.New(rand.NewPCG(w.seed, uint64(100+i))),
		}
		clients.Go(func() { c.run(all) })
	}
	for i := range 2 {
		if w.plan.intercepts { // the Go client does not tell positions of events without one
			break
		}
		c := &goClient{
			w: w, name: fmt.Sprintf("g%d", i), calm: &calm,
			rnd: rand.New(rand.NewPCG(w.seed, uint64(150+i))), slow: rand.New(rand.NewPCG(w.seed, uint64(170+i))),
		}
		clients.Go(func() { c.run(all) })
	}
	for i := range 3 {
		rnd := rand.New(rand.NewPCG(w.seed, uint64(200+i)))
		jobs.Go(func() { w.broadcast(during, fmt.Sprintf("job%d", i), rnd) })
	}
	if w.plan.jump > 0 {
		jobs.Go(func() { w.jumpClocks(during, rand.New(rand.NewPCG(w.seed, 301))) })
	}
	for sleep(during, time.Duration(500+rnd.IntN(1500))*time.Millisecond) == nil {
		disturb(rnd)
	}
	jobs.Wait()
	if w.log != nil {
		w.mend()
	} else {
		w.recordTimes()
	}
	calm.Store(true)
	if w.log != nil {
		time.Sleep(settle)
		w.appendUnfed()
	}
	time.Sleep(settle)
	found := w.Check(histcheck.Limits{
		Count: w.plan.keep.Count, MaxReplay: w.plan.keep.MaxReplay,
		Skips: w.plan.trims || w.plan.expires(),
	})
	stop()
	clients.Wait()
	for _, n := range w.nodes {
		w.stop(n)
	}
	return found
}

func (w *world) disturbOne(*rand.Rand) {
	switch {
	case w.plan.restarts:
		w.restart(0)
	case w.plan.forgets:
		w.life.Lock()
		defer w.life.Unlock()
		w.recordTimes()
		w.Fault("epoch")
		if err := w.nodes[0].ps.Forget(context.Background(), topic); err != nil {
			w.t.Errorf("seed %d: %v", w.seed, err)
		}
	}
}
