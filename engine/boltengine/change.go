package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
)

const (
	// onceFor is how long an ID is recognised.
	onceFor = 2 * time.Minute
	// deletesPerAppend bounds the records that an append deletes. The sweep deletes the others.
	deletesPerAppend = 2
	// recordsFill is how full bbolt makes a page of records when it splits one. The records of a topic
	// are appended in order, so that the default of 0.5 would leave most pages half empty.
	recordsFill = 0.8
)

// change is a write transaction. Topics are read when they are first needed, and written by flush.
type change struct {
	log     *log
	tx      *bolt.Tx
	topics  *bolt.Bucket
	records *bolt.Bucket
	ids     *bolt.Bucket
	sweeps  *bolt.Bucket
	open    map[string]*openTopic
	stamp   int64 // now, by the clock of the log
	time    time.Time
	due     int64 // the earliest of the sweep entries that were written
}

// openTopic is a topic in a change.
type openTopic struct {
	topic
	key   []byte
	epoch string
	saved int64 // due in the file. Negative means that it has no sweep entry
	gone  bool  // it was removed
}

func (t *openTopic) position(offset uint64, tag tag) history.Position {
	return positionOf(t.epoch, offset, tag)
}

// positionOf returns a position from parts that were validated.
func positionOf(epoch string, offset uint64, tag tag) history.Position {
	p, _ := history.NewPosition(epoch, offset, string(tag[:]))
	return p
}

func newChange(l *log, tx *bolt.Tx) *change {
	c := &change{
		log: l, tx: tx,
		topics: tx.Bucket(bucketTopics), records: tx.Bucket(bucketRecords),
		ids: tx.Bucket(bucketIDs), sweeps: tx.Bucket(bucketSweep),
		open: make(map[string]*openTopic), due: never,
	}
	c.records.FillPercent = recordsFill
	c.time, c.stamp = l.clock.now()
	return c
}

// topicKey returns the key of a topic, which must not be empty.
func topicKey(name string) []byte { return append([]byte{'t'}, name...) }

// topic returns a topic of the file. It is nil if the file has none of this name.
func (c *change) topic(name string) (*openTopic, error) {
	if t := c.open[name]; t != nil {
		return t, nil
	}
	key := topicKey(name)
	v := c.topics.Get(key)
	if v == nil {
		return nil, nil
	}
	parsed, err := parseTopic(key, v)
	if err != nil {
		return nil, err
	}
	t := &openTopic{topic: parsed, key: key, epoch: epochOf(c.log.store.base, parsed.generation), saved: parsed.due}
	c.open[name] = t
	return t, nil
}

// create adds a topic.
func (c *change) create(name string, generation uint64) (*openTopic, error) {
	t := &openTopic{key: topicKey(name), saved: -1}
	c.open[name] = t
	return t, c.begin(t, generation)
}

// begin makes a topic empty, with a new number and generation.
func (c *change) begin(t *openTopic, generation uint64) error {
	number, err := c.topics.NextSequence()
	if err != nil {
		return err
	}
	if generation > maxGeneration {
		return fmt.Errorf("boltengine: no more epochs for %.40q", t.key[1:])
	}
	t.topic = topic{
		number: number, generation: generation, topTag: beginning, before: beginning, first: 1, floor: 1,
		last: c.stamp, age: t.age, due: c.stamp + outlive(t.age),
	}
	t.epoch = epochOf(c.log.store.base, generation)
	return nil
}

// outlive returns how long a topic without records is kept.
func outlive(age int64) int64 { return max(10*age, minOutlive.Milliseconds()) }

// record returns a stored record, or nil if it is missing or damaged.
func (c *change) record(number, offset uint64) stored {
	k := keyOf(number, offset)
	if s := stored(c.records.Get(k[:])); s.valid(k[:]) {
		return s
	}
	return nil
}

// append stores a record. The error is about the whole transaction; it.err is about the record.
func (c *change) append(it *item) error {
	var t *openTopic
	if t, it.err = c.topic(it.topic); it.err != nil {
		return nil //nolint:nilerr // the other items are applied
	}
	if t == nil {
		var err error
		if t, err = c.create(it.topic, c.log.generation(it.topic)); err != nil {
			return err
		}
	}
	t.age = max(it.keep.Age.Milliseconds(), 1)
	c.expire(t)
	if first, ok := c.find(t, it.record.ID); ok {
		it.out = first
		return nil
	}
	if t.top >= maxOffset {
		it.err = history.ErrFull
		return nil
	}
	it.out = it.record
	it.out.Time = time.UnixMilli(c.time.UnixMilli())
	it.out.Prev = t.position(t.top, t.topTag)
	t.top, t.topTag = t.top+1, newTag()
	it.out.Position = t.position(t.top, t.topTag)
	it.fresh = true

	k := keyOf(t.number, t.top)
	it.value.seal(k[:], t.topTag, c.stamp, c.time.UnixMilli())
	if err := c.records.Put(k[:], it.value); err != nil {
		return err
	}
	if it.record.ID != "" {
		if err := c.ids.Put(idKey(t.number, it.record.ID), k[8:]); err != nil {
			return err
		}
	}
	t.bytes += uint64(it.value.payload())
	t.last = c.stamp
	for t.top-t.first+1 > uint64(it.keep.Count) || t.bytes > uint64(it.keep.Bytes) {
		c.drop(t)
	}
	budget := deletesPerAppend
	var err error
	if t.floor, err = c.delete(t.number, t.floor, t.first, &budget); err != nil {
		return err
	}
	switch expiry := c.stamp + t.age; {
	case t.floor < t.first:
		t.due = min(t.due, c.stamp)
	case t.due > expiry || t.saved < 0:
		t.due = expiry
	}
	return nil
}

