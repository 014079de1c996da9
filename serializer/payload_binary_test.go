package serializer_test

import (
	"bytes"
	"encoding"
	"errors"
	"testing"

	"bennu.example/serializer"
)

var (
	_ encoding.BinaryAppender    = serializer.Payload{}
	_ encoding.BinaryUnmarshaler = (*serializer.Payload)(nil)
)

func TestPayloadBinary(t *testing.T) {
	t.Parallel()
	msgpack, err := serializer.V3().Parse(serializer.OpBinary,
		[]byte("\x95\xc0\xa11\xa1t\xa1e\x81\xa1k\x93\x01\xc0\xc4\x01\xff"))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]serializer.Payload{
		"nothing":     {},
		"value":       serializer.Value(map[string]int{"n": 1}),
		"binary":      serializer.Binary([]byte{0, 1, 255}),
		"empty bytes": serializer.Binary(nil),
		"msgpack":     msgpack.Payload,
	} {
		data, err := p.AppendBinary([]byte("before"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var back serializer.Payload
		if err := back.UnmarshalBinary(bytes.TrimPrefix(data, []byte("before"))); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		encoded, err := p.Encoded()
		if err != nil {
			t.Fatal(err)
		}
		if back.IsBinary() != p.IsBinary() || back.IsZero() != p.IsZero() || !bytes.Equal(back.Bytes(), encoded.Bytes()) {
			t.Errorf("%s: came back as %q", name, back.Bytes())
		}
	}
	if data, err := serializer.Value(make(chan int)).AppendBinary([]byte("x")); !errors.Is(err,
		serializer.ErrPayload) || string(data) != "x" {
		t.Errorf("no JSON: %q, %v", data, err)
	}
	for _, bad := range []string{"", "\x00x", "\x01{}", "\x02{", "\x02{}x", "\x02 {}", "\x02\"\xff\"", "\x03",
		"\x03\x01\x01", "\x03\xdd\xff\xff\xff\xff", "\x05", "\xff{}"} {
		var p serializer.Payload
		if err := p.UnmarshalBinary([]byte(bad)); !errors.Is(err, serializer.ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzPayloadUnmarshalBinary(f *testing.F) {
	f.Add([]byte("\x02{\"a\":1}"))
	f.Add([]byte("\x03\x81\xa1k\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p serializer.Payload
		if p.UnmarshalBinary(data) != nil {
			return
		}
		back, err := p.AppendBinary(nil)
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%q came back as %q, %v", data, back, err)
		}
		if _, err := p.JSON(); err != nil && !p.IsBinary() {
			t.Fatal(err)
		}
	})
}
