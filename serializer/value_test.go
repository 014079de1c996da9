package serializer_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"bennu.example/serializer"
)

type (
	word     string
	octets   []byte
	octet    byte
	loud     struct{ S string }
	ptrLoud  struct{ S string }
	textual  int
	binaryOn struct{ N int }
	zeroed   struct{ N int }
	tree     struct {
		Name string  `json:"name"`
		Sub  []*tree `json:"sub,omitempty"`
		Data []byte  `json:"data"`
	}
	mutual  struct{ Other *mutual2 }
	mutual2 struct{ Back []mutual }
	plain   struct {
		A string            `json:"a"`
		B int64             `json:"b,omitempty"`
		C []int             `json:"c"`
		D map[string]uint16 `json:"d,omitempty"`
		E *bool             `json:"e,omitempty"`
		F float64
		G []byte `json:"g"`
		h int
		I string          `json:"-"`
		J string          `json:"-,"`
		K word            `json:"k"`
		L struct{ X int } `json:"l"`
		M []struct{ Y *int }
		N octets
		O float32
	}
	options struct {
		S int       `json:"s,string"`
		Z time.Time `json:"z,omitzero"`
		Y int       `json:"y,omitzero"`
	}
	zeros struct {
		A zeroed            `json:"a,omitempty"`
		B zeroed            `json:"b,omitempty"`
		C [0]int            `json:"c,omitempty"`
		D [2]int            `json:"d,omitempty"`
		E struct{ X int }   `json:"e,omitempty"`
		F any               `json:"f,omitempty"`
		G *int              `json:"g,omitzero"`
		H map[string]string `json:"h,omitzero"`
		I struct{ X int }   `json:"i,omitzero"`
	}
	tagged struct {
		A int `codec:"b" json:"a"`
		C int `codec:"-"`
	}
	packed struct {
		_struct bool `codec:",toarray"`
		A       int
	}
	odd struct {
		A int `json:"a b"`
		B int `json:"a/b"`
		É int
		C int
		D int `json:"C"`
	}
	embeds struct {
		loud
		plain
		*tree
		X int
	}
)

func (l loud) MarshalJSON() ([]byte, error)       { return json.Marshal(strings.ToUpper(l.S)) }
func (l *ptrLoud) MarshalJSON() ([]byte, error)   { return json.Marshal(strings.ToUpper(l.S)) }
func (n textual) MarshalText() ([]byte, error)    { return []byte(strings.Repeat("i", int(n))), nil }
func (b binaryOn) MarshalBinary() ([]byte, error) { return []byte("no"), nil }
func (z zeroed) IsZero() bool                     { return z.N == 5 }

