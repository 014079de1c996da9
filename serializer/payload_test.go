package serializer_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"bennu.example/serializer"
)

type note struct {
	Body string    `json:"body"`
	N    int64     `json:"n"`
	Data []byte    `json:"data"`
	At   time.Time `json:"at"`
	Any  any       `json:"any"`
	ID   uuid.UUID `json:"id"`
}

// carried returns v as a payload that was received in each version.
func carried(t *testing.T, v any) map[string]serializer.Payload {
	t.Helper()
	all := map[string]serializer.Payload{"value": serializer.Value(v)}
	for _, s := range serializer.Default() {
		op, frame, err := s.Append(nil, &serializer.Message{Kind: request, Ref: `"1"`, Payload: serializer.Value(v)})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Parse(op, frame)
		if err != nil {
			t.Fatal(err)
		}
		all[s.Version()] = m.Payload
	}
	return all
}

// TestDecodeInEveryVersion decodes the same payload from clients of each version.
func TestDecodeInEveryVersion(t *testing.T) {
	t.Parallel()
	in := note{"hi", 1 << 40, []byte{0, 255}, time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC),
		map[string]any{"a": 1.0, "b": []any{"x"}}, uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")}
	for from, p := range carried(t, in) {
		var out note
		if err := p.Decode(&out); err != nil || !reflect.DeepEqual(out, in) {
			t.Errorf("from %s: %+v, %v", from, out, err)
		}
		var loose struct{ BODY string } // case does not matter, as in encoding/json
		if err := p.Decode(&loose); err != nil || loose.BODY != "hi" {
			t.Errorf("from %s: %+v, %v", from, loose, err)
		}
		var untyped map[string]any
		if err := p.Decode(&untyped); err != nil || untyped["n"] != float64(1<<40) || untyped["data"] != "AP8=" {
			t.Errorf("from %s: %v, %v", from, untyped, err)
		}
		var wrong struct{ Body int }
		if err := p.Decode(&wrong); err == nil || errors.Is(err, serializer.ErrPayload) {
			t.Errorf("from %s: a string into an int: %v", from, err)
		}
		if err := p.Decode(nil); err == nil {
			t.Errorf("from %s: decoded into nil", from)
		}
		var raw json.RawMessage
		if err := p.Decode(&raw); err != nil || !json.Valid(raw) {
			t.Errorf("from %s: %s, %v", from, raw, err)
		}
		var whole serializer.Payload
		if err := p.Decode(&whole); err != nil || !reflect.DeepEqual(whole, p) {
			t.Errorf("from %s: %v, %v", from, whole, err)
		}
	}
	for from, p := range carried(t, []uint64{1<<64 - 1}) {
		var signed []int64
		if err := p.Decode(&signed); err == nil {
			t.Errorf("from %s: a number over int64 became %d", from, signed)
		}
		var unsigned []uint64
		if err := p.Decode(&unsigned); err != nil || unsigned[0] != 1<<64-1 {
			t.Errorf("from %s: %v, %v", from, unsigned, err)
		}
		var named struct{ A, B int }
		if err := p.Decode(&named); err == nil {
			t.Errorf("from %s: an array filled a struct", from)
		}
	}
}

