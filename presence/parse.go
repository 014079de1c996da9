package presence

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// States are parsed in one pass, because they may have thousands of keys, and json.Unmarshal scans
// each meta several times. Metas are kept as text.
//
// The input is valid JSON: json.Unmarshal validates it before it calls UnmarshalJSON, and the
// serializers validate payloads. Other input gives an error or a meaningless value, but no panic.

var errShape = errors.New("presence: malformed state or diff")

// UnmarshalJSON parses the payload of presence_state.
func (s *State) UnmarshalJSON(raw []byte) error { return parse(raw, s, (*parser).state) }

// UnmarshalJSON parses the payload of presence_diff.
func (d *Diff) UnmarshalJSON(raw []byte) error { return parse(raw, d, (*parser).diff) }

// UnmarshalJSON parses the object of one key in a State.
func (e *Entry) UnmarshalJSON(raw []byte) error { return parse(raw, e, (*parser).entry) }

// UnmarshalJSON parses the object of one tracked presence.
func (m *Meta) UnmarshalJSON(raw []byte) error { return parse(raw, m, (*parser).meta) }

// parse parses raw with one of the parser's methods. It copies raw once; the strings in the result
// are substrings of the copy. If it fails, it does not change to.
func parse[T any](raw []byte, to *T, read func(*parser, *T)) error {
	p := parser{b: string(raw)}
	var v T
	if read(&p, &v); p.bad {
		return errShape
	}
	*to = v
	return nil
}

// parser parses JSON. After a failure it is at the end of the input and bad is true.
type parser struct {
	b     string
	i     int
	bad   bool
	metas []Meta // chunk of memory for the metas of several entries
}

// next skips white space and returns the next byte without consuming it. At the end it returns 0.
func (p *parser) next() byte {
	for p.i < len(p.b) {
		switch c := p.b[p.i]; c {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return c
		}
	}
	return 0
}

func (p *parser) fail() { p.i, p.bad = len(p.b), true }

// take consumes c if it is the next byte, and reports whether it was.
func (p *parser) take(c byte) bool {
	if p.next() != c {
		return false
	}
	p.i++
	return true
}

// list parses a list between two brackets. It calls f to parse each element.
func (p *parser) list(open, end byte, f func()) {
	if !p.take(open) {
		p.fail()
		return
	}
	if p.take(end) {
		return
	}
	for !p.bad {
		f()
		if p.take(end) {
			return
		}
		if !p.take(',') {
			p.fail()
		}
	}
}

// fields parses an object. It calls f to parse the value of each field.
func (p *parser) fields(f func(name string)) {
	p.list('{', '}', func() {
		name := p.string()
		if !p.take(':') {
			p.fail()
			return
		}
		f(name)
	})
}

// string parses a string. Without escapes, the result is a substring of the input.
func (p *parser) string() string {
	if p.next() != '"' {
		p.fail()
		return ""
	}
	start, plain := p.i+1, true
	for i := start; i < len(p.b); i++ {
		switch c := p.b[i]; {
		case c == '"':
			p.i = i + 1
			if s := p.b[start:i]; plain || utf8.ValidString(s) && strings.IndexByte(s, '\\') < 0 {
				return s
			}
			var s string
			if json.Unmarshal([]byte(p.b[start-1:i+1]), &s) != nil {
				p.fail()
			}
			return s
		case c == '\\':
			plain = false
			i++
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	p.fail()
	return ""
}

// value skips a value and returns its text.
func (p *parser) value() string {
	p.next()
	start, depth := p.i, 0
	for !p.bad {
		switch c := p.next(); c {
		case 0:
			p.fail()
		case '"':
			p.string()
		case '{', '[':
			depth++
			p.i++
		case '}', ']':
			depth--
			p.i++
		case ',', ':':
			p.i++
		default:
			for p.i < len(p.b) && strings.IndexByte(" \t\r\n,:]}", p.b[p.i]) < 0 {
				p.i++
			}
		}
		if depth <= 0 {
			break
		}
	}
	return p.b[start:p.i]
}

// state parses the payload of presence_state.
func (p *parser) state(s *State) {
	var items []item[Entry]
	p.fields(func(key string) {
		if items == nil {
			items = make([]item[Entry], 0, min(1+(len(p.b)-p.i)/100, 4096)) // an entry has about 100 bytes
		}
		it := item[Entry]{key: key}
		p.entry(&it.value)
		items = append(items, it)
	})
	s.entries.fill(items)
}

// diff parses the payload of presence_diff, which must have both fields.
func (p *parser) diff(d *Diff) {
	seen := 0
	p.fields(func(name string) {
		switch name {
		case "joins":
			seen |= 1
			p.state(&d.Joins)
		case "leaves":
			seen |= 2
			p.state(&d.Leaves)
		default:
			p.value()
		}
	})
	if seen != 3 {
		p.fail()
	}
}

// entry parses the object of one key, which must have metas.
func (p *parser) entry(e *Entry) {
	hasMetas := false
	p.fields(func(name string) {
		if name != "metas" {
			if e.Extra == nil {
				e.Extra = make(map[string]json.RawMessage)
			}
			e.Extra[name] = json.RawMessage(p.value())
			return
		}
		hasMetas = true
		from := len(p.metas)
		p.list('[', ']', func() {
			var m Meta
			p.meta(&m)
			if len(p.metas) == cap(p.metas) { // start another chunk with the metas of this entry
				n := len(p.metas) - from
				chunk := make([]Meta, n, max(1, min(2*(len(p.metas)+1), 1024), 2*n))
				copy(chunk, p.metas[from:])
				p.metas, from = chunk, 0
			}
			p.metas = append(p.metas, m)
		})
		e.Metas = p.metas[from:len(p.metas):len(p.metas)]
	})
	if !hasMetas {
		p.fail()
	}
}

// meta parses the object of one meta.
func (p *parser) meta(m *Meta) {
	p.next()
	start := p.i
	p.fields(func(name string) {
		switch name {
		case "phx_ref":
			m.Ref = p.ref()
		case "phx_ref_prev":
			m.PrevRef = p.ref()
		default:
			p.value()
		}
	})
	m.raw = p.b[start:p.i]
}

// ref parses a ref. It should be a string; for any other value, ref returns the value's text, so
// that distinct values remain distinct.
func (p *parser) ref() string {
	if p.next() == '"' {
		return p.string()
	}
	return p.value()
}
