package historytest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

// patience is how long the suite waits for an event, on a busy machine.
const patience = 30 * time.Second

// Engine describes a log and its store to the suite. A function that is nil skips the tests that
// need it. Skips must list its name, so that nothing is skipped by accident.
type Engine struct {
	// Log is the log of one node. The suite calls Run on it if it is not instant.
	Log history.Log
	// Restart ends the log and its process, and returns the log of the next process on the same store.
	Restart func(t testing.TB) history.Log
	// Rollback removes the newest n records of a topic from the store, as a failover to a replica
	// without them does.
	Rollback func(t testing.TB, topic string, n int)
	// Topics returns the number of topics that the store knows.
	Topics func(t testing.TB) int
	// Node returns the log of another node on the same store.
	Node func(t testing.TB) history.Log
	// Freeze stops the store, so that it answers nothing, and returns a function that lets it go on.
	Freeze func(t testing.TB) (thaw func())
	// Disconnect cuts the connection between Log and the store, and returns a function that lets Log
	// connect again. Other nodes keep their connections.
	Disconnect func(t testing.TB) (connect func())
	// LoseRecords removes all records of a topic from the store, but not what it knows of the topic
	// itself.
	LoseRecords func(t testing.TB, topic string)
	// LoseMeta removes what the store knows of a topic itself, such as its top, but not the records.
	LoseMeta func(t testing.TB, topic string)

	// KeepsEpoch says that Forget keeps the epoch. A position that was forgotten is not ErrEpoch then,
	// but ErrTrimmed, ErrTag or ErrAhead.
	KeepsEpoch bool
	// MoreBytes says that a topic may keep more than Keep.Bytes.
	MoreBytes bool

	Durable   bool     // records survive Restart
	MaxTopics int      // the bound of Topics if no topic is watched, at most 50,000; zero means none
	Skips     []string // the names of the functions that are nil
}

// Run runs the suite. It calls setup for each test, which must return an engine with a new store.
func Run(t *testing.T, setup func(t *testing.T) Engine) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, e Engine)
	}{
		{"skips", skips},
		{"append and read", appendAndRead},
		{"concurrent appends", concurrentAppends},
		{"read after every position", readTable},
		{"read in parts", readInParts},
		{"pages", pages},
		{"pages before bad positions", pagesBadPositions},
		{"ids", ids},
		{"concurrent ids", concurrentIDs},
		{"trim by count", trimByCount},
		{"trim by bytes", trimByBytes},
		{"trim by age", trimByAge},
		{"payloads", payloads},
		{"refused records", refused},
		{"topics", topics},
		{"tops", tops},
		{"reading creates nothing", readingCreatesNothing},
		{"forget", forget},
		{"forget under load", forgetUnderLoad},
		{"rollback", rollback},
		{"health", health},
		{"run", run},
		{"many topics", manyTopics},
		{"appends that time out", timeouts},
		{"lost records", lostRecords},
		{"lost meta", lostMeta},
		{"feed", feeds},
		{"watch, then read", watchThenRead},
		{"unwatch", unwatch},
		{"forgotten", forgotten},
		{"goroutines", goroutines},
		{"two nodes", twoNodes},
		{"two nodes append", twoNodesAppend},
		{"two nodes append an id", twoNodesID},
		{"two nodes forget", twoNodesForget},
		{"frozen store", frozenStore},
		{"lost connection", lostConnection},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, setup(t)) })
	}
}

func skips(t *testing.T, e Engine) {
	v := reflect.ValueOf(e)
	for f, value := range v.Fields() {
		if f.Type.Kind() == reflect.Func && value.IsNil() != slices.Contains(e.Skips, f.Name) {
			t.Errorf("%s: nil is %v, but Skips is %v", f.Name, value.IsNil(), e.Skips)
		}
	}
	for _, name := range e.Skips {
		if f := v.FieldByName(name); !f.IsValid() || f.Kind() != reflect.Func {
			t.Errorf("Skips has %q, which is no function of Engine", name)
		}
	}
}

