package serializer_test

import (
	"encoding/json"
	"strings"
	"testing"

	"bennu.example/serializer"
)

func nested(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

func TestV2Parse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 100)
	testParse(t, serializer.V2().Parse, []parseTest{
		{"join", text, `["3","3","room:7","phx_join",{"tok":"x"}]`,
			parsed{request, `"3"`, `"3"`, "room:7", "phx_join", "", "", `{"tok":"x"}`}},
		{"heartbeat", text, `[null,"5","phoenix","heartbeat",{}]`,
			parsed{request, "", `"5"`, "phoenix", "heartbeat", "", "", `{}`}},
		{"spaces", text, " [\t\"3\" ,\r\n\"4\", \"t\" , \"e\", { \"a\" : 1 } ] \n",
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `{ "a" : 1 }`}},
		{"more than five", text, `["3","4","t","e",{},6,[7],{"8":9}]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `{}`}},
		{"refs are numbers", text, `[3,4.50,"t","e",{}]`,
			parsed{request, `3`, `4.50`, "t", "e", "", "", `{}`}},
		{"refs are words", text, `[true,false,"t","e",{}]`,
			parsed{request, `true`, `false`, "t", "e", "", "", `{}`}},
		{"refs are containers, compacted", text, `[[ 1, "a\u0062 c" ],{ "a" : null },"t","e",{}]`,
			parsed{request, `[1,"ab c"]`, `{"a":null}`, "t", "e", "", "", `{}`}},
		{"the empty ref is not null", text, `["","","t","e",{}]`,
			parsed{request, serializer.EmptyRef, serializer.EmptyRef, "t", "e", "", "", `{}`}},
		{"refs with escapes", text, `["\u0033","a\/\u00e9\ud83d\ude00\"\\\n","t","e",{}]`,
			parsed{request, `"3"`, `"a/é😀\"\\\n"`, "t", "e", "", "", `{}`}},
		{"names with escapes", text, `["3","4","r\u006fom:\"7\"","s\u0061y\t",{}]`,
			parsed{request, `"3"`, `"4"`, `room:"7"`, "say\t", "", "", `{}`}},
		{"long names", text, `["` + long + `","4","` + long + `","` + long + `",{}]`,
			parsed{request, serializer.Ref(`"` + long + `"`), `"4"`, long, long, "", "", `{}`}},
		{"topic is a number", text, `["3","4",5,"e",{}]`,
			parsed{request, `"3"`, `"4"`, "", "e", "", "5", `{}`}},
		{"topic is null", text, `["3","4",null,"e",{}]`,
			parsed{request, `"3"`, `"4"`, "", "e", "", "null", `{}`}},
		{"topic is an object", text, `["3","4",{ "a": "\u0062" },"e",{}]`,
			parsed{request, `"3"`, `"4"`, "", "e", "", `{"a":"b"}`, `{}`}},
		{"topic is empty", text, `["3","4","","e",{}]`,
			parsed{request, `"3"`, `"4"`, "", "e", "", "", `{}`}},
		{"event is not a string", text, `["3","4","t",[ 1 ],{}]`,
			parsed{request, `"3"`, `"4"`, "t", "[1]", "", "", `{}`}},
		{"event is null", text, `["3","4","t",null,{}]`,
			parsed{request, `"3"`, `"4"`, "t", "null", "", "", `{}`}},
		{"payload is null", text, `["3","4","t","e",null]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `null`}},
		{"payload is an array", text, `["3","4","t","e",[1, 2]]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `[1, 2]`}},
		{"payload is not decoded", text, `["3","4","t","e",{"a":"\u0041<>","a":1e5}]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `{"a":"\u0041<>","a":1e5}`}},
		{"1,000 levels", text, `["3","4","t","e",` + nested(1000) + `]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", nested(1000)}},
		{"10,000 levels", text, `["3","4","t","e",` + nested(9999) + `]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", nested(9999)}},
		{"a large integer", text, `["3","4","t","e",` + strings.Repeat("9", 400) + `]`,
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", strings.Repeat("9", 400)}},
		{"a server treats a reply as an event", text, `["3","4","t","phx_reply",{"status":"ok","response":{}}]`,
			parsed{request, `"3"`, `"4"`, "t", "phx_reply", "", "", `{"status":"ok","response":{}}`}},
	})
	testMalformed(t, serializer.V2().Parse, text,
		``, ` `, `null`, `1`, `"["`, `{"0":1}`, `{"topic":"t","event":"e","payload":{},"ref":"1"}`,
		`[]`, `["3"]`, `["3","4","t","e"]`,
		`["3","4","t","e",]`, `["3","4","t","e",{}`, `["3","4","t","e",{},]`, `["3","4","t","e" {}]`, `[,"3","4","t","e",{}]`,
		`["3","4","t","e",{}]x`, `["3","4","t","e",{}]]`, `["3","4","t","e",{}] ["3"]`, `["3","4","t","e",{}}`,
		`["3","4","t","e",{}],`,
		`["3","4","t","e",{}],{]`, `["3","4","t","e",{},{]`, `["3","4","t","e",{},6,nul]`,
		`["3,"4","t","e",{}]`, `["3","4","t","e",{a:1}]`, `["3","4","t","e",01]`, `["3","4","t","e",'x']`,
		"[\"3\",\"4\",\"t\",\"e\",\"\xff\"]", "[\"3\",\"4\",\"\xff\",\"e\",{}]", "[\"3\",\"4\",\"t\",\"e\",{}]\xff",
		"[\"3\",\"4\",\"t\",\"e\",\"a\nb\"]",
		`["3","4","t","e",1e400]`, `["3","4","t","e","\ud800"]`, `["\udc00","4","t","e",{}]`, // Jason rejects these
		`["3","4","t","e",`+nested(serializer.MaxDepth)+`]`, `["3","4","t","e",`+strings.Repeat("[", 500_000),
		strings.Repeat(`{"a":`, 200_000))
}

