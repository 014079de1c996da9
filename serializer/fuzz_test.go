package serializer_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"bennu.example/serializer"
)

// fuzzParse decodes frames as a server or a client. An accepted message must be valid, and must not
// change when it is encoded and decoded again.
func fuzzParse(f *testing.F, s serializer.Serializer, op serializer.Op, client bool, seeds ...string) {
	f.Helper()
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parse := s.Parse
		if client {
			parse = s.ParseClient
		}
		m, err := parse(op, data)
		if err != nil {
			if !errors.Is(err, serializer.ErrMalformed) || !reflect.DeepEqual(m, serializer.Message{}) {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if !client && m.Kind != serializer.KindRequest {
			t.Fatalf("kind %d", m.Kind)
		}
		checkSound(t, m)
		again, frame, err := s.Append(nil, &m)
		if err != nil {
			if !errors.Is(err, serializer.ErrPayload) || m.Kind == serializer.KindRequest {
				t.Fatalf("%+v cannot be encoded: %v", m, err)
			}
			return // a message that a server may not send
		}
		back, err := parse(again, frame)
		if err != nil {
			t.Fatalf("%q was encoded as %q: %v", data, frame, err)
		}
		got, want := look(t, back), look(t, m)
		if s.Version() == "1.0.0" {
			if client {
				want.JoinRef = ""
			}
			if client && want.Ref == "" && want.Kind == serializer.KindPush {
				want.Kind = serializer.KindBroadcast
			}
		}
		if !client {
			got.Payload, want.Payload = oneLine(got.Payload), oneLine(want.Payload)
		}
		if got != want {
			t.Fatalf("%q was encoded as %q\n got %+v\nwant %+v", data, frame, got, want)
		}
		for _, other := range serializer.Default() { // every version must carry the payload
			op, frame, err := other.Append(nil, &serializer.Message{Kind: reply, Topic: m.Topic, Status: "ok",
				Payload: m.Payload})
			if err != nil {
				if other.Version() != "1.0.0" && !(other.Version() == "2.0.0" && m.Payload.IsBinary()) {
					t.Fatalf("%s cannot encode it: %v", other.Version(), err)
				}
				continue
			}
			if _, err := other.ParseClient(op, frame); err != nil && len(data) < serializer.MaxDepth {
				t.Fatalf("%s cannot decode %q: %v", other.Version(), frame, err)
			}
		}
	})
}

func checkSound(t *testing.T, m serializer.Message) {
	t.Helper()
	for _, ref := range []serializer.Ref{m.JoinRef, m.Ref} {
		if !ref.IsNull() && !serializer.ValidJSON([]byte(ref)) {
			t.Fatalf("the ref %q is not JSON", ref)
		}
		_ = ref.Text()
	}
	if m.RawTopic != "" && (m.Topic != "" || !serializer.ValidJSON([]byte(m.RawTopic))) {
		t.Fatalf("topics %q and %q", m.Topic, m.RawTopic)
	}
	if m.Payload.IsBinary() {
		return
	}
	raw, err := m.Payload.JSON()
	if err != nil || !serializer.ValidJSON(raw) {
		t.Fatalf("the payload is %q, %v", raw, err)
	}
	var v any
	_ = m.Payload.Decode(&v) // an integer may be too large for a float64
	var s struct{ A, B string }
	_ = m.Payload.Decode(&s)
}

func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
	return string(b)
}

var (
	v1Seeds = []string{
		`{"topic":"room:7","event":"phx_join","payload":{"tok":"x"},"ref":"1"}`,
		`{"topic":"t","event":"phx_reply","ref":"2","payload":{"status":"ok","response":{"id":9}}}`,
		`{"join_ref":[1],"topic":null,"event":5,"payload":null,"ref":1.5,"x":[{}]}`,
		" {\"t\\u006fpic\":\"\",\n\"event\":\"\",\"payload\":\"\",\"ref\":\"\\n\"} ",
	}
	v2Seeds = []string{
		`["3","3","room:7","phx_join",{"tok":"x"}]`, `["3","4","t","phx_reply",{"status":"ok","response":{}}]`,
		`[null,null,"t","said",{"t":"hi"}]`, `[1,{"a":[]},null,5,[1e5,"\ud83d\ude00"],6]`,
		" [ \"\\u0033\" , 4.5 ,\n\"a\\nb\", \"\" ,\r\nnull ] ",
	}
	v2BinarySeeds = []string{"\x00\x01\x02\x06\x04341room:7blob\xde\xad", "\x01\x01\x02\x06\x02341room:7ok\xde\xad",
		"\x00\x01\x06\x043room:7blob\xde\xad", "\x02\x06\x04room:7blob\xde\xad", "\x00\x00\x00\x00\x00",
		"\x00\x02\x00\x00\x00\"\n"}
	v3Seeds = []string{
		"\x95\xa13\xa13\xa6room:7\xa8phx_join\x81\xa3tok\xa1x",
		"\x95\xc0\xa14\xa1t\xa9phx_reply\x82\xa6status\xa2ok\xa8response\xc4\x01x",
		"\x96\x05\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x90\xc0\xde\x00\x01\xd6\xff\x00\x00\x00\x05\xdd\x00\x00\x00\x00\x01",
		"\x95\xc0\xc0\xa1t\xa1e\x85\x05\xca\x7f\x80\x00\x00\xc4\x01a\xd1\xff\x00\xa1a\xcf\xff\xff\xff\xff\xff\xff" +
			"\xff\xff\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xc7\x01\x05x\xc3\xd9\x01\xff", "\x95\xc0\xc0\xa1t\xa1e\xdd" +
			"\xff\xff\xff\xff",
	}
)

