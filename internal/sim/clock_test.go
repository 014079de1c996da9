package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"bennu.example/history"
)

// clocks is what a seed decides beforehand about wall clocks. All times of the code under test that
// are not the age or the Time of a record come from the monotonic clock, which does not jump.
//
// Whatever the clocks do, every rule of internal/histcheck holds: nothing is lost unannounced, and
// no position goes back. Retention by age depends on the log.
//
//   - The memory log measures ages by the monotonic clock. No jump removes a record.
//   - The log of several nodes measures them by the wall clocks, as engines do. It may remove a
//     record too early or too late, but only by as much as the clocks have jumped.
type clocks struct {
	jump  time.Duration // the clocks are set ahead or behind by at most this; zero: they are right
	reach time.Duration // a join may read back so far, by its node's clock; zero: no bound
	ages  bool          // the log measures ages by the wall clocks
}

// Jumps of several nodes' clocks.
const (
	// smallJump removes no record: two clocks that differ by twice as much are less apart than
	// Keep.Age, even after a run.
	smallJump = 20 * time.Minute
	largeJump = 24 * time.Hour
)

// newClocks returns the clocks of a seed. They are chosen apart from the rest of its plan, which
// they leave as it is.
func newClocks(seed uint64, nodes int) (c clocks) {
	rnd := rand.New(rand.NewPCG(seed, 300))
	if rnd.IntN(2) == 0 {
		c.jump = []time.Duration{time.Minute, smallJump, largeJump}[rnd.IntN(3)]
	}
	c.ages = nodes > 1
	// A node may be behind the log, so that a record which is old when a client joins arrives later.
	if nodes == 1 && rnd.IntN(2) == 0 {
		c.reach = time.Duration(200+rnd.IntN(2000)) * time.Millisecond
	}
	return c
}

// expires reports whether jumps may make records expire.
func (c clocks) expires() bool { return c.ages && c.jump > smallJump }

// clock is a wall clock.
type clock struct{ ahead atomic.Int64 }

// now returns its time without a monotonic reading, which would not know of the jumps.
func (c *clock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.ahead.Load())) }

// jumpClocks sets the clocks again and again, each for itself, until ctx ends. Then they stay as
// they are.
func (w *world) jumpClocks(ctx context.Context, rnd *rand.Rand) {
	for sleep(ctx, time.Duration(50+rnd.IntN(700))*time.Millisecond) == nil {
		ahead := time.Duration(rnd.Int64N(int64(2*w.plan.jump))) - w.plan.jump
		switch rnd.IntN(4) {
		case 0:
			ahead = 0
		case 1: // seconds
			ahead %= 10 * time.Second
		}
		i := rnd.IntN(len(w.clocks) + 1)
		switch {
		case w.log == nil:
			w.clocks[0].ahead.Store(int64(ahead))
		case i < len(w.clocks):
			w.skew()
			w.clocks[i].ahead.Store(int64(ahead))
			w.log.SetClock(ahead, fmt.Sprint("node", i))
		default:
			w.skew()
			w.log.SetClock(ahead)
		}
	}
}

// skew records that from now on records may expire at any time, if clocks that jump can do that.
func (w *world) skew() {
	if w.plan.expires() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.skewed = true
		w.Fault("trimmed")
	}
}

// recordTimes records when the log of one node has stored its records, by its clock.
func (w *world) recordTimes() {
	if w.plan.reach == 0 {
		return
	}
	b, err := w.nodes[0].ps.Before(context.Background(), topic, history.Position{}, w.plan.keep.Count)
	if err != nil {
		w.t.Errorf("seed %d: %v", w.seed, err)
	}
	for _, r := range b.Records {
		var p struct{ ID string }
		if err := r.Payload.Decode(&p); err != nil {
			w.t.Errorf("seed %d: %v", w.seed, err)
		}
		w.Stored(p.ID, r.Time)
	}
}
