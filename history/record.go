package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"bennu.example/serializer"
)

const (
	maxID     = 64
	maxOrigin = 40
)

// Record is one recorded event. It must not be changed once it was appended.
type Record struct {
	Position Position // set by the log
	Prev     Position // the record before it, or a beginning; zero if the log does not know it

	Event   string
	Payload serializer.Payload // an object or binary

	// ID identifies the event for Log.Append, which stores it once. Empty means no ID. It has at most
	// 64 bytes.
	ID string

	From   string    // names the client and its user that sent a BroadcastFrom; empty if nobody is left out
	Origin string    // set by PubSub, at most 40 bytes; a log stores it and does not use it
	Time   time.Time // when the log stored it, by the log's clock, in milliseconds
}

var (
	errRecord    = errors.New("history: malformed record")
	errNotObject = errors.New("a recorded event must be an object or binary")
)

// recordVersion is the first byte of an encoded record.
const recordVersion = 1

// The flags of an encoded record.
const (
	flagPosition  = 1 << iota // it has a Position
	flagPrev                  // it has a Prev
	flagPrevTag               // the tag of Prev is known
	flagPrevEpoch             // the epoch of Prev is not that of Position
	flagsEnd
)

// makeStorable brings a payload into the form in which a log stores it, binary or an object as
// JSON, and returns its bytes. The error wraps serializer.ErrPayload.
func makeStorable(p *serializer.Payload) (body []byte, err error) {
	if body = p.Bytes(); body == nil {
		if *p, err = p.Encoded(); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		body = p.Bytes()
	}
	if p.IsBinary() {
		return body, nil
	}
	raw, err := p.JSON()
	if err == nil && (len(raw) == 0 || raw[0] != '{') {
		err = fmt.Errorf("%w: %w", serializer.ErrPayload, errNotObject)
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if len(body) == 0 || &body[0] != &raw[0] { // it was not JSON
		*p = jsonPayload(raw)
	}
	return raw, nil
}

// jsonPayload returns a payload with a copy of raw, which must be valid.
func jsonPayload(raw []byte) (p serializer.Payload) {
	_ = p.UnmarshalJSON(raw) // never fails
	return p
}

// AppendBinary appends r in the encoding in which logs store and send records. A payload that is
// not binary is encoded as JSON. The error wraps serializer.ErrPayload.
func (r *Record) AppendBinary(dst []byte) ([]byte, error) {
	payload := r.Payload
	if _, err := makeStorable(&payload); err != nil {
		return dst, err
	}
	if !r.Position.IsZero() && r.Position.tag == (tag{}) {
		return dst, errRecord
	}
	flags := byte(0)
	if !r.Position.IsZero() {
		flags |= flagPosition
	}
	if !r.Prev.IsZero() {
		flags |= flagPrev
		if r.Prev.tag != (tag{}) {
			flags |= flagPrevTag
		}
		if r.Prev.epoch != r.Position.epoch {
			flags |= flagPrevEpoch
		}
	}
	dst = append(dst, recordVersion, flags)
	if flags&flagPosition != 0 {
		dst = appendString(dst, r.Position.epoch)
		dst = binary.AppendUvarint(dst, r.Position.offset)
		dst = append(dst, r.Position.tag[:]...)
	}
	if flags&flagPrev != 0 {
		if flags&flagPrevEpoch != 0 {
			dst = appendString(dst, r.Prev.epoch)
		}
		dst = binary.AppendUvarint(dst, r.Prev.offset)
		if flags&flagPrevTag != 0 {
			dst = append(dst, r.Prev.tag[:]...)
		}
	}
	dst = binary.AppendVarint(dst, milliseconds(r.Time))
	for _, s := range [...]string{r.Event, r.ID, r.From, r.Origin} {
		dst = appendString(dst, s)
	}
	return payload.AppendBinary(dst)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// milliseconds returns a time as Unix milliseconds. The zero Time is 0.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// ParseRecord decodes the encoding of AppendBinary. The payload of the result aliases data, which
// must not be changed afterwards. It validates the record and allocates no more than data has
// bytes.
func ParseRecord(data []byte) (Record, error) {
	d := decoder{data: data}
	if d.byte() != recordVersion {
		return Record{}, errRecord
	}
	var r Record
	flags := d.byte()
	if flags >= flagsEnd || flags&flagPrev == 0 && flags&(flagPrevTag|flagPrevEpoch) != 0 {
		return Record{}, errRecord
	}
	if flags&flagPosition != 0 {
		r.Position = d.position(d.string(), true)
	}
	if flags&flagPrev != 0 {
		epoch := r.Position.epoch
		if flags&flagPrevEpoch != 0 {
			epoch = d.string()
		}
		r.Prev = d.position(epoch, flags&flagPrevTag != 0)
	}
	r.Time = timeOf(d.varint())
	r.Event, r.ID, r.From, r.Origin = d.string(), d.string(), d.string(), d.string()
	if d.failed || len(r.ID) > maxID || len(r.Origin) > maxOrigin {
		return Record{}, errRecord
	}
	if err := r.Payload.UnmarshalBinary(d.data); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	if raw := r.Payload.Bytes(); !r.Payload.IsBinary() && (len(raw) == 0 || raw[0] != '{') {
		return Record{}, errRecord // not an object as JSON
	}
	return r, nil
}

// decoder reads the fields of an encoded record. After an error it returns zero values.
type decoder struct {
	data   []byte
	failed bool
}

func (d *decoder) take(n uint64) []byte {
	if d.failed || n > uint64(len(d.data)) {
		d.failed = true
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.failed = true
	}
	d.take(uint64(max(n, 0)))
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.failed = true
	}
	d.take(uint64(max(n, 0)))
	return v
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

// position reads the offset and, if it is known, the tag of a position.
func (d *decoder) position(epoch string, tagged bool) Position {
	offset, text := d.uvarint(), beginningTag[:]
	if tagged {
		text = d.take(uint64(len(tag{})))
	}
	p, ok := newPosition(epoch, offset, string(text))
	if !ok {
		d.failed = true
	}
	if !tagged {
		p.tag = tag{}
	}
	return p
}
