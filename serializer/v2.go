package serializer

import (
	"encoding/json"
	"fmt"
)

// V2 is JSON 2.0.0: one array per message, and binary frames for binary payloads.
func V2() Serializer { return jsonV2{} }

type jsonV2 struct{}

func (jsonV2) Version() string { return "2.0.0" }

func (jsonV2) Append(dst []byte, m *Message) (Op, []byte, error) {
	if m.Payload.IsBinary() {
		b, err := appendBinary(dst, m)
		if err != nil {
			return 0, dst, err
		}
		return OpBinary, b, nil
	}
	b := append(dst, '[')
	b = appendRef(b, m.JoinRef)
	b = append(b, ',')
	b = appendRef(b, m.Ref)
	b = append(b, ',')
	b = appendTopic(b, m)
	b = append(b, ',')
	if m.Kind == KindReply {
		b = AppendString(b, EventReply)
	} else {
		b = AppendString(b, m.Event)
	}
	b = append(b, ',')
	at := len(b)
	b, err := appendBody(b, m)
	if err != nil {
		return 0, dst, err
	}
	if (m.Kind == KindPush || m.Kind == KindBroadcast) && b[at] != '{' {
		return 0, dst, fmt.Errorf("serializer: %w: it must be an object", ErrPayload)
	}
	return OpText, append(b, ']'), nil
}

func (s jsonV2) Parse(op Op, data []byte) (Message, error) {
	if op == OpBinary {
		return parseBinary(data)
	}
	var f []json.RawMessage
	if json.Unmarshal(data, &f) != nil || len(f) < 5 {
		return Message{}, malformed("not an array of five")
	}
	m := Message{Payload: Payload{form: formJSON, raw: f[4]}}
	header(&m, f[0], f[1], f[2], f[3])
	return m, nil
}

func (s jsonV2) ParseClient(op Op, data []byte) (Message, error) {
	if op == OpBinary {
		return parseBinaryClient(data)
	}
	m, err := s.Parse(op, data)
	if err == nil {
		err = clientSide(&m)
	}
	return m, err
}

func appendBinary(dst []byte, m *Message) ([]byte, error) {
	type field struct{ name, text string }
	jr, ref := field{"join_ref", m.JoinRef.Text()}, field{"ref", m.Ref.Text()}
	topic, event := field{"topic", m.Topic}, field{"event", m.Event}
	if m.RawTopic != "" {
		topic.text = m.RawTopic
	}
	var kind byte
	var fields []field
	switch m.Kind {
	case KindRequest:
		fields = []field{jr, ref, topic, event}
	case KindPush:
		fields = []field{jr, topic, event}
	case KindReply:
		kind, fields = 1, []field{jr, ref, topic, {"status", m.Status}}
	default:
		kind, fields = 2, []field{topic, event}
	}
	b := append(dst, kind)
	for _, f := range fields {
		if len(f.text) > 255 {
			return dst, fmt.Errorf("serializer: %s is %d bytes long, a binary frame takes 255", f.name, len(f.text))
		}
		b = append(b, byte(len(f.text)))
	}
	for _, f := range fields {
		b = append(b, f.text...)
	}
	return append(b, m.Payload.raw...), nil
}

// split cuts n length-prefixed fields off data, whose header starts at byte 1.
func split(data []byte, n int) (f [4]string, rest []byte, ok bool) {
	if len(data) < 1+n {
		return f, nil, false
	}
	rest = data[1+n:]
	for i := range n {
		l := int(data[1+i])
		if len(rest) < l {
			return f, nil, false
		}
		f[i], rest = string(rest[:l]), rest[l:]
	}
	return f, rest, true
}

func parseBinary(data []byte) (Message, error) {
	f, rest, ok := split(data, 4)
	if !ok || data[0] != 0 {
		return Message{}, malformed("not a binary push")
	}
	return Message{JoinRef: StringRef(f[0]), Ref: StringRef(f[1]), Topic: f[2], Event: f[3], Payload: Binary(rest)}, nil
}

func parseBinaryClient(data []byte) (Message, error) {
	if len(data) > 0 {
		switch data[0] {
		case 0:
			if f, rest, ok := split(data, 3); ok {
				return Message{Kind: KindPush, JoinRef: StringRef(f[0]), Topic: f[1], Event: f[2], Payload: Binary(rest)}, nil
			}
		case 1:
			if f, rest, ok := split(data, 4); ok {
				return Message{Kind: KindReply, JoinRef: StringRef(f[0]), Ref: StringRef(f[1]), Topic: f[2], Event: EventReply, Status: f[3], Payload: Binary(rest)}, nil
			}
		case 2:
			if f, rest, ok := split(data, 2); ok {
				return Message{Kind: KindBroadcast, Topic: f[0], Event: f[1], Payload: Binary(rest)}, nil
			}
		}
	}
	return Message{}, malformed("not a binary frame of a server")
}
