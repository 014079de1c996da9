package serializer_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"bennu.example/internal/exactjson"
	"bennu.example/serializer"
)

type decodeTarget struct {
	S  string             `json:"s"`
	I  int8               `json:"i"`
	L  int64              `json:"l"`
	U  uint16             `json:"u"`
	F  float64            `json:"f"`
	G  float32            `json:"g"`
	B  bool               `json:"b"`
	D  []byte             `json:"d"`
	P  *int               `json:"p"`
	T  []decodeInner      `json:"t"`
	M  map[string][]int16 `json:"m"`
	N  map[word]*string   `json:"n"`
	X  decodeInner        `json:"x,omitempty"`
	No int                `json:"-"`
}

type decodeInner struct {
	Name   string
	Octets octets
	Deep   **bool
}

// decodeTargets returns values of many types to decode into, some of which are not empty.
func decodeTargets() []any {
	n := 3
	return []any{
		new(decodeTarget), new(decodeInner), &decodeTarget{S: "was", I: 1, P: &n, D: []byte("was"),
			T: []decodeInner{{Name: "was"}, {Name: "was"}}, M: map[string][]int16{"was": {1}, "s": {2, 3}},
			X: decodeInner{Name: "was"}},
		new(map[string]int), new(map[string]string), new(map[string]map[string]float64), new(map[string]*bool),
		new(map[word]word), &map[string]int{"was": 1}, new(map[int]string), new(map[string]any),
		new([]int), new([]string), new([][]byte), new([]decodeInner), new([]float32), new([]*uint8), new([3]int),
		new([]any), &[]int{1, 2, 3}, new([]octet), new([][]int),
		new(string), new(word), new(bool), new(int), new(int8), new(uint64), new(uint8), new(uintptr), new(float64),
		new(float32), new([]byte), new(octets), new(*int), new(**string), new(any),
		new(tree), new(time.Time), new(textual), new(json.Number), new([]json.Number), new(json.RawMessage),
		new(struct{}), new(struct{ s string }), new(options), new(odd), new(embeds), new(struct{ S, s2, I string }),
		new(chan int), new(func()),
	}
}

// clone returns a target that equals v, so that both decoders begin with the same.
func clone(t *testing.T, v any) any {
	t.Helper()
	for _, fresh := range decodeTargets() {
		if reflect.TypeOf(fresh) == reflect.TypeOf(v) && reflect.DeepEqual(fresh, v) {
			return fresh
		}
	}
	t.Fatalf("%T has no copy", v)
	return nil
}

// testDecode compares Decode with what encoding/json decodes from the payload's JSON.
func testDecode(t *testing.T, p serializer.Payload) {
	t.Helper()
	raw, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range decodeTargets() {
		if reflect.TypeOf(got).Elem().Kind() == reflect.Chan || reflect.TypeOf(got).Elem().Kind() == reflect.Func {
			if err := p.Decode(got); (err == nil) != (string(raw) == "null") {
				t.Fatalf("%s into %T: %v", raw, got, err)
			}
			continue
		}
		want := clone(t, got)
		wantErr := exactjson.Unmarshal(raw, want)
		gotErr := p.Decode(got)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%s into %T: error %v, want %v", raw, got, gotErr, wantErr)
		}
		if !reflect.DeepEqual(got, want) {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			t.Fatalf("%s into %T:\n got %s %+v\nwant %s %+v", raw, got, g, reflect.ValueOf(got).Elem(), w,
				reflect.ValueOf(want).Elem())
		}
	}
}

func mpPayload(t *testing.T, value string) (p serializer.Payload, ok bool) {
	t.Helper()
	if !serializer.ValidMsgpack([]byte(value)) {
		return p, false
	}
	m, err := serializer.V3().Parse(binary, []byte("\x95\xc0\xc0\xa1t\xa1e"+value))
	if err != nil {
		t.Fatal(err)
	}
	return m.Payload, !m.Payload.IsBinary()
}

