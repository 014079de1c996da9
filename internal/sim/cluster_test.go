package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/internal/fakelog"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// cluster is what a seed decides beforehand for several nodes.
type cluster struct {
	faults   fakelog.Faults
	outages  bool // the log is frozen and disconnected
	losses   bool // it loses its newest records, has two primaries, or is evicted
	trims    bool // it loses its oldest records
	observed bool // each node has an observer, so that the topic is always in use
}

func newClusterPlan(rnd *rand.Rand) plan {
	p := plan{
		keep: history.Keep{
			Events: []string{"msg", "secret"}, Count: 10_000, Bytes: 10 << 20, MaxReplay: 10_000,
		},
		maxQueue: 4 << 10,
	}
	p.intercepts = rnd.IntN(4) == 0
	p.observed = rnd.IntN(2) == 0
	p.pad = []int{0, 200, 1500}[rnd.IntN(3)]
	p.faults = fakelog.Faults{
		Latency:         time.Duration(rnd.IntN(20)) * time.Millisecond,
		Delay:           time.Duration(rnd.IntN(80)) * time.Millisecond,
		AppendHidesPrev: rnd.IntN(3) == 0, ReadHidesPrev: rnd.IntN(3) == 0, FeedHidesTag: rnd.IntN(3) == 0,
	}
	if rnd.IntN(4) > 0 {
		p.faults.Lose, p.faults.Gap = rnd.Float64()*0.1, rnd.Float64()*0.1
		p.faults.Repeat, p.faults.Swap = rnd.Float64()*0.2, rnd.Float64()*0.2
	}
	switch rnd.IntN(6) {
	case 0: // the feed only
	case 1:
		p.outages = true
	case 2:
		p.restarts = true
	case 3:
		p.losses = true
	case 4:
		p.trims = true
		p.keep.Count, p.keep.MaxReplay = 20, 10
	case 5:
		p.outages, p.restarts, p.losses, p.forgets = true, true, true, true
	}
	if p.outages {
		p.faults.NoAnswer, p.faults.Refuse = rnd.Float64()*0.1, rnd.Float64()*0.5
	}
	if p.losses {
		// Without the tag a node does not notice that a record was replaced if its feed is lost as well.
		p.faults.FeedHidesTag = false
	}
	return p
}

// TestCluster runs three servers with one log, and clients that move from one to another.
func TestCluster(t *testing.T) {
	simulate(t, 80, func(w *world, rnd *rand.Rand) []histcheck.Violation {
		w.plan = newClusterPlan(rnd)
		w.plan.clocks = newClocks(w.seed, 3)
		if w.plan.losses { // Heal does not name lost records that have expired
			w.plan.jump = min(w.plan.jump, smallJump)
		}
		w.plan.reduce(t)
		w.log = fakelog.NewStore(w.seed)
		if rnd.IntN(3) == 0 {
			w.log.UseHoles()
		}
		w.adapters = pubsubtest.NewCluster()
		return w.run(rnd, 3, 2*busy, 3*settle, w.disturb)
	})
}

// appendAndNotify appends a record. If there are observers, it then broadcasts an event that is not
// recorded. Without these events nodes find out later that they miss records.
func (w *world) appendAndNotify(n *node, sender, event string) {
	id := w.store(sender, "")
	pos, err := n.ps.Append(context.Background(), topic, event, w.record(id))
	w.ended(id, pos.String(), err)
	if err != nil && !errors.Is(err, history.ErrUncertain) && !errors.Is(err, history.ErrUnavailable) {
		w.t.Errorf("seed %d: append: %v", w.seed, err)
	}
	if err == nil && w.plan.observed {
		// An error means that the node restarts.
		_ = n.ps.Broadcast(context.Background(), topic, "note", map[string]any{"after": pos})
	}
}

// fault lets f make a fault, because of which replies may have one of the reasons.
func (w *world) fault(f func(), why ...string) {
	begin := func(begun []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.begun = begun
		for _, why := range why {
			w.Fault(why)
		}
	}
	begin(why)
	defer begin(nil)
	f()
}

// lost records which records the log has lost.
func (w *world) lost(all []history.Record) {
	for _, r := range all {
		var p struct{ ID string }
		if err := r.Payload.Decode(&p); err != nil {
			w.t.Errorf("seed %d: %v", w.seed, err)
		}
		w.Lost(p.ID, r.Position.String())
	}
}

