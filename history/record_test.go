package history_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

func mustPosition(t testing.TB, epoch string, offset uint64, tag string) history.Position {
	t.Helper()
	p, err := history.NewPosition(epoch, offset, tag)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func records(t testing.TB) []history.Record {
	at := mustPosition(t, "q7hx2c9k", 129, "0m0a")
	return []history.Record{
		{},
		{Position: at, Event: "e", Payload: serializer.Value(map[string]int{"n": 1})},
		{
			Position: at, Prev: mustPosition(t, "q7hx2c9k", 128, "abcd"), Event: "\xff", ID: strings.Repeat("i", 64),
			Payload: serializer.Binary([]byte{0, 255}), From: "from", Origin: strings.Repeat("o", 40),
			Time: time.UnixMilli(1_700_000_000_123),
		},
		{Position: at, Prev: mustPosition(t, "q7hx2c9k", 100, ""), Time: time.UnixMilli(-5)},
		{Position: at, Prev: mustPosition(t, "other", 0, "0000"), Payload: serializer.Binary(nil)},
		{Prev: mustPosition(t, "other", 1<<53-1, "")},
	}
}

func TestRecordEncodingRoundTrip(t *testing.T) {
	t.Parallel()
	for i, r := range records(t) {
		data, err := r.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		data = data[len("before"):]
		got, err := history.ParseRecord(data)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		want, _ := r.Payload.AppendBinary(nil)
		if r.Payload.IsZero() {
			want, _ = serializer.Value(struct{}{}).AppendBinary(nil)
		}
		if body, _ := got.Payload.AppendBinary(nil); !bytes.Equal(body, want) {
			t.Errorf("record %d: the payload is %q, want %q", i, body, want)
		}
		got.Payload, r.Payload = serializer.Payload{}, serializer.Payload{}
		if !reflect.DeepEqual(got, r) {
			t.Errorf("record %d: got\n%+v, want\n%+v", i, got, r)
		}
		for n := range data[:min(len(data), 100)] { // of a binary payload every prefix is a payload
			if p, err := history.ParseRecord(data[:n]); err == nil && !p.Payload.IsBinary() {
				t.Errorf("record %d: the first %d bytes were parsed as %+v", i, n, p)
			}
		}
	}
}

func TestRecordsThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	for _, p := range []serializer.Payload{
		serializer.Value(1), serializer.Value([]int{}), serializer.Value("s"), serializer.Value(make(chan int)),
	} {
		r := history.Record{Payload: p}
		if data, err := r.AppendBinary([]byte{7}); !errors.Is(err, serializer.ErrPayload) || len(data) != 1 {
			t.Errorf("got %q, %v", data, err)
		}
	}
	r := history.Record{Position: mustPosition(t, "e", 1, "")}
	if data, err := r.AppendBinary(nil); err == nil || len(data) != 0 {
		t.Errorf("a position without a tag: %q", data)
	}
}

func TestMalformedRecords(t *testing.T) {
	t.Parallel()
	empty := "\x00\x00\x00\x00\x00" // time, event, id, from, origin
	for name, data := range map[string]string{
		"empty":                    "",
		"another version":          "\x02\x00" + empty + "\x02{}",
		"unknown flag":             "\x01\x10" + empty + "\x02{}",
		"tag of no Prev":           "\x01\x04" + empty + "\x02{}",
		"epoch of no Prev":         "\x01\x08" + empty + "\x02{}",
		"no payload":               "\x01\x00" + empty,
		"zero payload":             "\x01\x00" + empty + "\x00",
		"an array":                 "\x01\x00" + empty + "\x02[]",
		"broken JSON":              "\x01\x00" + empty + "\x02{",
		"MessagePack":              "\x01\x00" + empty + "\x03\x80",
		"a huge string":            "\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"an invalid epoch":         "\x01\x01\x01E\x01abcd" + empty + "\x02{}",
		"an invalid tag":           "\x01\x01\x01e\x01ABCD" + empty + "\x02{}",
		"a huge offset":            "\x01\x01\x01e\x80\x80\x80\x80\x80\x80\x80\x10abcd" + empty + "\x02{}",
		"a Prev without Position":  "\x01\x02\x01" + empty + "\x02{}",
		"a long ID":                "\x01\x00\x00\x00\x41" + strings.Repeat("i", 65) + "\x00\x00\x02{}",
		"a long origin":            "\x01\x00\x00\x00\x00\x00\x29" + strings.Repeat("o", 41) + "\x02{}",
		"a payload after nonsense": "\x01\xff" + empty + "\x02{}",
	} {
		if r, err := history.ParseRecord([]byte(data)); err == nil {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	if _, err := history.ParseRecord([]byte("\x01\x00" + empty + "\x02{}")); err != nil {
		t.Errorf("a valid record: %v", err)
	}
}

// FuzzParseRecord checks that whatever is parsed is encoded as the same record.
func FuzzParseRecord(f *testing.F) {
	for _, r := range records(f) {
		data, err := r.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := history.ParseRecord(data)
		if err != nil {
			return
		}
		again, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", r, err)
		}
		back, err := history.ParseRecord(again)
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%+v was encoded and parsed as %+v, %v", r, back, err)
		}
	})
}
