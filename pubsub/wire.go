package pubsub

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// wireVersion is the first byte of an encoded broadcast. Nodes reject every other version. To
// change the format, a cluster must first be upgraded to a release that reads both versions.
const wireVersion = 1

var errWire = errors.New("pubsub: malformed broadcast")

// AppendBinary appends b in the encoding that adapters exchange: a version, the topic and the event
// with their lengths, and the payload. The format is private to the nodes of a cluster.
func (b *Broadcast) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, wireVersion)
	for _, s := range []string{b.Topic, b.Event} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return b.Payload.AppendBinary(dst)
}

// ParseBroadcast decodes the encoding of AppendBinary. The payload of the result aliases data, so
// data must not be changed afterwards.
func ParseBroadcast(data []byte) (*Broadcast, error) {
	if len(data) == 0 || data[0] != wireVersion {
		return nil, errWire
	}
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
	topic, ok1 := next()
	event, ok2 := next()
	if !ok1 || !ok2 {
		return nil, errWire
	}
	b := &Broadcast{Topic: topic, Event: event}
	if err := b.Payload.UnmarshalBinary(data); err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	return b, nil
}
