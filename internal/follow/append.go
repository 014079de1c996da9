package follow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/history"
)

// patience bounds how long an append, or a reader that begins, waits for a log that is not instant.
const patience = 2 * time.Second

// feedDelay is how long a node waits for the feed of a record that it appended itself, if the log
// does not say which record precedes it.
const feedDelay = 100 * time.Millisecond

// Append appends r to the log of a topic and delivers it to the subscribers on this node. It
// returns the position of the record. Then the subscribers that are live have received it, unless
// the log is not instant and preceding records could not be read in time.
//
// If r has an ID that the log knows, the position is that of the earlier record, and nothing is
// delivered. The error is that of the log.
func (s *Topics[B]) Append(
	ctx context.Context, name string, r *history.Record, k *history.Keep, d Delivery[B],
) (history.Position, error) {
	if s.instant {
		return s.appendInstant(ctx, name, r, k, d)
	}
	if !s.running.Load() {
		return history.Position{}, fmt.Errorf("%w: it does not run", history.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := s.Find(name)
	if t != nil && t.Lock(ctx) == nil { // A topic that begins now would not deliver the record.
		t.Unlock()
	}
	stored, err := s.log.Append(ctx, name, *r, *k)
	if err == nil && t == nil {
		t = s.Find(name)
	}
	if t != nil {
		defer t.Release()
	}
	switch {
	case err != nil:
		return history.Position{}, unanswered(err)
	case t == nil:
		s.recent.add(name, stored.Position)
	default:
		t.settle(ctx, &stored, d)
	}
	return stored.Position, nil
}

// unanswered returns the error of an append. An append whose context ended may have been stored.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		for _, known := range []error{history.ErrUncertain, history.ErrUnavailable, history.ErrFull} {
			if errors.Is(err, known) {
				return err
			}
		}
		return fmt.Errorf("%w: %w", history.ErrUncertain, err)
	}
	return err
}

// settle delivers a record that was appended, and waits until the topic has reached it.
func (t *Topic[B]) settle(ctx context.Context, r *history.Record, d Delivery[B]) {
	t.Apply(r, d)
	t.order.Lock()
	defer t.Unlock()
	_ = t.await(ctx, func() bool { return !t.started || reached(t.cursor, r.Position) })
	if !t.started {
		t.all.recent.add(t.name, r.Position)
	}
}

// appendInstant is Append for an instant log. The record is appended and delivered under order.
func (s *Topics[B]) appendInstant(
	ctx context.Context, name string, r *history.Record, k *history.Keep, d Delivery[B],
) (history.Position, error) {
	t := s.Find(name)
	if t != nil {
		defer t.Release()
		err := t.applyInstant(ctx, r, k, d)
		return r.Position, err
	}
	if err := s.store(ctx, name, r, k); err != nil {
		return history.Position{}, err
	}
	// If a reader has begun meanwhile, it may have seen the log without the record.
	if t = s.Find(name); t != nil {
		defer t.Release()
		_ = t.applyInstant(ctx, r, nil, d) // after an error the topic begins behind the record
	}
	return r.Position, nil
}

// store appends r to an instant log.
func (s *Topics[B]) store(ctx context.Context, name string, r *history.Record, k *history.Keep) (err error) {
	*r, err = s.log.Append(ctx, name, *r, *k)
	return err
}

// applyInstant stores a record, unless k is nil, and delivers it.
func (t *Topic[B]) applyInstant(ctx context.Context, r *history.Record, k *history.Keep, d Delivery[B]) error {
	outcome, err := t.storeAndApply(ctx, r, k, d)
	switch outcome {
	case applied:
		d.Done()
	case gap:
		t.catchUp(ctx, r, d)
	}
	return err
}

func (t *Topic[B]) storeAndApply(
	ctx context.Context, r *history.Record, k *history.Keep, d Delivery[B],
) (outcome, error) {
	if err := t.Lock(ctx); err != nil {
		return known, err
	}
	defer t.Unlock()
	if k != nil {
		if err := t.all.store(ctx, t.name, r, k); err != nil {
			return known, err
		}
	}
	return t.apply(r, r.Prev, d), nil
}

// catchUp delivers everything after the cursor, with the record r, which was appended. It is needed
// if records were appended while the topic was not in use yet, or by somebody else.
func (t *Topic[B]) catchUp(ctx context.Context, r *history.Record, d Delivery[B]) {
	at, err := t.read(ctx, r, d)
	if err == nil || !t.lose(at, r.Prev) {
		return
	}
	t.Apply(r, d)
}

// Forget removes all records of a topic from the log, and notifies the readers.
func (s *Topics[B]) Forget(ctx context.Context, name string, k history.Keep) error {
	t := s.Acquire(name, k)
	defer t.Release()
	if !s.instant {
		err := s.log.Forget(ctx, name)
		t.order.Lock()
		defer t.Unlock()
		t.repair(0) // finds out
		return err
	}
	if err := t.Lock(ctx); err != nil {
		return err
	}
	defer t.Unlock()
	if err := s.log.Forget(ctx, name); err != nil {
		return err
	}
	tops, err := s.log.Tops(ctx, []string{name})
	if err != nil {
		return err
	}
	t.reset(tops[0])
	s.hooks.Lost(t)
	return nil
}
