package serializer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"bennu.example/history"
	"bennu.example/serializer"
)

const aPos = "q7hx2c9k-129-0m0a"

// position is a text as history.Position appends it.
type position string

func (p *position) AppendText(dst []byte) ([]byte, error) {
	if *p == "" {
		return dst, errors.New("no position")
	}
	return append(dst, *p...), nil
}

var aText = func() *position { p := position(aPos); return &p }()

// broadcastOf returns the frame of a broadcast of p.
func broadcastOf(s serializer.Serializer, p serializer.Payload) (serializer.Op, []byte, error) {
	return s.Append(nil, &serializer.Message{Kind: broadcast, Topic: "t", Event: "e", Payload: p})
}

// received returns the payload of a push with the given JSON, as a server of version s receives it.
func received(tb testing.TB, s serializer.Serializer, raw string) serializer.Payload {
	tb.Helper()
	op, frame := frameOf(tb, s, request, serializer.Value(json.RawMessage(raw)))
	m, err := s.Parse(op, frame)
	if err != nil {
		tb.Fatal(err)
	}
	return m.Payload
}

func TestPositionIsTheFirstMember(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{}`, `{"$pos":"` + aPos + `"}`},
		{`{ }`, `{"$pos":"` + aPos + `"}`},
		{`{"a":1}`, `{"$pos":"` + aPos + `","a":1}`},
		{"{ \"a\" : {\"b\":[ ]} }", `{"$pos":"` + aPos + `", "a" : {"b":[ ]} }`},
	} {
		p := received(t, serializer.V2(), tt.in).WithPosition(aText)
		for _, s := range []serializer.Serializer{serializer.V1(), serializer.V2()} {
			_, frame, err := broadcastOf(s, p)
			if err != nil || !strings.Contains(string(frame), tt.want) {
				t.Errorf("%s: version %s sends %s, %v", tt.in, s.Version(), frame, err)
			}
		}
		if got, err := p.JSON(); err != nil || string(got) != tt.want {
			t.Errorf("%s: JSON is %s, %v", tt.in, got, err)
		}
		encoded, err := p.Encoded()
		if err != nil || string(encoded.Bytes()) != tt.want {
			t.Errorf("%s: encoded is %s, %v", tt.in, encoded.Bytes(), err)
		}
		var got struct {
			Pos string `json:"$pos"`
		}
		if err := p.Decode(&got); err != nil || got.Pos != aPos {
			t.Errorf("%s: decoded %+v, %v", tt.in, got, err)
		}
	}
	zero := serializer.Payload{}.WithPosition(aText)
	if got, err := zero.JSON(); err != nil || string(got) != `{"$pos":"`+aPos+`"}` {
		t.Errorf("the zero Payload became %s, %v", got, err)
	}
}

// TestMemberOfAMap counts members across the sizes of MessagePack's map heads.
func TestMemberOfAMap(t *testing.T) {
	for _, tt := range []struct {
		n    int
		head string
	}{
		{0, "\x81"}, {1, "\x82"}, {14, "\x8f"}, {15, "\xde\x00\x10"}, {16, "\xde\x00\x11"},
		{65534, "\xde\xff\xff"}, {65535, "\xdf\x00\x01\x00\x00"}, {65536, "\xdf\x00\x01\x00\x01"},
	} {
		object := make(map[string]int, tt.n)
		for i := range tt.n {
			object[fmt.Sprint("k", i)] = i
		}
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		base := received(t, serializer.V3(), string(raw))
		pair := tt.head + "\xa4$pos\xb1" + aPos
		_, bare, err := broadcastOf(serializer.V3(), base)
		if err != nil {
			t.Fatal(err)
		}
		head, rest := "\x95\xc0\xc0\xa1t\xa1e", string(bare[7:])
		rest = rest[map[bool]int{true: 1, false: 3}[tt.n < 16]:]
		if tt.n > 65535 {
			rest = rest[2:]
		}
		for _, from := range []serializer.Serializer{serializer.V2(), serializer.V3()} { // JSON is converted
			_, frame, err := broadcastOf(serializer.V3(), received(t, from, string(raw)).WithPosition(aText))
			if err != nil {
				t.Fatal(err)
			}
			if string(frame) != head+pair+rest {
				t.Errorf("%d members from %s: the frame begins with %.60q", tt.n, from.Version(), frame)
			}
			if !serializer.ValidMsgpack(frame) {
				t.Errorf("%d members from %s: the frame is invalid", tt.n, from.Version())
			}
		}
	}
}

// TestPositionLengths sends positions across the sizes of MessagePack's string heads, and one that
// is too long.
func TestPositionLengths(t *testing.T) {
	for _, n := range []int{1, 31, 32, 38, 64, 65} {
		pos := position(strings.Repeat("x", n))
		for _, from := range []serializer.Serializer{serializer.V2(), serializer.V3()} {
			_, frame, err := broadcastOf(serializer.V3(), received(t, from, `{"a":1}`).WithPosition(&pos))
			if n > 64 {
				if !errors.Is(err, serializer.ErrPayload) {
					t.Errorf("%d bytes, from %s: %q, %v, want an error", n, from.Version(), frame, err)
				}
				continue
			}
			head := string([]byte{byte(0xa0 + n)})
			if n > 31 {
				head = string([]byte{0xd9, byte(n)})
			}
			if want := "\x95\xc0\xc0\xa1t\xa1e\x82\xa4$pos" + head + string(pos) + "\xa1a\x01"; string(frame) != want {
				t.Errorf("%d bytes, from %s: %q, %v, want %q", n, from.Version(), frame, err, want)
			}
		}
	}
}

// TestWithKeepsTheRestAsItIs holds what is sent behind the new member to what is sent without it: a
// []byte is a bin for MessagePack, and base64 for JSON.
func TestWithKeepsTheRestAsItIs(t *testing.T) {
	reply := map[string]any{"data": []byte{1, 2, 3}}
	p := serializer.Value(reply).With("$history", map[string]any{"pos": aPos, "missed": 2})
	m := serializer.Message{Kind: serializer.KindReply, JoinRef: `"1"`, Ref: `"1"`, Topic: "t", Status: "ok", Payload: p}
	_, frame, err := serializer.V2().Append(nil, &m)
	want := `["1","1","t","phx_reply",{"status":"ok","response":` +
		`{"$history":{"missed":2,"pos":"` + aPos + `"},"data":"AQID"}}]`
	if err != nil || string(frame) != want {
		t.Errorf("got %s, %v\nwant %s", frame, err, want)
	}
	_, frame, err = serializer.V3().Append(nil, &m)
	if err != nil || !strings.HasSuffix(string(frame), "\xa4data\xc4\x03\x01\x02\x03") {
		t.Errorf("got %q, %v", frame, err)
	}
	null := serializer.Payload{}.With("a", nil)
	if got, err := null.JSON(); err != nil || string(got) != `{"a":null}` {
		t.Errorf("a nil value became %s, %v", got, err)
	}
	_, frame, err = broadcastOf(serializer.V3(), null)
	if err != nil || !strings.HasSuffix(string(frame), "\x81\xa1a\xc0") {
		t.Errorf("a nil value became %q, %v", frame, err)
	}
	// As a part of a Go value, as in a page of records.
	item := received(t, serializer.V3(), `{"a":1}`).WithPosition(aText)
	page := serializer.Value(map[string]any{"items": []serializer.Payload{item}})
	_, frame, err = broadcastOf(serializer.V3(), page)
	if err != nil || !strings.HasSuffix(string(frame), "\x91\x82\xa4$pos\xb1"+aPos+"\xa1a\x01") {
		t.Errorf("a part became %q, %v", frame, err)
	}
}

func TestOnlyObjectsGetMembers(t *testing.T) {
	for name, p := range map[string]serializer.Payload{
		"array": received(t, serializer.V2(), `[1]`), "string": serializer.Value("x"),
		"null": received(t, serializer.V2(), `null`), "array in MessagePack": received(t, serializer.V3(), `[{}]`),
		"binary": serializer.Binary([]byte("{}")), "not encodable": serializer.Value(func() {}),
	} {
		for _, p := range []serializer.Payload{p.WithPosition(aText), p.With("a", 1)} {
			for _, s := range serializer.Default() {
				dst := []byte("before")
				_, frame, err := s.Append(dst, &serializer.Message{Kind: serializer.KindReply, Status: "ok", Payload: p})
				if !errors.Is(err, serializer.ErrPayload) || string(frame) != "before" {
					t.Errorf("%s, version %s: %q, %v", name, s.Version(), frame, err)
				}
			}
			if _, err := p.Encoded(); !errors.Is(err, serializer.ErrPayload) {
				t.Errorf("%s: encoded: %v", name, err)
			}
			if _, err := p.AppendBinary(nil); !errors.Is(err, serializer.ErrPayload) {
				t.Errorf("%s: for the nodes: %v", name, err)
			}
		}
	}
	for name, bad := range map[string]serializer.Payload{
		"a value that cannot be encoded": serializer.Payload{}.With("a", func() {}),
		"a position without a text":      serializer.Payload{}.WithPosition(new(position)),
		"the same, of a Go value":        serializer.Value(map[string]int{}).WithPosition(new(position)),
		"the same, of MessagePack":       received(t, serializer.V3(), `{}`).WithPosition(new(position)),
	} {
		for _, s := range serializer.Default() {
			if _, _, err := broadcastOf(s, bad); !errors.Is(err, serializer.ErrPayload) {
				t.Errorf("%s, version %s: %v", name, s.Version(), err)
			}
		}
	}
}

func TestHasReserved(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want bool
	}{
		{`{}`, false}, {`{"a":1,"b":{"$a":1},"c":[{"$a":"x"}]}`, false}, {`{"a":"$x","b":["$y",{"c":"$z"}]}`, false},
		{`{"$a":1}`, true}, {`{"a":{},"$":null}`, true}, {`{"\u0024a":1}`, true}, {`{"\u0025a":1,"\\u0024":2}`, false},
		{`{"a\"}":[{}],"b" : {"c":[]} , "$":1}`, true}, {` { "" : "" , "$" : "" } `, true}, {`{"":""}`, false},
		{`{"a":[",","{","$x"],"b":"\"$"}`, false},
	} {
		for _, s := range serializer.Default() {
			if got, err := received(t, s, tt.in).HasReserved(); err != nil || got != tt.want {
				t.Errorf("%s, version %s: %v, %v", tt.in, s.Version(), got, err)
			}
		}
		if got, err := serializer.Value(json.RawMessage(tt.in)).HasReserved(); err != nil || got != tt.want {
			t.Errorf("%s, a value: %v, %v", tt.in, got, err)
		}
	}
	for _, p := range []serializer.Payload{{}, serializer.Binary([]byte(`{"$":1}`)), serializer.Binary(nil)} {
		if got, err := p.HasReserved(); err != nil || got {
			t.Errorf("%+v: %v, %v", p, got, err)
		}
	}
	if got, err := (serializer.Payload{}).WithPosition(aText).HasReserved(); err != nil || !got {
		t.Errorf("a payload with a position: %v, %v", got, err)
	}
	for _, p := range []serializer.Payload{received(t, serializer.V2(), `["$"]`), received(t, serializer.V3(), `["$"]`),
		serializer.Value("$"), serializer.Value(func() {})} {
		if _, err := p.HasReserved(); !errors.Is(err, serializer.ErrPayload) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct{ in, value, rest string }{
		{`{"$history":{}}`, `{}`, `{}`},
		{`{"a":1,"$history":{"since":null},"b":[{}]}`, `{"since":null}`, `{"a":1,"b":[{}]}`},
		{` { "\u0024history" : 5 , "a" : "$history" } `, `5`, `{"a" : "$history"}`},
		{`{"$history":1,"x":{"$history":2},"$history":3}`, `3`, `{"x":{"$history":2}}`},
		{`{"a":1}`, ``, `{"a":1}`}, {`{}`, ``, `{}`}, {`["$history"]`, ``, `["$history"]`}, {`null`, ``, `null`},
		{`{"a":{"$history":1}}`, ``, `{"a":{"$history":1}}`},
	} {
		for _, s := range serializer.Default() {
			p := received(t, s, tt.in)
			value, rest, found := p.Cut("$history")
			if found != (tt.value != "") {
				t.Errorf("%s, version %s: found is %v", tt.in, s.Version(), found)
			}
			if raw, err := value.JSON(); found && (err != nil || string(raw) != tt.value) {
				t.Errorf("%s, version %s: the value is %s, %v", tt.in, s.Version(), raw, err)
			}
			raw, err := rest.JSON()
			if err != nil || strings.ReplaceAll(string(raw), " ", "") != strings.ReplaceAll(tt.rest, " ", "") {
				t.Errorf("%s, version %s: the rest is %s, %v", tt.in, s.Version(), raw, err)
			}
		}
	}
	for _, p := range []serializer.Payload{{}, serializer.Binary([]byte(`{"$history":1}`)), serializer.Value(func() {})} {
		if _, rest, found := p.Cut("$history"); found || !reflect.DeepEqual(rest.Bytes(), p.Bytes()) {
			t.Errorf("%+v: %v, %v", p, rest, found)
		}
	}
	value, rest, found := serializer.Value(map[string]any{"$history": map[string]any{}, "a": 1}).Cut("$history")
	if !found || string(value.Bytes()) != `{}` || string(rest.Bytes()) != `{"a":1}` {
		t.Errorf("a Go value: %s, %s, %v", value.Bytes(), rest.Bytes(), found)
	}
}

// FuzzSplice adds a member to payloads: a valid one stays valid, and has the same members and the
// new one. HasReserved must agree with encoding/json.
func FuzzSplice(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1}`, ` { "\u0024" : [ { } ] } `, `[1]`, `"{}"`, `{"a":{"$b":1},"":"$"}`} {
		f.Add([]byte(seed))
		f.Add(serializer.AppendJSONAsMsgpack(nil, []byte(seed)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var payloads []serializer.Payload
		if serializer.ValidJSON(raw) {
			payloads = append(payloads, serializer.Value(json.RawMessage(raw)))
		}
		m, err := serializer.V3().Parse(binary, append([]byte("\x95\xc0\xc0\xa1t\xa1e"), raw...))
		if err == nil && !m.Payload.IsBinary() {
			payloads = append(payloads, m.Payload)
		}
		for _, p := range payloads {
			checkSplice(t, p)
		}
	})
}

