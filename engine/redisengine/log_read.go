package redisengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"bennu.example/history"
)

const (
	// maxRead and maxReadBytes bound what one call of Read or Before returns.
	maxRead      = 1250
	maxReadBytes = 8 << 20

	// hour is by how much the offset of a beginning grows in an hour, and hours how long a beginning
	// that was read before the topic had a meta is valid. It must be less than metaLife: until then a
	// meta shows that there were records, even if they have expired.
	hour  = 1 << 24
	hours = 22
	// hoursFrom is where the hours begin, in seconds.
	hoursFrom = 1767225600
)

// beginning is the tag of a beginning.
const beginning = "0000"

// topicState is what the read script returns about a topic.
type topicState struct {
	base   string // empty if there is no base epoch
	now    int64  // Unix milliseconds
	top    history.Position
	known  bool // the topic has a meta
	stream bool // the topic has records
	first  uint64
	age    int64
	stored []string // three for each record: the id, the head, and the record
}

// origin is the offset of the beginning of a topic that has no meta.
func origin(now int64) uint64 { return uint64(max(0, (now/1000-hoursFrom)/3600)) * hour }

// fetch runs the read script.
func (l *recordLog) fetch(ctx context.Context, topic, command, from, to string, limit int) (s topicState, err error) {
	q := &request{
		script: readScript,
		keys:   func() []string { return l.keys("h", topic, "") },
		args:   []string{"", command, from, to, strconv.Itoa(limit), strconv.Itoa(maxReadBytes)},
		size:   len(topic),
	}
	if err := l.reads.do(ctx, q); err != nil {
		return s, err
	}
	if s, err = parseState(q.answers[0]); err != nil {
		return s, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return s, nil
}

func parseState(answer rueidis.RedisResult) (s topicState, err error) {
	items, err := answer.ToArray()
	if err != nil {
		return s, err
	}
	if len(items) < 4 || len(items)%3 != 1 {
		return s, errAnswer
	}
	s.base, _ = items[0].ToString() // null if there is none
	now, err1 := items[1].ToString()
	s.now, err = strconv.ParseInt(now, 10, 64)
	exists, err2 := items[3].AsInt64()
	s.stream = exists > 0
	if err = errors.Join(err, err1, err2); err != nil {
		return s, errors.Join(errAnswer, err)
	}
	if items[2].IsNil() {
		if s.base != "" {
			s.first = origin(s.now)
			s.top, err = history.NewPosition(s.base, s.first, beginning)
		}
		return s, err
	}
	s.known = true
	m, err := parseMeta(items[2].ToString())
	if err != nil {
		return s, err
	}
	s.top, s.first, s.age = m.top, m.first, m.age
	for _, item := range items[4:] {
		text, err := item.ToString()
		if err != nil {
			return s, err
		}
		s.stored = append(s.stored, text)
	}
	return s, nil
}

// meta is what a log reads of a topic's meta.
type meta struct {
	top   history.Position
	first uint64 // the offset of the beginning
	age   int64  // of the records, in milliseconds
}

// parseMeta parses a topic's meta, as the function state of the scripts does.
func parseMeta(text string, err error) (m meta, _ error) {
	fields := strings.Split(text, " ")
	if err != nil || len(fields) != 8 {
		return m, errors.Join(errAnswer, err)
	}
	top, err1 := parsePosition(fields[0], fields[1], fields[2])
	first, err2 := strconv.ParseUint(fields[3], 10, 64)
	age, err3 := strconv.ParseInt(fields[6], 10, 64)
	return meta{top, first, age}, errors.Join(err1, err2, err3)
}

func parsePosition(epoch, offset, tag string) (p history.Position, err error) {
	n, err := strconv.ParseUint(offset, 10, 64)
	if err != nil {
		return p, err
	}
	return history.NewPosition(epoch, n, tag)
}

// count returns the number of records that were read.
func (s *topicState) count() int { return len(s.stored) / 3 }

// record returns a record that was read.
func (s *topicState) record(i int) (r history.Record, err error) {
	id, head, data := s.stored[3*i], s.stored[3*i+1], s.stored[3*i+2]
	offset, ok := cutID(id)
	if !ok {
		return r, errAnswer
	}
	if r, err = history.ParseRecord([]byte(data)); err != nil {
		return r, err
	}
	return r, complete(&r, s.top.Epoch(), offset, head)
}

// cutID returns the offset in the id of a stream entry.
func cutID(id string) (offset string, ok bool) {
	offset = id[:max(0, len(id)-2)]
	return offset, id == offset+"-0"
}

// expired reports whether a record is older than it may be.
func (s *topicState) expired(r *history.Record) bool { return r.Time.UnixMilli() <= s.now-s.age }

// begin returns the beginning of the topic.
func (s *topicState) begin() history.Position {
	p, _ := history.NewPosition(s.top.Epoch(), s.first, beginning) // its parts were validated
	return p
}

// isBegin reports whether p is the beginning of the topic. As long as a topic has no meta, its
// beginning changes every hour. An earlier one is equivalent unless there may have been records in
// between, whose meta has expired.
func (s *topicState) isBegin(p history.Position) bool {
	if p == s.begin() {
		return true
	}
	since := int64(s.first) - int64(p.Offset())
	return p.IsBeginning() && p.Epoch() == s.base && s.top.Epoch() == s.base &&
		p.Offset()%hour == 0 && s.first%hour == 0 && -hour <= since && since <= hours*hour
}

// check returns the error about a position that can be seen without the records. If the position is
// an equivalent of the beginning, the result is the beginning.
func (s *topicState) check(p history.Position) (history.Position, error) {
	switch {
	case s.base == "" && !s.known, s.stream && !s.known, p.Epoch() != s.top.Epoch():
		return p, history.ErrEpoch
	case s.isBegin(p):
		return s.begin(), nil
	case p.Offset() > s.top.Offset():
		return p, history.ErrAhead
	case p.Offset() == s.top.Offset() && p != s.top:
		return p, history.ErrTag
	}
	return p, nil
}

// Read is part of history.Log.
func (l *recordLog) Read(ctx context.Context, topic string, after history.Position, limit int) (history.Batch, error) {
	if after.IsZero() {
		return history.Batch{}, l.wrap("read", topic, history.ErrPosition)
	}
	from := after.Offset() + 1
	if after.IsBeginning() && from > hour {
		from -= hour // the topic may have been born according to a clock that was behind
	}
	s, err := l.fetch(ctx, topic, "XRANGE", strconv.FormatUint(from, 10), "+", min(max(limit, 1), maxRead))
	if err != nil {
		return history.Batch{}, l.wrap("read", topic, err)
	}
	b, err := s.after(after)
	return b, l.wrap("read", topic, err)
}

// after decides whether a position can be continued.
func (s *topicState) after(p history.Position) (history.Batch, error) {
	as, err := s.check(p)
	if err != nil {
		return history.Batch{}, err
	}
	b := history.Batch{After: p, Top: s.top}
	if as == s.top {
		return b, nil
	}
	for i := range s.count() {
		r, err := s.record(i)
		switch {
		case err != nil:
			return history.Batch{}, fmt.Errorf("%w: %w", history.ErrTrimmed, err)
		case i == 0 && s.expired(&r), i == 0 && r.Prev.Offset() > as.Offset():
			return history.Batch{}, history.ErrTrimmed
		case i == 0 && r.Prev != as:
			return history.Batch{}, history.ErrTag
		case i == 0:
			r.Prev = p
		}
		b.Records = append(b.Records, r)
	}
	if len(b.Records) == 0 {
		return history.Batch{}, history.ErrTrimmed
	}
	b.More = b.Records[len(b.Records)-1].Position.Offset() < s.top.Offset()
	return b, nil
}

// Before is part of history.Log.
func (l *recordLog) Before(
	ctx context.Context, topic string, before history.Position, limit int,
) (history.Batch, error) {
	limit = min(max(limit, 1), maxRead)
	from, more := "+", 1 // one more shows whether there are more
	if !before.IsZero() {
		from, more = strconv.FormatUint(before.Offset(), 10), 2
	}
	for {
		s, err := l.fetch(ctx, topic, "XREVRANGE", from, "-", limit+more)
		if err == nil && s.base == "" && !s.known && before.IsZero() {
			if err = l.makeBase(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return history.Batch{}, l.wrap("read", topic, err)
		}
		b, err := s.before(before, limit)
		return b, l.wrap("read", topic, err)
	}
}

// before returns the records before a position. The newest record was read first.
func (s *topicState) before(p history.Position, limit int) (history.Batch, error) {
	b := history.Batch{After: s.top, Top: s.top}
	if !p.IsZero() {
		as, err := s.check(p)
		switch {
		case err != nil:
			return history.Batch{}, err
		case as == s.begin():
			b.After = p
			return b, nil
		case as.Offset() == s.first:
			return history.Batch{}, history.ErrTag
		}
	}
	var records []history.Record
	for i := range s.count() {
		r, err := s.record(i)
		if err != nil {
			return history.Batch{}, fmt.Errorf("%w: %w", history.ErrTrimmed, err)
		}
		if s.expired(&r) {
			break
		}
		records = append(records, r)
	}
	if !p.IsZero() {
		if len(records) == 0 || records[0].Position.Offset() != p.Offset() {
			return history.Batch{}, history.ErrTrimmed
		}
		if records[0].Position != p {
			return history.Batch{}, history.ErrTag
		}
		b.After = records[0].Prev
		records = records[1:]
	}
	b.More = len(records) > limit
	b.Records = records[:min(len(records), limit)]
	slices.Reverse(b.Records)
	if len(b.Records) > 0 {
		b.After = b.Records[0].Prev
	}
	return b, nil
}
