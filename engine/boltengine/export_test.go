package boltengine

import (
	"errors"

	bolt "go.etcd.io/bbolt"
)

// Topics returns the number of topics that the file knows.
func (e *Engine) Topics() (n int, err error) {
	err = e.log.store.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketTopics).ForEach(func(_, _ []byte) error { n++; return nil })
	})
	return n, err
}

// Rollback removes the newest n records of a topic, as if they had not reached the disk.
func (e *Engine) Rollback(topic string, n int) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		c := newChange(e.log, tx)
		t, err := c.topic(topic)
		if err != nil || t == nil {
			return errors.Join(err, errors.New("no such topic"))
		}
		for range n {
			k := keyOf(t.number, t.top)
			t.bytes -= uint64(c.record(t.number, t.top).payload())
			if err := c.records.Delete(k[:]); err != nil {
				return err
			}
			t.top--
			t.topTag = t.before
			if s := c.record(t.number, t.top); s != nil {
				t.topTag = s.tag()
			}
		}
		return c.flush()
	})
}