func checkSplice(t *testing.T, p serializer.Payload) {
	t.Helper()
	plain, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]json.RawMessage
	object := json.Unmarshal(plain, &want) == nil && want != nil
	reserved, err := p.HasReserved()
	if (err == nil) != object {
		t.Fatalf("%q: HasReserved: %v", plain, err)
	}
	wantReserved := false
	for key := range want {
		wantReserved = wantReserved || strings.HasPrefix(key, "$")
	}
	if reserved != wantReserved {
		t.Fatalf("%q: HasReserved is %v", plain, reserved)
	}
	if reserved {
		return // the member may be there already
	}
	if object {
		value, rest, found := p.WithPosition(aText).Cut("$pos")
		raw, err := rest.JSON()
		var got map[string]json.RawMessage
		if !found || string(mustJSON(t, value)) != `"`+aPos+`"` || err != nil || json.Unmarshal(raw, &got) != nil {
			t.Fatalf("%q: cut %v, %q, %v", plain, found, raw, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q", plain, raw)
		}
	}
	for _, s := range serializer.Default() {
		op, frame, err := broadcastOf(s, p.WithPosition(aText))
		if err != nil {
			if object || !errors.Is(err, serializer.ErrPayload) {
				t.Fatalf("%q, version %s: %v", plain, s.Version(), err)
			}
			continue
		}
		m, err := s.ParseClient(op, frame)
		if err != nil {
			if len(plain) < serializer.MaxDepth {
				t.Fatalf("%q, version %s: %q: %v", plain, s.Version(), frame, err)
			}
			continue
		}
		back, err := m.Payload.JSON()
		var got map[string]json.RawMessage
		if err != nil || json.Unmarshal(back, &got) != nil || string(got["$pos"]) != `"`+aPos+`"` {
			t.Fatalf("%q, version %s: %q: %v", plain, s.Version(), back, err)
		}
		delete(got, "$pos")
		sameMembers(t, s, p, got)
	}
}

