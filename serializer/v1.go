package serializer

import (
	"encoding/json"
	"fmt"
)

// V1 is JSON 1.0.0: one object per message.
func V1() Serializer { return jsonV1{} }

type jsonV1 struct{}

func (jsonV1) Version() string { return "1.0.0" }

func (jsonV1) Append(dst []byte, m *Message) (Op, []byte, error) {
	if m.Payload.IsBinary() {
		return 0, dst, fmt.Errorf("serializer: %w: 1.0.0 has no binary payloads", ErrPayload)
	}
	b := append(dst, `{"topic":`...)
	b = appendTopic(b, m)
	b = append(b, `,"event":`...)
	if m.Kind == KindReply {
		b = AppendString(b, EventReply)
	} else {
		b = AppendString(b, m.Event)
	}
	b = append(b, `,"ref":`...)
	b = appendRef(b, m.Ref)
	b = append(b, `,"payload":`...)
	b, err := appendBody(b, m)
	if err != nil {
		return 0, dst, err
	}
	return OpText, append(b, '}'), nil
}

func (jsonV1) Parse(_ Op, data []byte) (Message, error) {
	var f map[string]json.RawMessage
	if json.Unmarshal(data, &f) != nil {
		return Message{}, malformed("not an object")
	}
	for _, k := range []string{"topic", "event", "payload", "ref"} {
		if _, ok := f[k]; !ok {
			return Message{}, malformed(k + " is missing")
		}
	}
	jr := f["join_ref"]
	if jr == nil {
		jr = json.RawMessage("null")
	}
	m := Message{Payload: Payload{form: formJSON, raw: f["payload"]}}
	header(&m, jr, f["ref"], f["topic"], f["event"])
	return m, nil
}

func (s jsonV1) ParseClient(op Op, data []byte) (Message, error) {
	m, err := s.Parse(op, data)
	if err == nil {
		err = clientSide(&m)
	}
	return m, err
}
