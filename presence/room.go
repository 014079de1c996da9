package presence

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"bennu.example/serializer"
)

// entry is one tracked presence. But for its place in the room it does not change: an update makes another.
type entry struct {
	topic string
	key   string
	meta  string // what was tracked, a JSON object without phx_ref
	tag   uint64 // of its replica; with clock the identity, written as phx_ref
	clock uint64
	prev  uint64 // the clock of what it replaced, or 0
	owner *owner // nil if it is another node's, or lingers

	before, after *entry // of the same key
}

const (
	refSize   = 12 // bytes: six of the tag, six of the clock
	refLen    = 16 // as text
	refField  = `{"phx_ref":"`
	prevField = `","phx_ref_prev":"`
	refAt     = len(refField)
	prevAt    = refAt + refLen + len(prevField)
)

// appendRef appends the phx_ref of a clock: 16 characters that are safe in a URL.
func appendRef(dst []byte, tag, clock uint64) []byte {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], tag<<16)
	binary.BigEndian.PutUint64(raw[6:14], clock<<16)
	return base64.RawURLEncoding.AppendEncode(dst, raw[:refSize])
}

func (e *entry) ref() string { return string(appendRef(nil, e.tag, e.clock)) }

// appendMeta appends the meta as it is on the wire.
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

// prevIn is phx_ref_prev, as it stands in the meta.
func (e *entry) prevIn(raw string) string {
	if e.prev == 0 {
		return ""
	}
	return raw[prevAt : prevAt+refLen]
}

// encodeMeta is the JSON object of a meta without the fields that are ours.
func encodeMeta(meta any) (string, error) {
	raw, err := serializer.Value(meta).JSON()
	if err != nil {
		return "", err
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' {
		return "", fmt.Errorf("%w: a meta is an object", serializer.ErrPayload)
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

// room is who is present on one topic. It is guarded by its shard.
type room struct {
	topic string
	keys  ordered[metas]

	queue []change // still to be broadcast, in order
	state roomState
	told  State // what was broadcast so far; kept for OnDiff
}

type roomState uint8

const (
	resting roomState = iota // its queue is empty
	waiting                  // for its window to end
	busy                     // someone is to broadcast its queue
)

// change is what one operation did to a topic: one diff.
type change struct{ joins, leaves []*entry }

// metas are the presences of one key, oldest first.
type metas struct{ first, last *entry }

// add reports whether the key is new.
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

// remove reports whether it was the key's last.
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

// all is what the room has, key by key.
func (r *room) all() []*entry {
	all := make([]*entry, 0, r.keys.len())
	for _, m := range r.keys.all() {
		for at := m.first; at != nil; at = at.after {
			all = append(all, at)
		}
	}
	return all
}

// listOf is the state of what a room has. All of its text is one string.
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

// appendList appends the payload of presence_state.
func appendList(dst []byte, all []*entry) []byte {
	dst = append(dst, '{')
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
	return append(dst, '}')
}

// sizeOf is about how large the payload is.
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
