package history

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"time"

	"bennu.example/serializer"
)

// memoryTopic is a topic of a Memory. Its records are encoded one after the other in chunks, so
// that a record costs few bytes beyond its payload, and the garbage collector has little to scan.
type memoryTopic struct {
	name     string
	top      Position
	keep     Keep // of the last append
	watchers int
	links    [lists]struct{ prev, next *memoryTopic }

	chunks  []chunk // oldest first; none is empty
	count   int     // records
	payload int     // bytes of their payloads
	before  tag     // of the record before the oldest one
	ids     map[string]identified

	due   int64 // no record expires before this age
	index int   // in the expiryHeap; -1: not there
}

// identified is a record that was appended with an ID.
type identified struct {
	offset uint64
	age    int64
}

// idOverhead is the memory of an entry of ids, about.
const idOverhead = 2*maxID + 16

// chunk holds encoded records. The first begins at head.
type chunk struct {
	buf   []byte
	head  int32
	count int32
}

// maxChunk bounds the size of chunks, except that a larger record has a chunk of its own.
const maxChunk = 32 << 10

// chunkOverhead is the memory of a chunk beyond its buffer.
const chunkOverhead = 48

const (
	kindJSON byte = iota
	kindBinary
)

// stored is an encoded record, divided into its fields. They alias the chunk.
type stored struct {
	size    int // of the encoding
	kind    byte
	tag     tag
	age     int64 // milliseconds since the Memory's start, by the monotonic clock
	drift   int64 // what must be added for the wall clock
	texts   [4][]byte
	payload []byte
}

// storedSize returns the size of an encoded record.
func storedSize(r *Record, body []byte, age, drift int64) int {
	n := 4 + 1 + len(tag{}) + uvarintSize(uint64(age)) + uvarintSize(uint64(drift)<<1^uint64(drift>>63)) + len(body)
	for _, s := range [...]string{r.Event, r.ID, r.From, r.Origin} {
		n += uvarintSize(uint64(len(s))) + len(s)
	}
	return n
}

func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// appendStored appends the encoding of a record: the size of what follows, and the fields.
func appendStored(dst []byte, r *Record, body []byte, age, drift int64) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	kind := kindJSON
	if r.Payload.IsBinary() {
		kind = kindBinary
	}
	dst = append(dst, kind)
	dst = append(dst, r.Position.tag[:]...)
	dst = binary.AppendUvarint(dst, uint64(age))
	dst = binary.AppendVarint(dst, drift)
	for _, s := range [...]string{r.Event, r.ID, r.From, r.Origin} {
		dst = appendString(dst, s)
	}
	dst = append(dst, body...)
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}

// parseStored divides the first record of data into its fields.
func parseStored(data []byte) (s stored) {
	s.size = int(binary.LittleEndian.Uint32(data))
	d := decoder{data: data[4:s.size:s.size]}
	s.kind = d.byte()
	s.tag = tag(d.take(uint64(len(tag{}))))
	s.age = int64(d.uvarint())
	s.drift = d.varint()
	for i := range s.texts {
		s.texts[i] = d.take(d.uvarint())
	}
	s.payload = d.data
	return s
}

// record returns a copy as a Record.
func (s *stored) record(at, prev Position, start time.Time) Record {
	r := Record{
		Position: at, Prev: prev,
		Event: string(s.texts[0]), ID: string(s.texts[1]), From: string(s.texts[2]), Origin: string(s.texts[3]),
		Time: time.UnixMilli(start.UnixMilli() + s.age + s.drift),
	}
	if s.kind == kindBinary {
		r.Payload = serializer.Binary(bytes.Clone(s.payload))
	} else {
		r.Payload = jsonPayload(s.payload)
	}
	return r
}

// add stores a record behind the others.
func (t *memoryTopic) add(m *Memory, r *Record, body []byte, age int64) {
	drift := r.Time.UnixMilli() - m.start.UnixMilli() - age
	size := storedSize(r, body, age, drift)
	if n := len(t.chunks); n == 0 || cap(t.chunks[n-1].buf)-len(t.chunks[n-1].buf) < size {
		// A chunk has about a sixteenth of the records, because on average half of the first and of the
		// last chunk is unused.
		room := min(size*max(2, t.count/16), max(size, maxChunk))
		c := chunk{buf: m.buffer(room)}
		m.bytes += cap(c.buf) + chunkOverhead
		t.chunks = append(t.chunks, c)
	}
	c := &t.chunks[len(t.chunks)-1]
	c.buf = appendStored(c.buf, r, body, age, drift)
	c.count++
	t.count++
	t.payload += len(body)
	if r.ID != "" {
		if t.ids == nil {
			t.ids = make(map[string]identified)
		}
		t.ids[strings.Clone(r.ID)] = identified{r.Position.offset, age}
		m.bytes += idOverhead
	}
}

