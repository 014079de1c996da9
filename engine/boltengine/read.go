package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
)

// reader is a read transaction about one topic.
type reader struct {
	records *bolt.Bucket
	topic   topic // empty if the file does not know the topic
	epoch   string
	top     history.Position
	first   uint64 // the oldest record that is neither removed nor expired; top+1 if there is none
	before  tag    // of the record before it
}

// reader returns what the transaction knows of a topic.
func (l *log) reader(tx *bolt.Tx, name string) (*reader, error) {
	r := &reader{records: tx.Bucket(bucketRecords)}
	key := topicKey(name)
	if v := tx.Bucket(bucketTopics).Get(key); v != nil {
		var err error
		if r.topic, err = parseTopic(key, v); err != nil {
			return nil, err
		}
	} else {
		r.topic = topic{generation: l.generation(name), topTag: beginning, before: beginning, first: 1, floor: 1}
	}
	r.epoch = epochOf(l.store.base, r.topic.generation)
	r.top = r.position(r.topic.top, r.topic.topTag)
	r.first, r.before = r.topic.first, r.topic.before
	_, stamp := l.clock.now()
	expired := stamp - r.topic.age
	if r.first <= r.topic.top && r.topic.last <= expired {
		r.first, r.before = r.topic.top+1, r.topic.topTag
	}
	for ; r.first <= r.topic.top; r.first++ {
		s := r.record(r.first)
		if s == nil {
			break // reading it is an error
		}
		if s.stamp() > expired {
			break
		}
		r.before = s.tag()
	}
	return r, nil
}

func (r *reader) position(offset uint64, tag tag) history.Position {
	return positionOf(r.epoch, offset, tag)
}

// record returns a stored record. It is nil if the record is damaged.
func (r *reader) record(offset uint64) stored {
	k := keyOf(r.topic.number, offset)
	if s := stored(r.records.Get(k[:])); s.valid(k[:]) {
		return s
	}
	return nil
}

// tagBefore returns the tag of the record before one that is kept.
func (r *reader) tagBefore(offset uint64) (tag, error) {
	if offset == r.first {
		return r.before, nil
	}
	if s := r.record(offset - 1); s != nil {
		return s.tag(), nil
	}
	return tag{}, r.damaged(offset - 1)
}

// damaged returns the error about a record. To a client, the record and those before it are gone.
func (r *reader) damaged(offset uint64) error {
	return fmt.Errorf("%w: record %d: %w", history.ErrTrimmed, offset, errDamagedRecord)
}

var errDamagedRecord = errors.New("damaged in the file")

// read returns records with offsets from from to before to. prev is the position of the one before.
func (r *reader) read(from, to uint64, prev history.Position) ([]history.Record, error) {
	all := make([]history.Record, 0, to-from)
	cursor := r.records.Cursor()
	k := keyOf(r.topic.number, from)
	for key, value := cursor.Seek(k[:]); from < to; key, value = cursor.Next() {
		k = keyOf(r.topic.number, from)
		s := stored(value)
		if !bytes.Equal(key, k[:]) || !s.valid(key) {
			return nil, r.damaged(from)
		}
		record, err := s.record()
		if err != nil {
			return nil, r.damaged(from)
		}
		record.Prev, record.Position = prev, r.position(from, s.tag())
		prev = record.Position
		all = append(all, record)
		from++
	}
	return all, nil
}

// Read is part of history.Log.
func (l *log) Read(ctx context.Context, topic string, after history.Position, limit int) (b history.Batch, err error) {
	if after.IsZero() {
		return b, history.ErrPosition
	}
	err = l.read(ctx, func(tx *bolt.Tx) error {
		r, err := l.reader(tx, topic)
		if err == nil {
			b, err = r.after(after, limit)
		}
		return err
	})
	return b, err
}

// after decides as history.Log describes it.
func (r *reader) after(after history.Position, limit int) (b history.Batch, err error) {
	offset := after.Offset()
	switch {
	case after.Epoch() != r.epoch:
		return b, history.ErrEpoch
	case after == r.top:
		return history.Batch{After: after, Top: r.top}, nil
	case offset > r.topic.top:
		return b, history.ErrAhead
	case offset == r.topic.top:
		return b, history.ErrTag
	case r.first > r.topic.top, offset+1 < r.first:
		return b, history.ErrTrimmed
	}
	prev, err := r.tagBefore(offset + 1)
	if err != nil {
		return b, err
	}
	if string(prev[:]) != after.Tag() {
		return b, history.ErrTag
	}
	to := min(r.topic.top, offset+uint64(max(limit, 1))) + 1
	records, err := r.read(offset+1, to, after)
	if err != nil {
		return b, err
	}
	return history.Batch{Records: records, After: after, Top: r.top, More: to <= r.topic.top}, nil
}

// Before is part of history.Log.
func (l *log) Before(
	ctx context.Context, topic string, before history.Position, limit int,
) (b history.Batch, err error) {
	err = l.read(ctx, func(tx *bolt.Tx) error {
		r, err := l.reader(tx, topic)
		if err == nil {
			b, err = r.beforePosition(before, limit)
		}
		return err
	})
	return b, err
}

func (r *reader) beforePosition(before history.Position, limit int) (b history.Batch, err error) {
	end := before.Offset() // records with lower offsets are wanted
	switch {
	case before.IsZero():
		end = r.topic.top + 1
	case before.Epoch() != r.epoch:
		return b, history.ErrEpoch
	case end > r.topic.top:
		return b, history.ErrAhead
	case end == 0 && !before.IsBeginning():
		return b, history.ErrTag
	case end == 0:
		return history.Batch{After: before, Top: r.top}, nil
	case end == r.topic.top && before != r.top:
		return b, history.ErrTag
	case end < r.first:
		return b, history.ErrTrimmed
	}
	if r.first > r.topic.top {
		return history.Batch{After: r.top, Top: r.top}, nil
	}
	if !before.IsZero() {
		found, err := r.tagBefore(end + 1)
		if err != nil {
			return b, err
		}
		if string(found[:]) != before.Tag() {
			return b, history.ErrTag
		}
	}
	from := max(r.first, end-min(end, uint64(max(limit, 1))))
	prev, err := r.tagBefore(from)
	if err != nil {
		return b, err
	}
	after := r.position(from-1, prev)
	records, err := r.read(from, end, after)
	if err != nil {
		return b, err
	}
	return history.Batch{Records: records, After: after, Top: r.top, More: from > r.first}, nil
}

// Tops is part of history.Log.
func (l *log) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	tops := make([]history.Position, len(topics))
	err := l.read(ctx, func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketTopics)
		for i, name := range topics {
			t := topic{generation: l.generation(name), topTag: beginning}
			key := topicKey(name)
			if v := bucket.Get(key); v != nil {
				var err error
				if t, err = parseTopic(key, v); err != nil {
					return err
				}
			}
			tops[i] = positionOf(epochOf(l.store.base, t.generation), t.top, t.topTag)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}
