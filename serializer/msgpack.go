package serializer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// V3 is MessagePack, version 3.0.0: the array of 2.0.0, binary payloads inside.
func V3() Serializer { return msgpack{} }

type msgpack struct{}

var handle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{WriteExt: true}
	h.RawToString = true
	h.MapType = reflect.TypeFor[map[string]any]()
	return h
}()

func decodeMsgpack(raw []byte, v any) error {
	if err := codec.NewDecoderBytes(raw, handle).Decode(v); err != nil {
		return fmt.Errorf("serializer: decode payload: %w", err)
	}
	return nil
}

func (msgpack) Version() string { return "3.0" }

func (msgpack) Append(dst []byte, m *Message) (Op, []byte, error) {
	var f [5]any
	for i, r := range []Ref{m.JoinRef, m.Ref} {
		if r != "" && json.Unmarshal([]byte(r), &f[i]) != nil {
			return 0, dst, fmt.Errorf("serializer: bad ref %q", string(r))
		}
	}
	f[2], f[3] = m.Topic, m.Event
	var p any = map[string]any{}
	switch m.Payload.form {
	case formNone:
	case formBinary:
		p = m.Payload.raw
	default:
		raw, err := m.Payload.JSON()
		if err != nil {
			return 0, dst, err
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return 0, dst, err
		}
	}
	if m.Kind == KindReply {
		f[3], p = EventReply, map[string]any{"status": m.Status, "response": p}
	}
	f[4] = p
	var b bytes.Buffer
	if err := codec.NewEncoder(&b, handle).Encode(f[:]); err != nil {
		return 0, dst, err
	}
	return OpBinary, append(dst, b.Bytes()...), nil
}

func (msgpack) Parse(_ Op, data []byte) (m Message, err error) {
	var f []codec.Raw
	if err := codec.NewDecoderBytes(data, handle).Decode(&f); err != nil || len(f) < 5 {
		return m, malformed("not an array of five")
	}
	var raws [4]json.RawMessage
	for i := range raws {
		var v any
		if err := decodeMsgpack(f[i], &v); err != nil {
			return m, malformed("bad header")
		}
		if raws[i], err = marshal(v); err != nil {
			return m, malformed("bad header")
		}
	}
	header(&m, raws[0], raws[1], raws[2], raws[3])
	m.Payload = Payload{form: formMsgpack, raw: f[4]}
	var v any
	if decodeMsgpack(f[4], &v) == nil {
		if b, ok := v.([]byte); ok {
			m.Payload = Binary(b)
		}
	}
	return m, nil
}

func (s msgpack) ParseClient(op Op, data []byte) (Message, error) {
	m, err := s.Parse(op, data)
	if err == nil {
		err = clientSide(&m)
	}
	return m, err
}
