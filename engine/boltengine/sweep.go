package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"time"
)

const (
	// sweepEntries and sweepDeletes bound one sweep.
	sweepEntries = 256
	sweepDeletes = 1024
	// sweepPause is the shortest time between two sweeps, and expiryPause between two looks at a topic
	// that still has records.
	sweepPause  = 20 * time.Millisecond
	expiryPause = time.Second
	// minOutlive is the shortest time for which the top of a topic outlives its records.
	minOutlive = 24 * time.Hour
	// watchedAgain is when the sweep looks again at a topic that it did not remove, because it is
	// watched.
	watchedAgain = time.Hour
)

// never is later than every sweep entry.
const never = math.MaxInt64

// sweep deletes what is not kept any more, within its bounds. It returns when the next entry is
// due.
func (c *change) sweep() (due int64, err error) {
	budget := sweepDeletes
	for _, e := range c.entries() {
		if budget <= 0 {
			break
		}
		if e.malformed {
			err = c.sweeps.Delete(e.key)
		} else if e.topic == nil {
			err = c.sweepRecords(e, &budget)
		} else {
			err = c.sweepTopic(e, &budget)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if k, _ := c.sweeps.Cursor().First(); len(k) >= 8 {
		return int64(binary.BigEndian.Uint64(k)), nil
	}
	return never, nil
}

// dueEntry is a copy of a sweep entry.
type dueEntry struct {
	sweep
	key       []byte
	malformed bool
}

// entries returns the first sweep entries that are due.
func (c *change) entries() (all []dueEntry) {
	cursor := c.sweeps.Cursor()
	for k, v := cursor.First(); k != nil && len(all) < sweepEntries; k, v = cursor.Next() {
		k, v = bytes.Clone(k), bytes.Clone(v)
		s, err := parseSweep(k, v)
		if err == nil && s.due > c.stamp {
			break
		}
		all = append(all, dueEntry{s, k, err != nil})
	}
	return all
}

// sweepRecords deletes records of a number that is not used any more.
func (c *change) sweepRecords(e dueEntry, budget *int) error {
	from, err := c.delete(e.number, e.from, e.to+1, budget)
	switch {
	case err != nil:
		return err
	case from > e.to:
		return c.sweeps.Delete(e.key)
	default:
		return c.sweeps.Put(e.key, encodeRange(from, e.to))
	}
}

// sweepTopic removes the expired records of a topic, and the topic itself if it had no record for
// long. It sets when it must be looked at again.
func (c *change) sweepTopic(e dueEntry, budget *int) error {
	name := string(e.topic[1:])
	t, err := c.topic(name)
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if t == nil || t.number != e.number || t.saved != e.due {
		return c.sweeps.Delete(e.key) // it belongs to a damaged topic, or to its predecessor
	}
	c.expire(t)
	if t.floor, err = c.delete(t.number, t.floor, t.first, budget); err != nil {
		return err
	}
	switch end := t.last + t.age + outlive(t.age); {
	case t.floor < t.first:
		// The entry stays due.
	case t.first <= t.top:
		t.due = c.stamp + expiryPause.Milliseconds()
		if s := c.record(t.number, t.first); s != nil {
			t.due = max(t.due, s.stamp()+t.age)
		}
	case c.stamp < end:
		t.due = end
	case c.log.retire(name, t.generation, t.top > 0):
		t.gone = true
		slot := slotOf(name)
		return putEpoch(c.tx, slot, c.log.slot(slot))
	default:
		t.due = c.stamp + watchedAgain.Milliseconds()
	}
	return nil
}
