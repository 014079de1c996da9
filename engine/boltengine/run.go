package boltengine

import (
	"context"
	"errors"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
)

// retryAfter is when the committer tries again after a failure, if nothing is appended until then.
const retryAfter = time.Second

// fed is a batch for the feeder. The gap is the reason why records may be missing after it.
type fed struct {
	items []*item
	gap   error
}

// committer is the state of the goroutine of Run.
type committer struct {
	*log
	batches chan<- fed
	timer   *time.Timer // of the next sweep
	next    time.Time   // when the timer fires; zero: it does not
	swept   time.Time   // the last sweep
}

// Run is part of history.Log. Its goroutine is the committer.
func (l *log) Run(ctx context.Context, in history.Inbox) error {
	if err := l.start(); err != nil {
		return err
	}
	defer close(l.ended)
	batches := make(chan fed, 1)
	var feeder sync.WaitGroup
	feeder.Go(func() { l.feed(in, batches) })
	c := &committer{log: l, batches: batches, timer: time.NewTimer(0)}
	defer c.timer.Stop()
	l.queue.setOpen(true)
	l.queue.work(ctx, l.closing, c.round, c.timer.C, c.sweep)
	close(batches)
	feeder.Wait()
	l.setHealth(errNotRunning)
	return nil
}

// round commits the item and others that wait, answers them, and hands them to the feeder.
func (c *committer) round(first *item) {
	batch := c.queue.gather(first)
	if len(batch) == 0 {
		return
	}
	begun := time.Now()
	due, failure := c.commit(batch)
	c.queue.committed(batch, begun)
	c.report(failure)
	stored := uint64(0)
	for _, it := range batch {
		if it.fresh {
			stored++
		}
	}
	c.appended.Add(stored)
	for _, it := range batch {
		c.queue.answer(it)
	}
	f := fed{items: batch}
	if errors.Is(failure, errUncertain) {
		f.gap = failure
	}
	c.batches <- f
	if failure != nil {
		c.schedule(time.Now().Add(retryAfter))
	}
	c.sweepAt(due)
}

// sweep removes what is not kept any more. After a failure it also finds out whether the file works
// again.
func (c *committer) sweep() {
	c.next = time.Time{}
	var due int64
	err := c.store.update(func(tx *bolt.Tx) (err error) {
		due, err = newChange(c.log, tx).sweep()
		return err
	})
	c.swept = time.Now()
	c.report(err)
	if err != nil {
		c.schedule(c.swept.Add(retryAfter))
		return
	}
	c.sweepAt(due)
}

// sweepAt plans a sweep for the time of a sweep entry.
func (c *committer) sweepAt(due int64) {
	if due == never {
		return
	}
	now, stamp := c.clock.now()
	at := now.Add(time.Duration(min(max(due-stamp, 0), time.Hour.Milliseconds())) * time.Millisecond)
	if soonest := c.swept.Add(sweepPause); at.Before(soonest) {
		at = soonest
	}
	c.schedule(at)
}

// schedule sets the timer, unless it fires earlier.
func (c *committer) schedule(at time.Time) {
	if c.next.IsZero() || at.Before(c.next) {
		c.next = at
		c.timer.Reset(time.Until(at))
	}
}

// feed is the feeder. It gives the records to in, in the order of the log, until batches is closed.
func (l *log) feed(in history.Inbox, batches <-chan fed) {
	for {
		select {
		case f, ok := <-batches:
			if !ok {
				return
			}
			for _, it := range f.items {
				switch {
				case it.err != nil || !l.watched(it.topic):
				case it.forget:
					in.Forgotten(it.topic)
				case it.fresh:
					in.Record(it.topic, it.out)
				}
			}
			if f.gap != nil {
				l.gaps.Add(1)
				in.Gap(f.gap)
			}
		case <-l.wake:
			l.callReady()
		}
	}
}
