package channel

import (
	"encoding/json"
	"strings"
	"testing"

	"bennu.example/history"
	"bennu.example/serializer"
)

// FuzzHistoryParams parses the member "$history" of a join's params. The reason is one of two, and
// the params without the member keep all others.
func FuzzHistoryParams(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"$history":{}}`, `{"a":1,"$history":{"since":"q7hx2c9k-129-0m0a","last":5,"own":false},"b":[]}`,
		`{"$history":null}`, `{"$history":{"since":"a-1-0\u0030zz","last":1e3}}`, `{"\u0024history":{"last":1000001}}`,
		`{"$history":{"since":"q7hx2c9k-129-0m0a"}}`, `{"$history":{"since":"q7hx2c9k-1"}}`,
		`{"$history":{"since":"x"},"a":"}}"}`,
		`{"$history":{"since":5}}`, `[{"$history":1}]`, `{"$history":{"own":1,"own":true}}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, msgpack bool) {
		var s serializer.Serializer = serializer.V2()
		if msgpack {
			s = serializer.V3()
		}
		join := serializer.Message{Topic: "t", Event: "phx_join", Payload: serializer.Value(json.RawMessage(raw))}
		op, frame, err := s.Append(nil, &join)
		if err != nil {
			return
		}
		m, err := s.Parse(op, frame)
		if err != nil {
			t.Fatal(err)
		}
		h, rest, reason := cutHistory(m.Payload)
		if reason != "" && reason != invalidHistory && reason != invalidPosition {
			t.Fatalf("reason %q", reason)
		}
		before, err := m.Payload.JSON()
		after, err2 := rest.JSON()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		var want, got map[string]json.RawMessage
		if json.Unmarshal(before, &want) != nil {
			if h.asked || string(before) != string(after) {
				t.Fatalf("%s became %s, %+v", before, after, h)
			}
			return
		}
		value, asked := want["$history"]
		delete(want, "$history")
		if err := json.Unmarshal(after, &got); err != nil || h.asked != asked || len(got) != len(want) {
			t.Fatalf("%s became %s, %+v: %v", before, after, h, err)
		}
		for name := range want {
			if string(got[name]) != string(want[name]) {
				t.Fatalf("%s became %s", before, after)
			}
		}
		if !asked || reason != "" {
			return
		}
		var members map[string]any
		if err := json.Unmarshal(value, &members); err != nil || members == nil {
			t.Fatalf("accepted %s", value)
		}
		since, _ := members["since"].(string)
		if h.last < 0 || h.last > maxLast || h.since.String() != since {
			t.Fatalf("%s became %+v", value, h)
		}
	})
}

// TestReplyHasHistory checks that a reply's member is the one that Payload.With adds.
func TestReplyHasHistory(t *testing.T) {
	position, err := history.NewPosition("q7hx2c9k", 129, "0m0a")
	if err != nil {
		t.Fatal(err)
	}
	for reply, built := range map[string]bool{
		`{}`: true, `{"a":1}`: true, `{"text":"` + strings.Repeat("long ", 100) + `"}`: true,
		`{ }`: false, "{\n\"a\": 1}": false, `[]`: false, `null`: false,
	} {
		for _, r := range []historyReply{{position: position, missed: 3}, {position: position, why: "new"}, {why: whyOff}} {
			base, err := serializer.Value(json.RawMessage(reply)).Encoded()
			if err != nil {
				t.Fatal(err)
			}
			got, ok := r.joinedWith(base)
			if ok != built {
				t.Fatalf("%s: %v", reply, ok)
			}
			want, err := base.With(memberHistory, json.RawMessage(r.append(nil))).JSON()
			if raw, _ := got.JSON(); ok && (err != nil || string(raw) != string(want)) {
				t.Errorf("got %s, want %s, %v", raw, want, err)
			}
		}
	}
}
