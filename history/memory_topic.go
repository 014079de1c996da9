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
//
// The old chunks of many topics are in no processor's cache, so an append does not read them. It
// only counts the records that it removes in skipped. Their chunk is removed as a whole once all of
// its records are skipped. A reader calls settle first, which passes over the skipped records one
// by one. The first fields are those that an append uses.
type memoryTopic struct {
	top     Position
	used    int64 // the number of the last append to it or, if that was later, Unwatch of it
	keepFor int64 // Keep.Age of the last append, in milliseconds
	payload int   // bytes of the payloads, and of those of skipped records
	count   int32 // records
	skipped int32 // removed records at the beginning of the oldest chunk, before its head is moved
	oldest  int32 // records of older[0], with those that are skipped; -1: older is empty
	newest  chunk // the newest chunk if there are records
	ids     map[string]identified
	places  [heaps]place
	// With the 128 bytes until the key of the first place, an append uses two cache lines: objects of
	// 256 bytes are aligned.
	_ [32]byte

	name     string
	watchers int
	older    []chunk // the other chunks, oldest first; none is empty
	before   tag     // of the record before the head of the oldest chunk
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
	buf     []byte
	head    int32
	count   int32 // records from head on
	payload int32 // bytes of their payloads
	last    tag   // of the newest record
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
	at = headerSize + len(r.ID) + uvarintSize(uint64(age)) + uvarintSize(zigzag(drift)) +
		textSize(r.Event) + textSize(r.From) + textSize(r.Origin)
	return at + len(body), at
}

func textSize(s string) int { return uvarintSize(uint64(len(s))) + len(s) }

func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// zigzag returns the unsigned form of v in package encoding/binary.
func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

// put encodes a record into s, which has the size that storedSize returned.
func (s stored) put(r *Record, body []byte, age, drift int64, at int) {
	kind := kindJSON
	if r.Payload.IsBinary() {
		kind = kindBinary
	}
	binary.LittleEndian.PutUint64(s, uint64(len(s))|uint64(at)<<32|uint64(kind)<<48|uint64(len(r.ID))<<56)
	copy(s[8:], r.Position.tag[:])
	i := headerSize + copy(s[headerSize:], r.ID)
	i += binary.PutUvarint(s[i:], uint64(age))
	i += binary.PutVarint(s[i:], drift)
	i += putText(s[i:], r.Event)
	i += putText(s[i:], r.From)
	putText(s[i:], r.Origin)
	copy(s[at:], body)
}

