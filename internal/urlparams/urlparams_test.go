package urlparams_test

import (
	"encoding/json"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/urlparams"
)

// TestEncode expects the results of phoenix.js (assets/js/phoenix/ajax.js) for the same values,
// without the extra "&" that it writes for empty values.
func TestEncode(t *testing.T) {
	t.Parallel()
	type inner struct {
		X int    `json:"x"`
		Y string `json:"y,omitempty"`
		z int
	}
	for name, tt := range map[string]struct {
		in   any
		want string
	}{
		"nil":        {nil, ""},
		"nil map":    {map[string]string(nil), ""},
		"empty":      {map[string]any{}, ""},
		"one":        {map[string]string{"token": "abc"}, "token=abc"},
		"sorted":     {map[string]any{"b": 2, "a": "1", "c": true}, "a=1&b=2&c=true"},
		"nested":     {map[string]any{"a": map[string]any{"b": map[string]any{"c": 1}}}, "a%5Bb%5D%5Bc%5D=1"},
		"slice":      {map[string]any{"a": []any{"x", 2, []int{3}}}, "a%5B0%5D=x&a%5B1%5D=2&a%5B2%5D%5B0%5D=3"},
		"struct":     {struct{ A, B any }{inner{X: 1, z: 2}, &inner{Y: "q"}}, "A%5Bx%5D=1&B%5Bx%5D=0&B%5By%5D=q"},
		"html":       {map[string]string{"a": "<&>"}, "a=%3C%26%3E"},
		"empty key":  {map[string]any{"": map[string]int{"a": 1}}, "a=1"},
		"object":     {json.RawMessage(`{"z":1,"a":2}`), "z=1&a=2"},
		"values":     {url.Values{"b": {"2", "3 4"}, "a": {"x"}, "c": {}}, "a=x&b=2&b=3%204"},
		"no values":  {url.Values(nil), ""},
		"bad UTF-8":  {map[string]string{"a": "\xff"}, "a=%EF%BF%BD"},
		"bytes":      {map[string]any{"a": []byte("\x00\xff")}, "a=AP8%3D"},
		"nil struct": {(*inner)(nil), ""},
		"nulls": {
			map[string]any{"a": nil, "b": []any{nil, 1, nil}, "c": map[string]any{}, "d": []int{}, "e": ""},
			"b%5B1%5D=1&e=",
		},
		"escapes": {
			map[string]string{"a b&=[]": "ü/+ %\"\n-_.!~*'()"},
			"a%20b%26%3D%5B%5D=%C3%BC%2F%2B%20%25%22%0A-_.!~*'()",
		},
		"numbers": {
			map[string]any{"big": uint64(math.MaxUint64), "float": 1.5, "huge": 1e21, "neg": -3},
			"big=18446744073709551615&float=1.5&huge=1e%2B21&neg=-3",
		},
		"marshaler": {
			map[string]any{"at": time.Unix(0, 0).UTC(), "raw": json.RawMessage(`{"x":[1]}`)},
			"at=1970-01-01T00%3A00%3A00Z&raw%5Bx%5D%5B0%5D=1",
		},
		"deep": {
			json.RawMessage(`{"a":` + strings.Repeat("[", 500) + "1" + strings.Repeat("]", 500) + "}"),
			"a" + strings.Repeat("%5B0%5D", 500) + "=1",
		},
	} {
		if got, err := urlparams.Encode(tt.in); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
	for name, in := range map[string]any{
		"string": "a=b", "number": 1, "bool": true, "slice": []string{"a"}, "channel": make(chan int),
		"map with a function": map[string]any{"f": func() {}}, "map with NaN": map[string]any{"n": math.NaN()},
	} {
		if got, err := urlparams.Encode(in); err == nil || got != "" {
			t.Errorf("%s: %q and no error", name, got)
		}
	}
}

// FuzzEncode checks that the result is a query with one pair per leaf, and that it needs no further
// escaping.
func FuzzEncode(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":[1,{"b":null}],"c":{"":"&="}}`,
		`[1]`, `"x"`, `null`, `{"a":1,"a":2}`, `{"\ud800":"\u0000"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !json.Valid(text) {
			return
		}
		var v any
		if json.Unmarshal(text, &v) != nil {
			return
		}
		got, err := urlparams.Encode(v)
		if _, object := v.(map[string]any); !object && v != nil {
			if err == nil {
				t.Fatalf("%s: %q and no error", text, got)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, b := range []byte(got) {
			if b <= ' ' || b >= 0x7f || strings.IndexByte(`[]{}<>"#?+/\^|;`, b) >= 0 {
				t.Fatalf("%s: %q has %q", text, got, b)
			}
		}
		pairs := 0
		if got != "" {
			for pair := range strings.SplitSeq(got, "&") {
				if strings.Count(pair, "=") != 1 {
					t.Fatalf("%s: %q has the pair %q", text, got, pair)
				}
				pairs++
			}
		}
		if _, err := url.ParseQuery(got); err != nil || pairs != leaves(v) {
			t.Fatalf("%s: %q: %d pairs for %d leaves, %v", text, got, pairs, leaves(v), err)
		}
	})
}

func leaves(v any) int {
	n := 0
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for _, e := range v {
			n += leaves(e)
		}
	case []any:
		for _, e := range v {
			n += leaves(e)
		}
	default:
		n = 1
	}
	return n
}