func TestV2ParseClient(t *testing.T) {
	t.Parallel()
	testParse(t, serializer.V2().ParseClient, []parseTest{
		{"reply", text, `["3","4","room:7","phx_reply",{"status":"ok","response":{"id":9}}]`,
			parsed{reply, `"3"`, `"4"`, "room:7", "phx_reply", "ok", "", `{"id":9}`}},
		{"heartbeat's reply", text, `[null,"5","phoenix","phx_reply",{"response":{},"status":"ok"}]`,
			parsed{reply, "", `"5"`, "phoenix", "phx_reply", "ok", "", `{}`}},
		{"response of any type", text, `["3","4","t","phx_reply", { "status" : "may\u0062e" , "response" : [ null ] } ]`,
			parsed{reply, `"3"`, `"4"`, "t", "phx_reply", "maybe", "", `[ null ]`}},
		{"response is null", text, `["3","4","t","phx_reply",{"status":"ok","response":null}]`,
			parsed{reply, `"3"`, `"4"`, "t", "phx_reply", "ok", "", `null`}},
		{"reply without response", text, `["3","4","t","phx_reply",{"status":"ok"}]`,
			parsed{reply, `"3"`, `"4"`, "t", "phx_reply", "ok", "", `{}`}},
		{"only the outer keys count", text,
			`["3","4","t","phx_reply",{"response":{"status":"no","response":1},"x":{"status":"no"},"status":"ok"}]`,
			parsed{reply, `"3"`, `"4"`, "t", "phx_reply", "ok", "", `{"status":"no","response":1}`}},
		{"a reply without status is a push", text, `["3","4","t","phx_reply",{"response":{}}]`,
			parsed{push, `"3"`, `"4"`, "t", "phx_reply", "", "", `{"response":{}}`}},
		{"a reply whose status is not a string is a push", text, `["3",null,"t","phx_reply",{"status":1,"response":{}}]`,
			parsed{push, `"3"`, "", "t", "phx_reply", "", "", `{"status":1,"response":{}}`}},
		{"a reply that is not an object is a broadcast", text, `[null,null,"t","phx_reply",["status"]]`,
			parsed{broadcast, "", "", "t", "phx_reply", "", "", `["status"]`}},
		{"push", text, `["3",null,"room:7","notice",{"n":1}]`,
			parsed{push, `"3"`, "", "room:7", "notice", "", "", `{"n":1}`}},
		{"broadcast", text, `[null,null,"room:7","said",{"t":"hi"}]`,
			parsed{broadcast, "", "", "room:7", "said", "", "", `{"t":"hi"}`}},
		{"phx_close", text, `["3","3","room:7","phx_close",{}]`,
			parsed{push, `"3"`, `"3"`, "room:7", "phx_close", "", "", `{}`}},
		{"empty refs are not null", text, `["","","t","e",{}]`,
			parsed{push, serializer.EmptyRef, serializer.EmptyRef, "t", "e", "", "", `{}`}},
	})
	testMalformed(t, serializer.V2().ParseClient, text, `[]`, `{}`, `["3","4","t","phx_reply",{"status":"ok"]`)
}

