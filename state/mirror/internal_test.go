package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// newMirror returns a mirror without a server.
func newMirror(t testing.TB, kind string) *Mirror {
	t.Helper()
	nop := zerolog.Nop()
	c := socket.NewClient("ws://bennu.example/socket", &socket.ClientConfig{Logger: &nop})
	m := new(Mirror)
	if err := m.prepare(kind, "topic", nil); err != nil {
		t.Fatal(err)
	}
	m.channel = c.Channel("topic", nil)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return m
}

func payload(text string) (p serializer.Payload) {
	_ = p.UnmarshalJSON([]byte(text)) // it never fails
	return p
}

// TestRepeatedBody encodes writes that are sent again.
func TestRepeatedBody(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		body any
		want string
	}{
		{op{ID: "i", Key: "k", Value: []byte("1")}, `{"$id":"i","key":"k","value":1,"$pos":AT}`},
		{batch{ID: "i", Ops: []op{{Op: "del", Key: "k"}}}, `{"$id":"i","ops":[{"op":"del","key":"k"}],"$pos":AT}`},
		{nodeOp{ID: "i", Key: "k"}, `{"$id":"i","key":"k","$pos":AT}`},
		{nodeAdd{ID: "i", Path: "p", Value: []byte("1")}, `{"$id":"i","path":"p","value":1,"$pos":AT}`},
	} {
		for _, at := range []string{"null", `"a-7-0001"`} {
			var pos history.Position
			if at != "null" {
				pos, _ = history.ParsePosition(strings.Trim(at, `"`))
			}
			got, err := json.Marshal(repeated(test.body, pos))
			if want := strings.ReplaceAll(test.want, "AT", at); err != nil || string(got) != want {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
		}
	}
	refused := &push.Error{Payload: payload(`{"reason":"uncertain"}`)}
	if err := wireError(refused, ""); !errors.Is(err, history.ErrUncertain) {
		t.Errorf("the reply uncertain is %v", err)
	}
}

