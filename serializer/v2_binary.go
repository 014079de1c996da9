package serializer

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// A binary frame of 2.0.0 consists of its kind, the length of each field in one byte, the fields,
// and the payload.
const (
	binaryPush      = 0 // from a client: join_ref, ref, topic, event; from a server: join_ref, topic, event
	binaryReply     = 1 // join_ref, ref, topic, status
	binaryBroadcast = 2 // topic, event
)

// field is one of the strings before the payload of a binary frame.
type field struct{ name, text string }

func appendBinary(dst []byte, m *Message) ([]byte, error) {
	joinRef, ref := field{"join_ref", m.JoinRef.Text()}, field{"ref", m.Ref.Text()}
	topic, event := field{"topic", toValidUTF8(m.Topic)}, field{"event", toValidUTF8(m.Event)}
	if m.RawTopic != "" {
		topic.text = m.RawTopic
	}
	switch m.Kind {
	case KindRequest:
		return appendFields(dst, binaryPush, m.Payload.raw, joinRef, ref, topic, event)
	case KindReply:
		return appendFields(dst, binaryReply, m.Payload.raw, joinRef, ref, topic, field{"status", toValidUTF8(m.Status)})
	case KindBroadcast:
		return appendFields(dst, binaryBroadcast, m.Payload.raw, topic, event)
	}
	return appendFields(dst, binaryPush, m.Payload.raw, joinRef, topic, event)
}

func appendFields(dst []byte, kind byte, payload []byte, fields ...field) ([]byte, error) {
	b := append(dst, kind)
	for _, f := range fields {
		if len(f.text) > 255 {
			return dst, fmt.Errorf("serializer: %s of %d bytes is too long for a binary frame: at most 255", f.name, len(f.text))
		}
		b = append(b, byte(len(f.text)))
	}
	for _, f := range fields {
		b = append(b, f.text...)
	}
	return append(b, payload...), nil
}

// cutFields returns the n fields of a binary frame and its payload. Fields must be UTF-8: Phoenix
// closes a connection that sends others when it replies.
func cutFields(data []byte, n int) (f [4][]byte, payload []byte, err error) {
	if len(data) < 1+n {
		return f, nil, malformed("binary frame of %d bytes", len(data))
	}
	lengths, rest := data[1:1+n], data[1+n:]
	for i, l := range lengths {
		if len(rest) < int(l) {
			return f, nil, malformed("binary frame is truncated in field %d", i)
		}
		if f[i], rest = rest[:l], rest[l:]; !utf8.Valid(f[i]) {
			return f, nil, malformed("field %d of a binary frame is not UTF-8", i)
		}
	}
	return f, slices.Clip(rest), nil
}

// setText sets the strings from the fields of a binary frame. As in Phoenix, an empty ref is the
// empty string and not null. hasJoinRef and hasRef are false for frames without that field.
func (m *Message) setText(joinRef, ref, topic, event []byte, hasJoinRef, hasRef bool) {
	var room [headerRoom]byte
	var n headerEnds
	buf := room[:0]
	if hasJoinRef {
		buf = AppendString(buf, string(joinRef))
	}
	n.ends[0] = len(buf)
	if hasRef {
		buf = AppendString(buf, string(ref))
	}
	n.ends[1] = len(buf)
	buf = append(buf, topic...)
	n.ends[2] = len(buf)
	m.set(append(buf, event...), n)
}

func parseBinary(data []byte) (m Message, err error) {
	if len(data) == 0 || data[0] != binaryPush {
		return m, malformed("binary frame is not a push")
	}
	f, payload, err := cutFields(data, 4)
	if err != nil {
		return m, err
	}
	m.Payload = Binary(payload)
	m.setText(f[0], f[1], f[2], f[3], true, true)
	return m, nil
}

func parseBinaryAtClient(data []byte) (m Message, err error) {
	if len(data) == 0 || data[0] > binaryBroadcast {
		return m, malformed("binary frame has an unknown kind")
	}
	kind := data[0]
	f, payload, err := cutFields(data, [...]int{binaryPush: 3, binaryReply: 4, binaryBroadcast: 2}[kind])
	if err != nil {
		return m, err
	}
	m.Payload = Binary(payload)
	switch kind {
	case binaryPush:
		m.Kind = KindPush
		m.setText(f[0], nil, f[1], f[2], true, false)
	case binaryReply:
		m.Kind, m.Status = KindReply, statusOf(f[3])
		m.setText(f[0], f[1], f[2], []byte(EventReply), true, true)
	case binaryBroadcast:
		m.Kind = KindBroadcast
		m.setText(nil, nil, f[0], f[1], false, false)
	}
	return m, nil
}