func values() map[string]any {
	yes, n := true, 7
	when := time.Date(2024, 2, 3, 4, 5, 6, 7, time.FixedZone("x", 3600))
	forest := &tree{"root", []*tree{{Name: "leaf", Data: []byte{1}}, nil}, []byte("é\xff")}
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	return map[string]any{
		"string": "a\"é\n", "bad string": "a\xffb", "int": -5, "big": uint64(1 << 63), "float": 1.5,
		"float32": float32(0.5), "bool": true, "nil pointer": (*int)(nil), "pointer": &n,
		"named": word("w"), "bytes": []byte("\x00\xff"), "nil bytes": []byte(nil), "named bytes": octets{1, 2},
		"bytes by a name": []octet{1, 2}, "byte array": [3]byte{1, 2, 3}, "uintptr": uintptr(9),
		"slice": []string{"a", ""}, "nil slice": []int(nil), "empty slice": []int{}, "array": [2]bool{true},
		"slices": [][]int{{1}, nil, {}}, "long slice": make([]int16, 300),
		"map": map[string]int{"a": 1, "b": 2}, "nil map": map[string]int(nil), "named keys": map[word]int{"a": 1},
		"int keys": map[int]string{-1: "a", 20: "b"}, "text keys": map[textual]int{2: 1},
		"address keys": map[netip.Addr]int{netip.MustParseAddr("::1"): 1},
		"any map": map[string]any{"a": 1, "b": []any{nil, "x", 1.5, map[string]any{}, when, []byte{1}, uint8(3),
			int64(-9), &n}, "c": json.RawMessage(`{"x": [1]}`), "d": plain{A: "x"}},
		"plain": plain{A: "x", C: []int{1}, D: map[string]uint16{"a": 1}, E: &yes, F: 1e30, G: []byte{1, 2}, h: 1,
			I: "no", J: "minus", K: "k", M: []struct{ Y *int }{{&n}, {}}, N: octets{5}, O: 0.25},
		"zero plain": plain{}, "pointer to plain": &plain{}, "plains": []plain{{}, {A: "y"}},
		"map of plains": map[string]*plain{"a": {}, "b": nil},
		"tree":          forest, "trees": []tree{*forest}, "mutual": mutual{&mutual2{Back: []mutual{{}}}},
		"mutual2": mutual2{Back: []mutual{{}}},
		"time":    when, "uuid": id, "uuids": []uuid.UUID{id}, "big int": big.NewInt(1 << 60),
		"huge int": new(big.Int).Lsh(big.NewInt(1), 70), "address": netip.MustParseAddr("10.0.0.1"),
		"number": json.Number("12"), "number field": struct{ N json.Number }{"1.5"}, "numbers": []json.Number{"1"},
		"duration":   time.Second,
		"raw":        json.RawMessage(`{"a": [1, "\u0041"]}`),
		"raw inside": struct{ R json.RawMessage }{json.RawMessage(`[1]`)},
		"nil raw":    json.RawMessage(nil),
		"loud":       loud{"x"}, "louds": []loud{{"x"}}, "loud field": struct{ L loud }{loud{"y"}},
		"loud pointer": &ptrLoud{"x"}, "loud by pointer": ptrLoud{"x"},
		"addressable": &struct{ P ptrLoud }{ptrLoud{"z"}}, "not addressable": struct{ P ptrLoud }{ptrLoud{"z"}},
		"addressable elements": []ptrLoud{{"x"}}, "map of them": map[string]ptrLoud{"a": {"x"}}, "textual": textual(3),
		"textuals": []textual{1, 2}, "binary marshaler": binaryOn{5}, "binary marshalers": []binaryOn{{5}},
		"options": options{S: 5}, "options set": options{S: 5, Z: when, Y: 2}, "zeros": zeros{A: zeroed{5}},
		"zeros set": zeros{B: zeroed{1}, F: 0, G: &n, H: map[string]string{}, I: struct{ X int }{1}},
		"tagged":    tagged{1, 2}, "packed": packed{_struct: true, A: 1}, "odd": odd{1, 2, 3, 4, 5}, "embeds": embeds{X: 1},
		"embeds pointer": struct{ *plain }{&plain{A: "x"}}, "anonymous": struct{ word }{"w"},
		"empty struct": struct{}{}, "pointers": func() ***int { p := &n; q := &p; return &q }(),
		"interfaces": []any{nil, (*int)(nil), (error)(nil)}, "stringer": struct{ E error }{},
	}
}

