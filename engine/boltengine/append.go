package boltengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
)

const (
	maxTopic  = bolt.MaxKeySize - 1 // a key has one byte more
	maxID     = 64
	maxOrigin = 40
	maxTexts  = 32 << 10 // the event and the client id
	// itemOverhead is what an item counts beyond its topic and its record.
	itemOverhead = 512
)

// item is an append or a Forget in the queue.
type item struct {
	request
	topic  string
	forget bool
	record history.Record // as it will be read
	value  stored
	keep   history.Keep

	// The committer sets these before it answers.
	out   history.Record
	fresh bool // it was stored now
	err   error
}

// Append is part of history.Log.
func (l *log) Append(ctx context.Context, topic string, r history.Record, k history.Keep) (history.Record, error) {
	it, err := newItem(topic, r, k)
	if err == nil {
		r, err = l.do(ctx, it)
	}
	if err != nil {
		l.failed.Add(1)
		return history.Record{}, err
	}
	return r, nil
}

// newItem checks and encodes a record.
func newItem(topic string, r history.Record, k history.Keep) (*item, error) {
	if k.Count == 0 || k.Bytes == 0 || k.Age == 0 {
		k, _ = history.Rules{"": k}.Rule("") // with the defaults
	}
	if len(r.ID) > maxID || len(r.Origin) > maxOrigin || len(r.Event)+len(r.From) > maxTexts || len(topic) > maxTopic {
		return nil, history.ErrTooLarge
	}
	value, parsed, err := encodeRecord(r)
	if err != nil {
		return nil, err
	}
	size := len(topic) + len(value) + itemOverhead
	if value.payload() > k.Bytes || size > maxQueuedBytes {
		return nil, history.ErrTooLarge
	}
	return &item{request: request{size: size}, topic: topic, record: parsed, value: value, keep: k}, nil
}

// do puts an item into the queue and waits for its result.
func (l *log) do(ctx context.Context, it *item) (history.Record, error) {
	if err := l.queue.do(ctx, it); err != nil {
		return history.Record{}, err
	}
	return it.out, it.err
}

// apply applies a batch in one transaction. It sets the results, but answers nobody.
func (l *log) apply(batch []*item) (due int64, err error) {
	err = l.store.update(func(tx *bolt.Tx) error {
		c := newChange(l, tx)
		for _, it := range batch {
			it.out, it.fresh, it.err = history.Record{}, false, nil
			var err error
			if it.forget {
				err = c.forget(it.topic)
			} else {
				err = c.append(it)
			}
			if err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		due = c.due
		return nil
	})
	return due, err
}

// commit applies a batch and sets the results. If the file is damaged where one item needs it, the
// others are applied without it. It returns the earliest of the sweep entries that were written.
func (l *log) commit(batch []*item) (due int64, failure error) {
	due, failure = l.apply(batch)
	if errors.Is(failure, errDamaged) && !errors.Is(failure, errUncertain) && len(batch) > 1 {
		due, failure = never, nil
		for i := range batch {
			d, err := l.commit(batch[i : i+1])
			due = min(due, d)
			failure = cmp.Or(err, failure)
		}
		return due, failure
	}
	if failure != nil {
		due = never
	}
	for _, it := range batch {
		switch {
		case errors.Is(failure, errUncertain):
			it.fresh, it.err = false, fmt.Errorf("%w: %w", history.ErrUncertain, failure)
		case failure != nil:
			it.fresh, it.err = false, unavailable(failure)
		case errors.Is(it.err, errDamaged):
			it.err = unavailable(it.err)
		}
	}
	return due, failure
}
