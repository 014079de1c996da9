package serializer

import (
	"encoding"
	"slices"
)

// splice is the value of a payload of formSplice: the object base with one more member.
type splice struct {
	base  Payload
	name  string
	value any
}

// With returns p with one more member, which comes first. The value is a Go value or a Payload. The
// other members are sent exactly as they would be without it, in every version. The payload p must
// be an object without this member. If p is not an object, the result cannot be sent: the error of
// Append wraps ErrPayload.
func (p Payload) With(name string, value any) Payload {
	if value == nil {
		value = Payload{form: formJSON, raw: null}
	}
	return Payload{form: formSplice, value: &splice{base: p, name: name, value: value}}
}

var null = []byte("null")

const (
	memberPosition  = "$pos" // the member that WithPosition adds
	maxPositionText = 64     // bytes of a position
)

// WithPosition is With for the member "$pos", which names the position of a recorded event: pos is
// a history.Position or a pointer to one, whose text needs no escape in JSON. It allocates nothing
// if p is JSON and pos is a pointer, since every recorded event is sent so.
func (p Payload) WithPosition(pos encoding.TextAppender) Payload {
	switch p.form {
	case formNone:
		return Payload{form: formPositioned, raw: emptyObject, value: pos}
	case formJSON:
		return Payload{form: formPositioned, raw: p.raw, value: pos}
	}
	return Payload{form: formSplice, value: &splice{base: p, name: memberPosition, value: positionText{pos}}}
}

// positionText is the value of the member "$pos" in a splice.
type positionText struct{ encoding.TextAppender }

// MarshalText makes the text a string, in JSON and in MessagePack.
func (p positionText) MarshalText() ([]byte, error) { return p.AppendText(nil) }

// appendPositioned appends a payload of formPositioned as JSON. If it fails it returns dst
// unchanged.
func (p Payload) appendPositioned(dst []byte) ([]byte, error) {
	start := skipSpace(p.raw, 0)
	if start == len(p.raw) || p.raw[start] != '{' {
		return dst, payloadError(errNoMembers)
	}
	b, err := p.value.(encoding.TextAppender).AppendText(append(dst, `{"`+memberPosition+`":"`...))
	if err != nil {
		return dst, payloadError(err)
	}
	b = append(b, '"')
	if first := skipSpace(p.raw, start+1); p.raw[first] == '}' {
		return append(b, p.raw[first:]...), nil
	}
	return append(append(b, ','), p.raw[start+1:]...), nil
}

// appendPositionedMsgpack is appendPositioned for MessagePack.
func (p Payload) appendPositionedMsgpack(dst []byte) ([]byte, error) {
	start := skipSpace(p.raw, 0)
	if start == len(p.raw) || p.raw[start] != '{' {
		return dst, payloadError(errNoMembers)
	}
	var room [32]int
	sizes := containerSizes(room[:0], p.raw)
	b := appendMpStr(appendMpMapHead(dst, sizes[0]+1), memberPosition)
	b, err := appendMpText(b, p.value.(encoding.TextAppender))
	if err != nil {
		return dst, payloadError(err)
	}
	return appendJSONTokens(b, sizes[1:], p.raw, start+1), nil
}

// appendMpText appends a text as a string of MessagePack.
func appendMpText(dst []byte, text encoding.TextAppender) ([]byte, error) {
	start := len(dst)
	dst, err := text.AppendText(appendMpStrHead(dst, 0))
	n := len(dst) - start - 1 // the head of the empty string is one byte
	switch {
	case err != nil:
		return dst[:start], err
	case n > maxPositionText:
		return dst[:start], errLongPosition
	case n <= maxShortMpStr:
		dst[start] |= byte(n)
		return dst, nil
	}
	var room [maxPositionText]byte
	return appendMpStr(dst[:start], room[:copy(room[:], dst[start+1:])]), nil
}

// appendJSON appends the object as JSON. If it fails it returns dst unchanged.
func (s *splice) appendJSON(dst []byte) ([]byte, error) {
	b := append(dst, '{')
	b = append(AppendString(b, s.name), ':')
	b, err := Value(s.value).appendJSON(b)
	if err != nil {
		return dst, err
	}
	start := len(b)
	if b, err = s.base.appendJSON(b); err != nil {
		return dst, err
	}
	start = skipSpace(b, start)
	if start == len(b) || b[start] != '{' {
		return dst, payloadError(errNoMembers)
	}
	if first := skipSpace(b, start+1); b[first] == '}' {
		return append(b[:start], b[first:]...), nil
	}
	b[start] = ','
	return b, nil
}

// appendMsgpack appends the object as a map. If it fails it returns dst unchanged.
func (s *splice) appendMsgpack(dst []byte) ([]byte, error) {
	b, from := s.base.raw, 0
	if s.base.form != formMsgpack {
		var err error
		if b, err = s.base.appendMsgpack(dst); err != nil {
			return dst, err
		}
		from = len(dst)
	}
	object, first := readMsgpack(b, from)
	if object.kind != mpMap {
		return dst, payloadError(errNoMembers)
	}
	if s.base.form != formMsgpack {
		head, err := s.appendHead(nil, object.size/2+1)
		if err != nil {
			return dst, err
		}
		return slices.Replace(b, from, first, head...), nil
	}
	head, err := s.appendHead(dst, object.size/2+1)
	if err != nil {
		return dst, err
	}
	return append(head, b[first:]...), nil
}