var decodeSeeds = []string{
	"\xc0", "\xc3", "\x05", "\xff", "\xcc\xff", "\xcd\xff\xff", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
	"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", "\xcf\x00\x20\x00\x00\x00\x00\x00\x01",
	"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "\xd0\x80",
	"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", "\xcb\x40\x08\x00\x00\x00\x00\x00\x00",
	"\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "\xca\x3d\xcc\xcc\xcd", "\xcb\x80\x00\x00\x00\x00\x00\x00\x00",
	"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "\xcb\x7f\xef\xff\xff\xff\xff\xff\xff",
	"\xa0", "\xa1x", "\xa2é", "\xa1\xff", "\xa4AP8=", "\xa212", "\xd6\xff\x00\x00\x00\x05", "\xd4\x05\x01",
	"\x90", "\x93\x01\x02\x03", "\x92\xa1a\xc0", "\x92\xc4\x01a\xa4AP8=", "\x92\x90\x91\x01",
	"\x94\x01\xcd\x01\x00\xff\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", "\x92\x81\xa4Name\xa1a\xc0",
	"\x80", "\x81\xa1a\x01", "\x82\xa1a\xa1x\xa1b\xc0", "\x81\x05\x01", "\x82\xa1a\x01\xa1a\x02",
	"\x81\xa1a\x81\xa1b\x05", "\x81\xc4\x01a\x01", "\x81\xa1\xff\x01", "\x82\xa1a\xc3\xa1b\xc2", "\x82\xa1a\x01\xc0\x02",
	"\x8c\xa1s\xa1x\xa1i\xff\xa1l\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1u\xcd\x01\x00\xa1f\x03\xa1g\xca\x3e" +
		"\x80\x00\x00\xa1b\xc3\xa1d\xc4\x02\x00\xff\xa1p\x07\xa1t\x92\x83\xa4Name\xa1n\xa6Octets\xc4\x00\xa4Deep" +
		"\xc2\xc0\xa1m\x81\xa1k\x92\x01\xff\xa1n\x82\xa1a\xa1b\xa1c\xc0",
	"\x83\xa1S\xa1x\xa1i\x01\xa7unknown\x92\x01\x80", "\x82\xa1s\xa1x\xa1I\x05", "\x81\xa1s\x05",
	"\x81\xa1i\xcd\x01\x00", "\x81\xa1d\xa4AP8=", "\x81\xa1d\x92\x01\x02", "\x81\xa1b\x01", "\x81\xa1s\xc4\x01a",
	"\x82\xa1t\x91\x80\xa1t\x92\x80\x80", "\x81\xa1x\x92\x01\x02", "\x81\xa3\xe2\x84\xaa\x01", "\x81\xa2\xc5\xbf\xa1x",
	"\x81\xa1t\xc0", "\x81\xa1p\xc0", "\x81\xa1x\xc0", "\x81\xa1m\xc0", "\x81\xa1d\xc0", "\x81\xa2No\x05", "\x81\xa1-\x05",
	"\x83\xa4name\xa1r\xa3sub\x92\x81\xa4name\xa1a\xc0\xa4data\xc4\x01x",
}

// TestDecodeMsgpackAsJSON decodes MessagePack as encoding/json decodes the same payload in JSON.
func TestDecodeMsgpackAsJSON(t *testing.T) {
	t.Parallel()
	for _, s := range decodeSeeds {
		p, ok := mpPayload(t, s)
		if !ok {
			t.Fatalf("%q", s)
		}
		testDecode(t, p)
	}
	for _, v := range values() {
		for _, p := range carried(t, v) {
			if !p.IsBinary() {
				testDecode(t, p)
			}
		}
	}
}

func FuzzDecodeMsgpack(f *testing.F) {
	for _, s := range decodeSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := mpPayload(t, s); ok {
			testDecode(t, p)
		}
	})
}