func FuzzV1Parse(f *testing.F)       { fuzzParse(f, serializer.V1(), text, false, v1Seeds...) }
func FuzzV1ParseClient(f *testing.F) { fuzzParse(f, serializer.V1(), text, true, v1Seeds...) }
func FuzzV2Parse(f *testing.F)       { fuzzParse(f, serializer.V2(), text, false, v2Seeds...) }
func FuzzV2ParseClient(f *testing.F) { fuzzParse(f, serializer.V2(), text, true, v2Seeds...) }
func FuzzV2ParseBinary(f *testing.F) { fuzzParse(f, serializer.V2(), binary, false, v2BinarySeeds...) }
func FuzzV2ParseClientBinary(f *testing.F) {
	fuzzParse(f, serializer.V2(), binary, true, v2BinarySeeds...)
}
func FuzzV3Parse(f *testing.F)       { fuzzParse(f, serializer.V3(), binary, false, v3Seeds...) }
func FuzzV3ParseClient(f *testing.F) { fuzzParse(f, serializer.V3(), binary, true, v3Seeds...) }

// FuzzRoundTrip encodes and decodes messages of random content.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint8(0), uint8(0), "3", "4", "room:7", "say", "ok", []byte("blob"))
	f.Add(uint8(1), uint8(2), "", "\"", "é\n", "phx_reply", "\\", []byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, version, kind uint8, joinRef, ref, topic, event, status string, payload []byte) {
		s := serializer.Default()[int(version)%3]
		m := serializer.Message{Kind: serializer.Kind(kind % 4), JoinRef: serializer.StringRef(joinRef),
			Ref: serializer.StringRef(ref), Topic: topic, Event: event, Payload: serializer.Binary(payload)}
		if json.Unmarshal(payload, new(any)) == nil && serializer.ValidJSON(payload) { // a float64 holds its integers
			m.Payload = serializer.Value(json.RawMessage(payload))
		}
		parse := s.ParseClient
		switch m.Kind {
		case serializer.KindRequest:
			parse = s.Parse
		case serializer.KindReply:
			m.Event, m.Status = serializer.EventReply, status
		case serializer.KindPush, serializer.KindBroadcast:
			m.Ref = ""
			if m.Kind == serializer.KindBroadcast {
				m.JoinRef = ""
			}
			if m.Event == serializer.EventReply {
				m.Event = "" // it would be decoded as a reply
			}
		}
		dst := []byte("before")
		op, frame, err := s.Append(dst, &m)
		if err != nil {
			if string(frame) != "before" {
				t.Fatalf("dst came back as %q", frame)
			}
			return
		}
		got, err := parse(op, frame[len(dst):])
		if err != nil {
			t.Fatalf("%q: %v", frame, err)
		}
		want := expected(s, op, m)
		for _, name := range []*string{&want.Topic, &want.Event, &want.Status} {
			*name = serializer.StringRef(*name).Text()
		}
		if g, w := look(t, got), look(t, want); !sameMessage(g, w) {
			t.Fatalf("%q\n got %+v\nwant %+v", frame, g, w)
		}
	})
}

func FuzzSelect(f *testing.F) {
	for _, vsn := range []string{"1.0.0", "2.0.5", "3.7.0-rc.1+b", "02.0.0", "2.0.0-", "", "2.0.99999999999999999999"} {
		f.Add(vsn, "2.0.0")
	}
	f.Add("3.1.0-rc.1", "3.0")
	f.Fuzz(func(t *testing.T, vsn, version string) {
		list := append(serializer.Default(), versioned{version: version})
		s, ok := serializer.Select(list, vsn)
		if ok != (s != nil) {
			t.Fatalf("%v, %v", s, ok)
		}
		_ = serializer.Vsn(versioned{version: version})
		if own := serializer.Vsn(versioned{version: vsn}); own == vsn && vsn != "" { // a serializer accepts its own version
			if _, valid := serializer.Select([]serializer.Serializer{versioned{version: vsn}}, vsn); ok && !valid {
				t.Fatalf("%q does not accept itself", vsn)
			}
		}
	})
}

// FuzzTranscode converts JSON to MessagePack and back.
func FuzzTranscode(f *testing.F) {
	for _, s := range []string{`{"a":[1,-5,1.5,"x\n",null,{"b":[]}]}`, `[18446744073709551616,1e300]`, `" "`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !serializer.ValidJSON(raw) {
			return
		}
		mp := serializer.AppendJSONAsMsgpack(nil, raw)
		if !serializer.ValidMsgpack(mp) {
			t.Fatalf("%q became %q", raw, mp)
		}
		back := serializer.AppendMsgpackAsJSON(nil, mp)
		var want, got any
		if json.Unmarshal(raw, &want) != nil {
			return // an integer too large for a float64
		}
		if err := json.Unmarshal(back, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q and came back as %q: %v", raw, mp, back, err)
		}
		if again := serializer.AppendMsgpackAsJSON(nil, serializer.AppendJSONAsMsgpack(nil, back)); len(again) != len(back) {
			t.Fatalf("%q and %q", back, again)
		}
	})
}
