package serializer_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"bennu.example/serializer"
)

func TestV3Parse(t *testing.T) {
	t.Parallel()
	testParse(t, serializer.V3().Parse, []parseTest{
		{"join", binary, "\x95\xa13\xa13\xa6room:7\xa8phx_join\x81\xa3tok\xa1x",
			parsed{request, `"3"`, `"3"`, "room:7", "phx_join", "", "", `{"tok":"x"}`}},
		{"heartbeat", binary, "\x95\xc0\xa15\xa7phoenix\xa9heartbeat\x80",
			parsed{request, "", `"5"`, "phoenix", "heartbeat", "", "", `{}`}},
		{"wide heads", binary,
			"\xdd\x00\x00\x00\x05\xd9\x013\xda\x00\x014\xdb\x00\x00\x00\x01t\xd9\x01e\xdf\x00\x00\x00\x01\xda\x00" +
				"\x01a\xdd\x00\x00\x00\x00",
			parsed{request, `"3"`, `"4"`, "t", "e", "", "", `{"a":[]}`}},
		{"more than five", binary, "\x97\xc0\xc0\xa1t\xa1e\x80\x01\x91\x02",
			parsed{request, "", "", "t", "e", "", "", `{}`}},
		{"refs are integers", binary, "\x95\x05\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1t\xa1e\x80",
			parsed{request, `5`, `18446744073709551615`, "t", "e", "", "", `{}`}},
		{"refs are negative", binary, "\x95\xff\xd1\x80\x00\xa1t\xa1e\x80",
			parsed{request, `-1`, `-32768`, "t", "e", "", "", `{}`}},
		{"refs are floats", binary, "\x95\xcb\x40\x08\x00\x00\x00\x00\x00\x00\xca\x3f\xc0\x00\x00\xa1t\xa1e\x80",
			parsed{request, `3e+00`, `1.5e+00`, "t", "e", "", "", `{}`}},
		{"refs are words", binary, "\x95\xc2\xc3\xa1t\xa1e\x80",
			parsed{request, `false`, `true`, "t", "e", "", "", `{}`}},
		{"refs are strings to escape", binary, "\x95\xa0\xa2\"\n\xa1t\xa1e\x80",
			parsed{request, serializer.EmptyRef, `"\"\n"`, "t", "e", "", "", `{}`}},
		{"binary payload", binary, "\x95\xc0\xc0\xa1t\xa1e\xc4\x02\xde\xad",
			parsed{request, "", "", "t", "e", "", "", "bin:\xde\xad"}},
		{"empty binary payload", binary, "\x95\xc0\xc0\xa1t\xa1e\xc6\x00\x00\x00\x00",
			parsed{request, "", "", "t", "e", "", "", "bin:"}},
		{"payload is a scalar", binary, "\x95\xc0\xc0\xa1t\xa1e\xc0",
			parsed{request, "", "", "t", "e", "", "", "null"}},
		{"topic is not a string", binary, "\x95\xc0\xc0\x81\xa1a\x01\xa1e\x80",
			parsed{request, "", "", "", "e", "", `{"a":1}`, "{}"}},
		{"event is not a string", binary, "\x95\xc0\xc0\xa1t\xc0\x80",
			parsed{request, "", "", "t", "null", "", "", "{}"}},
		{"1,000 levels", binary, "\x95\xc0\xc0\xa1t\xa1e" + strings.Repeat("\x91", 1000) + "\xc0",
			parsed{request, "", "", "t", "e", "", "", strings.Repeat("[", 1000) + "null" + strings.Repeat("]", 1000)}},
		{"10,000 levels", binary, "\x95\xc0\xc0\xa1t\xa1e" + strings.Repeat("\x81\x01", 9998) + "\x90",
			parsed{request, "", "", "t", "e", "", "", strings.Repeat(`{"1":`, 9998) + "[]" + strings.Repeat("}", 9998)}},
	})
	testMalformed(t, serializer.V3().Parse, text, "\x95\xc0\xc0\xa1t\xa1e\x80", `["3","4","t","e",{}]`)
	testMalformed(t, serializer.V3().Parse, binary,
		"", "\xc0", "\x85\xc0\xc0\xa1t\xa1e\x80", "\xa5hello", `["3","4","t","e",{}]`, "\x94\xc0\xc0\xa1t\xa1e", "\x90",
		"\x95", "\x95\xc0\xc0\xa1t\xa1e",
		"\x95\xc0\xc0\xa1t\xa1e\x80\xc0", "\x96\xc0\xc0\xa1t\xa1e\x80", // trailing bytes, truncated
		"\x95\xc0\xc0\xa1t\xa1e\xc1", "\x95\xc0\xc0\xa1t\xa1e\x81\xa1a\xc1", "\x96\xc0\xc0\xa1t\xa1e\x80\xc1",
		// the unused byte 0xc1
		"\x95\xc4\x011\xc0\xa1t\xa1e\x80", "\x95\xd4\x05\x00\xc0\xa1t\xa1e\x80", "\x95\x90\xc0\xa1t\xa1e\x80",
		"\x95\xc0\x80\xa1t\xa1e\x80", // bin, ext, array and map as ref
		"\x95\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xc0\xa1t\xa1e\x80", "\x95\xca\x7f\x80\x00\x00\xc0\xa1t\xa1e\x80",
		// NaN and infinity as ref
		"\x95\xc0\xc0\xc4\x01t\xa1e\x80", "\x95\xc0\xc0\xd4\x01t\xa1e\x80", "\x95\xc0\xc0\xa1t\xc4\x01e\x80",
		"\x95\xc0\xc0\xa1t\xd4\x01e\x80", // bin and ext as topic and event
		"\x95\xa1\xff\xc0\xa1t\xa1e\x80", "\x95\xc0\xc0\xa1\xff\xa1e\x80", "\x95\xc0\xc0\xa1t\xa1\xff\x80",
		// names that are not UTF-8
		"\x95\xc0\xc0\xa1t\xa1e\x81\x90\x01", "\x95\xc0\xc0\xa1t\xa1e\x81\x80\x01",
		"\x95\xc0\xc0\xa1t\xa1e\x81\xd4\x01\x01\x01", // keys that have no text
		"\x95\xc0\xc0\xa1t\xa1e\xa5abcd", "\x95\xc0\xc0\xa1t\xa1e\xda\x01", "\x95\xc0\xc0\xa1t\xa1e\xcb\x00\x00",
		"\x95\xc0\xc0\xa1t\xa1e\xc7\x01", "\x95\xc0\xc0\xa1t\xa1e\xd8\x01\x00",
		"\x95\xc0\xc0\xa1t\xa1e\xdd\xff\xff\xff\xff", "\x95\xc0\xc0\xa1t\xa1e\xdf\xff\xff\xff\xff",
		"\x95\xc0\xc0\xa1t\xa1e\xc6\xff\xff\xff\xff", "\x95\xc0\xc0\xa1t\xa1e\xdf\x80\x00\x00\x01\x01",
		"\xdd\xff\xff\xff\xff\xc0\xc0\xa1t\xa1e\x80",
		"\x95\xc0\xc0\xa1t\xa1e"+strings.Repeat("\x91", serializer.MaxDepth)+"\xc0", strings.Repeat("\x95", 500_000),
		strings.Repeat("\x91", 1<<20))
}

