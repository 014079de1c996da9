package serializer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"bennu.example/serializer"
)

// TestRoundTrip encodes and decodes messages of all kinds in all versions. A message must not
// change, except for parts that its version cannot carry.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	payloads := map[string]serializer.Payload{
		"nothing": {}, "object": serializer.Value(map[string]any{"a": 1.0, "b": []any{nil, true, "é\n"}}),
		"raw":   serializer.Value(json.RawMessage(`{"a":1}`)),
		"array": serializer.Value([]any{1.0}), "null": serializer.Value(json.RawMessage("null")),
		"string": serializer.Value("x"),
		"binary": serializer.Binary([]byte{0, 255, '"'}), "empty binary": serializer.Binary([]byte{}),
	}
	objects := map[string]bool{"nothing": true, "object": true, "raw": true, "binary": true, "empty binary": true}
	refs := []serializer.Ref{"", serializer.EmptyRef, `"1"`, `"a\"b"`, `5`, `1.5e+00`, `true`}
	messages := []serializer.Message{
		{Topic: "room:7", Event: "say"}, {Topic: "", Event: ""}, {Topic: "röm:\"7\"\n", Event: "säy\\"},
		{RawTopic: `{"a":[1,"x"]}`, Event: "e"},
	}
	for _, s := range serializer.Default() {
		v1 := s.Version() == "1.0.0"
		for name, p := range payloads {
			for kind := request; kind <= broadcast; kind++ {
				refused := v1 && p.IsBinary() || !v1 && !objects[name] && (kind == push || kind == broadcast)
				for _, m := range messages {
					for _, ref := range refs {
						m.Kind, m.Payload = kind, p
						m.JoinRef, m.Ref = refs[len(refs)-1], ref
						switch kind {
						case reply:
							m.Event, m.Status = serializer.EventReply, "ok"
						case push:
							m.JoinRef, m.Ref = ref, ""
						case broadcast:
							m.JoinRef, m.Ref = "", ""
						}
						op, frame, err := s.Append(nil, &m)
						if refused {
							if !errors.Is(err, serializer.ErrPayload) {
								t.Fatalf("%s: %s in kind %d is accepted: %v", s.Version(), name, kind, err)
							}
							continue
						}
						if err != nil {
							t.Fatalf("%s: %s in kind %d: %v", s.Version(), name, kind, err)
						}
						kept := bytes.Clone(frame)
						parse := s.ParseClient
						if kind == request {
							parse = s.Parse
						}
						got, err := parse(op, frame)
						if err != nil {
							t.Fatalf("%s: %q: %v", s.Version(), frame, err)
						}
						want := expected(s, op, m)
						if g, w := look(t, got), look(t, want); !sameMessage(g, w) {
							t.Errorf("%s, kind %d: %q\n got %+v\nwant %+v", s.Version(), kind, frame, g, w)
						}
						if _, again, err := s.Append(nil, &got); err != nil || !sameFrame(again, kept, p) {
							t.Errorf("%s, kind %d: %q was encoded again as %q, %v", s.Version(), kind, kept, again, err)
						}
						if f, err := serializer.Encode(s, &m); err != nil || f.Op != op || !sameFrame(f.Data, kept, p) {
							t.Errorf("%s: Encode returned %v, %v", s.Version(), f, err)
						}
						if !bytes.Equal(frame, kept) {
							t.Errorf("%s: %q was modified to %q", s.Version(), kept, frame)
						}
					}
				}
			}
		}
	}
}

// expected returns m as the receiver must decode it.
func expected(s serializer.Serializer, op serializer.Op, m serializer.Message) serializer.Message {
	switch {
	case s.Version() == "1.0.0": // only a client's messages have a join_ref, and pushes equal broadcasts
		if m.Kind != request {
			m.JoinRef = ""
		}
		if m.Kind == push {
			m.Kind = broadcast
		}
	case s.Version() == "2.0.0" && op == binary:
		if m.RawTopic != "" {
			m.Topic, m.RawTopic = m.RawTopic, ""
		}
		if m.Kind != broadcast {
			m.JoinRef = serializer.StringRef(m.JoinRef.Text())
		}
		if m.Kind != broadcast && m.Kind != push {
			m.Ref = serializer.StringRef(m.Ref.Text())
		}
	case m.Kind == push && m.JoinRef.IsNull(): // it equals a broadcast
		m.Kind = broadcast
	}
	return m
}

func sameMessage(a, b parsed) bool {
	var x, y any
	if json.Unmarshal([]byte(a.Payload), &x) == nil && json.Unmarshal([]byte(b.Payload), &y) == nil {
		a.Payload, b.Payload = "", ""
	}
	return a == b && reflect.DeepEqual(x, y)
}

// sameFrame compares frames. Payloads with JSON may differ in spelling.
func sameFrame(a, b []byte, p serializer.Payload) bool {
	if _, err := p.JSON(); err == nil && !p.IsZero() {
		return len(a) == len(b)
	}
	return bytes.Equal(a, b)
}

// TestMessagesOwnTheirStrings overwrites a parsed frame. Only the payload of the message may
// alias it.
func TestMessagesOwnTheirStrings(t *testing.T) {
	t.Parallel()
	for _, s := range serializer.Default() {
		for _, p := range []serializer.Payload{serializer.Value(map[string]int{"a": 1}), serializer.Binary([]byte("xy"))} {
			in := serializer.Message{Kind: reply, JoinRef: `"3"`, Ref: `"4"`, Topic: "room:7", Event: "phx_reply",
				Status: "ok", Payload: p}
			op, frame, err := s.Append(nil, &in)
			if err != nil {
				continue
			}
			m, err := s.ParseClient(op, frame)
			if err != nil {
				t.Fatal(err)
			}
			for i := range frame {
				frame[i] = '?'
			}
			if m.Ref != in.Ref || m.Topic != in.Topic || m.Event != in.Event || m.Status != in.Status {
				t.Errorf("%s: the message aliases its frame: %+v", s.Version(), m)
			}
			raw := m.Payload.Bytes()
			if cap(raw) != len(raw) {
				t.Errorf("%s: appending to the payload would write into the frame", s.Version())
			}
		}
	}
}

// TestPayloadsBetweenVersions sends payloads from a client of each version to a client of each
// other.
func TestPayloadsBetweenVersions(t *testing.T) {
	t.Parallel()
	want := map[string]any{"n": 1.0, "f": 1.5, "s": "é\"", "l": []any{nil, true, map[string]any{}}}
	for _, from := range serializer.Default() {
		op, frame, err := from.Append(nil, &serializer.Message{Kind: request, Ref: `"1"`, Payload: serializer.Value(want)})
		if err != nil {
			t.Fatal(err)
		}
		in, err := from.Parse(op, frame)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range serializer.Default() {
			op, frame, err := to.Append(nil, &serializer.Message{Kind: broadcast, Topic: "t", Event: "e", Payload: in.Payload})
			if err != nil {
				t.Fatal(err)
			}
			out, err := to.ParseClient(op, frame)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := out.Payload.Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s to %s: %v, %v", from.Version(), to.Version(), got, err)
			}
		}
	}
}
