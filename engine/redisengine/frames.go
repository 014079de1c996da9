package redisengine

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
)

const (
	maxLine  = 64 << 10 // bytes of a line: an error, or a number
	maxBulk  = 64 << 20 // bytes of a string, unless four times Config.Queue is more
	maxItems = 4096     // items of an array, a map or a push
	maxDepth = 6        // levels of nested arrays and maps
)

var errProtocol = errors.New("the server broke the protocol")

// frames checks what a server sends before the client parses it. The client allocates any length
// that the server announces, uses a number as a string if the server sends one instead, and panics
// on its own goroutine when it receives an answer without a command. The contents that a server
// sends are trusted, but not their form.
//
// frames accepts the types of RESP3 that occur in answers to the commands of this package. A push
// must be a message, or the answer to a subscription that was sent. Every answer must belong to a
// command.
type frames struct {
	bulk int64 // the longest string that is accepted

	in      scanner
	stack   []level // open arrays, maps and pushes
	kind    byte    // the first letter of the first string of the current push
	items   int     // values of the current push so far
	version bool    // the last key of a map was "version"

	// The command that is being sent.
	out       scanner
	name      byte  // the expectation's kind
	args, all int64 // its missing strings, and all of its strings

	mu       sync.Mutex
	expected []expectation // the answers to commands that were sent, oldest first
}

// level is an incomplete array, map or push.
type level struct {
	typ  byte
	rest int64
}

// expectation is the expected answer to a command, or to several commands in a row.
type expectation struct {
	// kind is 's' for the pushes of a subscription, 'u' for those of an unsubscription, 'p' for the
	// answer to PING, 'h' for the answer to HELLO, and 'a' for any other answer.
	kind  byte
	count int64 // missing pushes or answers
	begun bool  // at least one has arrived
}

// scanner splits bytes into lines and strings.
type scanner struct {
	line []byte // the beginning of an incomplete line
	rest int64  // missing bytes of a string, including the line break after it
	head []byte // the first bytes of the string
}

// next parses the beginning of p. It returns the rest of p. It also returns a line if one is
// complete, or the beginning of a string if the string is complete.
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

// check returns an error if p, which follows the bytes that were checked before, breaks the
// protocol.
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
		case len(f.in.line) > 0:
			err = checkPartial(f.in.line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPartial checks the beginning of an incomplete line. The client reads some values without
// their line break: it skips the two bytes after the types "_" and ".", and the byte after a
// number's carriage return. So these bytes must be checked before the line is complete.
func checkPartial(line []byte) error {
	i := bytes.IndexByte(line, '\r')
	switch {
	case bytes.IndexByte([]byte("+-:,_$*%>"), line[0]) < 0:
		return fmt.Errorf("%w: an unknown type", errProtocol)
	case i >= 0 && i < len(line)-1, line[0] == '_' && len(line) > 1 && i != 1:
		return fmt.Errorf("%w: a malformed line", errProtocol)
	}
	return nil
}

// sent records the answers to expect to the commands in p, which follows the bytes that were sent
// before.
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

// argument handles the beginning of a string of a command.
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

// begin handles a line, which is a value or begins one.
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

// value handles a complete value. If the value has a text, then text is at least its beginning.
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

// entry handles a key or a value of a map. The client requires that the server's version is a
// string.
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

// pushed handles one of the three values of a push.
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

// answer handles a push, or an answer to a command.
func (f *frames) answer(typ byte, text []byte) error {
	if typ == '>' && f.kind == 'm' {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.expected) == 0 {
		return fmt.Errorf("%w: an answer without a command", errProtocol)
	}
	e := &f.expected[0]
	ok := false
	switch e.kind {
	case 's', 'u':
		if typ == '-' && !e.begun { // one error answers all channels
			e.count, ok = 1, true
		} else {
			ok = typ == '>' && f.kind == e.kind
		}
	case 'p':
		// The client accepts no other error after the end of a subscription.
		ok = typ == '+' && string(text) == "PONG" || typ == '-' && (bytes.HasPrefix(text, []byte("LOADING")) ||
			bytes.HasPrefix(text, []byte("BUSY")) || bytes.Contains(text, []byte("'ping'")))
	case 'h':
		ok = typ == '%' || typ == '-'
	case 'a':
		ok = typ != '>'
	}
	if !ok {
		return fmt.Errorf("%w: an answer that does not fit its command", errProtocol)
	}
	e.begun = true
	if e.count--; e.count == 0 {
		f.expected = f.expected[1:]
	}
	return nil
}

// number parses a decimal number up to most.
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

// checked is a connection from which the client reads only well-formed bytes.
type checked struct {
	net.Conn
	frames frames
	fail   func(error)
	ended  func() // called when reading has failed, unless it is nil
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.frames.check(p[:n]); bad != nil {
		c.fail(bad)
		return 0, bad
	}
	if err != nil && c.ended != nil {
		c.ended()
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