func TestV3ParseClient(t *testing.T) {
	t.Parallel()
	testParse(t, serializer.V3().ParseClient, []parseTest{
		{"reply", binary, "\x95\xa13\xa14\xa6room:7\xa9phx_reply\x82\xa6status\xa2ok\xa8response\x81\xa2id\x09",
			parsed{reply, `"3"`, `"4"`, "room:7", "phx_reply", "ok", "", `{"id":9}`}},
		{"binary reply, other keys", binary,
			"\x95\xa13\xa14\xa1t\xa9phx_reply\x84\xa8response\xc4\x01x\x05\x80\xa1a\xc0\xa6status\xa5maybe",
			parsed{reply, `"3"`, `"4"`, "t", "phx_reply", "maybe", "", "bin:x"}},
		{"reply without response", binary, "\x95\xc0\xa14\xa1t\xa9phx_reply\x81\xa6status\xa2ok",
			parsed{reply, "", `"4"`, "t", "phx_reply", "ok", "", `{}`}},
		{"status that is not UTF-8", binary, "\x95\xc0\xa14\xa1t\xa9phx_reply\x81\xa6status\xa2|\xf3",
			parsed{reply, "", `"4"`, "t", "phx_reply", "|\ufffd", "", `{}`}},
		{"a reply without status is a push", binary, "\x95\xc0\xa14\xa1t\xa9phx_reply\x81\xa8response\x80",
			parsed{push, "", `"4"`, "t", "phx_reply", "", "", `{"response":{}}`}},
		{"a binary reply is a broadcast", binary, "\x95\xc0\xc0\xa1t\xa9phx_reply\xc4\x01x",
			parsed{broadcast, "", "", "t", "phx_reply", "", "", "bin:x"}},
		{"push", binary, "\x95\xa13\xc0\xa1t\xa6notice\x80", parsed{push, `"3"`, "", "t", "notice", "", "", `{}`}},
		{"broadcast", binary, "\x95\xc0\xc0\xa1t\xa4said\x80", parsed{broadcast, "", "", "t", "said", "", "", `{}`}},
		{"phx_close", binary, "\x95\xa13\xa13\xa1t\xa9phx_close\x80",
			parsed{push, `"3"`, `"3"`, "t", "phx_close", "", "", `{}`}},
	})
	testMalformed(t, serializer.V3().ParseClient, binary, "", "\x95", "\x90")
	testMalformed(t, serializer.V3().ParseClient, text, "\x95\xc0\xc0\xa1t\xa1e\x80")
}