// TestPayloadAsField decodes a part of a payload later and sends it in another payload.
func TestPayloadAsField(t *testing.T) {
	t.Parallel()
	type envelope struct {
		From string             `json:"from"`
		Body serializer.Payload `json:"body"`
	}
	for from, p := range carried(t, envelope{"ann", serializer.Value(map[string]any{"a": []int{1, 2}})}) {
		var e envelope
		if err := p.Decode(&e); err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
		raw, err := e.Body.JSON()
		if err != nil || string(raw) != `{"a":[1,2]}` {
			t.Errorf("from %s: %s, %v", from, raw, err)
		}
		want := []string{`{"from":"bob","body":{"a":[1,2]}}`, `{"body":{"a":[1,2]},"from":"bob"}`}
		for to, q := range carried(t, envelope{"bob", e.Body}) {
			raw, err := q.JSON()
			if err != nil || !slices.Contains(want, string(raw)) {
				t.Errorf("from %s to %s: %s, %v", from, to, raw, err)
			}
		}
	}
	raw, err := json.Marshal([]serializer.Payload{{}, serializer.Binary([]byte{1}), serializer.Value(5)})
	if err != nil || string(raw) != `[{},"AQ==",5]` {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestPayload(t *testing.T) {
	t.Parallel()
	zero := serializer.Value(nil)
	if !zero.IsZero() || zero.IsBinary() || zero.Bytes() != nil {
		t.Errorf("%+v is not the zero payload", zero)
	}
	if raw, err := zero.JSON(); err != nil || string(raw) != "{}" {
		t.Errorf("the zero payload is %s, %v", raw, err)
	}
	left := note{Body: "left"}
	if err := zero.Decode(&left); err != nil || left.Body != "left" {
		t.Errorf("the zero payload decoded to %+v, %v", left, err)
	}

	blob := serializer.Binary([]byte("blob"))
	var b []byte
	if err := blob.Decode(&b); err != nil || string(b) != "blob" || !blob.IsBinary() || string(blob.Bytes()) != "blob" {
		t.Errorf("binary decoded to %q, %v", b, err)
	}
	var s string
	if err := blob.Decode(&s); err == nil {
		t.Errorf("binary decoded into a string, %q", s)
	}
	if raw, err := blob.JSON(); !errors.Is(err, serializer.ErrPayload) || raw != nil {
		t.Errorf("binary as JSON: %q, %v", raw, err)
	}
	var p serializer.Payload
	if err := blob.Decode(&p); err != nil || !p.IsBinary() {
		t.Errorf("binary decoded into a payload: %v, %v", p, err)
	}
	if v := serializer.Value(blob); !reflect.DeepEqual(v, blob) {
		t.Errorf("a payload's value is %v", v)
	}
}

func TestEncoded(t *testing.T) {
	t.Parallel()
	for _, p := range []serializer.Payload{{}, serializer.Binary([]byte("x"))} {
		if e, err := p.Encoded(); err != nil || !reflect.DeepEqual(e, p) {
			t.Errorf("%+v was encoded to %+v, %v", p, e, err)
		}
	}
	n := 1
	p, err := serializer.Value(map[string]*int{"n": &n}).Encoded()
	n = 2
	if err != nil || string(p.Bytes()) != `{"n":1}` {
		t.Errorf("%s, %v", p.Bytes(), err)
	}
	if again, err := p.Encoded(); err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("%+v, %v", again, err)
	}
	for _, v := range []any{func() {}, json.RawMessage(`{`), json.RawMessage("\"\xff\"")} {
		if _, err := serializer.Value(v).Encoded(); !errors.Is(err, serializer.ErrPayload) {
			t.Errorf("%T: %v", v, err)
		}
		if err := serializer.Value(v).Decode(new(any)); !errors.Is(err, serializer.ErrPayload) {
			t.Errorf("%T: %v", v, err)
		}
	}
}

func TestRef(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ref  serializer.Ref
		text string
	}{
		{"", ""}, {serializer.EmptyRef, ""}, {`"a"`, "a"}, {`"a\"\\\n"`, "a\"\\\n"}, {`5`, "5"}, {`[1]`, "[1]"},
		{`true`, "true"}, {`"é"`, "é"},
	} {
		if got := tt.ref.Text(); got != tt.text {
			t.Errorf("%s has the text %q, want %q", tt.ref, got, tt.text)
		}
		if tt.ref.IsNull() != (tt.ref == "") {
			t.Errorf("%q is null: %v", tt.ref, tt.ref.IsNull())
		}
	}
	for in, want := range map[string]serializer.Ref{"": `""`, "12": `"12"`, "a\"": `"a\""`, "\n": `"\n"`, "é": `"é"`,
		"\xff": "\"\ufffd\"", "\x7f": "\"\x7f\""} {
		if got := serializer.StringRef(in); got != want {
			t.Errorf("StringRef(%q) = %s, want %s", in, got, want)
		}
	}
}