// FuzzServer feeds a mirror what a faulty server may send.
func FuzzServer(f *testing.F) {
	f.Add(`{"$state":{"kind":"map","items":[{"key":"b","rev":1,"value":1}],"pos":"a-1-0001"}}`, "put",
		`{"$pos":"a-2-0001","key":"a","rev":2,"value":null}`, `{"$pos":"a-3-0001","key":"a","rev":3,"reason":"expired"}`)
	f.Add(`{"$state":{"kind":"document","rev":1,"value":{},"pos":"a-1-0001","expires_in":1e300}}`, "batch",
		`{"items":[{"key":"","rev":1},{}]}`, `{}`)
	f.Add(`{}`, "synced", `[]`, `0`)
	f.Fuzz(func(t *testing.T, join, event, first, second string) {
		m := newMirror(t, "map")
		f := follower{m}
		f.Joined(payload(join))
		f.Received(event, payload(first))
		f.Received("del", payload(second))
		f.Received("synced", payload(`{}`))
		if !slices.IsSortedFunc(m.items, func(a, b *item) int { return bytes.Compare([]byte(a.key), []byte(b.key)) }) {
			t.Error("the items are not sorted")
		}
		for i := 1; i < len(m.items); i++ {
			if m.items[i].key == m.items[i-1].key {
				t.Errorf("the key %q is there twice", m.items[i].key)
			}
		}
		if _, err := m.Save(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzRestore restores what a damaged file may contain.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"version":1,"topic":"topic","kind":"map","position":"a-1-0001",
		"items":[{"key":"a","rev":1,"value":{}}]}`))
	f.Add([]byte(`{"version":1,"topic":"topic","kind":"map","items":[{"key":"b"},{"key":"a"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := newMirror(t, "map")
		if m.restore(text) != nil {
			return
		}
		saved, err := m.Save()
		if err != nil {
			t.Fatal(err)
		}
		again := newMirror(t, "map")
		if err := again.restore(saved); err != nil || len(again.items) != len(m.items) || again.pos != m.pos {
			t.Errorf("%s: %v", saved, err)
		}
	})
}

// TestFaultyServer has what ends a mirror, and what does not.
func TestFaultyServer(t *testing.T) {
	t.Parallel()
	const joined = `{"$state":{"kind":"map","items":[],"pos":"a-1-0001"}}`
	for _, c := range []struct {
		join, event, payload string
		ends                 bool
	}{
		{`{}`, "", "", true},
		{`{"$state":{"kind":"document"}}`, "", "", true},
		{`{"$state":{"kind":"map","pos":"x"}}`, "", "", true},
		{joined, "put", `{"key":"a","rev":1}`, true},
		{joined, "put", `{"key":"a","rev":1,"value":1,"$pos":"?"}`, true},
		{joined, "batch", `{"items":{}}`, true},
		{joined, "put", `{"key":"a","rev":1,"value":null}`, false},
		{joined, "del", `{"key":"unknown","rev":9}`, false},
		{joined, "chat", `[]`, false},
		{joined, "synced", `{}`, false},
	} {
		m := newMirror(t, "map")
		follower{m}.Joined(payload(c.join))
		if c.event != "" {
			follower{m}.Received(c.event, payload(c.payload))
		}
		if ended := m.ended != nil; ended != c.ends {
			t.Errorf("%+v: it ended: %v", c, m.ended)
		}
	}
}

// TestRepeatedEvents applies events that are older than the copy: they change nothing.
func TestRepeatedEvents(t *testing.T) {
	t.Parallel()
	m := newMirror(t, "map")
	f := follower{m}
	f.Joined(payload(`{"$state":{"kind":"map","items":[{"key":"a","rev":5,"value":5}],"pos":"a-5-0001"}}`))
	s := &stream{wake: make(chan struct{}, 1)}
	m.streams = append(m.streams, s)
	f.Received("put", payload(`{"$pos":"a-5-0001","key":"a","rev":5,"value":5}`))
	f.Received("put", payload(`{"$pos":"a-5-0001","key":"a","rev":4,"value":4}`))
	f.Received("del", payload(`{"$pos":"a-5-0001","key":"a","rev":4}`))
	if it := m.get("a"); it == nil || it.rev != 5 || s.queue.Len() != 0 {
		t.Errorf("%+v, %d changes", it, s.queue.Len())
	}
	// A reply without a position drops the old one: the next join must not continue.
	f.Joined(payload(`{"$state":{"kind":"map","recovered":false,"items":[],"more":true}}`))
	if m.pos != (history.Position{}) || len(m.items) != 0 {
		t.Errorf("position %s, %d items", m.pos, len(m.items))
	}
}

// fill gives a mirror n items, as pages do. Keys have 12 bytes, values 20.
func fill(m *Mirror, n int) {
	f := follower{m}
	f.Joined(payload(`{"$state":{"kind":"map","items":[],"more":true}}`))
	for i := 0; i < n; i += 250 {
		page := []byte(`{"items":[`)
		for j := i; j < i+250; j++ {
			if j > i {
				page = append(page, ',')
			}
			page = fmt.Appendf(page, `{"key":"key-%08d","rev":%d,"value":"%018d"}`, j, j+1, j)
		}
		f.Received("items", payload(string(page)+"]}"))
	}
}

// heapOf returns the bytes that f's result occupies.
func heapOf[T any](f func() T) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	return float64(after.HeapAlloc) - float64(before.HeapAlloc)
}

// BenchmarkFill reads a map of 10,000 items from pages, and measures the memory of one.
func BenchmarkFill(b *testing.B) {
	const n = 10_000
	b.ReportAllocs()
	for b.Loop() {
		fill(newMirror(b, "map"), n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/item")
	b.ReportMetric(heapOf(func() *Mirror {
		m := newMirror(b, "map")
		fill(m, n)
		return m
	})/n, "B/item")
}

// BenchmarkPut applies a change of one of 10,000 items.
func BenchmarkPut(b *testing.B) {
	const n = 10_000
	m := newMirror(b, "map")
	fill(m, n)
	b.ReportAllocs()
	rev := n
	for b.Loop() {
		rev++
		follower{m}.Received("put", payload(fmt.Sprintf(
			`{"$pos":"a-%d-0001","key":"key-%08d","rev":%d,"value":"%018d"}`, rev, rev%n, rev, rev)))
	}
}
