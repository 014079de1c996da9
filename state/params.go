package state

import (
	"encoding/json"
	"errors"
	"math"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

// members are those of an object that a client sent. Each is taken once; what is left is unknown.
type members map[string]json.RawMessage

// parseMembers decodes an object. Null and the zero payload have no members.
func parseMembers(p serializer.Payload) (members, error) {
	m := members{}
	if p.IsBinary() || p.Decode(&m) != nil {
		return nil, invalid("payload")
	}
	return m, nil
}

// take decodes a member, which must be of v's type, and removes it. It reports whether there is
// one.
func (m members) take(name string, v any) (bool, error) {
	raw, ok := m[name]
	if !ok {
		return false, nil
	}
	delete(m, name)
	if string(raw) == "null" || json.Unmarshal(raw, v) != nil {
		return true, invalid(name)
	}
	return true, nil
}

// value takes a member of any type.
func (m members) value(name string) (json.RawMessage, bool) {
	raw, ok := m[name]
	delete(m, name)
	return raw, ok
}

// rest returns an error if a member is left.
func (m members) rest() error {
	least := ""
	for name := range m {
		if least == "" || name < least {
			least = name
		}
	}
	if len(m) > 0 {
		return invalid(least)
	}
	return nil
}

// maxSeconds bounds a lifetime: 100 years.
const maxSeconds = 100 * 365 * 24 * 60 * 60

// seconds takes a lifetime.
func (m members) seconds(name string) (time.Duration, bool, error) {
	var s float64
	found, err := m.take(name, &s)
	if err == nil && found && (math.IsNaN(s) || s <= 0 || s > maxSeconds) {
		err = invalid(name)
	}
	return max(time.Duration(s*float64(time.Second)), 1), found, err
}

// joinParams is the member "$state" of a join's params.
type joinParams struct {
	since history.Position
	mode  Mode
	value json.RawMessage // nil if there is none
	ttl   time.Duration   // zero if there is none
	keys  Range
	n     int     // how many items at one end of keys; zero means all
	match matcher // of the query; nil if there is none
}

// errPosition refuses a join whose position is malformed.
var errPosition = errors.New("state: invalid position")

// parseJoin decodes the params of a join. Most clients that come back have nothing but their
// position in "$state", and this takes no memory.
func parseJoin(p serializer.Payload, k *kind, cfg *Config) (joinParams, error) {
	if p.IsBinary() {
		return joinParams{}, invalid("payload")
	}
	if since := onlySince(p, `{"$state":{"since":"`, `"}}`); !since.IsZero() {
		return joinParams{mode: ModeOpen, since: since}, nil
	}
	state, _, found := p.Cut("$state")
	if !found {
		return joinParams{mode: ModeOpen}, nil
	}
	if since := onlySince(state, `{"since":"`, `"}`); !since.IsZero() {
		return joinParams{mode: ModeOpen, since: since}, nil
	}
	return parseState(state, k, cfg)
}

// onlySince returns the position between the beginning and the end of a payload. Zero means that
// the payload has something else, or is written in another way. A payload of MessagePack does not
// begin and end like this.
func onlySince(p serializer.Payload, begin, end string) history.Position {
	text := p.Bytes()
	if len(text) < len(begin)+len(end) || string(text[:len(begin)]) != begin ||
		string(text[len(text)-len(end):]) != end {
		return history.Position{}
	}
	since, err := history.ParsePosition(string(text[len(begin) : len(text)-len(end)])) // it has no quotes
	if err != nil {
		return history.Position{}
	}
	return since
}

// parseState decodes the member "$state".
func parseState(state serializer.Payload, k *kind, cfg *Config) (joinParams, error) {
	params := joinParams{mode: ModeOpen}
	m, err := parseMembers(state)
	if err != nil {
		return params, invalid("$state")
	}
	if string(m["since"]) == "null" {
		delete(m, "since")
	}
	var since string
	if found, err := m.take("since", &since); err != nil {
		return params, errPosition
	} else if found {
		if params.since, err = history.ParsePosition(since); err != nil {
			return params, errPosition
		}
	}
	if _, err := m.take("mode", &params.mode); err != nil {
		return params, err
	}
	switch params.mode {
	case ModeOpen, ModeExisting, ModeNew:
	default:
		return params, invalid("mode")
	}
	if raw, ok := m.value("value"); ok {
		if !k.document {
			return params, invalid("value")
		}
		params.value = raw
	}
	ttl, found, err := m.seconds("ttl")
	if err != nil {
		return params, err
	} else if found {
		params.ttl = ttl
	}
	if params.keys, params.n, err = m.keys(k, cfg.Limits.WithDefaults().Window); err != nil {
		return params, err
	}
	if _, found := m["query"]; found && (k.document || params.n > 0) {
		return params, invalid("query")
	}
	if params.match, err = m.query(cfg.Queries); err != nil {
		return params, err
	}
	return params, m.rest()
}

// keys takes a range of keys, and how many of them, of at most so many.
func (m members) keys(k *kind, most int) (r Range, n int, err error) {
	raw, found := m["keys"]
	if !found {
		return r, 0, nil
	}
	delete(m, "keys")
	var in members
	if k.document || json.Unmarshal(raw, &in) != nil || len(in) == 0 {
		return r, 0, invalid("keys")
	}
	if n, r.Reverse, err = in.count(most); err != nil {
		return r, 0, err
	}
	if k.tree {
		last := r.Reverse
		r, err = in.treeKeys()
		r.Reverse = last
		return r, n, err
	}
	byPrefix, err := in.take("prefix", &r.Prefix)
	if err != nil {
		return r, 0, err
	}
	byFrom, err := in.take("from", &r.From)
	if err != nil {
		return r, 0, err
	}
	byTo, err := in.take("to", &r.To)
	if err != nil {
		return r, 0, err
	}
	if byPrefix && (byFrom || byTo) {
		return r, 0, invalid("keys")
	}
	for _, key := range []string{r.Prefix, r.From, r.To} {
		if len(key) > maxKey || !isKey(key) {
			return r, 0, invalid("keys")
		}
	}
	return r, n, in.rest()
}

// count takes how many items a client wants, and whether it wants the last. Zero means all.
func (m members) count(most int) (n int, last bool, err error) {
	for _, name := range []string{"first", "last"} {
		if most == 0 {
			break
		}
		before := n
		found, err := m.take(name, &n)
		if err != nil || found && (before > 0 || n < 1 || n > most) {
			return 0, false, invalid(name)
		}
		last = last || found && name == "last"
	}
	return n, last, nil
}

// pending is an op of a push, before its value is known.
type pending struct {
	op     Op
	merge  bool // raw is a patch
	makes  bool // the server makes the key
	exists bool // the item must exist
	quiet  bool // it only makes room for another op
	place  *place
	raw    []byte
}

// parseOp takes the members of an op.
func (m members) parseOp(name string, k *kind) (p pending, err error) {
	if !k.has(name) {
		return p, invalid(name)
	}
	switch name {
	case pushAdd:
		p.makes = true
		if k.tree {
			_, err = m.take("path", &p.op.Key)
		}
	case pushInsert:
		p.makes = true
		p.place, err = m.place()
	case pushMove:
		p.makes = true
		if found, err := m.take("key", &p.op.From); err != nil || !found || p.op.From == "" {
			return p, invalid("key")
		}
		p.place, err = m.place()
	default:
		if found, err := m.take("key", &p.op.Key); !k.document && (err != nil || !found || p.op.Key == "" && !k.tree) {
			return p, invalid("key")
		} else if k.document && found {
			return p, invalid("key")
		}
		p.exists = k.list && name == pushPut
	}
	if err != nil {
		return p, err
	}
	switch name {
	case pushDel:
		p.op.Delete = true
	case pushMove:
	default:
		raw, found := m.value("value")
		if !found {
			return p, invalid("value")
		}
		p.raw, p.merge = raw, name == pushMerge
	}
	if !p.makes {
		var rev uint64
		if found, err := m.take("if", &rev); err != nil {
			return p, err
		} else if found {
			p.op.If = &rev
		}
	}
	if name == pushPut || name == pushAdd || name == pushInsert {
		if p.op.TTL, err = m.ttl(); err != nil {
			return p, err
		}
	}
	return p, m.rest()
}

// ttl takes the lifetime of an item. Null removes it.
func (m members) ttl() (*time.Duration, error) {
	if string(m["ttl"]) == "null" {
		delete(m, "ttl")
		return new(time.Duration), nil
	}
	d, found, err := m.seconds("ttl")
	if err != nil || !found {
		return nil, err
	}
	return &d, nil
}

// maxPushID bounds $id.
const maxPushID = 64

// id takes the id of a push.
func (m members) id() (string, error) {
	var id string
	found, err := m.take("$id", &id)
	if err != nil || found && (id == "" || len(id) > maxPushID) {
		return "", invalid("$id")
	}
	return id, nil
}
