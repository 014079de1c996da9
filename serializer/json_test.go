package serializer_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"bennu.example/serializer"
)

func TestValidJSON(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		`null`, `true`, `false`, `0`, `-0`, `12`, `-1.5`, `1e5`, `1E+5`, `0.1e-5`, `""`, `"a"`, `[]`, `{}`, " [ ] ",
		"\t{ }\r\n",
		`[1,2,[3,{"a":[]}],{}]`, `{"a":1,"b":{"c":[null]},"a":2}`, `[ 1 , 2 ]`, `{ "a" : 1 , "b" : 2 }`,
		`"\"\\\/\b\f\n\r\t\u0041\u00e9\u2028"`, `"\ud83d\ude00"`, `"\uD83D\uDE00x"`, "\"\x7f é 😀 \u2028\"",
		`1e308`, `1e-400`, `1.7976931348623157e308`, `0e999`, `0.0e400`, strings.Repeat("9", 400),
		"-" + strings.Repeat("9", 400),
		strings.Repeat("1", 300) + ".5", `"` + strings.Repeat("x", 31) + `"`, `"` + strings.Repeat("é", 33) + `"`,
	} {
		if !serializer.ValidJSON([]byte(s)) {
			t.Errorf("%.60q is rejected", s)
		}
		if !json.Valid([]byte(s)) {
			t.Errorf("%.60q is not JSON", s)
		}
	}
	for _, s := range []string{
		``, ` `, `nul`, `nulll`, `True`, `t`, `-`, `+1`, `01`, `-01`, `1.`, `.5`, `1e`, `1e+`, `1.e5`, `0x1`, `NaN`,
		`Infinity`, `1 2`, `1,`,
		`"`, `"a`, `'a'`, `"\"`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\n\"", "\"a\x00\"", "\"12345678\x1f\"", `"\`,
		`[`, `]`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `[}`, `[1}`, `{`, `}`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`,
		`{"a":1,}`, `{,}`, `{1:2}`, `{"a" 1}`, `{"a":1]`, `{]`, `{null:1}`, `{"a":}`, `[:]`, `[[]`, `[]]`, `{}{}`,
		// encoding/json accepts these, Jason does not
		"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"12345678\xff\"", `"\ud800"`, `"\udc00"`, `"\ud800\ud800"`,
		`"\ud800x"`, `"\ud800\n"`, `"\ud800\u0041"`, `"\udc00\ud800"`,
		`1e400`, `-1e400`, `1.0e309`, `1e0000000000309`, `[1e999999999999999999999]`, `1.7976931348623159e308`,
		strings.Repeat("9", 400) + ".0", strings.Repeat("9", 300) + "e10",
	} {
		if serializer.ValidJSON([]byte(s)) {
			t.Errorf("%.60q is accepted", s)
		}
	}
}

func TestValidJSONDepth(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"[", "]"}, {`{"a":`, "}"}, {`[{"a":`, "}]"}} {
		levels := strings.Count(pair[0], "[") + strings.Count(pair[0], "{")
		for n, want := range map[int]bool{1000: true, serializer.MaxDepth: true, serializer.MaxDepth + 2: false,
			1_000_000: false} {
			s := strings.Repeat(pair[0], n/levels) + "1" + strings.Repeat(pair[1], n/levels)
			if got := serializer.ValidJSON([]byte(s)); got != want {
				t.Errorf("%d levels of %s: %v, want %v", n, pair[0], got, want)
			}
			mixed := strings.Replace(s, pair[1], "?", 1)
			if serializer.ValidJSON([]byte(mixed)) {
				t.Errorf("%d levels of %s with one wrong end are accepted", n, pair[0])
			}
		}
	}
}

func TestAppendString(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                       `""`,
		"plain":                  `"plain"`,
		"a\"b\\c/d":              `"a\"b\\c/d"`,
		"\b\f\n\r\t\x00\x1f\x7f": "\"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\"",
		"<script>&":              `"<script>&"`, // HTML is not escaped
		"é 😀 \u2028":             "\"é 😀 \u2028\"",
		"a\xffb\xc3":             "\"a\ufffdb\ufffd\"",
		"\ufffd":                 "\"\ufffd\"",
	} {
		got := string(serializer.AppendString([]byte("x"), in))
		if got != "x"+want {
			t.Errorf("AppendString(%q) = %s, want %s", in, got, want)
		}
		var back string
		if err := json.Unmarshal([]byte(got[1:]), &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") {
			t.Errorf("%s reads as %q, %v", got, back, err)
		}
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range []string{`[1,{"a":"\ud83d\ude00"}]`, `{"a":[-1.5e3,null,true]}`, "\"\xff\"", `[[[]]]`,
		`"\ud800"`, `1e400`, "\"\x7f12345678\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, theirs := serializer.ValidJSON(b), json.Valid(b)
		if mine && !theirs {
			t.Fatalf("%q is accepted but is not JSON", b)
		}
		if !theirs {
			return
		}
		var v any
		err := json.Unmarshal(b, &v) // fails for numbers that are too large
		strict := utf8.Valid(b) && !halfSurrogate(string(b)) && err == nil
		if !mine && strict && len(b) < 300 {
			t.Fatalf("%q is rejected", b)
		}
		if mine && !strict && len(b) < 300 {
			t.Fatalf("%q is accepted", b)
		}
	})
}

// halfSurrogate reports whether valid JSON contains an escape of half a surrogate pair. It shares
// no code with the scanner: encoding/json decodes such an escape as U+FFFD.
func halfSurrogate(s string) bool {
	s = strings.ReplaceAll(s, `\\`, "")
	for {
		i := strings.Index(strings.ToLower(s), `\ud`)
		if i < 0 {
			return false
		}
		s = s[i:]
		if strings.ContainsRune("01234567", rune(s[3])) {
			s = s[6:]
			continue
		}
		var v string
		if len(s) < 12 || json.Unmarshal([]byte(`"`+s[:12]+`"`), &v) != nil || utf8.RuneCountInString(v) != 1 {
			return true
		}
		s = s[12:]
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\xff😀")
	f.Fuzz(func(t *testing.T, s string) {
		b := serializer.AppendString(nil, s)
		if !serializer.ValidJSON(b) {
			t.Fatalf("%q became %q", s, b)
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		ref := serializer.StringRef(s)
		if utf8.ValidString(s) && (back != s || ref.Text() != s || ref != serializer.Ref(b)) {
			t.Fatalf("%q came back as %q", s, back)
		}
	})
}