// drop ends the retention of the oldest record. It is deleted later.
func (c *change) drop(t *openTopic) {
	size := uint64(0)
	if s := c.record(t.number, t.first); s != nil {
		t.before, size = s.tag(), uint64(s.payload())
	} else if t.first == t.top {
		t.before = t.topTag
	} else {
		t.before = newTag() // no position matches it
	}
	t.first++
	if t.bytes -= min(t.bytes, size); t.first > t.top {
		t.bytes = 0
	}
}

// expire ends the retention of the records that are too old.
func (c *change) expire(t *openTopic) {
	for t.first <= t.top {
		if s := c.record(t.number, t.first); s != nil && s.stamp() > c.stamp-t.age {
			return
		}
		c.drop(t)
	}
}

// delete deletes records with offsets from from to before to, as many as budget allows, which it
// reduces. It returns the offset of the first that is left.
func (c *change) delete(number, from, to uint64, budget *int) (uint64, error) {
	for ; from < to && *budget > 0; from++ {
		k := keyOf(number, from)
		s := stored(c.records.Get(k[:]))
		if s == nil {
			if from = c.next(number, from); from >= to {
				return to, nil
			}
			k = keyOf(number, from)
			s = c.records.Get(k[:])
		}
		if s.valid(k[:]) && len(s.id()) > 0 {
			id := idKey(number, string(s.id()))
			if bytes.Equal(c.ids.Get(id), k[8:]) {
				if err := c.ids.Delete(id); err != nil {
					return from, err
				}
			}
		}
		if err := c.records.Delete(k[:]); err != nil {
			return from, err
		}
		*budget--
	}
	return from, nil
}

// next returns the offset of the first record of a number from an offset on, or never.
func (c *change) next(number, from uint64) uint64 {
	k := keyOf(number, from)
	found, _ := c.records.Cursor().Seek(k[:])
	if len(found) != len(k) || !bytes.Equal(found[:8], k[:8]) {
		return never
	}
	return binary.BigEndian.Uint64(found[8:])
}

func idKey(number uint64, id string) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(id)), number), id...)
}

// find returns the record with an ID that is kept and young enough.
func (c *change) find(t *openTopic, id string) (history.Record, bool) {
	if id == "" {
		return history.Record{}, false
	}
	v := c.ids.Get(idKey(t.number, id))
	if len(v) != 8 {
		return history.Record{}, false
	}
	offset := binary.BigEndian.Uint64(v)
	s := c.record(t.number, offset)
	if offset < t.first || offset > t.top || s == nil || s.stamp() <= c.stamp-onceFor.Milliseconds() {
		return history.Record{}, false
	}
	r, err := s.record()
	if err != nil {
		return history.Record{}, false
	}
	r.Position = t.position(offset, s.tag())
	if offset == t.first {
		r.Prev = t.position(offset-1, t.before)
	} else if prev := c.record(t.number, offset-1); prev != nil {
		r.Prev = t.position(offset-1, prev.tag())
	}
	return r, true
}

// forget removes the records of a topic and begins a new generation. The records are deleted by the
// sweep.
func (c *change) forget(name string) error {
	t, err := c.topic(name)
	generation := c.log.generation(name) + 1
	switch {
	case errors.Is(err, errDamaged):
		// The generation of the topic is not known, so a random one must not have been used.
		_, err = c.create(name, generation+rand.Uint64N(maxGeneration/2))
	case t == nil:
		_, err = c.create(name, generation)
	default:
		if t.saved >= 0 {
			if err := c.sweeps.Delete(sweepKey(t.saved, t.number)); err != nil {
				return err
			}
			t.saved = -1
		}
		if t.floor <= t.top {
			key := sweepKey(c.stamp, t.number)
			if err := c.sweeps.Put(key, encodeRange(t.floor, t.top)); err != nil {
				return err
			}
			c.due = min(c.due, c.stamp)
		}
		err = c.begin(t, max(generation, t.generation+1))
	}
	return err
}

// flush writes the topics that were opened.
func (c *change) flush() error {
	for _, t := range c.open {
		if t.saved >= 0 && (t.gone || t.due != t.saved) {
			if err := c.sweeps.Delete(sweepKey(t.saved, t.number)); err != nil {
				return err
			}
		}
		if t.gone {
			if err := c.topics.Delete(t.key); err != nil {
				return err
			}
			continue
		}
		if t.due != t.saved {
			if err := c.sweeps.Put(sweepKey(t.due, t.number), append([]byte{sweepTopic}, t.key...)); err != nil {
				return err
			}
			c.due = min(c.due, t.due)
		}
		if err := c.topics.Put(t.key, t.encode(t.key)); err != nil {
			return err
		}
	}
	return nil
}
