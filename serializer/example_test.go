package serializer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"bennu.example/serializer"
)

// A server reads what a client sent, and answers. The refs go back as they came.
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

// traced counts what goes out. It is a Serializer of its own, for socket.Config.Serializers, made of another: the methods that it does not
// have are those of the one within.
type traced struct {
	serializer.Serializer
	sent *atomic.Int64
}

func (t traced) Append(dst []byte, m *serializer.Message) (serializer.Op, []byte, error) {
	t.sent.Add(1)
	return t.Serializer.Append(dst, m)
}

// A version of the wire can be wrapped, or written anew: a Version, and how to write and to read a message.
func ExampleSerializer_wrap() {
	var sent atomic.Int64
	s, ok := serializer.Select([]serializer.Serializer{traced{serializer.V2(), &sent}}, "2.0.0")
	if !ok {
		fmt.Println("nothing answers to this version")
		return
	}
	for range 3 {
		if _, err := serializer.Encode(s, &serializer.Message{Kind: serializer.KindBroadcast, Topic: "room:1", Event: "tick"}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(sent.Load(), "frames of version", serializer.Vsn(s))
	// Output: 3 frames of version 2.0.0
}

// At the client's end a heartbeat is written, and a reply is read.
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

// The client names a version in its URL; the first serializer of the list that answers to it is taken.
func ExampleSelect() {
	for _, vsn := range []string{"2.0.0", "3.1.4", "4.0.0"} {
		s, ok := serializer.Select(serializer.Default(), vsn)
		if !ok {
			fmt.Println(vsn, "is not spoken here")
			continue
		}
		fmt.Println(vsn, "is answered by", s.Version())
	}
	// Output:
	// 2.0.0 is answered by 2.0.0
	// 3.1.4 is answered by 3.0
	// 4.0.0 is not spoken here
}

// A server that speaks JSON only leaves MessagePack out: socket.Config{Serializers: …}.
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

// The same message in each version: an object, an array, and as MessagePack fewer bytes than either.
func ExampleEncode() {
	m := &serializer.Message{
		Kind:    serializer.KindBroadcast,
		Topic:   "room:lobby",
		Event:   "moved",
		Payload: serializer.Value(map[string]int{"x": 3}),
	}
	for _, s := range []serializer.Serializer{serializer.V1(), serializer.V2(), serializer.V3()} {
		f, err := serializer.Encode(s, m) // a Frame may go to any number of connections
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

// What came is decoded when somebody asks, and can be passed on without.
func ExamplePayload_Decode() {
	m, err := serializer.V2().Parse(serializer.OpText, []byte(`["1","2","room:lobby","new_msg",{"user":"ann","body":"hello"}]`))
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
	fmt.Println(string(m.Payload.Bytes())) // as it came, whatever the version
	raw, err := m.Payload.JSON()           // as JSON, also if it came as MessagePack
	fmt.Println(string(raw), err)
	// Output:
	// ann says hello
	// {"user":"ann","body":"hello"}
	// {"user":"ann","body":"hello"} <nil>
}

// As a field, a Payload keeps a part of a message as it is, for whoever knows what is in it.
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

// Anything that encoding/json takes is a payload, and so is JSON that is there already: as json.RawMessage it is sent as it stands.
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

// Bytes that are no JSON go untouched: an image, a chunk of sound.
func ExampleBinary() {
	p := serializer.Binary([]byte{0xff, 0xd8, 0xff})
	fmt.Println(p.IsBinary(), len(p.Bytes()))

	m := &serializer.Message{Kind: serializer.KindBroadcast, Topic: "camera:1", Event: "frame", Payload: p}
	f, err := serializer.Encode(serializer.V2(), m)
	fmt.Println(f.Op == serializer.OpBinary, err)
	_, err = serializer.Encode(serializer.V1(), m) // has no form for it
	fmt.Println(errors.Is(err, serializer.ErrPayload))
	// Output:
	// true 3
	// true <nil>
	// true
}

// A ref is compared as it stands on the wire: the string "1" is not the number 1, and neither is null.
func ExampleStringRef() {
	ref := serializer.StringRef("1")
	fmt.Println(ref, ref.Text(), ref == "1")
	var none serializer.Ref
	fmt.Println(none.IsNull(), none == serializer.EmptyRef)
	// Output:
	// "1" 1 false
	// true false
}

// JSON that is put together by hand has its strings from AppendString.
func ExampleAppendString() {
	b := []byte(`{"name":`)
	b = serializer.AppendString(b, "Ann \"the\"\nboss")
	b = append(b, '}')
	fmt.Println(string(b))
	// Output: {"name":"Ann \"the\"\nboss"}
}
