package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"bennu.example/history"
)

// errDamaged reports contents of the file that cannot have been written by this package.
var errDamaged = errors.New("the file is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tag is the tag of a position. It is "0000" at offset zero.
type tag [4]byte

var beginning = tag{'0', '0', '0', '0'}

func (t tag) valid() bool {
	for _, c := range t {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func newTag() tag { return tag([]byte(history.NewTag())) }

// maxOffset is the largest offset of a position.
const maxOffset = 1<<53 - 1

// An epoch is the base of the file, followed by the generation of the topic.
const (
	baseSize = 8
	// maxGeneration keeps an epoch within 16 characters.
	maxGeneration = 36*36*36*36*36*36*36*36 - 1
)

func epochOf(base string, generation uint64) string {
	if generation == 0 {
		return base
	}
	return base + strconv.FormatUint(generation, 36)
}

// recordKey is the key of a record: the number of its topic, and its offset.
type recordKey [16]byte

func keyOf(topic, offset uint64) (k recordKey) {
	binary.BigEndian.PutUint64(k[:8], topic)
	binary.BigEndian.PutUint64(k[8:], offset)
	return k
}

// A stored record is a header, the ID, and the record as encoded by history.Record without
// Position, Prev, ID and Time:
//
//	sum      4 bytes  checksum of the key and of what follows
//	tag      4 bytes
//	stamp    8 bytes  by the log's clock, in milliseconds
//	time     8 bytes  Record.Time in Unix milliseconds
//	payload  4 bytes  the size of the payload
//	id       1 byte   the size of the ID
const recordHeader = 4 + 4 + 8 + 8 + 4 + 1

// stored is a stored record.
type stored []byte

// encodeRecord returns a stored record without tag, stamp and time, and the record as it will be
// read.
func encodeRecord(r history.Record) (stored, history.Record, error) {
	plain := history.Record{Event: r.Event, Payload: r.Payload, From: r.From, Origin: r.Origin}
	s := make(stored, recordHeader, recordHeader+len(r.ID)+len(r.Event)+len(r.From)+len(r.Payload.Bytes())+64)
	s = append(s, r.ID...)
	s, err := plain.AppendBinary(s)
	if err != nil {
		return nil, r, err
	}
	s[28] = byte(len(r.ID))
	if plain, err = history.ParseRecord(s.rest()); err != nil {
		return nil, r, err
	}
	plain.ID = r.ID
	binary.BigEndian.PutUint32(s[24:], uint32(len(plain.Payload.Bytes())))
	return s, plain, nil
}

// seal sets what is known only when the record is stored.
func (s stored) seal(key []byte, t tag, stamp, time int64) {
	copy(s[4:8], t[:])
	binary.BigEndian.PutUint64(s[8:], uint64(stamp))
	binary.BigEndian.PutUint64(s[16:], uint64(time))
	binary.BigEndian.PutUint32(s, s.sum(key))
}

func (s stored) sum(key []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, s[4:])
}

// valid reports whether s is the record with a key. The other methods must not be called if not.
func (s stored) valid(key []byte) bool {
	return len(s) > recordHeader && len(s) > recordHeader+int(s[28]) &&
		binary.BigEndian.Uint32(s) == s.sum(key) && s.tag().valid()
}

func (s stored) tag() tag     { return tag(s[4:8]) }
func (s stored) stamp() int64 { return int64(binary.BigEndian.Uint64(s[8:])) }
func (s stored) payload() int { return int(binary.BigEndian.Uint32(s[24:])) }
func (s stored) id() []byte   { return s[recordHeader : recordHeader+int(s[28])] }
func (s stored) rest() []byte { return s[recordHeader+int(s[28]):] }

// record returns a copy as a history.Record, without its positions.
func (s stored) record() (history.Record, error) {
	s = bytes.Clone(s)
	r, err := history.ParseRecord(s.rest())
	if err != nil {
		return r, fmt.Errorf("%w: %w", errDamaged, err)
	}
	r.ID = string(s.id())
	r.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(s[16:])))
	return r, nil
}

