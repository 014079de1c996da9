package serializer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"bennu.example/serializer"
)

// readElsewhere decodes MessagePack with go-msgpack, which shares no code with this package. Every
// number becomes a float64, as in JSON.
func readElsewhere(t *testing.T, data []byte) any {
	t.Helper()
	h := &codec.MsgpackHandle{WriteExt: true}
	h.RawToString, h.MapType = true, reflect.TypeFor[map[string]any]()
	var v any
	if err := codec.NewDecoderBytes(data, h).Decode(&v); err != nil {
		t.Fatalf("go-msgpack cannot read %q: %v", data, err)
	}
	return withFloats(v)
}

func withFloats(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	case float32:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = withFloats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withFloats(v[k])
		}
	case map[any]any: // the type that go-msgpack returns for an empty map
		m := map[string]any{}
		for k, e := range v {
			m[k.(string)] = withFloats(e)
		}
		return m
	}
	return v
}

// hasDuplicateNames reports whether an object in the JSON value names a member twice. go-msgpack
// decodes the second value into the first one and fails if their types differ.
func hasDuplicateNames(t *testing.T, raw []byte) bool {
	t.Helper()
	type level struct {
		names map[string]bool // nil in an array
		value bool            // the next token is a value, not a name
	}
	var open []level
	for d := json.NewDecoder(bytes.NewReader(raw)); ; {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return false
		case err != nil:
			t.Fatal(err)
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			continue
		}
		if n := len(open) - 1; n >= 0 && open[n].names != nil {
			if name, ok := token.(string); ok && !open[n].value {
				if open[n].names[name] {
					return true
				}
				open[n].names[name], open[n].value = true, true
				continue
			}
			open[n].value = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
	}
}

func TestHasDuplicateNames(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		`{"a":1,"b":{"a":"a"},"c":["c","c"]}`: false,
		`{"a":[],"a":""}`:                     true,
		`[{"a":1},{"a":1}]`:                   false,
		`[{"a":{},"b":{"x":"","\u0078":2}}]`:  true,
		`"a"`:                                 false,
	} {
		if got := hasDuplicateNames(t, []byte(raw)); got != want {
			t.Errorf("%s: %v, want %v", raw, got, want)
		}
	}
}

// FuzzMsgpackForOthers compares what another implementation reads with what was in the JSON.
func FuzzMsgpackForOthers(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-5,1.5,"x\n",null,{"b":[]}]}`, `[127,128,-32,-33,65535,65536,18446744073709551615,1e300]`,
		bigIntegers, `{"":{"":[[],{},true,false]}}`,
		`{"":[],"":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want any
		if len(raw) > 500 || !serializer.ValidJSON(raw) || json.Unmarshal(raw, &want) != nil || hasDuplicateNames(t, raw) {
			return
		}
		if got := readElsewhere(t, serializer.AppendJSONAsMsgpack(nil, raw)); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q was read as %v, want %v", raw, got, want)
		}
	})
}

// TestMsgpackOfValuesForOthers sends every kind of Go value to another implementation.
func TestMsgpackOfValuesForOthers(t *testing.T) {
	t.Parallel()
	for name, v := range values() {
		_, frame, err := serializer.V3().Append(nil, &serializer.Message{Payload: serializer.Value(v)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		message, ok := readElsewhere(t, frame).([]any)
		if !ok || len(message) != 5 {
			t.Errorf("%s: the message was read as %v", name, message)
			continue
		}
		raw, err := serializer.Value(v).JSON()
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if got := message[4]; !sameButBytes(got, want) {
			t.Errorf("%s was read as %#v, want %#v", name, got, want)
		}
	}
}

// sameButBytes compares values, where the bytes of a bin equal their base64.
func sameButBytes(got, want any) bool {
	switch want := want.(type) {
	case []any:
		got, ok := got.([]any)
		for i := 0; ok && i < len(want) && len(got) == len(want); i++ {
			ok = sameButBytes(got[i], want[i])
		}
		return ok && len(got) == len(want)
	case map[string]any:
		got, ok := got.(map[string]any)
		for k, v := range want {
			ok = ok && sameButBytes(got[k], v)
		}
		return ok && len(got) == len(want)
	case string:
		if b, ok := got.(string); ok {
			base64, _ := json.Marshal([]byte(b))
			return b == want || string(base64) == `"`+want+`"`
		}
	}
	return reflect.DeepEqual(got, want)
}
