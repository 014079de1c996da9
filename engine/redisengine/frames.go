package redisengine

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
)

const (
	maxLine  = 64 << 10 // of a line: an error, or a number
	maxBulk  = 64 << 20 // of a string, or four times Config.Queue if that is more
	maxItems = 4096     // of an array, a map or a push
	maxDepth = 6        // of arrays and maps in each other
)

var errProtocol = errors.New("the server broke the protocol")

// frames checks what a server sends before the client parses it. The client makes room for any length that it is told, takes a number
// for a string if it stands in its place, and panics on answers that nobody asked for, on a goroutine of its own. A server is trusted
// with what it says, but not with how.
//
// The types that pass are those of RESP3 that answers to the adapter's commands have. Pushes must be messages, or what a subscription
// that was sent is answered with, and every answer must belong to a command.
type frames struct {
	bulk int64 // the longest string that passes

	in      scanner
	stack   []level // open arrays, maps and pushes
	kind    byte    // of the push that is read: the first letter of its first string
	items   int     // of the push so far
	version bool    // the last key of a map was that of the server's version

	// The command that is sent.
	out       scanner
	name      byte  // the expectation's kind
	args, all int64 // strings of it that have yet to come, and all

	mu       sync.Mutex
	expected []expectation // of commands that were sent, the oldest first
}

// level is an array, map or push of which items have yet to come.
type level struct {
	typ  byte
	rest int64
}

// expectation is what a command, or several in a row, will be answered with.
type expectation struct {
	kind  byte  // 's' and 'u' for the pushes of (un)subscriptions, 'p' for the answer to a ping, 'h' to HELLO, 'a' for any other answer
	count int64 // pushes or answers that have yet to come
	begun bool  // one came
}

// scanner cuts bytes into lines and strings.
type scanner struct {
	line []byte // the beginning of a line that is incomplete
	rest int64  // bytes of a string, including the line break behind it, that have yet to come
	head []byte // the first of them
}

// next takes what is at the beginning of p. It returns the rest of p, and a line, or the beginning of a string when that is complete.
func (s *scanner) next(p []byte) (rest, line, text []byte, err error) {
	if s.rest > 0 {
		n := min(s.rest, int64(len(p)))
		if room := min(int64(16-len(s.head)), s.rest-2, n); room > 0 {
			s.head = append(s.head, p[:room]...)
		}
		for i := max(0, s.rest-2); i < n; i++ {
			if p[i] != "\n\r"[s.rest-i-1] {
				return nil, nil, nil, fmt.Errorf("%w: a string is longer than announced", errProtocol)
			}
		}
		s.rest -= n
		if s.rest == 0 {
			text, s.head = s.head, s.head[:0]
			if text == nil {
				text = []byte{}
			}
		}
		return p[n:], nil, text, nil
	}
	i := bytes.IndexByte(p, '\n')
	size := i
	if i < 0 {
		size = len(p)
	}
	if len(s.line)+size > maxLine {
		return nil, nil, nil, fmt.Errorf("%w: a line is too long", errProtocol)
	}
	if i < 0 {
		s.line = append(s.line, p...)
		return nil, nil, nil, nil
	}
	line = p[:i]
	if len(s.line) > 0 {
		s.line = append(s.line, line...)
		line, s.line = s.line, s.line[:0]
	}
	line, ok := bytes.CutSuffix(line, []byte("\r"))
	if !ok || len(line) == 0 || bytes.IndexByte(line, '\r') >= 0 {
		return nil, nil, nil, fmt.Errorf("%w: a malformed line", errProtocol)
	}
	return p[i+1:], line, nil, nil
}

