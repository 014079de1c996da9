package serializer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"bennu.example/internal/exactjson"
)

// Payload is an event's body, not decoded until asked: the bytes that came, or a Go value still to be encoded. The zero
// Payload is "nothing given" and is sent as an empty object. A Payload may be copied and used by several goroutines as long as
// nobody changes what it was made from.
type Payload struct {
	form  form
	raw   []byte
	value any
}

type form uint8

const (
	formNone    form = iota
	formValue        // value, encoded by the serializer it meets
	formJSON         // raw is valid JSON
	formMsgpack      // raw is one valid MessagePack value
	formBinary       // raw is bytes, opaque to the protocol
)

// Value is the payload v: a Payload is taken as it is, nil is the zero Payload, anything else is encoded when it is sent, by
// encoding/json or, for a connection that speaks MessagePack, as described at [V3]. A json.RawMessage is sent as it is, once it
// was found to be valid.
func Value(v any) Payload {
	switch v := v.(type) {
	case nil:
		return Payload{}
	case Payload:
		return v
	}
	return Payload{form: formValue, value: v}
}

// Binary is the payload of the bytes b, which are sent untouched. 1.0.0 has no such payloads.
func Binary(b []byte) Payload { return Payload{form: formBinary, raw: b} }

// IsBinary reports whether the payload is opaque bytes.
func (p Payload) IsBinary() bool { return p.form == formBinary }

// IsZero reports whether nothing was given.
func (p Payload) IsZero() bool { return p.form == formNone }

// Bytes is the payload as it stands on the wire: JSON, MessagePack, or the bytes of a binary payload. It is nil for a Go
// value that was not encoded yet and for the zero Payload. The caller must not change it.
func (p Payload) Bytes() []byte { return p.raw }

var (
	errBinary      = errors.New("it is binary")
	errInvalidJSON = errors.New("it is not valid JSON")
	errNotObject   = errors.New("a push or broadcast takes an object, or binary")
	emptyObject    = []byte("{}")
)

func payloadError(why error) error { return fmt.Errorf("serializer: %w: %w", ErrPayload, why) }

// Decode stores the payload in v, as json.Unmarshal does, but an integer that is decoded into an interface keeps its value: it is
// a float64 as usual, unless a float64 cannot hold it (most integers beyond 2^53), and a [json.Number] then. MessagePack is decoded as the JSON that it stands for (see [V3]), so
// that a handler need not know what its client speaks. Into a *Payload it is stored as it is. Binary payloads decode into *[]byte
// and *Payload only. The zero Payload leaves v alone.
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
		scratch := scratches.Get().(*[]byte)
		*scratch, err = p.appendJSON((*scratch)[:0])
		if err != nil {
			return err
		}
		err = exactjson.Unmarshal(*scratch, v) // nothing that it makes refers to its input
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

// JSON is the payload as JSON, whatever its form; the zero Payload is {}. The caller must not change it. Binary payloads have no
// JSON: the error wraps ErrPayload.
func (p Payload) JSON() ([]byte, error) {
	switch p.form {
	case formNone:
		return emptyObject, nil
	case formJSON:
		return p.raw, nil
	}
	return p.appendJSON(nil)
}

// appendJSON appends the payload as JSON. On an error dst comes back as it was.
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
	}
	err := withJSON(p.value, func(raw []byte) { dst = append(dst, raw...) })
	return dst, err
}

// Encoded is the payload with its Go value encoded as JSON, so that it is encoded once and by the caller's goroutine; other forms
// come back as they are. The error wraps ErrPayload.
func (p Payload) Encoded() (Payload, error) {
	if p.form != formValue {
		return p, nil
	}
	raw, err := p.appendJSON(nil)
	if err != nil {
		return p, err
	}
	return Payload{form: formJSON, raw: raw}, nil
}

// MarshalJSON makes a payload part of a larger value, as the JSON that it stands for; binary becomes base64, as a []byte does.
func (p Payload) MarshalJSON() ([]byte, error) {
	if p.form == formBinary {
		return json.Marshal(p.raw)
	}
	return p.JSON()
}

// UnmarshalJSON keeps a part of a larger value as it is, to be decoded later.
func (p *Payload) UnmarshalJSON(raw []byte) error {
	*p = Payload{form: formJSON, raw: bytes.Clone(raw)}
	return nil
}
