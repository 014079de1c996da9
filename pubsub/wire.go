package pubsub

import (
	"encoding/binary"
	"errors"
	"fmt"

	"bennu.example/history"
)

// The first byte of an encoded broadcast is the version of its format. Nodes reject every other
// version. To change the format, a cluster must first be upgraded to a release that reads both
// versions.
const (
	wireVersion  = 1
	wireFollowed = 2 // begins with the position of the record that precedes the broadcast
	wireTraced   = 3 // begins with the text of Hooks.Inject, and that position or an empty one
)

var errWire = errors.New("pubsub: malformed broadcast")

// AppendBinary appends b in the encoding that adapters exchange: a version, the topic and the event
// with their lengths, and the payload. If b follows a record, its position comes before the topic,
// and the text of Hooks.Inject comes first.
// The format is private to the nodes of a cluster.
func (b *Broadcast) AppendBinary(dst []byte) ([]byte, error) {
	texts := [...]string{b.trace(), "", b.Topic, b.Event}
	used := texts[:]
	if b.after != nil {
		texts[1] = b.after.String()
	}
	switch {
	case texts[0] != "":
		dst = append(dst, wireTraced)
	case b.after != nil:
		dst, used = append(dst, wireFollowed), texts[1:]
	default:
		dst, used = append(dst, wireVersion), texts[2:]
	}
	for _, s := range used {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return b.Payload.AppendBinary(dst)
}

// ParseBroadcast decodes the encoding of AppendBinary. The payload of the result aliases data, so
// data must not be changed afterwards.
func ParseBroadcast(data []byte) (*Broadcast, error) {
	if len(data) == 0 || data[0] < wireVersion || data[0] > wireTraced {
		return nil, errWire
	}
	version := data[0]
	data = data[1:]
	next := func() (string, bool) {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return "", false
		}
		s := string(data[size : size+int(n)])
		data = data[size+int(n):]
		return s, true
	}
	var trace string
	var after *history.Position
	if version == wireTraced {
		var ok bool
		if trace, ok = next(); !ok || trace == "" || len(trace) > maxTrace {
			return nil, errWire
		}
	}
	if version != wireVersion {
		text, ok := next()
		if !ok {
			return nil, errWire
		}
		if text != "" || version == wireFollowed {
			p, err := history.ParsePosition(text)
			if err != nil {
				return nil, errWire
			}
			after = &p
		}
	}
	topic, ok1 := next()
	event, ok2 := next()
	if !ok1 || !ok2 {
		return nil, errWire
	}
	b := &Broadcast{Topic: topic, Event: event, after: after}
	if trace != "" {
		b.origin = &origin{trace: trace, remote: true}
	}
	if err := b.Payload.UnmarshalBinary(data); err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	return b, nil
}
