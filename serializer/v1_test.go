package serializer_test

import (
	"errors"
	"strings"
	"testing"

	"bennu.example/serializer"
)

// parsed is a comparable message, with its payload as text.
type parsed struct {
	Kind                                    serializer.Kind
	JoinRef, Ref                            serializer.Ref
	Topic, Event, Status, RawTopic, Payload string
}

func look(t *testing.T, m serializer.Message) parsed {
	t.Helper()
	p := parsed{m.Kind, m.JoinRef, m.Ref, m.Topic, m.Event, m.Status, m.RawTopic, ""}
	if m.Payload.IsBinary() {
		p.Payload = "bin:" + string(m.Payload.Bytes())
		return p
	}
	raw, err := m.Payload.JSON()
	if err != nil {
		t.Fatal(err)
	}
	p.Payload = string(raw)
	return p
}

type parseTest struct {
	name string
	op   serializer.Op
	data string
	want parsed
}

func testParse(t *testing.T, parse func(serializer.Op, []byte) (serializer.Message, error), tests []parseTest) {
	t.Helper()
	for _, tt := range tests {
		m, err := parse(tt.op, []byte(tt.data))
		if err != nil {
			t.Errorf("%s: %q: %v", tt.name, tt.data, err)
			continue
		}
		if got := look(t, m); got != tt.want {
			t.Errorf("%s: %q\n got %+v\nwant %+v", tt.name, tt.data, got, tt.want)
		}
	}
}

func testMalformed(t *testing.T, parse func(serializer.Op, []byte) (serializer.Message, error), op serializer.Op,
	frames ...string) {
	t.Helper()
	for _, data := range frames {
		m, err := parse(op, []byte(data))
		if !errors.Is(err, serializer.ErrMalformed) {
			t.Errorf("%.80q: %+v, %v; want ErrMalformed", data, m, err)
		}
	}
}

const (
	request   = serializer.KindRequest
	push      = serializer.KindPush
	reply     = serializer.KindReply
	broadcast = serializer.KindBroadcast
	text      = serializer.OpText
	binary    = serializer.OpBinary
)

func TestV1Parse(t *testing.T) {
	t.Parallel()
	testParse(t, serializer.V1().Parse, []parseTest{
		{"four keys", text, `{"topic":"room:7","event":"phx_join","payload":{"tok":"x"},"ref":"1"}`,
			parsed{request, "", `"1"`, "room:7", "phx_join", "", "", `{"tok":"x"}`}},
		{"join_ref", text, `{"join_ref":"4","topic":"t","event":"e","payload":{},"ref":"1"}`,
			parsed{request, `"4"`, `"1"`, "t", "e", "", "", `{}`}},
		{"unknown keys, any order, spaces", text,
			" {\n\"ref\" : 1 , \"x\":[{}], \"payload\" : [ 1 ] , \"event\":\"e\", \"topic\":\"t\" } ",
			parsed{request, "", `1`, "t", "e", "", "", `[ 1 ]`}},
		{"all null", text, `{"topic":null,"event":null,"payload":null,"ref":null,"join_ref":null}`,
			parsed{request, "", "", "", "null", "", "null", `null`}},
		{"in a binary frame", binary, `{"topic":"t","event":"e","payload":{},"ref":"1"}`,
			parsed{request, "", `"1"`, "t", "e", "", "", `{}`}},
		{"payload of any type", text, `{"topic":"t","event":"e","payload":"x","ref":"1"}`,
			parsed{request, "", `"1"`, "t", "e", "", "", `"x"`}},
		{"keys with escapes", text, `{"t\u006fpic":"t","\u0065vent":"e","payload":1,"re\u0066":"1"}`,
			parsed{request, "", `"1"`, "t", "e", "", "", `1`}},
		{"the last of two equal keys counts", text, `{"topic":"a","event":"e","payload":1,"ref":"1","topic":"b","payload":2}`,
			parsed{request, "", `"1"`, "b", "e", "", "", `2`}},
		{"keys are exact", text, `{"topic":"t","Topic":"no","event":"e","payload":{},"ref":"1","REF":"2"}`,
			parsed{request, "", `"1"`, "t", "e", "", "", `{}`}},
	})
	testMalformed(t, serializer.V1().Parse, text,
		``, `null`, `"x"`, `[null,"1","t","e",{}]`,
		`{}`, `{"event":"e","payload":{},"ref":"1"}`, `{"topic":"t","payload":{},"ref":"1"}`,
		`{"topic":"t","event":"e","ref":"1"}`, `{"topic":"t","event":"e","payload":{}}`,
		`{"TOPIC":"t","event":"e","payload":{},"ref":"1"}`, `{"topic ":"t","event":"e","payload":{},"ref":"1"}`,
		`{"topic":"t","event":"e","payload":{},"ref":"1"`, `{"topic":"t","event":"e","payload":{},"ref":"1"}x`,
		`{"topic":"t","event":"e","payload":{},"ref":"1"}{}`,
		`{"topic":"t","event":"e","payload":{,"ref":"1"}`, `{"topic":"t","event":"e","payload":,"ref":"1"}`,
		"{\"topic\":\"t\",\"event\":\"e\",\"payload\":\"\xff\",\"ref\":\"1\"}",
		`{"topic":"t","event":"e","payload":`+strings.Repeat("[", serializer.MaxDepth)+strings.Repeat("]",
			serializer.MaxDepth)+`,"ref":"1"}`)
}