// buffer returns an empty buffer with room for about n bytes.
func (m *Memory) buffer(n int) []byte {
	const tries = 4
	last := len(m.spare) - 1
	for i := last; i >= max(0, last-tries); i-- {
		if b := m.spare[i]; cap(b) >= n && cap(b) <= n+n/4 {
			m.spared -= cap(b)
			m.spare[i] = m.spare[last]
			m.spare[last] = nil
			m.spare = m.spare[:last]
			return b[:0]
		}
	}
	return slices.Grow[[]byte](nil, n)
}

// recycle keeps the buffer of a chunk for a new one. Reading copies, so nothing refers to it. The
// unused buffers have at most a sixteenth of the bytes of the others.
func (m *Memory) recycle(b []byte) {
	m.spare = append(m.spare, b)
	for m.spared += cap(b); m.spared > m.bytes/16; {
		m.spared -= cap(m.spare[0])
		m.spare[0] = nil
		m.spare = m.spare[1:]
	}
}

// dropFirst removes the oldest record.
func (t *memoryTopic) dropFirst(m *Memory) {
	c := &t.chunks[0]
	s := parseStored(c.buf[c.head:])
	if id := s.texts[1]; len(id) > 0 {
		m.bytes -= idOverhead
		if t.ids[string(id)].offset == t.first() {
			delete(t.ids, string(id))
		}
	}
	t.before = s.tag
	t.count--
	t.payload -= len(s.payload)
	c.head += int32(s.size)
	if c.count--; c.count > 0 {
		return
	}
	m.bytes -= cap(c.buf) + chunkOverhead
	m.recycle(c.buf)
	t.chunks[0] = chunk{}
	t.chunks = t.chunks[1:]
	if t.count == 0 {
		t.chunks, t.ids = nil, nil
		m.filled.remove(t)
		m.expiry.remove(t)
	}
}

// clear removes all records.
func (t *memoryTopic) clear(m *Memory) {
	for t.count > 0 {
		t.dropFirst(m)
	}
}

// trim removes the records that have expired, but at most limit. It returns their number. Usually
// due shows that none has, without a look at the oldest record, which is in no processor's cache.
func (t *memoryTopic) trim(m *Memory, age int64, limit int) (removed int) {
	if t.count == 0 || age < t.due {
		return 0
	}
	for ; removed < limit && t.count > 0 && t.oldest() <= age-t.keep.Age.Milliseconds(); removed++ {
		t.dropFirst(m)
	}
	if t.count > 0 {
		t.due = t.oldest() + t.keep.Age.Milliseconds()
		m.expiry.fix(t.index)
	}
	return removed
}

// first returns the offset of the oldest record.
func (t *memoryTopic) first() uint64 { return t.top.offset - uint64(t.count) + 1 }

// oldest returns the age of the oldest record.
func (t *memoryTopic) oldest() int64 {
	c := &t.chunks[0]
	s := parseStored(c.buf[c.head:])
	return s.age
}

// find returns the record with an ID, if it was stored at the given age or later.
func (t *memoryTopic) find(id string, since int64, start time.Time) (Record, bool) {
	if id == "" {
		return Record{}, false
	}
	found, ok := t.ids[id]
	if !ok || found.age < since {
		return Record{}, false
	}
	return t.seek(found.offset).records(1, start)[0], true
}

// cursor is a place before a record of a topic.
type cursor struct {
	t      *memoryTopic
	chunk  int // index
	at     int // in the chunk
	offset uint64
	prev   tag // of the record before it
}

// seek returns the place before the record with an offset, which must be retained or the one after
// the top.
func (t *memoryTopic) seek(offset uint64) cursor {
	c := cursor{t: t, offset: t.first(), prev: t.before}
	for c.offset < offset {
		if chunk := &t.chunks[c.chunk]; c.at == 0 && c.offset+uint64(chunk.count) < offset {
			c.offset += uint64(chunk.count)
			c.chunk++
			continue
		}
		c.next()
	}
	return c
}

// next returns the record at the cursor and moves behind it.
func (c *cursor) next() stored {
	chunk := &c.t.chunks[c.chunk]
	s := parseStored(chunk.buf[max(c.at, int(chunk.head)):])
	c.at = max(c.at, int(chunk.head)) + s.size
	if c.at == len(chunk.buf) {
		c.chunk, c.at = c.chunk+1, 0
	}
	c.offset++
	c.prev = s.tag
	return s
}

// records returns copies of at most limit records from the cursor on.
func (c cursor) records(limit int, start time.Time) []Record {
	epoch := c.t.top.epoch
	all := make([]Record, min(limit, int(c.t.top.offset+1-c.offset)))
	for i := range all {
		prev := Position{epoch, c.offset - 1, c.prev}
		s := c.next()
		all[i] = s.record(Position{epoch, c.offset - 1, s.tag}, prev, start)
	}
	return all
}
