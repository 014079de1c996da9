package exactjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"bennu.example/internal/exactjson"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestNumbers(t *testing.T) {
	t.Parallel()
	const n = "number" // a json.Number, of the same text
	for text, want := range map[string]any{
		"0": 0., "-0": nil, "12": 12., "999999999999999": 999999999999999.,
		"9007199254740992": 9007199254740992., "9007199254740993": n,
		"-9007199254740993":   n,
		"9007199254740994":    9007199254740994.,
		"1152921504606846976": n, "9223372036854775807": n, "-9223372036854775808": n, "18446744073709551615": n,
		"100000000000000000000": 1e20, "123456789012345678901234567890": n, "1" + strings.Repeat("0", 400): n,
		"0.1": .1, "52.520006599999998": 52.520006599999998, "9007199254740993.0": 9007199254740992.,
		"9007199254740993e0": 9007199254740992., "1e300": 1e300, "0.0000000000000000001": 1e-19,
	} {
		for _, around := range []string{"%", " [1,%]", `{"a":{"b":[%]}}`, `[9007199254740993,"9007199254740993",%]`} {
			raw := strings.ReplaceAll(around, "%", text)
			var got any
			if err := exactjson.Unmarshal([]byte(raw), &got); err != nil {
				t.Errorf("%s: %v", raw, err)
				continue
			}
			for more := true; more; { // the last of a slice, the one of a map
				switch v := got.(type) {
				case []any:
					got = v[len(v)-1]
				case map[string]any:
					for _, got = range v {
					}
				default:
					more = false
				}
			}
			switch want {
			case n:
				if got != json.Number(text) {
					t.Errorf("%s: %T %v", raw, got, got)
				}
			case nil:
				if f, ok := got.(float64); !ok || f != 0 {
					t.Errorf("%s: %T %v", raw, got, got)
				}
			default:
				if got != want {
					t.Errorf("%s: %T %v, want %v", raw, got, got, want)
				}
			}
		}
	}
}

type base struct{ Embedded any }

type node struct {
	base
	ID     int64
	Any    any
	Map    map[string]any
	List   []any
	Two    [2]any
	Nested map[string]struct{ V any }
	Number json.Number
	Ptr    *node
	Raw    json.RawMessage
	hidden any
}

func TestTypes(t *testing.T) {
	t.Parallel()
	const raw = `{"Embedded":9007199254740993,"ID":9007199254740993,"Any":9007199254740995,` +
		`"Map":{"a":1,"b":9007199254740997},` +
		`"List":[2,[9007199254740999]],"Two":[9007199254741001,3],"Nested":{"x":{"V":9007199254741003},"y":{"V":4}},` +
		`"Number":5,"Ptr":{"Any":[9007199254741005,6]},"Raw":9007199254741007}`
	self := &node{hidden: json.Number("7")}
	self.Ptr = &node{Ptr: self} // a cycle that the JSON does not follow
	if err := exactjson.Unmarshal([]byte(raw), self); err != nil {
		t.Fatal(err)
	}
	self.Ptr.Ptr = nil
	type number = json.Number
	want := &node{
		base: base{number("9007199254740993")}, ID: 9007199254740993, Any: number("9007199254740995"),
		Map:  map[string]any{"a": 1., "b": number("9007199254740997")},
		List: []any{2., []any{number("9007199254740999")}},
		Two:  [2]any{number("9007199254741001"), 3.}, Number: "5", hidden: number("7"),
		Nested: map[string]struct{ V any }{"x": {number("9007199254741003")}, "y": {4.}},
		Ptr:    &node{Any: []any{number("9007199254741005"), 6.}}, Raw: json.RawMessage("9007199254741007"),
	}
	if !reflect.DeepEqual(self, want) {
		t.Errorf("got  %+v\nwant %+v", self, want)
	}

	within := struct{ N any }{}
	var v any = &within // decoded into what it points to
	err := exactjson.Unmarshal([]byte(`{"N":[9007199254740993,1]}`), &v)
	if err != nil || !reflect.DeepEqual(within.N, []any{number("9007199254740993"), 1.}) {
		t.Errorf("%v: %+v", err, within)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"a":9007199254740993`, `9007199254740993 1`, `9007199254740993x`,
		`[1e400,9007199254740993]`, `{"a":[9007199254740993]}`,
	} {
		var to any
		if strings.HasPrefix(raw, `{"a":[`) {
			to = &struct{ A int }{}
		} else {
			to = new(any)
		}
		got := exactjson.Unmarshal([]byte(raw), to)
		want := json.Unmarshal([]byte(raw), reflect.New(reflect.TypeOf(to).Elem()).Interface())
		if got == nil || want == nil {
			t.Errorf("%s: the error is %v, that of encoding/json %v", raw, got, want)
		}
	}
	var wrong *json.UnmarshalTypeError
	if err := exactjson.Unmarshal([]byte(`[1e400,9007199254740993]`), new(any)); !errors.As(err, &wrong) {
		t.Error(err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`1`, `{"a":9007199254740993}`, `[1.5,-18446744073709551616,"1234567890123456789"]`, `{"a":[{}],"b":1e400}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var mine, theirs any
		err1, err2 := exactjson.Unmarshal(raw, &mine), json.Unmarshal(raw, &theirs)
		if err2 == nil && err1 != nil {
			t.Fatalf("%q: %v", raw, err1)
		}
		if err1 != nil {
			return
		}
		out, err := json.Marshal(mine)
		if err != nil {
			t.Fatal(err)
		}
		if err2 != nil { // an integer that is too large for a float64
			return
		}
		// As float64s, both are the same.
		var again any
		if err := json.Unmarshal(out, &again); err != nil || !reflect.DeepEqual(again, theirs) {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		// And without fractions and exponents, the digits are the same.
		var want bytes.Buffer
		if !bytes.ContainsAny(raw, `.eE"-{`) && json.Compact(&want, raw) == nil && !bytes.Equal(out, want.Bytes()) {
			t.Fatalf("%q became %q", raw, out)
		}
	})
}
