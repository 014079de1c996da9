package serializer

import "unicode/utf8"

// V2 returns the serializer of JSON 2.0.0, with one array per message in a text frame. A message
// with a binary payload is a binary frame.
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
	if m.Kind == KindBroadcast {
		b = append(b, "null,null,"...)
	} else {
		b = append(appendRef(b, m.JoinRef), ',')
		b = append(appendRef(b, m.Ref), ',')
	}
	b = append(appendTopicEvent(b, m, ","), ',')
	start := len(b)
	b, err := appendBody(b, m)
	if err != nil {
		return 0, dst, err
	}
	if b[start] != '{' && m.Kind != KindRequest {
		return 0, dst, payloadError(errNotObject)
	}
	return OpText, append(b, ']'), nil
}

func (jsonV2) Parse(op Op, data []byte) (Message, error) {
	if op == OpBinary {
		return parseBinary(data)
	}
	return parseText(data)
}

func (jsonV2) ParseClient(op Op, data []byte) (Message, error) {
	if op == OpBinary {
		return parseBinaryAtClient(data)
	}
	m, err := parseText(data)
	if err == nil {
		atClient(&m)
	}
	return m, err
}

func parseText(data []byte) (Message, error) {
	if !utf8.Valid(data) {
		return Message{}, malformed("not UTF-8")
	}
	var at [5][]byte // the five elements
	var m Message
	c := open(data, '[')
	for c.next(']') {
		if v := c.value(); c.n <= len(at) {
			at[c.n-1] = v
		}
	}
	if !c.done() {
		return m, malformed("not a JSON array: byte %d", ^c.at)
	}
	if c.n < len(at) {
		return m, malformed("%d elements instead of five", c.n)
	}
	m.Payload = Payload{form: formJSON, raw: at[4]}
	m.setJSON(at[0], at[1], at[2], at[3])
	return m, nil
}
