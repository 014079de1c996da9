package serializer

import (
	"encoding/json"
	"errors"
	"fmt"
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

// Value is the payload v: a Payload is taken as it is, nil is the zero Payload, json.RawMessage is JSON, anything else is
// encoded by encoding/json (or as MessagePack, by its json tags) when it is sent.
func Value(v any) Payload {
	switch v := v.(type) {
	case nil:
		return Payload{}
	case Payload:
		return v
	case json.RawMessage:
		return Payload{form: formValue, value: v} // checked when it is encoded
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

// errBinary is what decoding a binary payload into anything but bytes gives.
var errBinary = errors.New("payload is binary")

// Decode stores the payload in v, as json.Unmarshal does; MessagePack goes by the same json tags. Into a *Payload it is
// stored as it is. Binary payloads decode into *[]byte and *Payload only. The zero Payload leaves v alone.
func (p Payload) Decode(v any) error {
	if to, ok := v.(*Payload); ok {
		*to = p
		return nil
	}
	switch p.form {
	case formNone:
		return nil
	case formBinary:
		to, ok := v.(*[]byte)
		if !ok {
			return fmt.Errorf("serializer: decode into %T: %w", v, errBinary)
		}
		*to = p.raw
		return nil
	case formMsgpack:
		return decodeMsgpack(p.raw, v)
	}
	raw, err := p.JSON()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("serializer: decode payload: %w", err)
	}
	return nil
}

// JSON is the payload as JSON, whatever its form; the zero Payload is {}. Binary payloads have no JSON: the error wraps ErrPayload.
func (p Payload) JSON() ([]byte, error) {
	switch p.form {
	case formNone:
		return emptyObject, nil
	case formJSON:
		return p.raw, nil
	}
	return p.appendJSON(nil)
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

var emptyObject = []byte("{}")