func mustJSON(t *testing.T, p serializer.Payload) []byte {
	t.Helper()
	raw, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sameMembers compares members with those of p sent without another member.
func sameMembers(t *testing.T, s serializer.Serializer, p serializer.Payload, got map[string]json.RawMessage) {
	t.Helper()
	op, frame, err := broadcastOf(s, p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.ParseClient(op, frame)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := m.Payload.JSON()
	var want map[string]json.RawMessage
	if err != nil || json.Unmarshal(bare, &want) != nil {
		t.Fatalf("%q: %v", bare, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("version %s: got %q, want %q", s.Version(), got, want)
	}
}

// BenchmarkSplice compares frames with and without a position. The difference is the cost of the
// position; the budget is 60 ns.
func BenchmarkSplice(b *testing.B) {
	p := received(b, serializer.V2(), `{"user":"ann","body":"`+aChat.Body+`","id":1234567}`) // as a log has it
	pos, err := history.ParsePosition("q7hx2c9k-12345-0m0a")
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range serializer.Default() {
		for _, positioned := range []bool{false, true} {
			b.Run(fmt.Sprintf("vsn=%s/positioned=%v", serializer.Vsn(s), positioned), func(b *testing.B) {
				b.ReportAllocs()
				m := &serializer.Message{Kind: broadcast, Topic: "room:lobby", Event: "new_msg"} // Encode has one as well
				var dst []byte
				for b.Loop() {
					if m.Payload = p; positioned {
						m.Payload = p.WithPosition(&pos)
					}
					var err error
					if _, dst, err = s.Append(dst[:0], m); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkHasReserved(b *testing.B) {
	for _, s := range serializer.Default()[1:] {
		p := received(b, s, `{"user":"ann","body":"`+aChat.Body+`","id":1234567}`)
		b.Run("vsn="+serializer.Vsn(s), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if reserved, err := p.HasReserved(); err != nil || reserved {
					b.Fatal(reserved, err)
				}
			}
		})
	}
}
