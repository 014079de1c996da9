package serializer_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"bennu.example/serializer"
)

// chat is a typical message. Its payload has about 128 bytes.
type chat struct {
	User string `json:"user"`
	Body string `json:"body"`
	ID   int    `json:"id"`
}

var aChat = chat{"ann",
	"the quick brown fox jumps over the lazy dog, and then it does so once more because it was such fun", 1234567}

// frameOf returns the frame of a message with the payload p.
func frameOf(tb testing.TB, s serializer.Serializer, kind serializer.Kind, p serializer.Payload) (serializer.Op,
	[]byte) {
	tb.Helper()
	op, frame, err := s.Append(nil, &serializer.Message{Kind: kind, JoinRef: `"3"`, Ref: `"41"`, Topic: "room:lobby",
		Event: "new_msg", Status: "ok", Payload: p})
	if err != nil {
		tb.Fatal(err)
	}
	return op, frame
}

func BenchmarkParse(b *testing.B) {
	for _, s := range serializer.Default() {
		for name, p := range map[string]serializer.Payload{"object": serializer.Value(aChat),
			"binary": serializer.Binary(make([]byte, 128))} {
			if s.Version() == "1.0.0" && p.IsBinary() {
				continue
			}
			op, frame := frameOf(b, s, serializer.KindRequest, p)
			b.Run(fmt.Sprintf("vsn=%s/%s", serializer.Vsn(s), name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(frame)))
				for b.Loop() {
					if _, err := s.Parse(op, frame); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkParseClient(b *testing.B) {
	for _, s := range serializer.Default() {
		op, frame := frameOf(b, s, serializer.KindReply, serializer.Value(aChat))
		b.Run("vsn="+serializer.Vsn(s), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				if _, err := s.ParseClient(op, frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAppend encodes a broadcast of a payload that was received from a client of the same
// version or of JSON, of a Go value, and of bytes.
func BenchmarkAppend(b *testing.B) {
	for _, s := range serializer.Default() {
		op, frame := frameOf(b, s, serializer.KindRequest, serializer.Value(aChat))
		same, err := s.Parse(op, frame)
		if err != nil {
			b.Fatal(err)
		}
		other, err := serializer.Value(aChat).Encoded()
		if err != nil {
			b.Fatal(err)
		}
		for name, p := range map[string]serializer.Payload{
			"received": same.Payload, "json": other, "struct": serializer.Value(aChat),
			"map":    serializer.Value(map[string]any{"user": aChat.User, "body": aChat.Body, "id": aChat.ID}),
			"binary": serializer.Binary(make([]byte, 128)),
		} {
			if s.Version() == "1.0.0" && p.IsBinary() {
				continue
			}
			b.Run(fmt.Sprintf("vsn=%s/%s", serializer.Vsn(s), name), func(b *testing.B) {
				b.ReportAllocs()
				m := serializer.Message{Kind: serializer.KindBroadcast, Topic: "room:lobby", Event: "new_msg", Payload: p}
				var dst []byte
				for b.Loop() {
					var err error
					if _, dst, err = s.Append(dst[:0], &m); err != nil {
						b.Fatal(err)
					}
				}
				b.SetBytes(int64(len(dst)))
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, s := range serializer.Default()[1:] {
		op, frame := frameOf(b, s, serializer.KindRequest, serializer.Value(aChat))
		m, err := s.Parse(op, frame)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("vsn=%s/struct", serializer.Vsn(s)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var c chat
				if err := m.Payload.Decode(&c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkValid compares the scanner with encoding/json's, which has fewer checks.
func BenchmarkValid(b *testing.B) {
	_, frame := frameOf(b, serializer.V2(), serializer.KindRequest, serializer.Value(aChat))
	for name, valid := range map[string]func([]byte) bool{"ours": serializer.ValidJSON, "encoding-json": json.Valid} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				if !valid(frame) {
					b.Fatal("rejected")
				}
			}
		})
	}
}

func BenchmarkSelect(b *testing.B) {
	list := serializer.Default()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := serializer.Select(list, "2.0.0"); !ok {
			b.Fatal("rejected")
		}
	}
}
