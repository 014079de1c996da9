package pubsub_test

import (
	"bytes"
	"strings"
	"testing"

	"bennu.example/pubsub"
	"bennu.example/serializer"
)

func TestBroadcastEncodingRoundTrip(t *testing.T) {
	t.Parallel()
	for _, b := range []*pubsub.Broadcast{
		{},
		{Topic: "room:1", Event: "new_msg", Payload: serializer.Value(map[string]string{"body": "hi"})},
		{Topic: strings.Repeat("ž", 200), Event: "e", Payload: serializer.Binary([]byte{0, 255})},
	} {
		data, err := b.AppendBinary([]byte{7})
		if err != nil {
			t.Fatal(err)
		}
		back, err := pubsub.ParseBroadcast(data[1:])
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.AppendBinary([]byte{7})
		if err != nil || back.Topic != b.Topic || back.Event != b.Event || !bytes.Equal(again, data) {
			t.Errorf("%q was decoded and encoded as %q, %v", data, again, err)
		}
	}
	const text = "\x02\x0cepoch-5-ab12\x06room:1\x01e\x02{}"
	b, err := pubsub.ParseBroadcast([]byte(text))
	if err != nil || b.Topic != "room:1" || b.Event != "e" || b.Record() != nil {
		t.Errorf("%+v, %v", b, err)
	} else if again, err := b.AppendBinary(nil); err != nil || string(again) != text {
		t.Errorf("%q was encoded as %q, %v", text, again, err)
	}
	for _, text := range []string{
		"\x03\x05trace\x00\x06room:1\x01e\x02{}", "\x03\x05trace\x0cepoch-5-ab12\x06room:1\x01e\x02{}",
	} {
		b, err := pubsub.ParseBroadcast([]byte(text))
		if err != nil || b.Topic != "room:1" || b.Event != "e" || b.Context() != nil {
			t.Errorf("%+v, %v", b, err)
		} else if again, err := b.AppendBinary(nil); err != nil || string(again) != text {
			t.Errorf("%q was encoded as %q, %v", text, again, err)
		}
	}
	for _, bad := range []string{
		"\x03\x05trace\x02no\x06room:1\x01e\x02{}", "\x03\x05tra",
		"\x03\x81\x08" + strings.Repeat("x", 1025) + "\x00\x06room:1\x01e\x02{}",
		text[:9], "\x02\x0cepoch-5-????\x06room:1\x01e\x02{}",
		"\x03\x00\x00\x00\x00", "\x04\x00\x00\x00", "", "\x01", "\x02\x00\x00\x00", "\x01\x05abc", "\x01\x00\x00",
		"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x01\x00\x00\x02{",
	} {
		if b, err := pubsub.ParseBroadcast([]byte(bad)); err == nil {
			t.Errorf("%q was parsed as %+v", bad, b)
		}
	}
}

func FuzzParseBroadcast(f *testing.F) {
	f.Add([]byte("\x01\x06room:1\x03msg\x02{}"))
	f.Add([]byte("\x01\x00\x00\x04bytes"))
	f.Add([]byte("\x03\x05trace\x00\x06room:1\x01e\x02{}"))
	f.Add([]byte("\x02\x0cepoch-5-ab12\x06room:1\x01e\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := pubsub.ParseBroadcast(data)
		if err != nil {
			return
		}
		for _, s := range []serializer.Serializer{serializer.V1(), serializer.V2(), serializer.V3()} {
			_, _ = b.Frame(s) // must not panic
		}
	})
}
