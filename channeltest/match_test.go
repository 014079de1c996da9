package channeltest

import (
	"strings"
	"testing"

	"bennu.example/serializer"
)

func TestMatch(t *testing.T) {
	type point struct {
		X int `json:"x"`
		Y int `json:"y,omitempty"`
	}
	for _, tc := range []struct {
		want any
		got  string // JSON
		diff string
	}{
		{nil, `{"x":1}`, ""},
		{map[string]int{}, `{"x":1}`, ""},
		{map[string]int{"x": 1}, `{"x":1,"y":2}`, ""},
		{map[string]int{"x": 1}, `{"x":1.0}`, ""},
		{map[string]int{"x": 100}, `{"x":1e2}`, ""},
		{map[string]int{"x": 1}, `{"x":1e300}`, "x is 1e300, want 1"},
		{map[string]uint64{"x": 1<<63 + 1}, `{"x":9223372036854775808}`,
			"x is 9223372036854775808, want 9223372036854775809"},
		{map[string]int{"x": 1}, `{"x":"1"}`, `x is "1", want 1`},
		{map[string]int{"x": 1}, `{"y":1}`, "x is missing"},
		{map[string]any{"x": nil}, `{}`, "x is missing"},
		{map[string]any{"x": nil}, `{"x":null}`, ""},
		{map[string]any{"x": nil}, `{"x":false}`, "x is false, want null"},
		{point{1, 0}, `{"x":1,"y":2}`, ""},
		{point{1, 3}, `{"x":1,"y":2}`, "y is 2, want 3"},
		{point{}, `{"x":1}`, "x is 1, want 0"},
		{map[string]any{"a": map[string]any{"b": []int{1, 2}}}, `{"a":{"b":[1,3],"c":0}}`, "a.b[1] is 3, want 2"},
		{map[string]any{"a": []int{1}}, `{"a":[1,2]}`, "a has 2 elements, want 1"},
		{map[string]any{"a": []point{{X: 1}}}, `{"a":[{"x":1,"z":1}]}`, ""},
		{map[string]any{"a": []int{}}, `{"a":{}}`, "a is {}, want an array"},
		{map[string]any{"a": point{}}, `{"a":[]}`, "a is [], want an object"},
		{"x", `"x"`, ""},
		{"x", `"y"`, `it is "y", want "x"`},
		{true, `true`, ""},
		{[]byte("x"), `"x"`, "it is not binary"},
		{serializer.Value(point{X: 1}), `{"x":2}`, "x is 2, want 1"},
	} {
		p, err := patternOf(tc.want)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := serializer.Value(rawJSON(tc.got)).Encoded()
		if err != nil {
			t.Fatal(err)
		}
		if diff := p.mismatch(payload); diff != tc.diff {
			t.Errorf("%s like %s: %q, want %q", tc.got, p.text, diff, tc.diff)
		}
	}
	if equalNumbers("1e999999999", "1") { // and it does not compute the number
		t.Error("a huge number equals 1")
	}
	for want, diff := range map[string]string{"ab": "", "abc": "the bytes differ"} {
		p, err := patternOf([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.mismatch(serializer.Binary([]byte("ab"))); got != diff {
			t.Errorf("%q: %q, want %q", want, got, diff)
		}
	}
	if p, err := patternOf(1); err != nil || p.mismatch(serializer.Binary(nil)) != "it is binary" {
		t.Error("a number matches bytes", err)
	}
	if p, err := reasonPattern("full"); err != nil || p.text != `{"reason":"full"}` {
		t.Errorf("a reason is %s, %v", p.text, err)
	}
}

// rawJSON is JSON text.
type rawJSON string

// MarshalJSON is part of json.Marshaler.
func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func TestLongTextsAreClipped(t *testing.T) {
	for _, p := range []serializer.Payload{
		serializer.Value(strings.Repeat("é", 10_000)), serializer.Binary(make([]byte, 10_000)),
	} {
		if n := len(textOf(p)); n > maxText+len("…") {
			t.Errorf("the text has %d bytes", n)
		}
	}
}

func TestInboxIsBounded(t *testing.T) {
	in := newInbox(&Server{Timeout: 1}, "inbox")
	payload := serializer.Binary(make([]byte, 1<<20))
	for range 2 * maxInbox >> 20 {
		in.add(event{"big", payload})
	}
	if in.size > maxInbox || in.dropped == 0 || len(in.events)+in.dropped != 2*maxInbox>>20 {
		t.Errorf("%d bytes, %d events, %d dropped", in.size, len(in.events), in.dropped)
	}
	report := in.report("small", pattern{any: true})
	if n := strings.Count(report, "\n"); n != maxListed+2 || !strings.Contains(report, " earlier ones)") {
		t.Errorf("a report of %d lines", n)
	}
	for len(in.events) > 0 {
		in.remove(0)
	}
	if in.size != 0 {
		t.Errorf("%d bytes are left", in.size)
	}
}

func TestFrameLogIsBounded(t *testing.T) {
	var l frameLog
	for range 3 * maxFrames {
		l.add("<-", &serializer.Message{Kind: serializer.KindPush, Topic: "room:1", Event: "x"})
	}
	l.add("<-", &serializer.Message{Kind: serializer.KindPush, Topic: topicSocket, Event: "denied"})
	l.add("->", &serializer.Message{Topic: topicSocket, Event: "time"})
	l.add("->", &serializer.Message{Topic: serializer.TopicPhoenix, Event: serializer.EventHeartbeat})
	text := l.String()
	if n := strings.Count(text, "\n"); n != maxFrames || !strings.HasSuffix(text, "<- $socket denied {}") {
		t.Errorf("the log has %d lines:\n%s", n, text)
	}
}
