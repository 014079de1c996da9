package serializer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"bennu.example/serializer"
)

// A server decodes a request and replies. The reply repeats the refs.
func ExampleSerializer() {
	v2 := serializer.V2()
	m, err := v2.Parse(serializer.OpText, []byte(`["1","2","room:lobby","new_msg",{"body":"hello"}]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Topic, m.Event, m.Ref.Text())

	op, frame, err := v2.Append(nil, &serializer.Message{
		Kind:    serializer.KindReply,
		JoinRef: m.JoinRef,
		Ref:     m.Ref,
		Topic:   m.Topic,
		Status:  "ok",
		Payload: serializer.Value(map[string]int{"id": 7}),
	})
	fmt.Println(op == serializer.OpText, string(frame), err)
	// Output:
	// room:lobby new_msg 2
	// true ["1","2","room:lobby","phx_reply",{"status":"ok","response":{"id":7}}] <nil>
}

// counting is a Serializer that counts encoded frames. It embeds another one for everything else.
// socket.Config.Serializers accepts it.
type counting struct {
	serializer.Serializer
	sent *atomic.Int64
}

func (t counting) Append(dst []byte, m *serializer.Message) (serializer.Op, []byte, error) {
	t.sent.Add(1)
	return t.Serializer.Append(dst, m)
}

// A program can wrap a serializer or implement its own.
func ExampleSerializer_wrap() {
	var sent atomic.Int64
	s, ok := serializer.Select([]serializer.Serializer{counting{serializer.V2(), &sent}}, "2.0.0")
	if !ok {
		fmt.Println("no serializer for this version")
		return
	}
	for range 3 {
		if _, err := serializer.Encode(s, &serializer.Message{Kind: serializer.KindBroadcast, Topic: "room:1",
			Event: "tick"}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(sent.Load(), "frames of version", serializer.Vsn(s))
	// Output: 3 frames of version 2.0.0
}

// A client encodes a heartbeat and decodes the reply.
func ExampleMessage() {
	v2 := serializer.V2()
	_, beat, err := v2.Append(nil, &serializer.Message{
		Kind:  serializer.KindRequest,
		Ref:   serializer.StringRef("5"),
		Topic: serializer.TopicPhoenix,
		Event: serializer.EventHeartbeat,
	})
	fmt.Println(string(beat), err)

	m, err := v2.ParseClient(serializer.OpText, []byte(`[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]`))
	fmt.Println(m.Kind == serializer.KindReply, m.Status, err)

	_, err = v2.ParseClient(serializer.OpText, []byte(`<html>`))
	fmt.Println(errors.Is(err, serializer.ErrMalformed))
	// Output:
	// [null,"5","phoenix","heartbeat",{}] <nil>
	// true ok <nil>
	// true
}

// A client sends a version in its URL. The server uses the first serializer that accepts it.
func ExampleSelect() {
	for _, vsn := range []string{"2.0.0", "3.1.4", "4.0.0"} {
		s, ok := serializer.Select(serializer.Default(), vsn)
		if !ok {
			fmt.Println(vsn, "is not supported")
			continue
		}
		fmt.Println(vsn, "selects", s.Version())
	}
	// Output:
	// 2.0.0 selects 2.0.0
	// 3.1.4 selects 3.0
	// 4.0.0 is not supported
}

// A server that supports only JSON sets socket.Config.Serializers to a list without MessagePack.
func ExampleDefault() {
	for _, s := range serializer.Default() {
		fmt.Println(serializer.Vsn(s))
	}
	jsonOnly := []serializer.Serializer{serializer.V2(), serializer.V1()}
	_, ok := serializer.Select(jsonOnly, "3.0.0")
	fmt.Println(ok)
	// Output:
	// 1.0.0
	// 2.0.0
	// 3.0.0
	// false
}

// The same message in each version: an object, an array, and MessagePack, which is shorter.
func ExampleEncode() {
	m := &serializer.Message{
		Kind:    serializer.KindBroadcast,
		Topic:   "room:lobby",
		Event:   "moved",
		Payload: serializer.Value(map[string]int{"x": 3}),
	}
	for _, s := range []serializer.Serializer{serializer.V1(), serializer.V2(), serializer.V3()} {
		f, err := serializer.Encode(s, m) // any number of connections can share a Frame
		if err != nil {
			fmt.Println(err)
			continue
		}
		if f.Op == serializer.OpBinary {
			fmt.Println(len(f.Data), "bytes of MessagePack")
			continue
		}
		fmt.Println(string(f.Data))
	}
	// Output:
	// {"topic":"room:lobby","event":"moved","ref":null,"payload":{"x":3}}
	// [null,null,"room:lobby","moved",{"x":3}]
	// 24 bytes of MessagePack
}

// A payload is decoded only by Decode. It can be sent on without decoding it.
func ExamplePayload_Decode() {
	m, err := serializer.V2().Parse(serializer.OpText,
		[]byte(`["1","2","room:lobby","new_msg",{"user":"ann","body":"hello"}]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	var msg struct{ User, Body string }
	if err := m.Payload.Decode(&msg); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(msg.User, "says", msg.Body)
	fmt.Println(string(m.Payload.Bytes())) // as it was received, in any version
	raw, err := m.Payload.JSON()           // as JSON, even if it was received as MessagePack
	fmt.Println(string(raw), err)
	// Output:
	// ann says hello
	// {"user":"ann","body":"hello"}
	// {"user":"ann","body":"hello"} <nil>
}

// A field of type Payload keeps a part of a message undecoded until its type is known.
func ExamplePayload_UnmarshalJSON() {
	var job struct {
		Kind string
		Args serializer.Payload
	}
	if err := json.Unmarshal([]byte(`{"kind":"mail","args":{"to":"ann"}}`), &job); err != nil {
		fmt.Println(err)
		return
	}
	if job.Kind == "mail" {
		var args struct{ To string }
		fmt.Println(job.Args.Decode(&args), args.To)
	}
	// Output: <nil> ann
}

// Every value that encoding/json accepts can be a payload. A json.RawMessage is sent as it is.
func ExampleValue() {
	type position struct {
		X int `json:"x"`
		Y int `json:"y"`
	}
	for _, v := range []any{position{3, 4}, json.RawMessage(`{"x":5}`), nil} {
		raw, err := serializer.Value(v).JSON()
		fmt.Println(string(raw), err)
	}
	_, err := serializer.Value(func() {}).JSON()
	fmt.Println(errors.Is(err, serializer.ErrPayload))
	// Output:
	// {"x":3,"y":4} <nil>
	// {"x":5} <nil>
	// {} <nil>
	// true
}

// Bytes such as an image or a chunk of sound are sent unchanged.
func ExampleBinary() {
	p := serializer.Binary([]byte{0xff, 0xd8, 0xff})
	fmt.Println(p.IsBinary(), len(p.Bytes()))

	m := &serializer.Message{Kind: serializer.KindBroadcast, Topic: "camera:1", Event: "frame", Payload: p}
	f, err := serializer.Encode(serializer.V2(), m)
	fmt.Println(f.Op == serializer.OpBinary, err)
	_, err = serializer.Encode(serializer.V1(), m) // cannot carry it
	fmt.Println(errors.Is(err, serializer.ErrPayload))
	// Output:
	// true 3
	// true <nil>
	// true
}

// Refs are compared as JSON: the string "1" is not the number 1, and neither is null.
func ExampleStringRef() {
	ref := serializer.StringRef("1")
	fmt.Println(ref, ref.Text(), ref == "1")
	var none serializer.Ref
	fmt.Println(none.IsNull(), none == serializer.EmptyRef)
	// Output:
	// "1" 1 false
	// true false
}

// AppendString encodes a string for JSON that a program assembles itself.
func ExampleAppendString() {
	b := []byte(`{"name":`)
	b = serializer.AppendString(b, "Ann \"the\"\nboss")
	b = append(b, '}')
	fmt.Println(string(b))
	// Output: {"name":"Ann \"the\"\nboss"}
}