// node is a log under test.
type node struct {
	t *testing.T
	history.Log
	*feed
	stop func() // ends Run
}

// instant reports whether l is a log whose feed is not used.
func instant(l history.Log) bool {
	local, ok := l.(history.Local)
	return ok && local.Local()
}

func start(t *testing.T, l history.Log) *node {
	t.Helper()
	n := &node{t: t, Log: l, feed: newFeed()}
	if instant(l) {
		return n
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, n.inbox()) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	n.until("connected", func() bool { return l.Health().Connected })
	return n
}

// until waits for a condition.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			n.t.Fatalf("not %s within %v", what, patience)
		}
	}
}

// keep is what most tests keep of a topic.
var keep = history.Keep{Count: 100, Bytes: 1 << 20, Age: time.Hour}

// long is what tests keep of a topic if they append an unknown number of records.
var long = history.Keep{Count: 1000, Bytes: 1 << 20, Age: time.Hour}

func object(i int) serializer.Payload { return serializer.Value(map[string]int{"n": i}) }

// append appends count records and returns them.
func (n *node) append(topic string, count int, k history.Keep) []history.Record {
	n.t.Helper()
	var all []history.Record
	for i := range count {
		r, err := n.Append(n.t.Context(), topic, history.Record{Event: "e", Payload: object(i)}, k)
		if err != nil {
			n.t.Fatalf("append %d: %v", i, err)
		}
		all = append(all, r)
	}
	return all
}

func (n *node) read(topic string, after history.Position) history.Batch {
	n.t.Helper()
	b, err := n.Read(n.t.Context(), topic, after, 1000)
	if err != nil {
		n.t.Fatalf("read after %v: %v", after, err)
	}
	return b
}

func (n *node) top(topic string) history.Position {
	n.t.Helper()
	tops, err := n.Tops(n.t.Context(), []string{topic})
	if err != nil || len(tops) != 1 {
		n.t.Fatalf("tops: %v, %v", tops, err)
	}
	return tops[0]
}

// same compares records. Prev may be zero in records that were read.
func (n *node) same(got, want []history.Record) {
	n.t.Helper()
	if len(got) != len(want) {
		n.t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if !g.Prev.IsZero() && !w.Prev.IsZero() && !w.Prev.Matches(g.Prev) && !g.Prev.Matches(w.Prev) {
			n.t.Errorf("record %d has Prev %v, want %v", i, g.Prev, w.Prev)
		}
		if !w.Time.IsZero() && !g.Time.Equal(w.Time) {
			n.t.Errorf("record %d has Time %v, want %v", i, g.Time, w.Time)
		}
		if text(g) != text(w) {
			n.t.Errorf("record %d is\n%s, want\n%s", i, text(g), text(w))
		}
	}
}

// text returns what must not change about a record.
func text(r history.Record) string {
	body := r.Payload.Bytes()
	if !r.Payload.IsBinary() {
		body, _ = r.Payload.JSON()
	}
	return fmt.Sprintf("%v %q %q %q %q %v %.100q %d", r.Position, r.Event, r.ID, r.From, r.Origin,
		r.Payload.IsBinary(), body, len(body))
}