func TestV1ParseClient(t *testing.T) {
	t.Parallel()
	testParse(t, serializer.V1().ParseClient, []parseTest{
		{"reply", text, `{"topic":"room:7","event":"phx_reply","ref":"2","payload":{"status":"ok","response":{"id":9}}}`,
			parsed{reply, "", `"2"`, "room:7", "phx_reply", "ok", "", `{"id":9}`}},
		{"push and broadcast look the same", text, `{"topic":"room:7","event":"said","ref":null,"payload":{"t":"hi"}}`,
			parsed{broadcast, "", "", "room:7", "said", "", "", `{"t":"hi"}`}},
		{"phx_close of a join with join_ref", text, `{"topic":"room:7","event":"phx_close","ref":"4","payload":{}}`,
			parsed{push, "", `"4"`, "room:7", "phx_close", "", "", `{}`}},
	})
	testMalformed(t, serializer.V1().ParseClient, text, `[]`, `{}`, `{"topic":"t","event":"e","payload":{}}`)
}

type appendTest struct {
	name string
	m    serializer.Message
	op   serializer.Op
	want string
}

func testAppend(t *testing.T, s serializer.Serializer, tests []appendTest) {
	t.Helper()
	for _, tt := range tests {
		op, b, err := s.Append([]byte("before"), &tt.m)
		if err != nil || op != tt.op || string(b) != "before"+tt.want {
			t.Errorf("%s:\n got %d %q %v\nwant %d %q", tt.name, op, b, err, tt.op, "before"+tt.want)
		}
	}
}

// testRejected checks that s rejects each payload with ErrPayload and does not change dst.
func testRejected(t *testing.T, s serializer.Serializer, kind serializer.Kind, payloads ...serializer.Payload) {
	t.Helper()
	for _, p := range payloads {
		dst := []byte("before")
		_, b, err := s.Append(dst, &serializer.Message{Kind: kind, Topic: "t", Event: "e", Status: "ok", Payload: p})
		if !errors.Is(err, serializer.ErrPayload) {
			t.Errorf("%s, kind %d: %q, error %v; want ErrPayload", s.Version(), kind, b, err)
		}
		if string(b) != "before" || cap(b) != cap(dst) {
			t.Errorf("%s, kind %d: dst came back as %q", s.Version(), kind, b)
		}
	}
}

func TestV1Append(t *testing.T) {
	t.Parallel()
	value := serializer.Value
	testAppend(t, serializer.V1(), []appendTest{
		{"a client's join_ref", serializer.Message{Kind: request, JoinRef: `"4"`, Ref: `"1"`, Topic: "room:7",
			Event: "say", Payload: value(map[string]string{"t": "<hi>"})}, text,
			`{"topic":"room:7","event":"say","ref":"1","join_ref":"4","payload":{"t":"<hi>"}}`},
		{"a client without one", serializer.Message{Kind: request, Ref: `"1"`, Topic: "phoenix", Event: "heartbeat"}, text,
			`{"topic":"phoenix","event":"heartbeat","ref":"1","payload":{}}`},
		{"no join_ref from a server", serializer.Message{Kind: reply, JoinRef: `"4"`, Ref: `5`, Topic: "room:7",
			Event: "ignored", Status: "ok", Payload: value([]int{1})}, text,
			`{"topic":"room:7","event":"phx_reply","ref":5,"payload":{"status":"ok","response":[1]}}`},
		{"empty reply", serializer.Message{Kind: reply, Ref: `"1"`, Topic: "t", Status: "maybe"}, text,
			`{"topic":"t","event":"phx_reply","ref":"1","payload":{"status":"maybe","response":{}}}`},
		{"push of any JSON", serializer.Message{Kind: push, JoinRef: `"4"`, Topic: "t", Event: "e", Payload: value("x")},
			text,
			`{"topic":"t","event":"e","ref":null,"payload":"x"}`},
		{"phx_close keeps its ref", serializer.Message{Kind: push, JoinRef: `"4"`, Ref: `"4"`, Topic: "t",
			Event: "phx_close"}, text,
			`{"topic":"t","event":"phx_close","ref":"4","payload":{}}`},
		{"broadcast", serializer.Message{Kind: broadcast, JoinRef: `"4"`, Ref: `"4"`, Topic: "t", Event: "e",
			Payload: value([]int{})}, text,
			`{"topic":"t","event":"e","ref":null,"payload":[]}`},
		{"topic other than a string", serializer.Message{Kind: reply, Ref: `"1"`, RawTopic: `{"a":1}`, Status: "error"}, text,
			`{"topic":{"a":1},"event":"phx_reply","ref":"1","payload":{"status":"error","response":{}}}`},
	})
	for kind := request; kind <= broadcast; kind++ {
		testRejected(t, serializer.V1(), kind, serializer.Binary([]byte("x")), value(func() {}))
	}
}
