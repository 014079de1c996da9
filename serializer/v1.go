package serializer

import "unicode/utf8"

// V1 returns the serializer of JSON 1.0.0, with one object per message, always in a text frame. It
// cannot carry binary payloads, and a server's messages have no join_ref. The messages of a
// client may have one. Then phx_close and phx_error repeat it as their ref, so that the client
// can tell which of its joins they belong to.
func V1() Serializer { return jsonV1{} }

type jsonV1 struct{}

func (jsonV1) Version() string { return "1.0.0" }

func (jsonV1) Append(dst []byte, m *Message) (Op, []byte, error) {
	b := append(dst, `{"topic":`...)
	b = appendTopicEvent(b, m, `,"event":`)
	b = append(b, `,"ref":`...)
	if m.Kind == KindBroadcast {
		b = appendRef(b, "")
	} else {
		b = appendRef(b, m.Ref)
	}
	if m.Kind == KindRequest && !m.JoinRef.IsNull() {
		b = append(b, `,"join_ref":`...)
		b = appendRef(b, m.JoinRef)
	}
	b = append(b, `,"payload":`...)
	b, err := appendBody(b, m)
	if err != nil {
		return 0, dst, err
	}
	return OpText, append(b, '}'), nil
}

// Parse treats binary frames as text, as Phoenix does.
func (jsonV1) Parse(_ Op, data []byte) (Message, error) {
	if !utf8.Valid(data) {
		return Message{}, malformed("not UTF-8")
	}
	var joinRef, ref, topic, event, payload []byte
	c := open(data, '{')
	for c.next('}') {
		switch key, value := c.member(); { // the last of several equal keys counts, as in Phoenix
		case isKey(key, "join_ref"):
			joinRef = value
		case isKey(key, "ref"):
			ref = value
		case isKey(key, "topic"):
			topic = value
		case isKey(key, "event"):
			event = value
		case isKey(key, "payload"):
			payload = value
		}
	}
	if !c.done() {
		return Message{}, malformed("not a JSON object: byte %d", ^c.at)
	}
	if topic == nil || event == nil || payload == nil || ref == nil {
		return Message{}, malformed("topic, event, payload or ref is missing")
	}
	m := Message{Payload: Payload{form: formJSON, raw: payload}}
	m.setJSON(joinRef, ref, topic, event)
	return m, nil
}

func (s jsonV1) ParseClient(op Op, data []byte) (Message, error) {
	m, err := s.Parse(op, data)
	if err == nil {
		atClient(&m)
	}
	return m, err
}