func appendAndRead(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	if !begin.IsBeginning() {
		t.Errorf("the top of an empty topic is %v", begin)
	}
	var all []history.Record
	before := time.Now().Add(-time.Minute)
	for i := range 20 {
		in := history.Record{
			Event: fmt.Sprintf("event %d", i), Payload: object(i), From: strings.Repeat("f", i), Origin: fmt.Sprint("o", i),
		}
		r, err := n.Append(t.Context(), "t", in, keep)
		if err != nil {
			t.Fatal(err)
		}
		if r.Event != in.Event || r.From != in.From || r.Origin != in.Origin || r.Time.Before(before) ||
			r.Time != r.Time.Truncate(time.Millisecond) {
			t.Errorf("Append returned %+v", r)
		}
		if !r.Prev.IsZero() && !r.Prev.Matches(begin) {
			t.Errorf("record %d has Prev %v, want %v", i, r.Prev, begin)
		}
		if r.Position.Epoch() != begin.Epoch() || r.Position.Offset() <= begin.Offset() || r.Position.IsBeginning() {
			t.Errorf("%v follows %v", r.Position, begin)
		}
		if b := n.read("t", begin); len(b.Records) != 1 || b.Top != r.Position {
			t.Errorf("after Append returned, Read returned %+v", b)
		}
		if n.top("t") != r.Position {
			t.Errorf("after Append returned, the top is %v", n.top("t"))
		}
		begin = r.Position
		all = append(all, r)
	}
	first, err := n.Before(t.Context(), "t", history.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	b := n.read("t", first.After)
	n.same(b.Records, all)
	if b.More || b.After != first.After || !first.After.IsBeginning() || b.Top != begin {
		t.Errorf("got %v, %v, %v", b.After, b.Top, b.More)
	}
	for i, r := range b.Records[1:] {
		if !r.Prev.IsZero() && !r.Prev.Matches(all[i].Position) {
			t.Errorf("record %d has Prev %v, want %v", i+1, r.Prev, all[i].Position)
		}
	}
}

func concurrentAppends(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var last history.Position
			for i := range each {
				r, err := n.Append(t.Context(), "t", history.Record{Event: "e", Payload: object(w*each + i)}, keep)
				if err != nil || r.Position.Offset() <= last.Offset() {
					t.Errorf("%v after %v: %v", r.Position, last, err)
				}
				last = r.Position
			}
		})
	}
	wg.Wait()
	b := n.read("t", begin)
	next := make([]int, writers)
	for _, r := range b.Records {
		var p map[string]int
		if err := r.Payload.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if w, i := p["n"]/each, p["n"]%each; next[w] == i {
			next[w]++
		} else {
			t.Errorf("record %d of writer %d comes after %d others", i, w, next[w])
		}
	}
	if len(b.Records) != writers*each {
		t.Errorf("got %d records", len(b.Records))
	}
}

func readInParts(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	all := n.append("t", 10, keep)
	at := begin
	for i := 0; i < 10; i += 4 {
		b, err := n.Read(t.Context(), "t", at, 4)
		if err != nil {
			t.Fatal(err)
		}
		n.same(b.Records, all[i:min(i+4, 10)])
		if b.More != (i < 8) || b.After != at || b.Top != all[9].Position {
			t.Errorf("%d: got %v, %v, %v", i, b.After, b.Top, b.More)
		}
		at = b.Records[len(b.Records)-1].Position
	}
}

