package fakelog

import (
	"slices"
	"time"

	"bennu.example/history"
)

// onceFor is how long an ID is recognised.
const onceFor = 2 * time.Minute

// data is what one primary stores.
type data struct {
	epoch  string // of topics that are not in the map
	topics map[string]*topic
}

func newData(epoch string) *data { return &data{epoch, make(map[string]*topic)} }

func (d *data) clone() *data {
	c := newData(d.epoch)
	for name, t := range d.topics {
		other := *t
		other.records = slices.Clone(t.records)
		c.topics[name] = &other
	}
	return c
}

// topic returns a topic without the records that have expired at a time of the store's clock. An
// unknown one is not added.
func (d *data) topic(name string, now time.Time) *topic {
	t := d.topics[name]
	if t == nil {
		return newTopic(d.epoch)
	}
	t.expire(now)
	return t
}

// topic is the log of a topic.
type topic struct {
	top     history.Position
	records []history.Record // oldest first
	keep    history.Keep     // of the last append
}

func newTopic(epoch string) *topic { return &topic{top: position(epoch, 0, "0000")} }

// position returns a position from parts that are valid.
func position(epoch string, offset uint64, tag string) history.Position {
	p, err := history.NewPosition(epoch, offset, tag)
	if err != nil {
		panic(err)
	}
	return p
}

// append stores r at the distance step from the top, and removes what exceeds k. It is now by the
// store's clock.
func (t *topic) append(r history.Record, k history.Keep, step uint64, now time.Time) history.Record {
	t.keep = k
	t.expire(now)
	if r.ID != "" {
		for _, old := range t.records {
			if old.ID == r.ID && now.Sub(old.Time) < onceFor {
				return old
			}
		}
	}
	r.Prev = t.top
	r.Position = position(t.top.Epoch(), t.top.Offset()+step, history.NewTag())
	r.Time = time.UnixMilli(now.UnixMilli())
	t.top = r.Position
	t.records = append(t.records, r)
	bytes := 0
	for i, old := range slices.Backward(t.records) {
		if bytes += size(old); bytes > k.Bytes || len(t.records)-i > k.Count {
			t.dropFirst(i + 1)
			break
		}
	}
	return r
}

func size(r history.Record) int { return len(r.Payload.Bytes()) }

func (t *topic) expire(now time.Time) { t.dropFirst(t.expired(now)) }

// expired returns the number of records that have expired at a time.
func (t *topic) expired(now time.Time) (n int) {
	for n < len(t.records) && now.Sub(t.records[n].Time) >= t.keep.Age {
		n++
	}
	return n
}

// seenAt returns the topic as a node reads it whose clock has this time.
func (t *topic) seenAt(now time.Time) *topic {
	seen := *t
	seen.records = t.records[t.expired(now):]
	return &seen
}

func (t *topic) dropFirst(n int) { t.records = slices.Delete(t.records, 0, n) }

// rollback removes the newest n records and returns them.
func (t *topic) rollback(n int) (lost []history.Record) {
	if n = min(n, len(t.records)); n > 0 {
		first := len(t.records) - n
		lost = slices.Clone(t.records[first:])
		t.top = t.records[first].Prev
		t.records = slices.Delete(t.records, first, len(t.records))
	}
	return lost
}

// read is Log.Read.
func (t *topic) read(after history.Position, limit int) (history.Batch, error) {
	switch {
	case after.IsZero():
		return history.Batch{}, history.ErrPosition
	case after.Epoch() != t.top.Epoch():
		return history.Batch{}, history.ErrEpoch
	case after == t.top:
		return history.Batch{After: after, Top: t.top}, nil
	case after.Offset() > t.top.Offset():
		return history.Batch{}, history.ErrAhead
	case after.Offset() == t.top.Offset():
		return history.Batch{}, history.ErrTag
	}
	i := t.index(after.Offset() + 1)
	if i == len(t.records) {
		return history.Batch{}, history.ErrTrimmed
	}
	switch prev := t.records[i].Prev; {
	case prev == after:
	case prev.Offset() <= after.Offset():
		return history.Batch{}, history.ErrTag
	default:
		return history.Batch{}, history.ErrTrimmed
	}
	end := min(len(t.records), i+max(limit, 1))
	return t.batch(i, end, end < len(t.records)), nil
}

// before is Log.Before.
func (t *topic) before(at history.Position, limit int) (history.Batch, error) {
	end := len(t.records) // records with a lower index are wanted
	switch {
	case at.IsZero():
	case at.Epoch() != t.top.Epoch():
		return history.Batch{}, history.ErrEpoch
	case at.Offset() > t.top.Offset():
		return history.Batch{}, history.ErrAhead
	case at.Offset() == t.top.Offset() && at != t.top:
		return history.Batch{}, history.ErrTag
	case at.Offset() == 0 && !at.IsBeginning():
		return history.Batch{}, history.ErrTag
	case at.Offset() == 0:
		return history.Batch{After: at, Top: t.top}, nil
	case len(t.records) == 0, at.Offset() < t.records[0].Position.Offset():
		return history.Batch{}, history.ErrTrimmed
	default:
		if end = t.index(at.Offset()); t.records[end].Position != at {
			return history.Batch{}, history.ErrTag
		}
	}
	from := max(0, end-max(limit, 1))
	return t.batch(from, end, from > 0), nil
}

// index returns the index of the first record whose offset is offset or higher.
func (t *topic) index(offset uint64) int {
	i, _ := slices.BinarySearchFunc(t.records, offset, func(r history.Record, offset uint64) int {
		return int(int64(r.Position.Offset()) - int64(offset)) //nolint:gosec // offsets have at most 53 bits
	})
	return i
}

// batch returns a copy of a part of the records.
func (t *topic) batch(from, end int, more bool) history.Batch {
	b := history.Batch{Records: slices.Clone(t.records[from:end]), After: t.top, Top: t.top, More: more}
	if from < len(t.records) {
		b.After = t.records[from].Prev
	}
	return b
}
