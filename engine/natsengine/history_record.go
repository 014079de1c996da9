package natsengine

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/history"
)

// The kinds of messages in the stream.
const (
	kindRecord byte = iota + 1
	// kindForgotten is stored by Forget, in place of everything that the topic had before.
	kindForgotten
	// kindLandmark is stored from time to time. See landmarkSubject.
	kindLandmark
)

// storedVersion is the first byte of a stored message.
const storedVersion = 1

// beginningTag is the tag of positions that name no record.
const beginningTag = "0000"

// Bounds of the texts of a record, as those of history.Memory.
const (
	maxTexts  = 32 << 10
	maxID     = 64
	maxOrigin = 40
)

var errMalformed = errors.New("a malformed message in the stream")

// message is a message of the stream.
type message struct {
	subject string
	seq     uint64
	at      time.Time // when the stream stored it, by the server's clock
	kind    byte      // malformed messages count as kindForgotten
	keep    history.Keep
	epoch   string // as the node knew it that stored the message
	rec     history.Record
}

// isRecord reports whether m is a record, and not a marker.
func (m *message) isRecord() bool { return m.kind == kindRecord }

// appendHead appends what precedes a record in its stored form, and is all of a marker: the
// version, the kind, what is kept of the topic, the epoch and the tag. The offset is the stream's
// sequence.
func appendHead(dst []byte, kind byte, k history.Keep, epoch, tag string) []byte {
	dst = append(dst, storedVersion, kind)
	dst = binary.AppendUvarint(dst, uint64(k.Count))
	dst = binary.AppendUvarint(dst, uint64(k.Age.Milliseconds()))
	dst = append(append(dst, byte(len(epoch))), epoch...)
	return append(dst, tag...)
}

// newMarker returns the stored form of a marker.
func newMarker(kind byte, epoch string) []byte {
	return appendHead(nil, kind, history.Keep{}, epoch, beginningTag)
}

// head is what precedes a record in its stored form.
type head struct {
	kind  byte
	keep  history.Keep
	epoch string
	tag   string
	rest  []byte
}

// parseHead decodes the form of appendHead.
func parseHead(data []byte) (h head, ok bool) {
	if len(data) < 2 || data[0] != storedVersion || data[1] < kindRecord || data[1] > kindLandmark {
		return h, false
	}
	h.kind = data[1]
	data = data[2:]
	var numbers [2]uint64
	for i := range numbers {
		v, n := binary.Uvarint(data)
		if n <= 0 || v > math.MaxInt64/uint64(time.Millisecond) {
			return h, false
		}
		numbers[i], data = v, data[n:]
	}
	h.keep.Count, h.keep.Age = int(numbers[0]), time.Duration(numbers[1])*time.Millisecond
	if len(data) < 1 || len(data) < 1+int(data[0])+len(beginningTag) {
		return h, false
	}
	end := 1 + int(data[0])
	h.epoch, h.tag = string(data[1:end]), string(data[end:end+len(beginningTag)])
	h.rest = data[end+len(beginningTag):]
	return h, (h.tag == beginningTag) == (h.kind != kindRecord)
}

// newMessage returns a message that the stream has under a sequence. With whole, the record is
// decoded, too, and aliases data. A malformed message takes the place of a marker: nothing is
// continued over it.
func newMessage(subject string, seq uint64, data []byte, epoch string, whole bool) message {
	h, ok := parseHead(data)
	m := message{subject: subject, seq: seq, kind: h.kind, keep: h.keep, epoch: h.epoch}
	if ok && whole && h.kind == kindRecord {
		var err error
		m.rec, err = history.ParseRecord(h.rest)
		ok = err == nil
	}
	p, err := history.NewPosition(epoch, seq, h.tag)
	if !ok || err != nil {
		m.kind, m.epoch = kindForgotten, epoch
		p, _ = history.NewPosition(epoch, seq, beginningTag) // an error leaves the zero Position
	}
	m.rec.Position = p
	return m
}

// received returns a message that a server sent as the answer to a direct request.
func received(m *nats.Msg, epoch string, whole bool) (message, error) {
	seq, err := headerNumber(m, nats.JSSequence)
	if err != nil {
		return message{}, err
	}
	r := newMessage(m.Header.Get(nats.JSSubject), seq, m.Data, epoch, whole)
	if whole { // a malformed time is the zero Time, which is older than any age
		r.at, _ = time.Parse(time.RFC3339Nano, m.Header.Get(nats.JSTimeStamp))
	}
	return r, nil
}
