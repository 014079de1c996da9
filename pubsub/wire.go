package pubsub

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// wireVersion begins every encoded broadcast. Nodes that read another version refuse it, so a cluster is upgraded by way of a release that reads both.
const wireVersion = 1

// errWire is a broadcast that another node's adapter cannot have written.
var errWire = errors.New("pubsub: not an encoded broadcast")

// AppendBinary appends b as adapters exchange it: a version, and the lengths and bytes of topic and event, then the payload. The format is
// private to the nodes of a cluster.
func (b *Broadcast) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, wireVersion)
	for _, s := range []string{b.Topic, b.Event} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return b.Payload.AppendBinary(dst)
}

// ParseBroadcast reads what AppendBinary wrote. The broadcast's payload aliases data, which must not change any more.
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
