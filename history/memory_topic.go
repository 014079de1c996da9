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
	places   [heaps]place
	used     int64 // the number of the last append to it or, if that was later, Unwatch of it

	chunks  []chunk // oldest first; none is empty
	count   int     // records
	payload int     // bytes of their payloads
	before  tag     // of the record before the oldest one
	ids     map[string]identified
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

// A record is encoded as a header of fixed size, which is all that removing it looks at:
//
//	size     4 bytes  of the whole record
//	body     2 bytes  where the payload begins
//	kind     1 byte
//	idSize   1 byte   of the ID, which follows the header
//	tag      4 bytes
//
// then the ID, the age and the drift, the other texts with their sizes, and the payload.
const headerSize = 4 + 2 + 1 + 1 + len(tag{})

// stored is an encoded record.
type stored []byte

// firstStored returns the first record of data.
func firstStored(data []byte) stored { return data[:binary.LittleEndian.Uint32(data)] }

func (s stored) body() []byte { return s[binary.LittleEndian.Uint16(s[4:]):] }
func (s stored) kind() byte   { return s[6] }
func (s stored) id() []byte   { return s[headerSize : headerSize+int(s[7])] }
func (s stored) tag() tag     { return tag(s[8:headerSize]) }

// age returns when the record was stored, in milliseconds since the Memory's start by the monotonic
// clock.
func (s stored) age() int64 {
	age, _ := binary.Uvarint(s[headerSize+int(s[7]):])
	return int64(age)
}

// storedSize returns the size of an encoded record, and where its payload begins. The drift is what
// must be added to the age for the wall clock.
func storedSize(r *Record, body []byte, age, drift int64) (size, at int) {
	at = headerSize + len(r.ID) + uvarintSize(uint64(age)) + uvarintSize(uint64(drift)<<1^uint64(drift>>63))
	for _, s := range [...]string{r.Event, r.From, r.Origin} {
		at += uvarintSize(uint64(len(s))) + len(s)
	}
	return at + len(body), at
}

func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// appendStored appends the encoding of a record.
func appendStored(dst []byte, r *Record, body []byte, age, drift int64, size, at int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(size))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(at))
	kind := kindJSON
	if r.Payload.IsBinary() {
		kind = kindBinary
	}
	dst = append(dst, kind, byte(len(r.ID)))
	dst = append(dst, r.Position.tag[:]...)
	dst = append(dst, r.ID...)
	dst = binary.AppendUvarint(dst, uint64(age))
	dst = binary.AppendVarint(dst, drift)
	for _, s := range [...]string{r.Event, r.From, r.Origin} {
		dst = appendString(dst, s)
	}
	return append(dst, body...)
}

// record returns a copy as a Record.
func (s stored) record(at, prev Position, start time.Time) Record {
	r := Record{Position: at, Prev: prev, ID: string(s.id())}
	d := decoder{data: s[headerSize+len(r.ID):]}
	age := int64(d.uvarint())
	r.Time = time.UnixMilli(start.UnixMilli() + age + d.varint())
	r.Event, r.From, r.Origin = d.string(), d.string(), d.string()
	if s.kind() == kindBinary {
		r.Payload = serializer.Binary(bytes.Clone(s.body()))
	} else {
		r.Payload = jsonPayload(s.body())
	}
	return r
}

// add stores a record behind the others.
func (t *memoryTopic) add(m *Memory, r *Record, body []byte, age int64) {
	drift := r.Time.UnixMilli() - m.start.UnixMilli() - age
	size, at := storedSize(r, body, age, drift)
	if n := len(t.chunks); n == 0 || cap(t.chunks[n-1].buf)-len(t.chunks[n-1].buf) < size {
		// A chunk has about a sixteenth of the records, because on average half of the first and of the
		// last chunk is unused.
		room := min(size*max(2, t.count/16), max(size, maxChunk))
		c := chunk{buf: m.buffer(room)}
		m.bytes += cap(c.buf) + chunkOverhead
		t.chunks = append(t.chunks, c)
	}
	c := &t.chunks[len(t.chunks)-1]
	c.buf = appendStored(c.buf, r, body, age, drift, size, at)
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
// unused buffers have at most 1/32 of the bytes of the others, but at least two fit.
func (m *Memory) recycle(b []byte) {
	m.spare = append(m.spare, b)
	for m.spared += cap(b); m.spared > max(m.bytes/32, 2*maxChunk); {
		m.spared -= cap(m.spare[0])
		m.spare[0] = nil
		m.spare = m.spare[1:]
	}
}

// dropFirst removes the oldest record.
func (t *memoryTopic) dropFirst(m *Memory) {
	c := &t.chunks[0]
	s := firstStored(c.buf[c.head:])
	if id := s.id(); len(id) > 0 {
		m.bytes -= idOverhead
		if t.ids[string(id)].offset == t.first() {
			delete(t.ids, string(id))
		}
	}
	t.before = s.tag()
	t.count--
	t.payload -= len(s.body())
	c.head += int32(len(s))
	if c.count--; c.count > 0 {
		return
	}
	m.bytes -= cap(c.buf) + chunkOverhead
	m.recycle(c.buf)
	t.chunks[0] = chunk{}
	t.chunks = t.chunks[1:]
	if t.count == 0 {
		t.chunks, t.ids = nil, nil
		m.silence.remove(t)
		m.expiry.remove(t)
	}
}

// clear removes all records.
func (t *memoryTopic) clear(m *Memory) {
	for t.count > 0 {
		t.dropFirst(m)
	}
}

func (t *memoryTopic) lastUse() int64 { return t.used }

// due returns an age before which no record expires.
func (t *memoryTopic) due() int64 { return t.places[heapExpiry].key }

// expires returns the age at which the oldest record expires.
func (t *memoryTopic) expires() int64 { return t.oldest() + t.keep.Age.Milliseconds() }

// trim removes the records that have expired, but at most limit. It returns their number. Usually
// due shows that none has, without a look at the oldest record, which is in no processor's cache.
func (t *memoryTopic) trim(m *Memory, age int64, limit int) (removed int) {
	if t.count == 0 || age < t.due() {
		return 0
	}
	for ; removed < limit && t.count > 0 && t.oldest() <= age-t.keep.Age.Milliseconds(); removed++ {
		t.dropFirst(m)
	}
	if t.count > 0 {
		m.expiry.set(t, t.expires())
	}
	return removed
}

// first returns the offset of the oldest record.
func (t *memoryTopic) first() uint64 { return t.top.offset - uint64(t.count) + 1 }

// oldest returns the age of the oldest record.
func (t *memoryTopic) oldest() int64 {
	c := &t.chunks[0]
	return firstStored(c.buf[c.head:]).age()
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
	s := firstStored(chunk.buf[max(c.at, int(chunk.head)):])
	c.at = max(c.at, int(chunk.head)) + len(s)
	if c.at == len(chunk.buf) {
		c.chunk, c.at = c.chunk+1, 0
	}
	c.offset++
	c.prev = s.tag()
	return s
}

// records returns copies of at most limit records from the cursor on.
func (c cursor) records(limit int, start time.Time) []Record {
	epoch := c.t.top.epoch
	all := make([]Record, min(limit, int(c.t.top.offset+1-c.offset)))
	for i := range all {
		prev := Position{epoch, c.offset - 1, c.prev}
		s := c.next()
		all[i] = s.record(Position{epoch, c.offset - 1, s.tag()}, prev, start)
	}
	return all
}
