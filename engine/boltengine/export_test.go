package boltengine

import (
	"bytes"
	"errors"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/offline"
	"bennu.example/will"
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

// LoseRecords removes all records of a topic from the file, but not its top.
func (e *Engine) LoseRecords(topic string) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		c := newChange(e.log, tx)
		t, err := c.topic(topic)
		if err != nil {
			return err
		}
		budget := int(t.top)
		_, err = c.delete(t.number, t.floor, t.top+1, &budget)
		return err
	})
}

// Hook makes f be called at the beginning of every write transaction, until the returned function
// is called.
func (e *Engine) Hook(f func(tx *bolt.Tx) error) (remove func()) {
	e.log.store.hook.Store(&f)
	return func() { e.log.store.hook.Store(nil) }
}

// Freeze makes write transactions wait until thaw is called. It calls frozen when the first waits.
func (e *Engine) Freeze(frozen func()) (thaw func()) {
	wait := make(chan struct{})
	once := sync.OnceFunc(frozen)
	remove := e.Hook(func(*bolt.Tx) error {
		once()
		<-wait
		return nil
	})
	return sync.OnceFunc(func() { remove(); close(wait) })
}

// Commits returns the number of transactions that were committed.
func (e *Engine) Commits() (n int, err error) {
	err = e.log.store.view(func(tx *bolt.Tx) error { n = tx.ID(); return nil })
	return n, err
}

// Waiting returns the number of items in the queue.
func (e *Engine) Waiting() int { return len(e.log.queue.items) }

// Counts returns the number of entries of the buckets.
func (e *Engine) Counts() (topics, records, ids, sweeps int, err error) {
	err = e.log.store.view(func(tx *bolt.Tx) error {
		for name, n := range map[string]*int{
			string(bucketTopics): &topics, string(bucketRecords): &records,
			string(bucketIDs): &ids, string(bucketSweep): &sweeps,
		} {
			*n = tx.Bucket([]byte(name)).Stats().KeyN
		}
		return nil
	})
	return topics, records, ids, sweeps, err
}

// Slots is the number of generations of unknown topics.
const Slots = slots

// SetOffset changes the offset of the newest record of a topic that has only this one.
func (e *Engine) SetOffset(topic string, offset uint64) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		c := newChange(e.log, tx)
		t, err := c.topic(topic)
		if err != nil {
			return err
		}
		t.top, t.first, t.floor = offset, offset+1, offset+1
		return c.flush()
	})
}

// Damage changes one byte of what the file knows of a topic.
func (e *Engine) Damage(topic string) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		return flip(tx.Bucket(bucketTopics), topicKey(topic))
	})
}

// DamageRecord changes one byte of the payload of a record.
func (e *Engine) DamageRecord(topic string, offset uint64) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		t, err := newChange(e.log, tx).topic(topic)
		if err != nil {
			return err
		}
		k := keyOf(t.number, offset)
		return flip(tx.Bucket(bucketRecords), k[:])
	})
}

func flip(b *bolt.Bucket, key []byte) error {
	v := bytes.Clone(b.Get(key))
	v[len(v)-1] ^= 1
	return b.Put(key, v)
}

// Started reports whether Run has swept once.
func (e *Engine) Started() bool {
	err := e.log.Health().Err
	return err == nil || !errors.Is(err, errNotRunning)
}

// WillsFor returns a store of wills of the file that keeps what nobody needs for another time.
func (e *Engine) WillsFor(keep time.Duration) (will.Store, error) {
	return openWills(e.log.store, keep)
}

// RollbackObject removes the newest n revisions of an object, as if they had not reached the disk.
// The items that they put are lost.
func (e *Engine) RollbackObject(name string, n int) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		x, err := e.objects.begin(tx)
		if err != nil {
			return err
		}
		o, err := x.object(&write{}, name)
		if err != nil || o == nil {
			return errors.Join(err, errors.New("no such object"))
		}
		for range n {
			k := revisionKey(o.number, o.rev)
			r, err := x.revision(k)
			if err != nil {
				return err
			}
			if err := errors.Join(x.revisions.Delete(k), x.items.Delete(numberKey(o.number, r.key))); err != nil {
				return err
			}
			o.rev--
			if r, err = x.revision(revisionKey(o.number, o.rev)); err != nil {
				return err
			}
			o.tag = r.tag
		}
		return x.flush()
	})
}

// ForgetDeletionsAfter changes how long the store of objects remembers a deletion.
func (e *Engine) ForgetDeletionsAfter(d time.Duration) { e.objects.tombstoneAge = d }

// WaitingRecords returns the number of records in the queue.
func (e *Engine) WaitingRecords() int { return len(e.log.queue.items) }

// WaitingWrites returns the number of writes in the queue.
func (e *Engine) WaitingWrites() int { return len(e.objects.queue.items) }

// StateCounts returns the number of entries of each bucket of the objects.
func (e *Engine) StateCounts() (counts map[string]int, err error) {
	err = e.log.store.view(func(tx *bolt.Tx) error {
		counts = make(map[string]int)
		root := tx.Bucket(bucketState)
		return root.ForEachBucket(func(name []byte) error {
			counts[string(name)] = root.Bucket(name).Stats().KeyN
			return nil
		})
	})
	return counts, err
}

// DamageItem changes one byte of an item.
func (e *Engine) DamageItem(object, key string) error {
	return e.log.store.update(func(tx *bolt.Tx) error {
		x, err := e.objects.begin(tx)
		if err != nil {
			return err
		}
		o, err := x.object(&write{}, object)
		if err != nil || o == nil {
			return errors.Join(err, errors.New("no such object"))
		}
		return flip(x.items, numberKey(o.number, key))
	})
}

// ParseStateValues decodes a value of each bucket of the objects, whose checksum is right.
func ParseStateValues(value []byte) {
	value = sealed(bytes.Clone(value), nil)
	_, _ = parseObject(nil, value)
	_, _ = parseItem(nil, value)
	_, _ = parseRevision(nil, value)
	_, _ = parseID(nil, value)
}

// HookClient makes f be called at the beginning of every write transaction of a client's store,
// until the returned function is called.
func HookClient(s offline.Store, f func(tx *bolt.Tx) error) (remove func()) {
	hook := &s.(*clientStore).store.hook
	hook.Store(&f)
	return func() { hook.Store(nil) }
}

// WaitingClients returns the number of calls that wait for a commit.
func WaitingClients(s offline.Store) int { return int(s.(*clientStore).waiting.Load()) }

// ClientCommits returns the number of transactions that were committed.
func ClientCommits(s offline.Store) (n int) {
	_ = s.(*clientStore).store.view(func(tx *bolt.Tx) error { n = tx.ID(); return nil })
	return n
}

// OnceHas reports whether the table of Once has a reply to a key.
func (e *Engine) OnceHas(key string) bool {
	reply, _, _ := e.once.table.Get(key)
	return reply != nil
}
