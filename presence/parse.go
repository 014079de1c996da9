package presence

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// A state of thousands is read in one pass, in which the metas are left as they are: json.Unmarshal would go through each of them several
// times. What is read is valid JSON, since json.Unmarshal looks before it calls UnmarshalJSON and the serializers look at what comes
// in; nothing bad but nonsense comes of other bytes.

var errShape = errors.New("presence: not the payload of a state or a diff")

// UnmarshalJSON reads the payload of presence_state.
func (s *State) UnmarshalJSON(raw []byte) error { return parse(raw, s, (*parser).state) }

// UnmarshalJSON reads the payload of presence_diff.
func (d *Diff) UnmarshalJSON(raw []byte) error { return parse(raw, d, (*parser).diff) }

// UnmarshalJSON reads what a State has for one key.
func (e *Entry) UnmarshalJSON(raw []byte) error { return parse(raw, e, (*parser).entry) }

// UnmarshalJSON reads one tracked presence.
func (m *Meta) UnmarshalJSON(raw []byte) error { return parse(raw, m, (*parser).meta) }

// parse reads raw. All texts in what it makes of it are parts of one string.
func parse[T any](raw []byte, to *T, read func(*parser, *T)) error {
	p := parser{b: string(raw)}
	var v T
	if read(&p, &v); p.bad {
		return errShape
	}
	*to = v
	return nil
}

// parser reads JSON. Once it is bad it reads nothing more.
type parser struct {
	b     string
	i     int
	bad   bool
	metas []Meta // made beforehand
}

// next is the next byte that is no space, or 0 at the end.
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

// take reads one byte, if it is the next.
func (p *parser) take(c byte) bool {
	if p.next() != c {
		return false
	}
	p.i++
	return true
}

// list calls f at each element between two brackets.
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

// fields calls f at the value of each field of an object.
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

// string reads a string; without escapes, it is a part of the input.
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

// value reads a value as it is.
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

func (p *parser) state(s *State) {
	p.fields(func(key string) {
		var e Entry
		p.entry(&e)
		s.set(key, e)
	})
}

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
			if len(p.metas) == cap(p.metas) { // go on in another chunk, with those of this entry
				chunk := make([]Meta, len(p.metas)-from, max(1, min(2*(len(p.metas)+1), 1024), 2*(len(p.metas)-from)))
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

// ref reads a ref: a string, but any other value is told apart from others as well.
func (p *parser) ref() string {
	if p.next() == '"' {
		return p.string()
	}
	return p.value()
}