func TestV2Append(t *testing.T) {
	t.Parallel()
	value := serializer.Value
	received, err := serializer.V2().Parse(text, []byte("[null,\"1\",\"t\",\"e\", {\"a\" :\r\n\"\\u0041\"} ]"))
	if err != nil {
		t.Fatal(err)
	}
	testAppend(t, serializer.V2(), []appendTest{
		{"request", serializer.Message{Kind: request, JoinRef: `"3"`, Ref: `"4"`, Topic: "room:7", Event: "say",
			Payload: value(map[string]string{"t": "<&>"})}, text,
			`["3","4","room:7","say",{"t":"<&>"}]`},
		{"a request may carry anything", serializer.Message{Kind: request, Ref: `"4"`, Topic: "phoenix",
			Event: "heartbeat", Payload: value(json.RawMessage("null"))}, text,
			`[null,"4","phoenix","heartbeat",null]`},
		{"a request is one line", serializer.Message{Kind: request, Ref: `"4"`, Topic: "a\nb", Event: "e",
			Payload: received.Payload}, text,
			`[null,"4","a\nb","e",{"a" :  "\u0041"}]`},
		{"reply", serializer.Message{Kind: reply, JoinRef: `"3"`, Ref: `"4"`, Topic: "room:7", Status: "ok",
			Payload: value(struct {
				ID int `json:"id"`
			}{9})}, text,
			`["3","4","room:7","phx_reply",{"status":"ok","response":{"id":9}}]`},
		{"reply with a string", serializer.Message{Kind: reply, Ref: `4`, Topic: "t", Status: "may\"be",
			Payload: value("x")}, text,
			`[null,4,"t","phx_reply",{"status":"may\"be","response":"x"}]`},
		{"reply with null", serializer.Message{Kind: reply, Ref: `4`, Topic: "t", Status: "ok",
			Payload: value((*int)(nil))}, text,
			`[null,4,"t","phx_reply",{"status":"ok","response":null}]`},
		{"the zero Payload is {}", serializer.Message{Kind: reply, Topic: "t", Status: "ok", Payload: value(nil)}, text,
			`[null,null,"t","phx_reply",{"status":"ok","response":{}}]`},
		{"push", serializer.Message{Kind: push, JoinRef: `"3"`, Topic: "t", Event: "notice"}, text,
			`["3",null,"t","notice",{}]`},
		{"phx_error keeps its ref", serializer.Message{Kind: push, JoinRef: `"3"`, Ref: `"3"`, Topic: "t",
			Event: "phx_error"}, text,
			`["3","3","t","phx_error",{}]`},
		{"broadcast has no refs", serializer.Message{Kind: broadcast, JoinRef: `"3"`, Ref: `"3"`, Topic: "t",
			Event: "said", Payload: value(map[string]int{"n": 1})}, text,
			`[null,null,"t","said",{"n":1}]`},
		{"a payload passed on is copied", serializer.Message{Kind: broadcast, Topic: "t", Event: "e",
			Payload: received.Payload}, text,
			"[null,null,\"t\",\"e\",{\"a\" :\r\n\"\\u0041\"}]"},
		{"names are escaped", serializer.Message{Kind: push, JoinRef: `"3"`, Topic: "a\"b", Event: "c\\d\xff"}, text,
			`["3",null,"a\"b","c\\d` + "\ufffd" + `",{}]`},
		{"topic other than a string", serializer.Message{Kind: reply, Ref: `"1"`, RawTopic: `5`, Status: "error"}, text,
			`[null,"1",5,"phx_reply",{"status":"error","response":{}}]`},
		{"raw JSON", serializer.Message{Kind: push, Topic: "t", Event: "e",
			Payload: value(json.RawMessage(" {\"a\": 1}\n"))}, text,
			`[null,null,"t","e",{"a": 1}]`},
	})
	for _, kind := range []serializer.Kind{push, broadcast} {
		testRejected(t, serializer.V2(), kind, value("x"), value([]int{1}), value(1), value(json.RawMessage("null")),
			value(json.RawMessage(nil)), value((*int)(nil)))
	}
	for kind := request; kind <= broadcast; kind++ {
		testRejected(t, serializer.V2(), kind, value(func() {}), value(map[string]any{"a": make(chan int)}),
			value(json.RawMessage(`{`)), value(json.RawMessage(`{}{}`)), value(json.RawMessage("")),
			value(json.RawMessage("{\"a\":\"\xff\"}")), value(json.RawMessage(`{"a":"\ud800"}`)),
			value(map[string]any{"a": json.RawMessage(`{`)}), value(map[string]any{"a": json.RawMessage("\"\xff\"")}),
			value(map[string]any{"a": json.Number("1e400")}))
	}
}

