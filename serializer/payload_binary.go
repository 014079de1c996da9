package serializer

import (
	"errors"
	"fmt"
)

// errForm is an encoded payload that AppendBinary cannot have written.
var errForm = errors.New("not an encoded payload")

// AppendBinary appends the payload as the nodes of a cluster exchange it: a byte for its form, then its bytes. A Go value is encoded as JSON;
// the error wraps ErrPayload.
func (p Payload) AppendBinary(dst []byte) ([]byte, error) {
	p, err := p.Encoded()
	if err != nil {
		return dst, err
	}
	return append(append(dst, byte(p.form)), p.raw...), nil
}

// UnmarshalBinary reads what AppendBinary wrote, and refuses anything else with an error that wraps ErrMalformed: no frame is made of what
// a peer cannot read. The payload aliases data, which must not change any more.
func (p *Payload) UnmarshalBinary(data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("serializer: %w: %w", ErrMalformed, errForm)
	}
	f, raw := form(data[0]), data[1:]
	ok := false
	switch f {
	case formNone:
		ok, raw = len(raw) == 0, nil
	case formJSON:
		ok = validJSON(raw) && len(trimSpace(raw)) == len(raw)
	case formMsgpack:
		ok = scanMsgpack(raw, 0, 0) == len(raw)
	case formBinary:
		ok = true
	}
	if !ok {
		return fmt.Errorf("serializer: %w: %w", ErrMalformed, errForm)
	}
	*p = Payload{form: f, raw: raw}
	return nil
}
