package follow

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"bennu.example/history"
)

const (
	readMost    = 1000            // records in one read of a repair
	readTimeout = 5 * time.Second // of one request to the log in the background
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 5 * time.Second

	// After so many repairs a record that was fed, and that the log does not have, is forgotten.
	maxRepairs = 10
)

var errNoProgress = errors.New("follow: the log has records that do not follow each other")

// expect notes that the log has a record, so that repairs go on until the topic has reached it. The
// caller must hold order.
func (t *Topic[B]) expect(p history.Position) {
	if !reached(t.expected, p) {
		t.expected = p
		t.attempts = 0
	}
}

// repair lets the goroutines of Run read what is missing. The caller must hold order.
func (t *Topic[B]) repair(after time.Duration) {
	if t.gone || t.all.instant {
		return
	}
	if after == 0 {
		t.due = true
	}
	t.all.repairs.add(t, after)
}

// runRepairs repairs the topics that are due, one after the other, until ctx ends.
func (s *Topics[B]) runRepairs(ctx context.Context) {
	for {
		due := s.repairs.take(ctx, 1)
		if due == nil {
			return
		}
		due[0].repairDue(ctx)
	}
}

// repairDue reads and delivers what is missing, unless nothing is.
func (t *Topic[B]) repairDue(ctx context.Context) {
	if !t.beginRepair() {
		return
	}
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	at, err := t.read(reading, nil, nil)
	if IsLoss(err) {
		t.lose(at, history.Position{})
		err = nil
	}
	t.endRepair(err)
}

func (t *Topic[B]) beginRepair() bool {
	t.order.Lock()
	defer t.Unlock()
	missing := t.due || !t.expected.IsZero() && !reached(t.cursor, t.expected)
	if t.gone || !t.started || t.repairing || !missing {
		return false // if it is being repaired, endRepair sees what is due
	}
	t.repairing = true
	t.due = false
	return true
}

func (t *Topic[B]) endRepair(err error) {
	t.order.Lock()
	defer t.Unlock()
	t.repairing = false
	t.repaired++
	t.notify()
	if t.gone || !t.started {
		return
	}
	t.attempts++
	if t.expected.IsZero() || reached(t.cursor, t.expected) || t.attempts >= maxRepairs && err == nil {
		t.expected, t.attempts = history.Position{}, 0
	}
	switch {
	case err == nil && t.due:
		t.backoff = 0
		t.repair(0)
	case err != nil || !t.expected.IsZero(): // the log has it, but does not show it yet
		t.due = t.due || err != nil
		t.repair(backOff(&t.backoff))
	default:
		t.backoff = 0
	}
}

// backOff doubles a time of waiting, within its bounds, and returns a random time around it.
func backOff(d *time.Duration) time.Duration {
	*d = min(max(2**d, minBackoff), maxBackoff)
	return *d/2 + rand.N(*d)
}

// read reads everything after the cursor from the log and delivers it. The record own is delivered
// by d instead of a Delivery of its own; it may be nil. If the log returns an error, read returns
// the position after which it was to read.
func (t *Topic[B]) read(ctx context.Context, own *history.Record, d Delivery[B]) (history.Position, error) {
	for {
		t.order.Lock()
		at, stop := t.cursor, t.gone || !t.started
		t.order.Unlock()
		if stop {
			return at, nil
		}
		b, err := t.all.log.Read(ctx, t.name, at, readMost)
		if err != nil {
			return at, err
		}
		prev := at
		for i := range b.Records {
			r := &b.Records[i]
			by := d
			if own == nil || r.Position != own.Position {
				by = t.all.hooks.Delivery(t.name, r)
			} else {
				r = own
			}
			if t.applyAfter(r, prev, by) == applied {
				by.Done()
			}
			prev = r.Position
		}
		t.order.Lock()
		stuck := t.started && t.cursor == at && len(b.Records) > 0
		t.order.Unlock()
		switch {
		case stuck:
			return at, errNoProgress
		case !b.More:
			return at, nil
		}
	}
}

// lose notifies the readers that the log does not continue the position at, unless the topic has
// moved on meanwhile. The topic begins again at top. If top is zero, it begins at the log's newest
// position, as soon as that is known. lose reports whether it did so.
func (t *Topic[B]) lose(at, top history.Position) bool {
	t.order.Lock()
	defer t.Unlock()
	if t.gone || !t.started || t.cursor != at {
		return false
	}
	t.expected, t.due = history.Position{}, false
	if !top.IsZero() {
		t.reset(top)
	} else {
		t.drop()
		t.started = false
		t.resets++
		t.notify()
		t.all.surveys.add(t, 0)
	}
	t.all.hooks.Lost(t)
	return true
}