func TestV2Binary(t *testing.T) {
	t.Parallel()
	blob := serializer.Binary([]byte("\xde\xad"))
	long := strings.Repeat("é", 127) + "x" // 255 bytes
	full := "\x00\xff\xff\xff\xff" + strings.Repeat(long, 4) + "d"

	testParse(t, serializer.V2().Parse, []parseTest{
		{"push", binary, "\x00\x01\x02\x06\x04" + "341room:7blob\xde\xad",
			parsed{request, `"3"`, `"41"`, "room:7", "blob", "", "", "bin:\xde\xad"}},
		{"no length is the empty string", binary, "\x00\x00\x00\x01\x01ted",
			parsed{request, serializer.EmptyRef, serializer.EmptyRef, "t", "e", "", "", "bin:d"}},
		{"no data", binary, "\x00\x01\x01\x01\x0112te",
			parsed{request, `"1"`, `"2"`, "t", "e", "", "", "bin:"}},
		{"nothing at all", binary, "\x00\x00\x00\x00\x00",
			parsed{request, serializer.EmptyRef, serializer.EmptyRef, "", "", "", "", "bin:"}},
		{"bytes are counted", binary, "\x00\x02\x02\x02\x02éééé",
			parsed{request, `"é"`, `"é"`, "é", "é", "", "", "bin:"}},
		{"255 bytes", binary, full,
			parsed{request, serializer.Ref(`"` + long + `"`), serializer.Ref(`"` + long + `"`), long, long, "", "", "bin:d"}},
		{"refs equal those of text frames", binary, "\x00\x02\x01\x01\x01\"\\\nte",
			parsed{request, `"\"\\"`, `"\n"`, "t", "e", "", "", "bin:"}},
	})
	testMalformed(t, serializer.V2().Parse, binary,
		"", "\x00", "\x00\x00\x00\x00", "\x00\x01\x00\x00\x00", "\x00\x01\x01\x01\x02123t", full[:len(full)-2],
		"\x01\x00\x00\x00\x00", "\x02\x00\x00\x00\x00", "\x03\x00\x00\x00\x00\x00\x00", "\x04\x00\x00\x00\x00",
		"\xff\x00\x00\x00\x00",
		`["3","4","t","e",{}]`, "\x00\x01\x00\x00\x00\xff", "\x00\x00\x00\x01\x00\xc3")

	testParse(t, serializer.V2().ParseClient, []parseTest{
		{"reply", binary, "\x01\x01\x02\x06\x02" + "341room:7ok\xde\xad",
			parsed{reply, `"3"`, `"41"`, "room:7", "phx_reply", "ok", "", "bin:\xde\xad"}},
		{"push", binary, "\x00\x01\x06\x04" + "3room:7blob\xde\xad",
			parsed{push, `"3"`, "", "room:7", "blob", "", "", "bin:\xde\xad"}},
		{"broadcast", binary, "\x02\x06\x04" + "room:7blob\xde\xad",
			parsed{broadcast, "", "", "room:7", "blob", "", "", "bin:\xde\xad"}},
		{"refs that were null", binary, "\x01\x00\x00\x01\x02tok",
			parsed{reply, serializer.EmptyRef, serializer.EmptyRef, "t", "phx_reply", "ok", "", "bin:"}},
	})
	testMalformed(t, serializer.V2().ParseClient, binary, "", "\x00", "\x00\x00\x00", "\x01\x00\x00\x00", "\x02\x00",
		"\x02\x01\x00", "\x03\x00\x00\x00\x00\x00", "\x02\x01\x00\xff")

	testAppend(t, serializer.V2(), []appendTest{
		{"request", serializer.Message{Kind: request, JoinRef: `"3"`, Ref: `"41"`, Topic: "room:7", Event: "blob",
			Payload: blob}, binary,
			"\x00\x01\x02\x06\x04" + "341room:7blob\xde\xad"},
		{"reply", serializer.Message{Kind: reply, JoinRef: `"3"`, Ref: `"41"`, Topic: "room:7", Status: "ok",
			Payload: blob}, binary,
			"\x01\x01\x02\x06\x02" + "341room:7ok\xde\xad"},
		{"push", serializer.Message{Kind: push, JoinRef: `"3"`, Ref: `"9"`, Topic: "room:7", Event: "blob",
			Payload: blob}, binary,
			"\x00\x01\x06\x04" + "3room:7blob\xde\xad"},
		{"broadcast", serializer.Message{Kind: broadcast, JoinRef: `"3"`, Topic: "room:7", Event: "blob", Payload: blob},
			binary,
			"\x02\x06\x04" + "room:7blob\xde\xad"},
		{"null refs", serializer.Message{Kind: reply, Topic: "t", Status: "ok", Payload: blob}, binary,
			"\x01\x00\x00\x01\x02" + "tok\xde\xad"},
		{"empty refs", serializer.Message{Kind: reply, JoinRef: serializer.EmptyRef, Ref: serializer.EmptyRef, Topic: "t",
			Status: "ok", Payload: blob}, binary,
			"\x01\x00\x00\x01\x02" + "tok\xde\xad"},
		{"no data", serializer.Message{Kind: broadcast, Topic: "t", Event: "e", Payload: serializer.Binary(nil)}, binary,
			"\x02\x01\x01te"},
		{"refs other than strings, and with escapes", serializer.Message{Kind: reply, JoinRef: `5`, Ref: `"\"\n"`,
			Topic: "t", Status: "ok", Payload: blob}, binary,
			"\x01\x01\x02\x01\x02" + "5\"\ntok\xde\xad"},
		{"names that are not UTF-8", serializer.Message{Kind: broadcast, Topic: "\xff\xff", Event: "e", Payload: blob},
			binary,
			"\x02\x06\x01\ufffd\ufffde\xde\xad"},
		{"topic other than a string", serializer.Message{Kind: reply, Ref: `"1"`, RawTopic: "null", Status: "ok",
			Payload: blob}, binary,
			"\x01\x00\x01\x04\x02" + "1nullok\xde\xad"},
		{"255 bytes", serializer.Message{Kind: broadcast, Topic: long, Event: long, Payload: blob}, binary,
			"\x02\xff\xff" + long + long + "\xde\xad"},
	})
	over := long + "x"
	for name, m := range map[string]serializer.Message{
		"join_ref": {Kind: push, JoinRef: serializer.StringRef(over)},
		"ref":      {Kind: request, Ref: serializer.StringRef(over)},
		"topic":    {Kind: broadcast, Topic: over},
		"event":    {Kind: push, Event: over},
		"status":   {Kind: reply, Status: over},
	} {
		m.Payload = blob
		_, b, err := serializer.V2().Append([]byte("before"), &m)
		if err == nil || !strings.Contains(err.Error(), " "+name+" ") || string(b) != "before" {
			t.Errorf("%s of 256 bytes: %q, %v", name, b, err)
		}
	}
}
