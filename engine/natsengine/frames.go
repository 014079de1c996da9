package natsengine

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	// maxLine limits a line of the protocol. An INFO line lists all servers of a cluster.
	maxLine = 1 << 20

	// maxFrame limits a message. A server's max_payload cannot be larger.
	maxFrame = 64 << 20
)

var errProtocol = errors.New("the server broke the protocol")

// frames checks what a server sends before the client parses it. The client allocates any length
// that a message announces, and the process ends if there is not enough memory. The contents that a
// server sends are trusted, but not their form.
type frames struct {
	line []byte // the beginning of an incomplete line
	rest int    // missing bytes of a message, including the line break after it
	info func(data []byte)
}

// check returns an error if p, which follows the bytes that were checked before, breaks the
// protocol.
func (f *frames) check(p []byte) error {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, len(p))
			if !f.payload(p[:n]) {
				return fmt.Errorf("%w: a message is longer than announced", errProtocol)
			}
			p = p[n:]
			continue
		}
		i := bytes.IndexByte(p, '\n')
		size := i
		if i < 0 {
			size = len(p)
		}
		if len(f.line)+size > maxLine {
			return fmt.Errorf("%w: a line is too long", errProtocol)
		}
		if i < 0 {
			f.line = append(f.line, p...)
			return nil
		}
		line := p[:i]
		if len(f.line) > 0 {
			f.line = append(f.line, line...)
			line = f.line
		}
		err := f.op(line)
		if cap(f.line) > 4096 {
			f.line = nil
		}
		f.line = f.line[:0]
		if err != nil {
			return err
		}
		p = p[i+1:]
	}
	return nil
}

// payload checks bytes of a message. It returns false if the message does not end in a line break.
func (f *frames) payload(p []byte) bool {
	for i := max(0, f.rest-2); i < len(p); i++ {
		if p[i] != "\n\r"[f.rest-i-1] {
			return false
		}
	}
	f.rest -= len(p)
	return true
}

// op checks a line, from which the final newline was removed.
func (f *frames) op(line []byte) error {
	line, ok := bytes.CutSuffix(line, []byte("\r"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return fmt.Errorf("%w: a line without a carriage return at its end", errProtocol)
	}
	op, args, _ := bytes.Cut(line, []byte(" "))
	switch string(op) {
	case "MSG":
		return f.message(args, false)
	case "HMSG":
		return f.message(args, true)
	case "INFO":
		if f.info != nil {
			f.info(args)
		}
		return nil
	case "-ERR":
		return nil
	case "PING", "PONG", "+OK":
		if len(args) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w: unknown operation", errProtocol)
}

// message checks the arguments of a message: the subject, the subscription, an optional reply
// subject, the length of the header if there is one, and the length.
func (f *frames) message(args []byte, header bool) error {
	var field [6][]byte
	n := 0
	for rest := args; len(rest) > 0 && n < len(field); {
		var one []byte
		one, rest, _ = bytes.Cut(rest, []byte(" "))
		if len(one) > 0 {
			field[n] = one
			n++
		}
	}
	least := 3
	if header {
		least = 4
	}
	if n != least && n != least+1 || bytes.IndexByte(args, '\t') >= 0 {
		return fmt.Errorf("%w: a message with %d arguments", errProtocol, n)
	}
	size, ok1 := number(field[n-1])
	_, ok2 := number(field[1])
	headerSize, ok3 := int64(0), true
	if header {
		headerSize, ok3 = number(field[n-2])
	}
	if !ok1 || !ok2 || !ok3 || size > maxFrame || headerSize > size {
		return fmt.Errorf("%w: a message with a malformed length", errProtocol)
	}
	f.rest = int(size) + 2
	return nil
}

// number parses up to fifteen digits.
func number(text []byte) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 15 {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}
