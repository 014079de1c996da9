package history

import (
	"context"
	"math"
)

// Read is part of Log.
func (m *Memory) Read(_ context.Context, topic string, after Position, limit int) (Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, top := m.known(topic)
	switch {
	case after.IsZero():
		return Batch{}, ErrPosition
	case after.epoch != top.epoch:
		return Batch{}, ErrEpoch
	case after == top:
		return Batch{After: after, Top: top}, nil
	case after.offset > top.offset:
		return Batch{}, ErrAhead
	case after.offset == top.offset:
		return Batch{}, ErrTag
	case t.count == 0:
		return Batch{}, ErrTrimmed
	}
	c := t.seek(m, max(after.offset+1, t.first()))
	switch prev := c.offset - 1; {
	case prev > after.offset:
		return Batch{}, ErrTrimmed
	case c.prev != after.tag:
		return Batch{}, ErrTag
	}
	b := Batch{Records: c.records(max(limit, 1), m.start), After: after, Top: top}
	b.More = b.Records[len(b.Records)-1].Position != top
	return b, nil
}

// Before is part of Log.
func (m *Memory) Before(_ context.Context, topic string, before Position, limit int) (Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, top := m.known(topic)
	end := before.offset // records with lower offsets are wanted
	switch {
	case before.IsZero():
		end = top.offset + 1
	case before.epoch != top.epoch:
		return Batch{}, ErrEpoch
	case before.offset > top.offset:
		return Batch{}, ErrAhead
	case before.offset == 0 && before.tag != beginningTag:
		return Batch{}, ErrTag
	case before.offset == 0:
		return Batch{After: before, Top: top}, nil
	case before.offset == top.offset && before.tag != top.tag:
		return Batch{}, ErrTag
	case before.offset < t.first():
		return Batch{}, ErrTrimmed
	}
	if t == nil || t.count == 0 {
		return Batch{After: top, Top: top}, nil
	}
	if !before.IsZero() && t.seek(m, end+1).prev != before.tag {
		return Batch{}, ErrTag
	}
	from := max(t.first(), end-min(end, uint64(max(limit, 1))))
	c := t.seek(m, from)
	return Batch{
		Records: c.records(int(end-from), m.start),
		After:   Position{top.epoch, from - 1, c.prev},
		Top:     top,
		More:    from > t.first(),
	}, nil
}

// known returns a topic without its expired records, and its top. The topic is nil if it is not
// known. The caller must hold mu.
func (m *Memory) known(topic string) (*memoryTopic, Position) {
	t := m.topics[topic]
	if t != nil {
		t.trim(m, m.now(), math.MaxInt)
	}
	return t, m.top(t)
}