func putText(s []byte, text string) int {
	n := binary.PutUvarint(s, uint64(len(text)))
	return n + copy(s[n:], text)
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
	size, at := storedSize(r, body, age, m.drift)
	c := &t.newest
	n := len(c.buf)
	if cap(c.buf)-n < size {
		if c.buf != nil {
			if len(t.older) == 0 {
				t.oldest = c.count
			}
			t.older = append(t.older, *c)
		}
		// A chunk has about a sixteenth of the records, because on average half of the first and of the
		// last chunk is unused.
		room := min(size*max(2, int(t.count)/16), max(size, maxChunk))
		*c = chunk{buf: m.buffer(room)}
		n = 0
		m.bytes += cap(c.buf) + chunkOverhead
	}
	c.buf = c.buf[:n+size]
	stored(c.buf[n:]).put(r, body, age, m.drift, at)
	c.count++
	c.payload += int32(len(body))
	c.last = r.Position.tag
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

// drop removes the n oldest records, which must be of the oldest chunk.
func (t *memoryTopic) drop(m *Memory, n int32) {
	t.count -= n
	t.skipped += n
	if len(t.ids) > 0 {
		t.settle(m)
	}
	if t.skipped == t.oldest || t.count == 0 {
		t.dropChunk(m)
	}
}

// settle moves the head of the oldest chunk behind the removed records. Then payload is exact.
func (t *memoryTopic) settle(m *Memory) {
	for c := t.chunk(0); t.skipped > 0; t.skipped-- {
		s := firstStored(c.buf[c.head:])
		if id := s.id(); len(id) > 0 {
			m.bytes -= idOverhead
			if t.ids[string(id)].offset == t.first()-uint64(t.skipped) {
				delete(t.ids, string(id))
			}
		}
		size := len(s.body())
		c.payload -= int32(size)
		t.payload -= size
		c.head += int32(len(s))
		c.count--
		if len(t.older) > 0 {
			t.oldest--
		}
		t.before = s.tag()
	}
}

// dropChunk removes the oldest chunk, whose records are removed.
func (t *memoryTopic) dropChunk(m *Memory) {
	c := t.chunk(0)
	m.bytes -= cap(c.buf) + chunkOverhead
	m.recycle(c.buf)
	t.payload -= int(c.payload)
	t.before = c.last
	*c = chunk{}
	if len(t.older) > 0 {
		t.older = t.older[1:]
	}
	t.skipped, t.oldest = 0, -1
	if len(t.older) > 0 {
		t.oldest = t.older[0].count
	}
	if t.count == 0 {
		t.older, t.ids = nil, nil
		m.silence.remove(t)
		m.expiry.remove(t)
	}
}

// dropOldest removes the records of the oldest chunk.
func (t *memoryTopic) dropOldest(m *Memory) { t.drop(m, t.chunk(0).count-t.skipped) }

// bound removes the records beyond the bounds of k.
func (t *memoryTopic) bound(m *Memory, k *Keep) {
	for int(t.count) > k.Count {
		t.drop(m, 1)
	}
	for t.payload > k.Bytes {
		if t.skipped == 0 {
			t.drop(m, 1)
		}
		t.settle(m)
	}
}

// clear removes all records.
func (t *memoryTopic) clear(m *Memory) {
	for t.count > 0 {
		t.dropOldest(m)
	}
}

// chunk returns a chunk by its index. The oldest has 0.
func (t *memoryTopic) chunk(i int) *chunk {
	if i < len(t.older) {
		return &t.older[i]
	}
	return &t.newest
}

func (t *memoryTopic) lastUse() int64 { return t.used }

// due returns an age before which no record expires.
func (t *memoryTopic) due() int64 { return t.places[heapExpiry].key }

// expires returns the age at which the oldest record expires.
func (t *memoryTopic) expires() int64 { return t.oldestAge() + t.keepFor }

// trim removes the records that have expired, but at most limit. It returns their number. Usually
// due shows that none has.
func (t *memoryTopic) trim(m *Memory, age int64, limit int) (removed int) {
	if t.count == 0 || age < t.due() {
		return 0
	}
	for ; removed < limit && t.count > 0 && t.expires() <= age; removed++ {
		t.drop(m, 1)
		t.settle(m)
	}
	if t.count > 0 {
		m.expiry.set(t, t.expires())
	}
	return removed
}

// first returns the offset of the oldest record.
func (t *memoryTopic) first() uint64 { return t.top.offset - uint64(t.count) + 1 }

// oldestAge returns the age of the oldest record.
func (t *memoryTopic) oldestAge() int64 {
	c := t.chunk(0)
	data := c.buf[c.head:]
	for range t.skipped {
		data = data[len(firstStored(data)):]
	}
	return firstStored(data).age()
}

// find returns the record with an ID, if it was stored at the given age or later.
func (t *memoryTopic) find(m *Memory, id string, since int64) (Record, bool) {
	found, ok := t.ids[id]
	if !ok || found.age < since {
		return Record{}, false
	}
	return t.seek(m, found.offset).records(1, m.start)[0], true
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
func (t *memoryTopic) seek(m *Memory, offset uint64) cursor {
	t.settle(m)
	c := cursor{t: t, offset: t.first(), prev: t.before}
	for c.offset < offset {
		if chunk := t.chunk(c.chunk); c.at == 0 && c.offset+uint64(chunk.count) < offset {
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
	chunk := c.t.chunk(c.chunk)
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