func TestV3Append(t *testing.T) {
	t.Parallel()
	value := serializer.Value
	received, err := serializer.V3().Parse(binary, []byte("\x95\xc0\xa11\xa1t\xa1e\xde\x00\x01\xd9\x01a\xcc\x01"))
	if err != nil {
		t.Fatal(err)
	}
	testAppend(t, serializer.V3(), []appendTest{
		{"request", serializer.Message{Kind: request, JoinRef: `"3"`, Ref: `"4"`, Topic: "room:7", Event: "say",
			Payload: value(map[string]string{"t": "hi"})}, binary,
			"\x95\xa13\xa14\xa6room:7\xa3say\x81\xa1t\xa2hi"},
		{"refs of all types", serializer.Message{Kind: push, JoinRef: `5`, Ref: `1.5`, Topic: "t", Event: "e"}, binary,
			"\x95\x05\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa1t\xa1e\x80"},
		{"refs with escapes", serializer.Message{Kind: push, JoinRef: `"\"\n"`, Ref: `""`, Topic: "t", Event: "e"}, binary,
			"\x95\xa2\"\n\xa0\xa1t\xa1e\x80"},
		{"refs of other types", serializer.Message{Kind: push, JoinRef: `[1,"a"]`, Ref: `true`, Topic: "t", Event: "e"},
			binary,
			"\x95\x92\x01\xa1a\xc3\xa1t\xa1e\x80"},
		{"reply", serializer.Message{Kind: reply, JoinRef: `"3"`, Ref: `"4"`, Topic: "t", Status: "ok",
			Payload: value(1)}, binary,
			"\x95\xa13\xa14\xa1t\xa9phx_reply\x82\xa6status\xa2ok\xa8response\x01"},
		{"binary reply", serializer.Message{Kind: reply, Ref: `"4"`, Topic: "t", Status: "ok",
			Payload: serializer.Binary([]byte("x"))}, binary,
			"\x95\xc0\xa14\xa1t\xa9phx_reply\x82\xa6status\xa2ok\xa8response\xc4\x01x"},
		{"binary broadcast", serializer.Message{Kind: broadcast, JoinRef: `"3"`, Ref: `"3"`, Topic: "t", Event: "e",
			Payload: serializer.Binary(nil)}, binary,
			"\x95\xc0\xc0\xa1t\xa1e\xc4\x00"},
		{"a payload passed on is copied", serializer.Message{Kind: broadcast, Topic: "t", Event: "e",
			Payload: received.Payload}, binary,
			"\x95\xc0\xc0\xa1t\xa1e\xde\x00\x01\xd9\x01a\xcc\x01"},
		{"names that are not UTF-8", serializer.Message{Kind: push, Topic: "\xff\xff", Event: "e"}, binary,
			"\x95\xc0\xc0\xa6\ufffd\ufffd\xa1e\x80"},
		{"topic other than a string", serializer.Message{Kind: reply, Ref: `"1"`, RawTopic: `[null]`, Status: "ok"}, binary,
			"\x95\xc0\xa11\x91\xc0\xa9phx_reply\x82\xa6status\xa2ok\xa8response\x80"},
	})
	for _, kind := range []serializer.Kind{push, broadcast} {
		testRejected(t, serializer.V3(), kind, value("x"), value([]int{1}), value(1), value([]byte("x")),
			value(json.RawMessage("null")), value((*int)(nil)))
	}
	for kind := request; kind <= broadcast; kind++ {
		testRejected(t, serializer.V3(), kind, value(func() {}), value(json.RawMessage(`{`)),
			value(map[string]any{"a": make(chan int)}), value(map[string]any{"a": json.RawMessage("\"\xff\"")}))
	}
}