// appendHead appends the head of a map of n members, and the first of them.
func (s *splice) appendHead(dst []byte, n int) ([]byte, error) {
	dst = appendMpStr(appendMpMapHead(dst, n), s.name)
	if pos, ok := s.value.(positionText); ok {
		dst, err := appendMpText(dst, pos)
		if err != nil {
			err = payloadError(err)
		}
		return dst, err
	}
	return Value(s.value).appendMsgpack(dst)
}

// encoded returns the payload with its members encoded, see Payload.Encoded.
func (s *splice) encoded() (Payload, error) {
	f, encode := formJSON, s.appendJSON
	if s.base.form == formMsgpack {
		f, encode = formMsgpack, s.appendMsgpack
	}
	raw, err := encode(nil)
	if err != nil {
		return Payload{form: formSplice, value: s}, err
	}
	return Payload{form: f, raw: raw}, nil
}

// Cut is the reverse of With: it returns the value of a member, and the payload without it. Of
// several members with this name the last one counts, and all are left out. Found is false if the
// payload is not an object or does not have the member; then rest is p.
func (p Payload) Cut(name string) (value, rest Payload, found bool) {
	q, err := p.Encoded()
	if err != nil {
		return Payload{}, p, false
	}
	switch q.form {
	case formJSON:
		value, rest, found = cutJSON(q.raw, name)
	case formMsgpack:
		value, rest, found = cutMsgpack(q.raw, name)
	}
	if !found {
		rest = p
	}
	return value, rest, found
}

// cutJSON is Cut for the valid JSON value b.
func cutJSON(b []byte, name string) (value, rest Payload, found bool) {
	out := append(make([]byte, 0, len(b)), '{')
	for c := open(b, '{'); c.next('}'); {
		start := c.at
		key, v := c.member()
		if isKey(key, name) {
			value, found = Payload{form: formJSON, raw: v}, true
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, b[start:c.at]...)
	}
	return value, Payload{form: formJSON, raw: append(out, '}')}, found
}

// cutMsgpack is Cut for the valid MessagePack value b.
func cutMsgpack(b []byte, name string) (value, rest Payload, found bool) {
	object, i := readMsgpack(b, 0)
	if object.kind != mpMap {
		return value, rest, false
	}
	n := 0
	var out []byte
	for range object.size / 2 {
		start := i
		key, next := readMsgpack(b, i)
		i = scanMsgpack(b, next, 1)
		if key.kind == mpStr && string(key.data) == name {
			value, found = mpPayload(b[next:i:i]), true
			continue
		}
		out = append(out, b[start:i]...)
		n++
	}
	return value, Payload{form: formMsgpack, raw: append(appendMpMapHead(nil, n), out...)}, found
}

// HasReserved reports whether the payload is an object with a member that begins with "$". Such
// members are reserved for the protocol's extensions. Only the object's own members count, not
// those of objects within it. A payload that is neither an object nor binary is an error, which
// wraps ErrPayload.
func (p Payload) HasReserved() (bool, error) {
	p, err := p.Encoded()
	if err != nil {
		return false, err
	}
	switch p.form {
	case formJSON:
		return jsonReserved(p.raw)
	case formMsgpack:
		return msgpackReserved(p.raw)
	}
	return false, nil
}

// jsonReserved is HasReserved for the valid JSON value b.
func jsonReserved(b []byte) (bool, error) {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return false, payloadError(errNotObject)
	}
	depth, key := 0, false
	for i < len(b) {
		switch b[i] {
		case '"':
			if key && startsWithDollar(b[i+1:]) {
				return true, nil
			}
			key = false
			i = scanString(b, i)
			continue
		case '{', '[':
			depth++
			key = depth == 1
		case '}', ']':
			depth--
		case ',':
			key = depth == 1
		}
		i++
	}
	return false, nil
}

// startsWithDollar reports whether the text of a JSON string begins with "$", which may be escaped.
func startsWithDollar(s []byte) bool {
	if s[0] == '\\' && s[1] == 'u' {
		r, _ := hex4(s)
		return r == '$'
	}
	return s[0] == '$'
}

// msgpackReserved is HasReserved for the valid MessagePack value b.
func msgpackReserved(b []byte) (bool, error) {
	object, i := readMsgpack(b, 0)
	if object.kind != mpMap {
		return false, payloadError(errNotObject)
	}
	for range object.size / 2 {
		key, next := readMsgpack(b, i)
		if key.kind == mpStr && len(key.data) > 0 && key.data[0] == '$' {
			return true, nil
		}
		i = scanMsgpack(b, next, 1)
	}
	return false, nil
}