func trimByCount(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Count = 7
	all := n.append("t", 50, k)
	b, err := n.Before(t.Context(), "t", history.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	n.same(b.Records, all[43:])
	if b.After != all[42].Position || b.More {
		t.Errorf("got %v, %v", b.After, b.More)
	}
}

func trimByBytes(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Bytes = 1000
	var all []history.Record
	for i := range 20 {
		p := serializer.Binary(bytes.Repeat([]byte{byte(i)}, 300))
		r, err := n.Append(t.Context(), "t", history.Record{Event: "e", Payload: p}, k)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	b, err := n.Before(t.Context(), "t", history.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if e.MoreBytes {
		n.same(b.Records, all)
		return
	}
	n.same(b.Records, all[17:]) // 3 of 300 bytes are at most 1,000
}

func trimByAge(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Age = 20 * time.Millisecond
	top := n.append("t", 5, k)[4].Position
	n.until("expired", func() bool {
		b, err := n.Before(t.Context(), "t", history.Position{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(b.Records) == 0
	})
	if n.top("t") != top {
		t.Errorf("the top is %v, want %v: it outlives its record", n.top("t"), top)
	}
	all := n.append("t", 3, keep)
	b := n.read("t", top)
	n.same(b.Records, all)
}

func payloads(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Bytes = 4 << 20
	begin := n.top("t")
	var all []history.Record
	for _, p := range []serializer.Payload{
		{}, serializer.Value(struct{}{}), serializer.Value(map[string]any{"žluť": "\u2028", "a": []int{1, 2}}),
		serializer.Value(map[string]string{"long": strings.Repeat("x", 1<<20)}),
		serializer.Binary(nil), serializer.Binary([]byte{0}), serializer.Binary([]byte("{}")),
		serializer.Binary(bytes.Repeat([]byte{0xff}, 1<<20)),
	} {
		r, err := n.Append(t.Context(), "t", history.Record{Event: "\xff€ ", Payload: p, From: "\x00"}, k)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	n.same(n.read("t", begin).Records, all)
	m, err := serializer.V3().Parse(serializer.OpBinary, v3Message)
	if err != nil {
		t.Fatal(err)
	}
	r, err := n.Append(t.Context(), "t", history.Record{Event: "e", Payload: m.Payload}, k)
	if err != nil {
		t.Fatal(err)
	}
	got := n.read("t", all[len(all)-1].Position).Records[0].Payload.Bytes()
	if string(got) != `{"n":1}` || string(r.Payload.Bytes()) != `{"n":1}` {
		t.Errorf("a MessagePack payload was stored as %q, and returned as %q", got, r.Payload.Bytes())
	}
}

// v3Message is a message of version 3.0.0 with the payload {"n": 1}.
var v3Message = []byte("\x95\xa11\xa11\xa1t\xa1e\x81\xa1n\x01")

func refused(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Bytes = 100
	for name, test := range map[string]struct {
		r    history.Record
		want error
	}{
		"an array":         {history.Record{Payload: serializer.Value([]int{1})}, serializer.ErrPayload},
		"a string":         {history.Record{Payload: serializer.Value("x")}, serializer.ErrPayload},
		"no JSON":          {history.Record{Payload: serializer.Value(make(chan int))}, serializer.ErrPayload},
		"too large":        {history.Record{Payload: serializer.Binary(make([]byte, 101))}, history.ErrTooLarge},
		"a long ID":        {history.Record{ID: strings.Repeat("i", 65)}, history.ErrTooLarge},
		"a long event":     {history.Record{Event: strings.Repeat("e", 1<<20)}, history.ErrTooLarge},
		"a long client id": {history.Record{From: strings.Repeat("f", 1<<20)}, history.ErrTooLarge},
		"a long origin":    {history.Record{Origin: strings.Repeat("o", 41)}, history.ErrTooLarge},
		"a fitting record": {history.Record{Payload: serializer.Binary(make([]byte, 100)), ID: strings.Repeat("i", 64)}, nil},
	} {
		test.r.Event = cmp.Or(test.r.Event, "e")
		if _, err := n.Append(t.Context(), name, test.r, k); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		if got := n.top(name).IsBeginning(); got != (test.want != nil) {
			t.Errorf("%s: the top is a beginning: %v", name, got)
		}
	}
}

func topics(t *testing.T, e Engine) {
	n := start(t, e.Log)
	names := []string{
		"", " ", "*", ">", "a.b", "a.*", "a:b", "\x00", "\xff\xfe", "žluť", "{t}", "a\r\nb",
		strings.Repeat("long", 200), "a.>", "$x", "t", "T",
	}
	for i, name := range names {
		for range i + 1 {
			if _, err := n.Append(t.Context(), name, history.Record{Event: name, Payload: object(i)}, keep); err != nil {
				t.Fatalf("append to %q: %v", name, err)
			}
		}
	}
	for i, name := range names {
		b, err := n.Before(t.Context(), name, history.Position{}, 1000)
		if err != nil || len(b.Records) != i+1 || b.Records[0].Event != name {
			t.Errorf("%q has %d records, want %d; %v", name, len(b.Records), i+1, err)
		}
	}
}