// TestV3ParseAllocatesInProportion parses lengths that exceed the frame. They must not determine
// how much memory is allocated.
func TestV3ParseAllocatesInProportion(t *testing.T) {
	for _, payload := range []string{
		"\xdd\x7f\xff\xff\xff", "\xdf\x7f\xff\xff\xff", "\xc6\x7f\xff\xff\xff", "\xdb\x7f\xff\xff\xff",
		"\xc9\x7f\xff\xff\xff\x01",
		strings.Repeat("\xdd\x00\x00\x10\x00", 2000), strings.Repeat("\x9f", 9000), strings.Repeat("\x91", 100_000),
	} {
		data := []byte("\x95\xc0\xc0\xa1t\xa1e" + payload)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := serializer.V3().Parse(binary, data)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%.20q is accepted", payload)
		}
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(40*len(data)+64<<10); got > most {
			t.Errorf("%.20q, %d bytes: %d bytes were allocated", payload, len(data), got)
		}
	}
}

func TestTranscode(t *testing.T) {
	t.Parallel()
	both := []struct{ json, msgpack string }{
		{`null`, "\xc0"}, {`true`, "\xc3"}, {`false`, "\xc2"}, {`""`, "\xa0"}, {`"é\n"`, "\xa3é\n"},
		{`0`, "\x00"}, {`127`, "\x7f"}, {`128`, "\xcc\x80"}, {`256`, "\xcd\x01\x00"}, {`65536`, "\xce\x00\x01\x00\x00"},
		{`4294967296`, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"},
		{`9223372036854775807`, "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"},
		{`18446744073709551615`, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"},
		{`-1`, "\xff"}, {`-32`, "\xe0"}, {`-33`, "\xd0\xdf"}, {`-129`, "\xd1\xff\x7f"},
		{`-32769`, "\xd2\xff\xff\x7f\xff"}, {`-9223372036854775808`, "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"},
		{`-0`, "\xcb\x80\x00\x00\x00\x00\x00\x00\x00"}, {`1.5`, "\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"},
		{`1e-9`, "\xcb\x3e\x11\x2e\x0b\xe8\x26\xd6\x95"}, {`1e+300`, "\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c"},
		{`[]`, "\x90"}, {`{}`, "\x80"}, {`[[],{},[1]]`, "\x93\x90\x80\x91\x01"},
		{`{"a":{"b":[]},"c":[{}]}`, "\x82\xa1a\x81\xa1b\x90\xa1c\x91\x80"},
		{`[` + strings.Repeat("1,", 15) + `2]`, "\xdc\x00\x10" + strings.Repeat("\x01", 15) + "\x02"},
		{`[` + strings.Repeat("1,", 65535) + `2]`, "\xdd\x00\x01\x00\x00" + strings.Repeat("\x01", 65535) + "\x02"},
		{`"` + strings.Repeat("x", 31) + `"`, "\xbf" + strings.Repeat("x", 31)},
		{`"` + strings.Repeat("x", 32) + `"`, "\xd9\x20" + strings.Repeat("x", 32)},
		{`"` + strings.Repeat("x", 256) + `"`, "\xda\x01\x00" + strings.Repeat("x", 256)},
		{`"` + strings.Repeat("x", 65536) + `"`, "\xdb\x00\x01\x00\x00" + strings.Repeat("x", 65536)},
	}
	for _, tt := range both {
		if got := string(serializer.AppendJSONAsMsgpack([]byte("x"), []byte(tt.json))); got != "x"+tt.msgpack {
			t.Errorf("%.60s became %.60q, want %.60q", tt.json, got[1:], tt.msgpack)
		}
		if got := string(serializer.AppendMsgpackAsJSON([]byte("x"), []byte(tt.msgpack))); got != "x"+tt.json {
			t.Errorf("%.60q became %.60s, want %.60s", tt.msgpack, got[1:], tt.json)
		}
	}
	for in, want := range map[string]string{ // JSON that a conversion back does not restore
		" [ 1 , { \"a\" : [ ] , \"b\" : { } } ,\n2 ] ": "\x93\x01\x82\xa1a\x90\xa1b\x80\x02",
		`"\ud83d\ude00"`:         "\xa4😀",
		`{"\u0061":1}`:           "\x81\xa1a\x01",
		`1.0`:                    "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
		`18446744073709551616`:   "\xcb\x43\xf0\x00\x00\x00\x00\x00\x00",
		`-9223372036854775809`:   "\xcb\xc3\xe0\x00\x00\x00\x00\x00\x00",
		strings.Repeat("9", 400): "\xda\x01\x90" + strings.Repeat("9", 400),
	} {
		if got := string(serializer.AppendJSONAsMsgpack(nil, []byte(in))); got != want {
			t.Errorf("%.60s became %.60q, want %.60q", in, got, want)
		}
	}
	for in, want := range map[string]string{ // MessagePack that a conversion back does not restore
		"\xc4\x03\xff\xfe\xfd":                     `"//79"`,
		"\xd5\x05ab":                               `"YWI="`,
		"\xa2a\xff":                                "\"a\ufffd\"",
		"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00":     `null`,
		"\xca\xff\x80\x00\x00":                     `null`,
		"\xca\x3d\xcc\xcc\xcd":                     `0.10000000149011612`,
		"\xcb\x40\x08\x00\x00\x00\x00\x00\x00":     `3`,
		"\xd6\xff\x00\x00\x00\x05":                 `"1970-01-01T00:00:05Z"`,
		"\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x05": `"1970-01-01T00:00:05.000000001Z"`,
		"\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff": `"1969-12-31T23:59:59.000000001Z"`,
		"\xc7\x0c\xff\x00\x00\x00\x01\x7f\xff\xff\xff\xff\xff\xff\xff": `"AAAAAX//////////"`,
		"\xd7\xff\xff\xff\xff\xff\x00\x00\x00\x05":                     `"/////wAAAAU="`,
		"\xd4\xff\x01": `"AQ=="`,
		"\x86\x05\x01\xc0\x02\xc3\x03\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x04\xc4\x01a\x05\xa1a" +
			"\x06": `{"5":1,"null":2,"true":3,"1.5":4,"YQ==":5,"a":6}`,
		"\x81\x81\x01\x02": ``,
	} {
		if want == "" {
			if serializer.ValidMsgpack([]byte(in)) {
				t.Errorf("%q is accepted", in)
			}
			continue
		}
		if !serializer.ValidMsgpack([]byte(in)) {
			t.Errorf("%q is rejected", in)
		}
		got := serializer.AppendMsgpackAsJSON(nil, []byte(in))
		if string(got) != want || !serializer.ValidJSON(got) {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
	}
}
