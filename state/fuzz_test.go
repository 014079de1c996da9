package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/state"
)

func FuzzJoinParams(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"since":"k2m9-7-31hc"}`, `{"since":null}`, `{"mode":"new","value":{},"ttl":5}`,
		`{"keys":{"prefix":"a"}}`, `{"keys":{"from":"a","to":"b"}}`, `{"keys":{"first":5}}`, `{"keys":null}`, `[]`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !json.Valid(in) {
			return
		}
		var p serializer.Payload
		_ = p.UnmarshalJSON([]byte(`{"$state":` + string(in) + `}`)) // it never fails
		err := state.ParseJoin(p)
		var limit *state.LimitError
		if err != nil && !errors.Is(err, state.ErrInvalid) && !errors.Is(err, state.ErrPosition) && !errors.As(err, &limit) {
			t.Errorf("%s: %v", in, err)
		}
	})
}

// FuzzServerValues compares the result with a simple implementation.
func FuzzServerValues(f *testing.F) {
	for _, s := range []string{
		`{"$now":true}`, `{"a":[1,{"$inc":2}],"b":{"$key":true}}`, `{"a":{"\u0024inc":-1.5}}`, `"$"`, `["\"$"]`, `{"$":1}`,
		`{"a":{"$inc":1e400}}`, `{"$inc":9007199254740992}`, ` { "a" : { "$now" : true } } `, `{"a":1,"$now":true}`,
		`{"":{"0$inc":0}}`,
	} {
		f.Add([]byte(s), []byte(`{"a":[1,2]}`))
		f.Add([]byte(s), []byte(`9007199254740992`))
	}
	f.Fuzz(func(t *testing.T, value, current []byte) {
		if !json.Valid(value) || !json.Valid(current) {
			return
		}
		got, err := state.Resolve(value, current)
		if err != nil {
			if !errors.Is(err, state.ErrInvalid) {
				t.Fatalf("%s: %v", value, err)
			}
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%s became %s", value, got)
		}
		if strings.Contains(string(value), `"$inc`) && !state.Depends(value) {
			t.Fatalf("%s does not depend on the current value", value)
		}
		want := expand(number(t, value), number(t, current))
		if want == nil { // it has an increment that expand does not make
			return
		}
		if g := number(t, got); !reflect.DeepEqual(g, *want) {
			t.Fatalf("%s became %s, want %v", value, got, *want)
		}
	})
}

// number decodes JSON with the texts of numbers.
func number(t *testing.T, data []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Skip(err)
	}
	return v
}

// expand replaces server values other than $inc in a decoded value.
func expand(v, current any) *any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, e := range v {
			x := expand(e, nil)
			if x == nil {
				return nil
			}
			out = append(out, *x)
		}
		return ref(out)
	case map[string]any:
		if _, ok := v["$now"]; ok {
			return ref(json.Number("1"))
		}
		if _, ok := v["$key"]; ok {
			return ref("key")
		}
		if _, ok := v["$inc"]; ok {
			return nil
		}
		out := map[string]any{}
		for name, e := range v {
			x := expand(e, nil)
			if x == nil {
				return nil
			}
			out[name] = *x
		}
		return ref(out)
	}
	return &v
}

func ref(v any) *any { return &v }

// FuzzMergePatch compares the result with the rules of RFC 7396.
func FuzzMergePatch(f *testing.F) {
	for _, s := range [][2]string{
		{`{"a":"b"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"a":null}`}, {`{"a":["b"]}`, `{"a":"c"}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`},
		{`["a"]`, `{"a":1}`}, {`{}`, `{"a":{"bb":{"ccc":null}}}`}, {`1e5`, `{"a":1.50}`}, {`null`, `{}`},
	} {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, value, patch []byte) {
		if !json.Valid(value) || !json.Valid(patch) {
			return
		}
		got, err := state.MergePatch(value, patch)
		if err != nil {
			t.Fatal(err)
		}
		if g, want := number(t, got), merge(number(t, value), number(t, patch)); !reflect.DeepEqual(g, want) {
			t.Fatalf("%s and %s became %s, want %v", value, patch, got, want)
		}
	})
}

// merge is MergePatch of RFC 7396, as it is written there, without changing its arguments.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out := map[string]any{}
	if t, ok := target.(map[string]any); ok {
		for name, v := range t {
			out[name] = v
		}
	}
	for name, v := range p {
		if v == nil {
			delete(out, name)
		} else {
			out[name] = merge(out[name], v)
		}
	}
	return out
}