// topic is what the file knows of a topic, apart from its records. Offsets have no holes.
type topic struct {
	number     uint64 // in the keys of its records
	generation uint64 // of its epoch
	top        uint64 // the offset of the newest record
	topTag     tag
	first      uint64 // the oldest record that is kept; top+1 if there is none
	before     tag    // of the record before first
	floor      uint64 // the oldest record that was not deleted yet
	bytes      uint64 // of the payloads from first on
	last       int64  // the stamp of the newest record, or of the topic's creation
	age        int64  // Keep.Age in milliseconds
	due        int64  // when the sweep looks at it
}

// topicSize is the size of an encoded topic: version, fields, checksum.
const topicSize = 1 + 9*8 + 2*4 + 4

const topicVersion = 1

// encode encodes a topic. The checksum includes its key.
func (t *topic) encode(key []byte) []byte {
	b := make([]byte, 0, topicSize)
	b = append(b, topicVersion)
	for _, n := range [...]uint64{
		t.number, t.generation, t.top, t.first, t.floor, t.bytes, uint64(t.last), uint64(t.age), uint64(t.due),
	} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(append(b, t.topTag[:]...), t.before[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b))
}

// parseTopic decodes an encoded topic.
func parseTopic(key, b []byte) (t topic, err error) {
	if len(b) != topicSize || b[0] != topicVersion {
		return topic{}, fmt.Errorf("%w: malformed topic", errDamaged)
	}
	end := topicSize - 4
	if binary.BigEndian.Uint32(b[end:]) != crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[:end]) {
		return topic{}, fmt.Errorf("%w: wrong checksum of a topic", errDamaged)
	}
	at := b[1:]
	next := func() uint64 {
		n := binary.BigEndian.Uint64(at)
		at = at[8:]
		return n
	}
	t = topic{number: next(), generation: next(), top: next(), first: next(), floor: next(), bytes: next()}
	t.last, t.age, t.due = int64(next()), int64(next()), int64(next())
	t.topTag, t.before = tag(at), tag(at[4:])
	if t.floor == 0 || t.floor > t.first || t.first > t.top+1 || t.top > maxOffset || t.generation > maxGeneration ||
		!t.topTag.valid() || !t.before.valid() {
		return topic{}, fmt.Errorf("%w: impossible fields of a topic", errDamaged)
	}
	return t, nil
}

// A sweep entry tells the sweep when to look at a topic, or that the records of a number are not
// needed any more. The key is the time and the number.
func sweepKey(due int64, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(max(due, 0))), number)
}

// The first byte of a sweep entry.
const (
	sweepTopic   byte = 'T' // then the key of the topic
	sweepRecords byte = 'R' // then the offsets of the oldest and the newest record
)

func encodeRange(from, to uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{sweepRecords}, from), to)
}

// sweep is a decoded sweep entry.
type sweep struct {
	due      int64
	number   uint64
	topic    []byte // the key of the topic. Nil means the records of a number that is not used any more
	from, to uint64
}

func parseSweep(key, value []byte) (s sweep, err error) {
	if len(key) != 16 || len(value) == 0 {
		return s, fmt.Errorf("%w: malformed entry of the sweep", errDamaged)
	}
	s.due, s.number = int64(binary.BigEndian.Uint64(key)), binary.BigEndian.Uint64(key[8:])
	switch {
	case value[0] == sweepTopic && len(value) > 1:
		s.topic = value[1:]
	case value[0] == sweepRecords && len(value) == 17:
		s.from, s.to = binary.BigEndian.Uint64(value[1:]), binary.BigEndian.Uint64(value[9:])
		if s.from > s.to || s.to > maxOffset {
			return sweep{}, fmt.Errorf("%w: impossible range of the sweep", errDamaged)
		}
	default:
		return s, fmt.Errorf("%w: malformed entry of the sweep", errDamaged)
	}
	return s, nil
}
