package serializer

import (
	"errors"
	"fmt"
)

// errForm is the error for bytes that AppendBinary did not write.
var errForm = errors.New("invalid encoded payload")

// AppendBinary appends the payload as the nodes of a cluster exchange it: a byte for its form, then
// its bytes. A Go value is encoded as JSON; if that fails, the error wraps ErrPayload.
func (p Payload) AppendBinary(dst []byte) ([]byte, error) {
	p, err := p.Encoded()
	if err != nil {
		return dst, err
	}
	return append(append(dst, byte(p.form)), p.raw...), nil
}

// UnmarshalBinary decodes the output of AppendBinary. It validates the payload, so that a broken
// node cannot cause invalid frames; the error wraps ErrMalformed. The payload aliases data, which
// must not be modified afterwards.
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
