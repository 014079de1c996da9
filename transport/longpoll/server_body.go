package longpoll

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"sync"

	"bennu.example/serializer"
)

// maxParts bounds the messages of one POST. Further ones are ignored, as in Phoenix.
const maxParts = 100

var (
	errBodyTooLarge = errors.New("longpoll: body or message too large")
	errBodyBase64   = errors.New("longpoll: line is neither an array nor base64")
)

// part is one message of a POST's body.
type part struct {
	op   serializer.Op
	data []byte
}

// bodyReader reads bodies. Its buffers are reused. Each part has memory of its own and of its exact
// size, because a session may keep it.
type bodyReader struct {
	in   limitedReader
	buf  *bufio.Reader
	long []byte // a line that does not fit into buf
}

// limitedReader returns errBodyTooLarge after more than left bytes.
type limitedReader struct {
	from io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.from.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errBodyTooLarge
	}
	return n, err
}

var bodyReaders = sync.Pool{New: func() any { return &bodyReader{buf: bufio.NewReaderSize(nil, 4096)} }}

// readParts reads the body of a POST to its end. A batch has one message in each line. Otherwise
// the whole body is one text.
func readParts(body io.Reader, batch bool, maxBody, maxMessage int64) ([]part, error) {
	b := bodyReaders.Get().(*bodyReader)
	b.in = limitedReader{body, maxBody}
	b.buf.Reset(&b.in)
	defer func() {
		b.in.from = nil
		if cap(b.long) > 64<<10 {
			b.long = nil
		}
		bodyReaders.Put(b)
	}()
	if batch {
		return b.batch(maxMessage)
	}
	text, err := b.all(maxMessage)
	if err != nil {
		return nil, err
	}
	return []part{{serializer.OpText, bytes.Clone(text)}}, nil
}

// batch reads the lines of a batch. An empty line is a message, and so is the text behind the last
// line break, even if it is empty.
func (b *bodyReader) batch(maxMessage int64) ([]part, error) {
	var parts []part
	for len(parts) < maxParts {
		line, last, err := b.line(int64(base64.StdEncoding.EncodedLen(int(maxMessage))))
		if err != nil {
			return nil, err
		}
		p, err := parsePart(line, maxMessage)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
		if last {
			return parts, nil
		}
	}
	_, err := b.buf.WriteTo(io.Discard)
	return parts, err
}

// line returns the next line without its LF or CRLF, and whether it is the last one. The line is
// valid until the next call.
func (b *bodyReader) line(limit int64) (line []byte, last bool, err error) {
	b.long = b.long[:0]
	for {
		line, err = b.buf.ReadSlice('\n')
		if err == nil {
			line = line[:len(line)-1]
		}
		if len(b.long) > 0 || err == bufio.ErrBufferFull {
			b.long = append(b.long, line...)
			line = b.long
		}
		if err == nil {
			line = bytes.TrimSuffix(line, []byte{'\r'})
		}
		switch {
		case int64(len(line)) > limit+1: // one more, for a CR whose LF may follow
			return nil, false, errBodyTooLarge
		case err == nil:
			return line, false, nil
		case err == io.EOF:
			return line, true, nil
		case err != bufio.ErrBufferFull:
			return nil, false, err
		}
	}
}

// all returns the whole body, which is valid until the next call.
func (b *bodyReader) all(limit int64) ([]byte, error) {
	b.long = b.long[:0]
	for {
		b.long = slices.Grow(b.long, 512)
		n, err := b.buf.Read(b.long[len(b.long):cap(b.long)])
		b.long = b.long[:len(b.long)+n]
		switch {
		case int64(len(b.long)) > limit:
			return nil, errBodyTooLarge
		case err == io.EOF:
			return b.long, nil
		case err != nil:
			return nil, err
		}
	}
}

// parsePart parses a line. A line that begins with "[" is a text. Any other is the base64 of a
// binary frame.
func parsePart(line []byte, maxMessage int64) (part, error) {
	if len(line) > 0 && line[0] == '[' {
		if int64(len(line)) > maxMessage {
			return part{}, errBodyTooLarge
		}
		return part{serializer.OpText, bytes.Clone(line)}, nil
	}
	if bytes.IndexByte(line, '\r') >= 0 { // the decoder would ignore it
		return part{}, errBodyBase64
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Decode(data, line)
	switch {
	case err != nil:
		return part{}, errBodyBase64
	case int64(n) > maxMessage:
		return part{}, errBodyTooLarge
	}
	return part{serializer.OpBinary, data[:n]}, nil
}