// TestValuesInEveryVersion compares the JSON and the MessagePack of values.
func TestValuesInEveryVersion(t *testing.T) {
	t.Parallel()
	for name, v := range values() {
		p := serializer.Value(v)
		wantRaw, err := p.JSON()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 2 { // a pooled buffer must keep nothing of the first
			m := serializer.Message{Kind: request, Ref: `"1"`, Payload: p}
			op, frame, err := serializer.V3().Append(nil, &m)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			back, err := serializer.V3().Parse(op, frame)
			if err != nil {
				t.Errorf("%s: %q: %v", name, frame, err)
				break
			}
			var want, got any
			if err := json.Unmarshal(wantRaw, &want); err != nil {
				t.Fatal(err)
			}
			var gotRaw []byte
			if back.Payload.IsBinary() { // the value is a []byte
				gotRaw, _ = json.Marshal(back.Payload.Bytes())
			} else if gotRaw, err = back.Payload.JSON(); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(gotRaw, &got); err != nil {
				t.Fatalf("%s: %q: %v", name, gotRaw, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n got %.300s\nwant %.300s", name, gotRaw, wantRaw)
			}
		}
	}
}

// TestBytesAreBin looks for each []byte in its frame, as a bin. A string that equals its base64
// stays a str.
func TestBytesAreBin(t *testing.T) {
	t.Parallel()
	type withTime struct {
		S string // the base64 of B
		T time.Time
		B []byte
	}
	type cyclic struct {
		Next *cyclic `json:"next,omitempty"`
		Data []octets
	}
	bin := []byte("BIN!")
	pointer := &bin
	for name, v := range map[string]any{
		"struct":            plain{A: "QklOIQ==", G: bin},
		"map of interfaces": map[string]any{"a": "QklOIQ==", "b": bin, "c": []any{}, "d": map[string]int{}},
		"map of bytes":      map[word][]byte{"x": bin},
		"key with escapes":  map[string][]byte{"\"\n": bin},
		"list":              []any{map[string]any{}, "QklOIQ==", 1.5, bin},
		"array":             [2][]byte{nil, bin},
		"beside a time":     withTime{S: "QklOIQ==", B: bin},
		"named":             octets(bin),
		"pointers":          &pointer,
		"contains itself":   cyclic{Next: &cyclic{Next: &cyclic{Data: []octets{{}, bin}}}},
		"payload":           map[string]any{"p": serializer.Binary(bin)},
		"value in payload":  []any{serializer.Value([]any{serializer.Value(tree{Data: bin})})},
	} {
		_, frame, err := serializer.V3().Append(nil, &serializer.Message{Kind: reply, Status: "ok",
			Payload: serializer.Value(v)})
		if err != nil || strings.Count(string(frame), "\xc4\x04BIN!") != 1 {
			t.Errorf("%s: %q, %v", name, frame, err)
		}
		raw, err := serializer.Value(v).JSON()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(string(frame), "\xa8QklOIQ=="), strings.Count(string(raw), "QklOIQ==")-1; got != want {
			t.Errorf("%s: %d strs equal the base64, want %d: %q", name, got, want, frame)
		}
	}
	for name, v := range map[string]any{ // types for which bytes are base64
		"embedded": struct{ plain }{plain{G: bin}}, "number keys": map[int][]byte{1: bin},
		"an unusual name": struct {
			A []byte `json:"a b"`
		}{bin},
	} {
		_, frame, err := serializer.V3().Append(nil, &serializer.Message{Kind: reply, Status: "ok",
			Payload: serializer.Value(v)})
		if err != nil || !strings.Contains(string(frame), "\xa8QklOIQ==") {
			t.Errorf("%s: %q, %v", name, frame, err)
		}
	}
}

// TestMsgpackInValue sends MessagePack as a part of a Go value.
func TestMsgpackInValue(t *testing.T) {
	t.Parallel()
	const part = "\x82\xa1t\xd6\xff\x00\x00\x00\x05\xa1b\xc4\x01\xff" // a timestamp and a bin
	m, err := serializer.V3().Parse(binary, []byte("\x95\xc0\xc0\xa1t\xa1e"+part))
	if err != nil {
		t.Fatal(err)
	}
	v := serializer.Value([]any{[]any{1}, m.Payload, []any{2}})
	_, frame, err := serializer.V3().Append(nil, &serializer.Message{Topic: "t", Event: "e", Payload: v})
	if want := "\x95\xc0\xc0\xa1t\xa1e\x93\x91\x01" + part + "\x91\x02"; err != nil || string(frame) != want {
		t.Errorf("%q, %v", frame, err)
	}
}

// TestRejectNaN sends floats that JSON cannot carry. They are rejected in every version, since
// whether a message can be sent must not depend on the client.
func TestRejectNaN(t *testing.T) {
	t.Parallel()
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, v := range []any{map[string]float64{"x": f}, map[string]any{"x": f}, struct{ X float32 }{float32(f)}} {
			for _, s := range serializer.Default() {
				testRejected(t, s, push, serializer.Value(v))
			}
		}
	}
}

// TestRejectCycles encodes values that contain themselves.
func TestRejectCycles(t *testing.T) {
	t.Parallel()
	m := map[string]any{}
	m["m"] = m
	s := []any{nil}
	s[0] = s
	type node struct{ Next *node }
	n := &node{}
	n.Next = n
	var p any
	p = &p
	for name, v := range map[string]any{"map": m, "slice": s, "pointer": n, "interface": p} {
		for _, z := range serializer.Default() {
			if _, _, err := z.Append(nil, &serializer.Message{Kind: request, Payload: serializer.Value(v)}); !errors.Is(err,
				serializer.ErrPayload) {
				t.Errorf("%s in %s: %v", name, z.Version(), err)
			}
		}
	}
}

func TestValuesConcurrently(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name, v := range values() {
				for _, s := range serializer.Default() {
					if _, _, err := s.Append(nil, &serializer.Message{Kind: reply, Status: "ok",
						Payload: serializer.Value(v)}); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		})
	}
	wg.Wait()
}
