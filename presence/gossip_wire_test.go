package presence

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"bennu.example/internal/crdt"
)

// samples returns messages of every kind.
func samples() []*gossip {
	a, b := crdt.Replica{Name: "a", Vsn: 1 << 60}, crdt.Replica{Name: "bé", Vsn: 7}
	set := crdt.New[*entry](a, true)
	set.Up(b)
	add := func(topic, key, meta string, prev uint64) *entry {
		e := &entry{tag: tagOf(a), topic: topic, key: key, meta: meta, prev: prev}
		e.clock = set.Add(e)
		return e
	}
	for i := range 5 {
		e := add(fmt.Sprint("room:", i%2), fmt.Sprint("u", i), `{"device":"tab"}`, 0)
		set.Remove(e.clock)
		add(e.topic, e.key, "{}", e.clock)
	}
	add("", "", "{}", 0)
	clocks := set.Clocks()
	return []*gossip{
		{kind: beat, from: a, addr: "here", clocks: clocks, delta: set.TakeDelta()},
		{kind: beat, from: a, addr: "a", clocks: clocks},
		{kind: news, from: a, addr: "here", clocks: crdt.Clocks{a: 9}, delta: set.Extract(b, crdt.Clocks{a: 3, b: 0})},
		{kind: request, from: b, to: a, clocks: crdt.Clocks{a: 3, b: 0}},
		{kind: answer, from: a, to: b, delta: set.Extract(b, crdt.Clocks{a: 3, b: 0})},
		{kind: goodbye, from: a, clocks: crdt.Clocks{}},
	}
}

// TestGossip encodes messages and parses them. Truncated messages and those with more bytes are
// malformed.
func TestGossip(t *testing.T) {
	t.Parallel()
	for _, g := range samples() {
		raw := g.encode()
		got, err := parseGossip(raw)
		if err != nil {
			t.Fatalf("%d: %v", g.kind, err)
		}
		if again := got.encode(); !bytes.Equal(raw, again) {
			t.Errorf("%d: parsed and encoded again:\n%q\nwant\n%q", g.kind, again, raw)
		}
		if g.delta != nil && !reflect.DeepEqual(g.delta.Parts, got.delta.Parts) {
			t.Errorf("%d: parts differ", g.kind)
		}
		for i := range raw {
			if _, err := parseGossip(raw[:i]); err == nil {
				t.Errorf("%d: %d of %d bytes were parsed", g.kind, i, len(raw))
			}
		}
		if _, err := parseGossip(append(raw, 0)); err == nil {
			t.Errorf("%d: parsed with a byte more", g.kind)
		}
	}
	if _, err := parseGossip([]byte{gossipVersion + 1, 1}); err == nil {
		t.Error("another version was parsed")
	}
}

// FuzzGossip parses and merges arbitrary messages. A message that was parsed is the same after it
// was encoded and parsed again.
func FuzzGossip(f *testing.F) {
	for _, g := range samples() {
		f.Add(g.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := parseGossip(data)
		if err != nil {
			return
		}
		raw := g.encode()
		again, err := parseGossip(raw)
		if err != nil || !bytes.Equal(again.encode(), raw) {
			t.Fatalf("parsed and encoded again, it differs: %v", err)
		}
		if g.delta == nil {
			return
		}
		set := crdt.New[*entry](crdt.Replica{Name: "self", Vsn: 1}, true)
		gens := crdt.NewGenerations[*entry](4, 16)
		for r := range g.delta.Parts {
			set.Up(r)
		}
		for range 2 {
			joins, leaves := set.Merge(g.delta)
			for _, e := range append(joins, leaves...) {
				if e.public().Ref == "" {
					t.Fatal("an entry without a ref")
				}
			}
			if !g.delta.Full {
				gens.Push(g.delta)
				gens.Extract(g.clocks)
			}
			set.Extract(g.from, g.clocks)
		}
	})
}
