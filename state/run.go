package state

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"bennu.example/history"
)

const (
	repairers   = 4
	surveyMost  = 1000 // objects in one request
	minSurvey   = 10 * time.Second
	maxSurvey   = 60 * time.Second
	surveyDelay = time.Second // for what was not fed yet
	retryRepair = 250 * time.Millisecond
	readTime    = 5 * time.Second // of one request in the background
)

// Run feeds the objects and deletes what has expired, until ctx ends. Then it returns nil, after
// everything that it started has ended. It is called at most once. With a Memory it only waits, and
// need not be called.
func (o *Objects) Run(ctx context.Context) error {
	if o.fed {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range repairers {
		wg.Go(func() { o.runRepairs(ctx) })
	}
	wg.Go(func() { o.runSurveys(ctx) })
	wg.Go(func() { o.runExpiry(ctx) })
	return o.store.Run(ctx, o.inbox())
}

// repairs are the cells that must be repaired. The lock is taken under that of a cell.
type repairs struct {
	wake chan struct{} // has a value if there is one

	mu    sync.Mutex
	cells []*cell
	has   map[*cell]struct{}
}

func (r *repairs) add(c *cell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.has[c]; ok {
		return
	}
	if r.has == nil {
		r.has = make(map[*cell]struct{})
	}
	r.has[c] = struct{}{}
	r.cells = append(r.cells, c)
	r.signal()
}

func (r *repairs) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take waits for a cell. It returns nil when ctx has ended.
func (r *repairs) take(ctx context.Context) *cell {
	for {
		r.mu.Lock()
		if len(r.cells) > 0 {
			c := r.cells[0]
			r.cells = r.cells[1:]
			delete(r.has, c)
			if len(r.cells) > 0 {
				r.signal()
			}
			r.mu.Unlock()
			return c
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (o *Objects) runRepairs(ctx context.Context) {
	for {
		c := o.repairs.take(ctx)
		if c == nil {
			return
		}
		reading, cancel := context.WithTimeout(ctx, readTime)
		err := c.repair(reading)
		cancel()
		if err == nil {
			continue
		}
		o.repairs.add(c)
		if !wait(ctx, retryRepair) {
			return
		}
	}
}

// wait waits for some time, plus or minus half. It reports false if ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// runSurveys compares the cells with the store, so that a change that was not fed is noticed.
func (o *Objects) runSurveys(ctx context.Context) {
	interval := minSurvey
	for {
		t := time.NewTimer(interval/2 + rand.N(interval))
		select {
		case <-t.C:
		case <-o.uncertain:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
		suspects := o.survey(ctx, o.all())
		if len(suspects) == 0 {
			interval = min(2*interval, maxSurvey)
			continue
		}
		interval = minSurvey
		if !wait(ctx, surveyDelay) {
			return
		}
		for _, c := range o.survey(ctx, suspects) {
			o.repairs.add(c)
		}
	}
}

// survey returns the cells whose cursor is not the store's position, now and the last time.
func (o *Objects) survey(ctx context.Context, cells []*cell) (suspects []*cell) {
	for len(cells) > 0 {
		part := cells[:min(len(cells), surveyMost)]
		cells = cells[len(part):]
		names := make([]string, len(part))
		for i, c := range part {
			names[i] = c.topic
		}
		reading, cancel := context.WithTimeout(ctx, readTime)
		tops, err := o.store.Tops(reading, names)
		cancel()
		if err != nil {
			continue
		}
		for i, c := range part {
			if c.differs(tops[i]) {
				suspects = append(suspects, c)
			}
		}
	}
	return suspects
}

// differs reports whether the cursor is known and is not the store's position.
func (c *cell) differs(top history.Position) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started && c.cursor != top
}

// runExpiry deletes what has expired.
func (o *Objects) runExpiry(ctx context.Context) {
	for wait(ctx, expireEvery) {
		n := expireMax
		for n >= expireMax && ctx.Err() == nil {
			deleting, cancel := context.WithTimeout(ctx, readTime)
			n, _ = o.store.Expire(deleting, expireMax) // it is called again
			cancel()
		}
	}
}
