package serializer

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// AppendString appends s as a JSON string. HTML is not escaped; invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	raw, err := marshal(s)
	if err != nil {
		return append(dst, `""`...)
	}
	return append(dst, raw...)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (p Payload) appendJSON(dst []byte) ([]byte, error) {
	switch p.form {
	case formNone:
		return append(dst, '{', '}'), nil
	case formJSON:
		return append(dst, p.raw...), nil
	case formValue:
		raw, err := marshal(p.value)
		if err != nil {
			return dst, fmt.Errorf("serializer: encode payload: %w: %w", ErrPayload, err)
		}
		return append(dst, raw...), nil
	case formMsgpack:
		var v any
		if err := decodeMsgpack(p.raw, &v); err != nil {
			return dst, err
		}
		return Value(v).appendJSON(dst)
	}
	return dst, fmt.Errorf("serializer: %w: binary has no JSON", ErrPayload)
}

func appendRef(dst []byte, r Ref) []byte {
	if r == "" {
		return append(dst, "null"...)
	}
	return append(dst, r...)
}

func refOf(raw json.RawMessage) Ref {
	if string(raw) == "null" {
		return ""
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return StringRef(s)
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return ""
	}
	return Ref(b.String())
}

func header(m *Message, joinRef, ref, topic, event json.RawMessage) {
	m.JoinRef, m.Ref = refOf(joinRef), refOf(ref)
	if string(topic) == "null" || json.Unmarshal(topic, &m.Topic) != nil {
		m.Topic, m.RawTopic = "", string(topic)
	}
	if string(event) == "null" || json.Unmarshal(event, &m.Event) != nil {
		m.Event = string(event)
	}
}

func appendTopic(dst []byte, m *Message) []byte {
	if m.RawTopic != "" {
		return append(dst, m.RawTopic...)
	}
	return AppendString(dst, m.Topic)
}

// appendBody appends the payload, wrapped if it is a reply's.
func appendBody(dst []byte, m *Message) ([]byte, error) {
	if m.Kind != KindReply {
		return m.Payload.appendJSON(dst)
	}
	dst = append(dst, `{"status":`...)
	dst = AppendString(dst, m.Status)
	dst = append(dst, `,"response":`...)
	dst, err := m.Payload.appendJSON(dst)
	return append(dst, '}'), err
}

func malformed(what string) error { return fmt.Errorf("serializer: %w: %s", ErrMalformed, what) }

// clientSide turns what Parse read into what a client calls it.
func clientSide(m *Message) error {
	m.Kind = KindPush
	if m.Event == EventReply {
		var r struct {
			Status   string          `json:"status"`
			Response json.RawMessage `json:"response"`
		}
		if err := m.Payload.Decode(&r); err != nil {
			return malformed("reply without status")
		}
		m.Kind, m.Status = KindReply, r.Status
		m.Payload = Payload{form: formJSON, raw: r.Response}
		return nil
	}
	if m.JoinRef.IsNull() && m.Ref.IsNull() {
		m.Kind = KindBroadcast
	}
	return nil
}