// check returns an error if p, behind what was checked before, breaks the protocol.
func (f *frames) check(p []byte) error {
	for len(p) > 0 {
		var line, text []byte
		var err error
		if p, line, text, err = f.in.next(p); err != nil {
			return err
		}
		switch {
		case text != nil:
			err = f.value('$', text)
		case line != nil:
			err = f.begin(line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sent notes what answers the commands in p, behind what was sent before, will have.
func (f *frames) sent(p []byte) error {
	for len(p) > 0 {
		var line, text []byte
		var err error
		if p, line, text, err = f.out.next(p); err != nil {
			return err
		}
		if line != nil {
			size, ok := number(line[1:], 1<<40)
			switch {
			case ok && line[0] == '*' && size > 0:
				f.args, f.all = size, size
			case ok && line[0] == '$' && f.args > 0:
				f.out.rest = size + 2
			default:
				return errors.New("an unknown command was sent")
			}
		}
		if text != nil {
			f.argument(text)
		}
	}
	return nil
}

// argument takes the beginning of a command's string.
func (f *frames) argument(text []byte) {
	if f.args == f.all {
		switch string(text) {
		case "SUBSCRIBE":
			f.name = 's'
		case "UNSUBSCRIBE":
			f.name = 'u'
		case "PING":
			f.name = 'p'
		case "HELLO":
			f.name = 'h'
		default:
			f.name = 'a'
		}
	}
	if f.args--; f.args > 0 {
		return
	}
	count := int64(1)
	if f.name == 's' || f.name == 'u' {
		count = max(1, f.all-1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := len(f.expected) - 1; last >= 0 && f.name == 'a' && f.expected[last].kind == 'a' {
		f.expected[last].count++
	} else {
		f.expected = append(f.expected, expectation{kind: f.name, count: count})
	}
}

// begin takes a line, which is a value or begins one.
func (f *frames) begin(line []byte) error {
	typ, arg := line[0], line[1:]
	switch typ {
	case '+', '-':
		return f.value(typ, arg)
	case ':':
		if _, ok := number(bytes.TrimPrefix(arg, []byte("-")), 1<<62); !ok {
			return fmt.Errorf("%w: a malformed number", errProtocol)
		}
		return f.value(typ, arg)
	case ',':
		return f.value(typ, arg)
	case '_':
		if len(arg) == 0 {
			return f.value(typ, arg)
		}
	case '$', '*':
		if string(arg) == "-1" {
			return f.value('_', nil) // RESP2's null
		}
		if typ == '*' {
			return f.open(typ, arg, 1)
		}
		size, ok := number(arg, f.bulk)
		if !ok {
			return fmt.Errorf("%w: a malformed length", errProtocol)
		}
		f.in.rest = size + 2
		return nil
	case '%':
		return f.open(typ, arg, 2)
	case '>':
		return f.open(typ, arg, 1)
	}
	return fmt.Errorf("%w: an unknown type", errProtocol)
}

// open begins an array, map or push.
func (f *frames) open(typ byte, arg []byte, each int64) error {
	count, ok := number(arg, maxItems)
	switch {
	case !ok:
		return fmt.Errorf("%w: a malformed length", errProtocol)
	case len(f.stack) >= maxDepth, len(f.stack) > 0 && (typ == '>' || f.stack[0].typ == '>'):
		return fmt.Errorf("%w: values nested too deep", errProtocol)
	case typ == '>' && count != 3:
		return fmt.Errorf("%w: a push of an unknown kind", errProtocol)
	case count == 0:
		return f.value(typ, nil)
	}
	f.stack, f.items = append(f.stack, level{typ, count * each}), 0
	return nil
}

// value takes a value that is complete, of which text is at least the beginning if it has any.
func (f *frames) value(typ byte, text []byte) error {
	for len(f.stack) > 0 {
		top := &f.stack[len(f.stack)-1]
		if top.typ == '>' {
			if err := f.pushed(typ, text); err != nil {
				return err
			}
		}
		if top.typ == '%' {
			if err := f.entry(top, typ, text); err != nil {
				return err
			}
		}
		if top.rest--; top.rest > 0 {
			return nil
		}
		typ = top.typ
		f.stack = f.stack[:len(f.stack)-1]
	}
	return f.answer(typ, text)
}

// entry takes a key or a value of a map. The client takes the server's version for a string.
func (f *frames) entry(m *level, typ byte, text []byte) error {
	ok := typ == '$' || typ == '+'
	if m.rest%2 == 0 {
		f.version = string(text) == "version"
	} else {
		ok = ok || !f.version
	}
	if !ok {
		return fmt.Errorf("%w: a value of the wrong type", errProtocol)
	}
	return nil
}

// pushed takes one of the three values of a push.
func (f *frames) pushed(typ byte, text []byte) error {
	ok := typ == '$'
	switch f.items++; f.items {
	case 1:
		switch string(text) {
		case "message":
			f.kind = 'm'
		case "subscribe":
			f.kind = 's'
		case "unsubscribe":
			f.kind = 'u'
		default:
			ok = false
		}
	case 2:
		ok = ok || typ == '_' && f.kind == 'u'
	case 3:
		ok = ok && f.kind == 'm' || typ == ':' && f.kind != 'm'
	}
	if !ok {
		return fmt.Errorf("%w: a push of an unknown kind", errProtocol)
	}
	return nil
}

// answer takes a push, or an answer to a command.
func (f *frames) answer(typ byte, text []byte) error {
	if typ == '>' && f.kind == 'm' {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.expected) == 0 {
		return fmt.Errorf("%w: an answer to no command", errProtocol)
	}
	e := &f.expected[0]
	ok := false
	switch e.kind {
	case 's', 'u':
		if typ == '-' && !e.begun { // it stands for all of them
			e.count, ok = 1, true
		} else {
			ok = typ == '>' && f.kind == e.kind
		}
	case 'p':
		// The client takes no other error behind the end of a subscription.
		ok = typ == '+' && string(text) == "PONG" || typ == '-' &&
			(bytes.HasPrefix(text, []byte("LOADING")) || bytes.HasPrefix(text, []byte("BUSY")) || bytes.Contains(text, []byte("'ping'")))
	case 'h':
		ok = typ == '%' || typ == '-'
	case 'a':
		ok = typ != '>'
	}
	if !ok {
		return fmt.Errorf("%w: an answer of another kind than the command's", errProtocol)
	}
	e.begun = true
	if e.count--; e.count == 0 {
		f.expected = f.expected[1:]
	}
	return nil
}

// number parses digits of a number up to most.
func number(text []byte, most int64) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 19 {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (most-int64(c-'0'))/10 {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// checked is a connection that the client reads only what is well-formed from.
type checked struct {
	net.Conn
	frames frames
	fail   func(error)
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.frames.check(p[:n]); bad != nil {
		c.fail(bad)
		return 0, bad
	}
	return n, err
}

func (c *checked) Write(p []byte) (int, error) {
	if err := c.frames.sent(p); err != nil {
		c.fail(err)
		return 0, err
	}
	return c.Conn.Write(p)
}
