package serializer

import (
	"fmt"
	"unicode/utf8"
)

// The binary frames of 2.0.0: a kind, the lengths of the fields in a byte each, the fields, and the payload up to the end.
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
			return dst, fmt.Errorf("serializer: %s has %d bytes, in a binary frame 255 is the most", f.name, len(f.text))
		}
		b = append(b, byte(len(f.text)))
	}
	for _, f := range fields {
		b = append(b, f.text...)
	}
	return append(b, payload...), nil
}

// cutFields cuts n fields off a binary frame. They must be UTF-8: Phoenix, too, ends a connection whose names are not, when it
// answers.
func cutFields(data []byte, n int) (f [4][]byte, payload []byte, err error) {
	if len(data) < 1+n {
		return f, nil, malformed("binary frame of %d bytes", len(data))
	}
	lengths, rest := data[1:1+n], data[1+n:]
	for i, l := range lengths {
		if len(rest) < int(l) {
			return f, nil, malformed("binary frame ends within its field %d", i)
		}
		if f[i], rest = rest[:l], rest[l:]; !utf8.Valid(f[i]) {
			return f, nil, malformed("field %d of a binary frame is not UTF-8", i)
		}
	}
	return f, rest, nil
}

// addText adds a ref that came as the text of a string. No text is the empty string and not null, as in Phoenix.
func (h *header) addText(text []byte) { h.end(AppendString(h.buf, string(text))) }

// addBytes adds a topic or event that came as itself.
func (h *header) addBytes(name []byte) { h.end(append(h.buf, name...)) }

func parseBinary(data []byte) (m Message, err error) {
	if len(data) == 0 || data[0] != binaryPush {
		return m, malformed("binary frame that is no push")
	}
	f, payload, err := cutFields(data, 4)
	if err != nil {
		return m, err
	}
	m.Payload = Binary(payload)
	h := header{buf: make([]byte, 0, headerRoom)}
	h.addText(f[0])
	h.addText(f[1])
	h.addBytes(f[2])
	h.addBytes(f[3])
	h.put(&m)
	return m, nil
}

func parseBinaryAtClient(data []byte) (m Message, err error) {
	if len(data) == 0 || data[0] > binaryBroadcast {
		return m, malformed("binary frame of an unknown kind")
	}
	kind := data[0]
	f, payload, err := cutFields(data, [...]int{binaryPush: 3, binaryReply: 4, binaryBroadcast: 2}[kind])
	if err != nil {
		return m, err
	}
	m.Payload = Binary(payload)
	h := header{buf: make([]byte, 0, headerRoom)}
	switch kind {
	case binaryPush:
		m.Kind = KindPush
		h.addText(f[0])
		h.addRef(nil)
		h.addBytes(f[1])
		h.addBytes(f[2])
	case binaryReply:
		m.Kind, m.Status = KindReply, string(f[3])
		h.addText(f[0])
		h.addText(f[1])
		h.addBytes(f[2])
		h.addBytes([]byte(EventReply))
	case binaryBroadcast:
		m.Kind = KindBroadcast
		h.addRef(nil)
		h.addRef(nil)
		h.addBytes(f[0])
		h.addBytes(f[1])
	}
	h.put(&m)
	return m, nil
}
