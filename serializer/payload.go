package serializer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"bennu.example/internal/exactjson"
)

// Payload is the body of an event: bytes that were received and not decoded yet, or a Go value
// that was not encoded yet. The zero Payload is sent as an empty object. A Payload may be copied
// and used by several goroutines as long as the value or bytes that it was made from do not
// change.
type Payload struct {
	form  form
	raw   []byte
	value any
}

type form uint8

const (
	formNone    form = iota
	formValue        // value, which the serializer encodes
	formJSON         // raw is valid JSON
	formMsgpack      // raw is one valid MessagePack value
	formBinary       // raw is opaque to the protocol
	formSplice       // value is a *splice

	// formPositioned is JSON with a position: raw is the object without it, and value is an
	// encoding.TextAppender.
	formPositioned
)

// Value returns the payload v. A Payload is returned as it is. Nil means the zero Payload. Any
// other value is encoded when it is sent: by encoding/json, or as described at [V3] for a
// connection that uses MessagePack. A json.RawMessage is sent as it is if it is valid.
func Value(v any) Payload {
	switch v := v.(type) {
	case nil:
		return Payload{}
	case Payload:
		return v
	}
	return Payload{form: formValue, value: v}
}

// Binary returns a payload of the bytes b, which are sent unchanged. Version 1.0.0 cannot carry it.
func Binary(b []byte) Payload { return Payload{form: formBinary, raw: b} }

// IsBinary reports whether the payload consists of opaque bytes.
func (p Payload) IsBinary() bool { return p.form == formBinary }

// IsZero reports whether p is the zero Payload.
func (p Payload) IsZero() bool { return p.form == formNone }

// Bytes returns the payload as it was received: JSON, MessagePack, or the bytes of a binary
// payload. It returns nil for the zero Payload and for a Go value that was not encoded yet. The
// caller must not modify the bytes.
func (p Payload) Bytes() []byte {
	if p.form == formPositioned {
		return nil
	}
	return p.raw
}

var (
	errBinary       = errors.New("payload is binary")
	errInvalidJSON  = errors.New("invalid JSON")
	errNotObject    = errors.New("a push or broadcast must be an object or binary")
	errNoMembers    = errors.New("only an object can have another member")
	errLongPosition = errors.New("a position is too long")
	emptyObject     = []byte("{}")
)

func payloadError(why error) error { return fmt.Errorf("serializer: %w: %w", ErrPayload, why) }

// Decode stores the payload in v, as json.Unmarshal does, with one difference. An integer that is
// decoded into an interface keeps its value: it becomes a float64 as usual, or a [json.Number] if a
// float64 cannot hold it, as for most integers beyond 2^53.
//
// MessagePack is converted to JSON first (see [V3]), so that a handler need not know which
// version its client uses. If v is a *Payload, the payload is stored undecoded. A binary payload
// can only be decoded into a *[]byte or a *Payload. Decoding the zero Payload does nothing.
func (p Payload) Decode(v any) error {
	if to, ok := v.(*Payload); ok {
		*to = p
		return nil
	}
	var err error
	switch p.form {
	case formNone:
	case formJSON:
		err = exactjson.Unmarshal(p.raw, v)
	case formBinary:
		to, ok := v.(*[]byte)
		if !ok {
			return fmt.Errorf("serializer: decode payload into %T: %w", v, errBinary)
		}
		*to = p.raw
	default:
		if m, ok := p.value.(map[string]any); ok && p.form == formValue && decodeMap(m, v) {
			return nil
		}
		scratch := scratches.Get().(*[]byte)
		*scratch, err = p.appendJSON((*scratch)[:0])
		if err != nil {
			return err
		}
		err = exactjson.Unmarshal(*scratch, v) // its results do not alias its input
		if cap(*scratch) <= maxPooled {
			scratches.Put(scratch)
		}
	}
	if err != nil {
		return fmt.Errorf("serializer: decode payload: %w", err)
	}
	return nil
}

var scratches = sync.Pool{New: func() any { return new([]byte) }}

// JSON returns the payload as JSON. The zero Payload is {}. A binary payload has no JSON: the error
// wraps ErrPayload. The caller must not modify the result.
func (p Payload) JSON() ([]byte, error) {
	switch p.form {
	case formNone:
		return emptyObject, nil
	case formJSON:
		return p.raw, nil
	}
	return p.appendJSON(nil)
}

// appendJSON appends the payload as JSON. If it fails it returns dst unchanged.
func (p Payload) appendJSON(dst []byte) ([]byte, error) {
	switch p.form {
	case formNone:
		return append(dst, emptyObject...), nil
	case formJSON:
		return append(dst, p.raw...), nil
	case formMsgpack:
		return appendMsgpackAsJSON(dst, p.raw), nil
	case formBinary:
		return dst, payloadError(errBinary)
	case formSplice:
		return p.value.(*splice).appendJSON(dst)
	case formPositioned:
		return p.appendPositioned(dst)
	}
	err := withJSON(p.value, func(raw []byte) { dst = append(dst, raw...) })
	return dst, err
}

// Encoded returns the payload with its Go value encoded as JSON, so that it is encoded only once
// and on the caller's goroutine. Other payloads are returned as they are. The error wraps
// ErrPayload.
func (p Payload) Encoded() (Payload, error) {
	switch p.form {
	case formValue, formPositioned:
	case formSplice:
		return p.value.(*splice).encoded()
	default:
		return p, nil
	}
	raw, err := p.appendJSON(nil)
	if err != nil {
		return p, err
	}
	return Payload{form: formJSON, raw: raw}, nil
}

// MarshalJSON returns the payload as JSON, so that it can be a part of a larger value. A binary
// payload becomes base64, as a []byte does.
func (p Payload) MarshalJSON() ([]byte, error) {
	if p.form == formBinary {
		return json.Marshal(p.raw)
	}
	return p.JSON()
}

// UnmarshalJSON stores a copy of raw, so that a part of a larger value can be decoded later.
func (p *Payload) UnmarshalJSON(raw []byte) error {
	*p = Payload{form: formJSON, raw: bytes.Clone(raw)}
	return nil
}
