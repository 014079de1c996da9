package follow

import (
	"context"
	"fmt"
	"time"

	"bennu.example/history"
)

// outcome is what became of a record that was to be delivered.
type outcome uint8

const (
	applied outcome = iota // it was delivered
	known                  // it was delivered before, or is not to be delivered
	gap                    // it does not follow the cursor
)

// Apply delivers a record of the log, unless it was delivered before, and moves the cursor to it.
// If records before it are missing, they are read first, in the background.
func (t *Topic[B]) Apply(r *history.Record, d Delivery[B]) {
	if t.applyAfter(r, r.Prev, d) == applied {
		d.Done()
	}
}

func (t *Topic[B]) applyAfter(r *history.Record, prev history.Position, d Delivery[B]) outcome {
	t.order.Lock()
	defer t.Unlock()
	return t.apply(r, prev, d)
}

// apply is Apply for the record after prev. The caller must hold order.
func (t *Topic[B]) apply(r *history.Record, prev history.Position, d Delivery[B]) outcome {
	switch {
	case t.gone:
		return known
	case !t.started:
		t.expect(r.Position)
		return known
	case !prev.IsZero() && prev.Matches(t.cursor):
		t.deliver(r, d)
		return applied
	case reached(t.cursor, r.Position):
		if !t.contradicts(r.Position) {
			return known
		}
		t.repair(0) // the end of the log was lost and written again
		return gap
	}
	t.expect(r.Position)
	if prev.IsZero() {
		t.repair(feedDelay)
	} else {
		t.repair(0)
	}
	return gap
}

// deliver delivers a record and moves the cursor to it. The caller must hold order.
func (t *Topic[B]) deliver(r *history.Record, d Delivery[B]) {
	item := d.Item(r)
	defer t.push(r, item) // even if a subscriber ends its goroutine
	d.Deliver(t)
}

// contradicts reports whether the window has another record with the offset of p. The caller must
// hold order.
func (t *Topic[B]) contradicts(p history.Position) bool {
	s := t.at(p.Offset())
	return s != nil && !p.Matches(s.item.Position)
}

// reached reports whether p is at top or after it, in the same log.
func reached(p, top history.Position) bool {
	return p.Epoch() == top.Epoch() && (p.Offset() > top.Offset() || p == top)
}

// Lock locks order. The error is that of the log, if the cursor is not known.
func (t *Topic[B]) Lock(ctx context.Context) error {
	t.order.Lock()
	if t.started {
		return nil
	}
	if err := t.start(ctx); err != nil {
		t.order.Unlock()
		return err
	}
	return nil
}

// start gets the cursor. The caller must hold order. If the log is not instant, order is unlocked
// while start waits.
func (t *Topic[B]) start(ctx context.Context) error {
	if t.all.instant {
		tops, err := t.all.log.Tops(ctx, []string{t.name})
		if err == nil {
			t.reset(tops[0])
		}
		return err
	}
	if !t.all.running.Load() {
		return fmt.Errorf("%w: it does not run", history.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := t.await(ctx, func() bool { return t.started || t.down != nil || t.gone })
	switch {
	case t.started:
		return nil
	case t.down != nil:
		err = t.down
	}
	return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
}

// await waits until ok returns true, which is called under order. The error is that of ctx. The
// caller must hold order, which is unlocked meanwhile.
func (t *Topic[B]) await(ctx context.Context, ok func() bool) error {
	for !ok() {
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.order.Unlock()
		select {
		case <-changed:
			t.order.Lock()
		case <-ctx.Done():
			t.order.Lock()
			return context.Cause(ctx)
		}
	}
	return nil
}

// notify wakes those that await a change. The caller must hold order.
func (t *Topic[B]) notify() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Unlock unlocks order.
func (t *Topic[B]) Unlock() {
	over := t.all.full()
	finished := t.finished
	t.finished = nil
	t.order.Unlock()
	for _, d := range finished {
		d.Done()
	}
	if !over {
		return
	}
	if t.all.relieve(); t.all.full() {
		t.order.Lock()
		defer t.order.Unlock()
		t.trim(true)
	}
}

// Cursor returns the position of the newest item that was delivered. It is zero if that is not
// known.
func (t *Topic[B]) Cursor() history.Position {
	t.order.Lock()
	defer t.order.Unlock()
	if !t.started {
		return history.Position{}
	}
	return t.cursor
}

// push moves the cursor to an item that was delivered. The caller must hold order.
func (t *Topic[B]) push(r *history.Record, item B) {
	last := t.slots[len(t.slots)-1]
	s := newSlot(r, item, last.number+1)
	t.slots = append(t.slots, s)
	t.cursor = r.Position
	t.grow(s.size)
	t.trim(false)
	t.notify()
	if t.held.isEmpty() {
		return
	}
	for t.held.isDue(t.cursor, time.Time{}) {
		t.deliverHeld()
	}
}

// reset makes top the cursor, for example after the log has lost records. The window and everything
// that readers hold are dropped. The caller must hold order.
func (t *Topic[B]) reset(top history.Position) {
	t.drop()
	t.started = true
	t.cursor = top
	t.slots = []*slot[B]{{item: Item[B]{Position: top}}}
	t.resets++
	t.notify()
}

// end ends the topic, which is not in use any more. The caller must hold order.
func (t *Topic[B]) end() {
	t.gone = true
	t.drop()
	t.held.drop()
	t.all.repairs.remove(t)
	t.all.surveys.remove(t)
	t.notify()
}
