package serializer

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// V3 returns the serializer of MessagePack. It answers to 3.0.0 and all later versions of 3, which
// Phoenix refuses. A message is the array of 2.0.0 in a binary frame, and a binary payload is a bin
// in it. The rules for payloads are those of 2.0.0. A ref may be any scalar except bin and
// extensions.
//
// Subscribers of a topic may use different versions, so payloads are converted:
//   - From JSON, a number without fraction and exponent becomes an integer if 64 bits hold it, and
//     a float otherwise. An integer that is too large for a float becomes a str of its digits.
//   - To JSON, bin and extensions become base64 strings, but a timestamp is written by RFC 3339.
//     A float that is NaN or infinite becomes null. A map key that is not a str becomes its JSON
//     text or base64. A message with an array, a map or an extension as a key is malformed.
//
// A Go value is encoded by encoding/json and converted, except that a []byte is a bin and not
// base64. The exception does not apply within types that marshal themselves, that embed other
// types, or that are maps with keys other than strings.
func V3() Serializer { return msgpack{} }

type msgpack struct{}

func (msgpack) Version() string { return "3.0" }

func (msgpack) Append(dst []byte, m *Message) (Op, []byte, error) {
	b := append(dst, 0x95) // an array of five
	if m.Kind == KindBroadcast {
		b = append(b, 0xc0, 0xc0)
	} else {
		b = appendMpRef(appendMpRef(b, m.JoinRef), m.Ref)
	}
	if m.RawTopic != "" {
		b = appendJSONAsMsgpack(b, []byte(m.RawTopic))
	} else {
		b = appendMpStr(b, toValidUTF8(m.Topic))
	}
	if m.Kind == KindReply {
		b = appendMpStr(b, EventReply)
		b = appendMpStr(appendMpMapHead(b, 2), "status")
		b = appendMpStr(b, toValidUTF8(m.Status))
		b = appendMpStr(b, "response")
	} else {
		b = appendMpStr(b, toValidUTF8(m.Event))
	}
	start := len(b)
	b, err := m.Payload.appendMsgpack(b)
	if err != nil {
		return 0, dst, err
	}
	if (m.Kind == KindPush || m.Kind == KindBroadcast) && !m.Payload.IsBinary() && !isMpMap(b[start]) {
		return 0, dst, payloadError(errNotObject)
	}
	return OpBinary, b, nil
}

func isMpMap(c byte) bool { return c&0xf0 == 0x80 || c == 0xde || c == 0xdf }

func appendMpRef(dst []byte, r Ref) []byte {
	switch {
	case r.IsNull():
		return append(dst, 0xc0)
	case r[0] == '"':
		return appendMpStr(dst, r.Text())
	}
	return appendJSONAsMsgpack(dst, []byte(r))
}

// appendMsgpack appends the payload as MessagePack.
func (p Payload) appendMsgpack(dst []byte) ([]byte, error) {
	switch p.form {
	case formNone:
		return appendMpMapHead(dst, 0), nil
	case formJSON:
		return appendJSONAsMsgpack(dst, p.raw), nil
	case formMsgpack:
		return append(dst, p.raw...), nil
	case formBinary:
		return appendMpBin(dst, p.raw), nil
	case formSplice:
		return p.value.(*splice).appendMsgpack(dst)
	case formPositioned:
		return p.appendPositionedMsgpack(dst)
	}
	return appendValueAsMsgpack(dst, p.value)
}

func (msgpack) Parse(op Op, data []byte) (m Message, err error) {
	if op != OpBinary {
		return m, malformed("MessagePack in a text frame")
	}
	array, i := readMsgpack(data, 0)
	if i < 0 || array.kind != mpArray {
		return m, malformed("not a MessagePack array")
	}
	if array.size < 5 {
		return m, malformed("%d elements instead of five", array.size)
	}
	var room [headerRoom]byte
	var n headerEnds
	buf := room[:0]
	for element := range array.size {
		start := i
		if i = scanMsgpack(data, start, 1); i < 0 {
			return Message{}, malformed("invalid MessagePack at byte %d", ^i)
		}
		raw, ok := data[start:i:i], true
		switch element {
		case 0, 1:
			buf, ok = appendMpRefOf(buf, raw)
		case 2:
			buf, n.rawTopic, ok = appendMpNameOf(buf, raw)
		case 3:
			buf, _, ok = appendMpNameOf(buf, raw)
		case 4:
			m.Payload = mpPayload(raw)
		}
		if !ok {
			return Message{}, malformed("element %d has an invalid type or value", element)
		}
		if element < len(n.ends) {
			n.ends[element] = len(buf)
		}
	}
	if i < len(data) {
		return Message{}, malformed("data after the message at byte %d", i)
	}
	m.set(buf, n)
	return m, nil
}

// mpPayload returns the valid value raw as a payload.
func mpPayload(raw []byte) Payload {
	if v, _ := readMsgpack(raw, 0); v.kind == mpBin {
		return Binary(v.data)
	}
	return Payload{form: formMsgpack, raw: raw}
}

// appendMpRefOf appends the valid value raw as a ref. A float keeps an exponent, so that the reply
// repeats it as a float.
func appendMpRefOf(buf, raw []byte) (_ []byte, ok bool) {
	switch v, _ := readMsgpack(raw, 0); v.kind {
	case mpNil:
		return buf, true
	case mpFloat:
		f := v.float()
		return strconv.AppendFloat(buf, f, 'e', -1, 64), !math.IsNaN(f) && !math.IsInf(f, 0)
	case mpBool, mpInt, mpUint, mpStr:
		return appendScalarAsJSON(buf, &v), utf8.Valid(v.data)
	}
	return buf, false
}

// appendMpNameOf appends a topic or event: the text of a str, or the JSON of anything else. Bin and
// extensions are refused, since their JSON is a string.
func appendMpNameOf(buf, raw []byte) (_ []byte, isRaw, ok bool) {
	switch v, _ := readMsgpack(raw, 0); v.kind {
	case mpStr:
		return append(buf, v.data...), false, utf8.Valid(v.data)
	case mpBin, mpExt:
		return buf, false, false
	}
	return appendMsgpackAsJSON(buf, raw), true, true
}

func (s msgpack) ParseClient(op Op, data []byte) (Message, error) {
	m, err := s.Parse(op, data)
	if err != nil {
		return m, err
	}
	m.Kind = kindAtClient(&m)
	if m.Event == EventReply && m.Payload.form == formMsgpack {
		m.unwrapMsgpack()
	}
	return m, nil
}

// unwrapMsgpack unwraps a reply, as atClient does for JSON.
func (m *Message) unwrapMsgpack() {
	b := m.Payload.raw
	object, i := readMsgpack(b, 0)
	if object.kind != mpMap {
		return
	}
	var status mpValue
	var response Payload
	for range object.size / 2 {
		key, value := readMsgpack(b, i)
		i = scanMsgpack(b, value, 1)
		switch {
		case key.kind != mpStr:
		case string(key.data) == "status":
			status, _ = readMsgpack(b, value)
		case string(key.data) == "response":
			response = mpPayload(b[value:i:i])
		}
	}
	if status.kind == mpStr {
		m.Kind, m.Status, m.Payload = KindReply, toValidUTF8(statusOf(status.data)), response
	}
}