// disturb does one of the things that the plan has. The faults of the feed come and go as well.
func (w *world) disturb(rnd *rand.Rand) {
	node := rnd.IntN(len(w.nodes))
	name := fmt.Sprint("node", node)
	pause := time.Duration(rnd.IntN(1500)) * time.Millisecond
	deaf := w.plan.faults
	switch rnd.IntN(3) {
	case 0:
		w.log.Set(w.plan.faults)
	case 1:
		w.log.Set(w.plan.style())
	case 2:
		if !w.plan.losses {
			deaf.Lose = 1
		}
		w.log.Set(deaf, name)
	}
	var all []func()
	if w.plan.outages {
		all = append(all, func() {
			w.log.Freeze()
			time.Sleep(2 * pause) // in virtual time
			w.log.Thaw()
		}, func() {
			w.log.Disconnect(name)
			time.Sleep(2 * pause) // in virtual time
			w.log.Connect(name)
		}, func() {
			w.log.Disconnect()
			time.Sleep(pause) // in virtual time
			w.log.Connect()
		})
	}
	if w.plan.restarts {
		all = append(all, func() { w.restart(node) })
	}
	if w.plan.losses {
		all = append(all, func() {
			w.fault(func() { w.lost(w.log.Rollback(topic, 1+rnd.IntN(5))) }, "ahead", "tag")
		}, func() { // a failover: the nodes notice it
			w.log.Disconnect()
			w.fault(func() { w.lost(w.log.Rollback(topic, 1+rnd.IntN(20))) }, "ahead", "tag")
			time.Sleep(pause) // in virtual time
			w.log.Connect()
		}, func() {
			w.fault(func() {
				w.log.Split(name)
				time.Sleep(pause) // in virtual time
				w.lost(w.log.Heal(topic))
			}, "ahead", "tag")
		}, func() {
			w.fault(func() { w.log.Evict(topic) }, "epoch")
		})
	}
	if w.plan.forgets {
		all = append(all, func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			w.fault(func() { _ = w.current(node).ps.Forget(ctx, topic) }, "epoch") // it may be unavailable
		})
	}
	if w.plan.trims {
		all = append(all, func() {
			w.fault(func() { w.log.Trim(topic, rnd.IntN(5)) }, "trimmed")
		})
	}
	if len(all) > 0 {
		all[rnd.IntN(len(all))]()
	}
}

// style returns the faults without those that happen by chance.
func (p plan) style() fakelog.Faults {
	return fakelog.Faults{
		Latency: p.faults.Latency, Delay: p.faults.Delay, AppendHidesPrev: p.faults.AppendHidesPrev,
		ReadHidesPrev: p.faults.ReadHidesPrev, FeedHidesTag: p.faults.FeedHidesTag,
	}
}

// appendUnfed appends records that no node is fed. Nothing that follows shows that they are
// missing.
func (w *world) appendUnfed() {
	deaf := w.plan.style()
	deaf.Lose = 1
	w.log.Set(deaf)
	for i := range w.nodes {
		id := w.store("end", "")
		pos, err := w.current(i).ps.Append(context.Background(), topic, "msg", w.record(id))
		w.ended(id, pos.String(), err)
	}
	w.mend()
}

// mend ends all faults.
func (w *world) mend() { w.log.Set(w.plan.style()) }

// observer is a subscriber that is not a channel, so that it is always live. It checks that the
// records follow each other, and that an event that is not recorded comes after the record before
// it.
type observer struct {
	w    *world
	node int

	mu   sync.Mutex
	last history.Position // zero: unknown
}

// Deliver is part of pubsub.Subscriber.
func (o *observer) Deliver(b *pubsub.Broadcast) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := b.Record(); r != nil {
		if !o.last.IsZero() && (r.Position.Offset() <= o.last.Offset() || !r.Prev.IsZero() && !r.Prev.Matches(o.last)) {
			o.w.t.Errorf("seed %d: node %d: %v after %v was delivered after %v", o.w.seed, o.node, r.Position, r.Prev, o.last)
		}
		o.last = r.Position
		return nil
	}
	var note struct{ After history.Position }
	if err := b.Payload.Decode(&note); err != nil {
		o.w.t.Errorf("seed %d: %v", o.w.seed, err)
	}
	if o.w.plan.outages || o.w.plan.losses || o.last.IsZero() {
		return nil
	}
	if o.last.Offset() < note.After.Offset() {
		o.w.t.Errorf("seed %d: node %d: an event after %v was delivered after %v", o.w.seed, o.node, note.After, o.last)
	}
	return nil
}

// ClientID, Skip and Lost are part of follow.Subscriber.
func (o *observer) ClientID() string       { return "" }
func (o *observer) Skip(*pubsub.Broadcast) {}
func (o *observer) Lost(time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = history.Position{}
}
