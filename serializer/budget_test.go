package serializer_test

import (
	"strings"
	"testing"

	"bennu.example/serializer"
)

// TestAllocations holds the number of allocations of each operation. Parsing needs one, for the
// strings of the message.
func TestAllocations(t *testing.T) {
	object, binaryPayload := serializer.Value(aChat), serializer.Binary(make([]byte, 128))
	for _, s := range serializer.Default() {
		for name, p := range map[string]serializer.Payload{"object": object, "binary": binaryPayload} {
			if s.Version() == "1.0.0" && p.IsBinary() {
				continue
			}
			op, frame := frameOf(t, s, request, p)
			budget(t, s.Version()+" Parse "+name, 1, func() error {
				_, err := s.Parse(op, frame)
				return err
			})
			m, err := s.Parse(op, frame)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := object.Encoded()
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, 0, 1024)
			for kind := request; kind <= broadcast; kind++ {
				for _, p := range []serializer.Payload{m.Payload, encoded, {}} { // as received, JSON, the zero Payload
					out := m
					out.Kind, out.Status, out.Payload = kind, "ok", p
					budget(t, s.Version()+" Append "+name, 0, func() error {
						_, _, err := s.Append(dst[:0], &out)
						return err
					})
				}
			}
			op, frame = frameOf(t, s, reply, p)
			budget(t, s.Version()+" ParseClient "+name, 1, func() error {
				_, err := s.ParseClient(op, frame)
				return err
			})
		}
	}
	stored := received(t, serializer.V2(), `{"user":"ann","body":"hello"}`)
	dst := make([]byte, 0, 1024)
	for _, s := range serializer.Default() {
		m := serializer.Message{Kind: broadcast, Topic: "room:lobby", Event: "new_msg"}
		budget(t, s.Version()+" Append of a recorded event", 0, func() error {
			m.Payload = stored.WithPosition(aText)
			_, _, err := s.Append(dst[:0], &m)
			return err
		})
	}
	large, err := serializer.Value(strings.Repeat("x", 1<<18)).Encoded()
	if err != nil {
		t.Fatal(err)
	}
	budget(t, "Encode a large payload", 2, func() error { // the frame and its data
		_, err := serializer.Encode(serializer.V2(), &serializer.Message{Topic: "t", Event: "e", Payload: large})
		return err
	})
	list := serializer.Default()
	budget(t, "Select", 0, func() error {
		serializer.Select(list, "2.0.0")
		return nil
	})
	ref := serializer.StringRef("41")
	budget(t, "Ref.Text", 0, func() error {
		_ = ref.Text()
		return nil
	})
}

func budget(t *testing.T, what string, most float64, f func() error) {
	t.Helper()
	got := testing.AllocsPerRun(200, func() {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	})
	if got > most {
		t.Errorf("%s: %v allocations, want at most %v", what, got, most)
	}
}
