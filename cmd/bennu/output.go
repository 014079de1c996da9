package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"bennu.example/serializer"
)

// line is one line of output: an object in JSON, and text for a terminal.
type line struct {
	At       *time.Time      `json:"at,omitempty"`
	Type     string          `json:"type"`
	Topic    string          `json:"topic,omitempty"`
	Event    string          `json:"event,omitempty"`
	Status   string          `json:"status,omitempty"`
	Key      string          `json:"key,omitempty"`
	Pos      string          `json:"pos,omitempty"`
	From     string          `json:"from,omitempty"`
	After    string          `json:"after,omitempty"`
	Rev      uint64          `json:"rev,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Check    string          `json:"check,omitempty"`
	Result   string          `json:"result,omitempty"`
	Text     string          `json:"text,omitempty"`
	Fix      string          `json:"fix,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Response json.RawMessage `json:"response,omitempty"`
	Metas    json.RawMessage `json:"metas,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`

	text string // for a terminal, without the time
}

// printer writes lines. Its methods may be called from any goroutine.
type printer struct {
	json   bool
	mu     sync.Mutex
	out    io.Writer
	notes  io.Writer
	failed func(error) // is called when out fails, for example because the reader of a pipe has gone
}

// printNow writes a line with the present time.
func (p *printer) printNow(l line) {
	now := time.Now()
	l.At = &now
	p.write(l)
}

// write writes a line. A line without a time has none.
func (p *printer) write(l line) {
	var b []byte
	if p.json {
		if l.At != nil {
			utc := l.At.UTC().Truncate(time.Millisecond)
			l.At = &utc
		}
		var err error
		if b, err = marshal(l); err != nil {
			p.note("a line cannot be printed: %v", err)
			return
		}
	} else {
		if l.At != nil {
			b = l.At.Local().AppendFormat(b, "15:04:05 ")
		}
		b = append(b, l.text...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.out.Write(append(b, '\n')); err != nil && p.failed != nil {
		p.failed(err)
	}
}

// note writes a message for a person, which is not part of the output.
func (p *printer) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.notes, "bennu: "+format+"\n", args...)
}

// marshal encodes without escaping "<", ">" and "&", which only HTML needs.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// payloadJSON returns a payload for a line in JSON. A binary one is {"binary": its base64}.
func payloadJSON(p serializer.Payload) json.RawMessage {
	if p.IsBinary() {
		b, _ := marshal(map[string][]byte{"binary": p.Bytes()}) // cannot fail
		return b
	}
	b, err := p.JSON()
	if err != nil { // a value of the program that cannot be encoded; a received payload always can
		b, _ = marshal(map[string]string{"error": err.Error()})
	}
	return b
}

// payloadText returns a payload for a line of text.
func payloadText(p serializer.Payload) string {
	if p.IsBinary() {
		return fmt.Sprintf("%d bytes: %x", len(p.Bytes()), p.Bytes()[:min(32, len(p.Bytes()))])
	}
	return printable(string(payloadJSON(p)))
}

func reasonPayload(reason string) serializer.Payload {
	p, _ := serializer.Value(map[string]string{"reason": reason}).Encoded() // cannot fail
	return p
}

// printable escapes what could move a terminal's cursor, change its colours or reorder a line. In
// JSON the escapes keep their meaning.
func printable(s string) string {
	if !strings.ContainsFunc(s, isHidden) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !isHidden(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			hi, lo := (r-0x10000)>>10+0xD800, (r-0x10000)&0x3FF+0xDC00
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func isHidden(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}
