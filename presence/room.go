package presence

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
	"weak"

	"bennu.example/serializer"
)

// entry is one tracked presence. Apart from its links, it is immutable: an update creates a new
// one.
type entry struct {
	topic string
	key   string
	meta  string // the tracked value, a JSON object without phx_ref
	tag   uint64 // identifies its replica; tag and clock together are the phx_ref
	clock uint64
	prev  uint64 // clock of the entry that it replaced, or 0
	owner *owner // nil if it is tracked on another node, or in its grace period

	before, after *entry // links to the other entries of the same key
}

const (
	refSize   = 12 // in bytes: six of the tag and six of the clock
	refLen    = 16 // in base64
	refField  = `{"phx_ref":"`
	prevField = `","phx_ref_prev":"`
	refAt     = len(refField)
	prevAt    = refAt + refLen + len(prevField)
)

// appendRef appends the phx_ref of a clock. It has 16 characters, which are safe in a URL.
func appendRef(dst []byte, tag, clock uint64) []byte {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], tag<<16)
	binary.BigEndian.PutUint64(raw[6:14], clock<<16)
	return base64.RawURLEncoding.AppendEncode(dst, raw[:refSize])
}

func (e *entry) ref() string { return string(appendRef(nil, e.tag, e.clock)) }

// appendMeta appends the meta in its wire format.
func (e *entry) appendMeta(dst []byte) []byte {
	dst = append(dst, refField...)
	dst = appendRef(dst, e.tag, e.clock)
	if e.prev != 0 {
		dst = append(dst, prevField...)
		dst = appendRef(dst, e.tag, e.prev)
	}
	dst = append(dst, '"')
	if len(e.meta) > 2 {
		dst = append(dst, ',')
	}
	return append(dst, e.meta[1:]...)
}

func (e *entry) public() Meta {
	raw := string(e.appendMeta(make([]byte, 0, 256)))
	return Meta{Ref: raw[refAt : refAt+refLen], PrevRef: e.prevIn(raw), raw: raw}
}

// prevIn returns phx_ref_prev as a substring of the encoded meta.
func (e *entry) prevIn(raw string) string {
	if e.prev == 0 {
		return ""
	}
	return raw[prevAt : prevAt+refLen]
}

// encodeMeta encodes a meta as a JSON object without the fields phx_ref and phx_ref_prev.
func encodeMeta(meta any) (string, error) {
	raw, err := serializer.Value(meta).JSON()
	if err != nil {
		return "", err
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' {
		return "", fmt.Errorf("%w: meta must be a JSON object", serializer.ErrPayload)
	}
	if bytes.Contains(raw, []byte("phx_ref")) || bytes.Contains(raw, []byte(`\u`)) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return "", fmt.Errorf("%w: %w", serializer.ErrPayload, err)
		}
		delete(fields, "phx_ref")
		delete(fields, "phx_ref_prev")
		if raw, err = serializer.Value(fields).JSON(); err != nil {
			return "", err
		}
	}
	if len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0 {
		return "{}", nil
	}
	return string(raw), nil
}

// room is the state of one topic. The lock of its shard guards it, except shown, which belongs to
// the goroutine that broadcasts.
type room struct {
	topic string
	keys  ordered[metas]

	queue    []change // changes to broadcast, in order
	state    roomState
	audience int32                 // number of subscribers of the last diff
	sent     time.Duration         // when the last diff was sent, see Presence.now; 0 if none was
	shown    State                 // the state after the last broadcast; only maintained for OnDiff
	listing  weak.Pointer[listing] // zero after a change that is not a new key
}

type roomState uint8

const (
	resting roomState = iota // the queue is empty
	waiting                  // for the window to end
	busy                     // a goroutine broadcasts the queue or is about to
)

// change is the effect of one operation on a topic: one diff.
type change struct{ joins, leaves []*entry }

// metas is the list of the entries of one key, oldest first.
type metas struct{ first, last *entry }

// add adds e and reports whether its key is new.
func (r *room) add(e *entry) (isNew bool) {
	m, isNew := r.keys.at(e.key)
	e.before, e.after = m.last, nil
	if m.last == nil {
		m.first = e
	} else {
		m.last.after = e
	}
	m.last = e
	return isNew
}

// remove removes e and reports whether it was the last entry of its key.
func (r *room) remove(e *entry) (gone bool) {
	i := r.keys.find(e.key)
	m := &r.keys.items[i].value
	if e.before == nil {
		m.first = e.after
	} else {
		e.before.after = e.after
	}
	if e.after == nil {
		m.last = e.before
	} else {
		e.after.before = e.before
	}
	e.before, e.after = nil, nil
	if m.first != nil {
		return false
	}
	r.keys.remove(e.key)
	return true
}

func (m *metas) public() Entry {
	var e Entry
	for at := m.first; at != nil; at = at.after {
		e.Metas = append(e.Metas, at.public())
	}
	return e
}

// after returns the entries of the keys that joined after the one with the sequence number last,
// grouped by key. Zero means all.
func (r *room) after(last int64) []*entry {
	items := r.keys.from(last)
	if len(items) == 0 {
		return nil
	}
	all := make([]*entry, 0, len(items))
	for i := range items {
		for at := items[i].value.first; at != nil; at = at.after { // a removed item has none
			all = append(all, at)
		}
	}
	return all
}

// listOf returns the State of a room's entries. All its metas share one string.
func listOf(all []*entry) State {
	var s State
	buf, ends := make([]byte, 0, sizeOf(all)), make([]int, 0, len(all))
	for _, e := range all {
		buf = e.appendMeta(buf)
		ends = append(ends, len(buf))
	}
	text, begin := string(buf), 0
	metas := make([]Meta, 0, len(all))
	s.entries.grow(len(all))
	for i := 0; i < len(all); {
		key, from := all[i].key, i
		for ; i < len(all) && all[i].key == key; i++ {
			raw := text[begin:ends[i]]
			begin = ends[i]
			metas = append(metas, Meta{Ref: raw[refAt : refAt+refLen], PrevRef: all[i].prevIn(raw), raw: raw})
		}
		s.set(key, Entry{Metas: metas[from:i:i]})
	}
	return s
}

// appendList appends the payload of presence_state. Entries with the same key must be adjacent.
func appendList(dst []byte, all []*entry) []byte {
	return append(appendMembers(append(dst, '{'), all), '}')
}

// appendMembers is appendList without the braces.
func appendMembers(dst []byte, all []*entry) []byte {
	for i, e := range all {
		switch {
		case i > 0 && all[i-1].key == e.key:
			dst = append(dst, ',')
		case i > 0:
			dst = append(dst, "]},"...)
			fallthrough
		default:
			dst = serializer.AppendString(dst, e.key)
			dst = append(dst, `:{"metas":[`...)
		}
		dst = e.appendMeta(dst)
	}
	if len(all) > 0 {
		dst = append(dst, "]}"...)
	}
	return dst
}

// sizeOf estimates the size of the payload of presence_state.
func sizeOf(all []*entry) int {
	if len(all) == 0 {
		return 2
	}
	return (len(all[0].key) + len(all[0].meta) + 64) * (len(all) + 1)
}

// appendJSON appends the payload of presence_diff.
func (c *change) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"joins":`...)
	dst = appendEntries(dst, c.joins)
	dst = append(dst, `,"leaves":`...)
	dst = appendEntries(dst, c.leaves)
	return append(dst, '}')
}

func appendEntries(dst []byte, entries []*entry) []byte {
	if len(entries) < 2 {
		return appendList(dst, entries)
	}
	s := stateOf(entries)
	return s.appendJSON(dst)
}
