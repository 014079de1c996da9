package websocket

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"bennu.example/serializer"
)

// library is coder/websocket's end of a connection. It reads everything but whole frames (see
// wholeFrame): fragments, compressed messages, frames that have not arrived completely, and every
// violation of the protocol. It is made when the client first sends something of this kind.
//
// A library is the net.Conn that coder/websocket reads from. Only the reader uses it, except for
// Close. It drops what coder/websocket writes: these are only the close frames for its errors, and
// a serverConn makes its own.
type library struct {
	net.Conn // the connection to the client; Read, Write and Close are replaced
	c        *serverConn
	conn     *websocket.Conn
	br       *bufio.Reader // conn reads from it
	passed   fragments     // what conn was given
	direct   []byte        // where tryRead reads to instead of an input; truncated to what it read
	dropped  atomic.Bool   // conn is not used any more
}

// The sizes of coder/websocket's buffers. It reads the headers of frames through the first, because
// payloads bypass it. It writes nothing: see library.Write.
const (
	libraryReadBuffer  = 16
	libraryWriteBuffer = 1
)

// newLibrary returns a library for c, which is between two messages.
//
// A server's websocket.Conn can be made by websocket.Accept only. The client's handshake was
// answered long ago, so Accept gets a constant one that has the same outcome.
func newLibrary(c *serverConn) (*library, error) {
	l := &library{Conn: c.nc, c: c}
	l.br = bufio.NewReaderSize(l, libraryReadBuffer)
	r, opts := replayed, websocket.AcceptOptions{InsecureSkipVerify: true, OnPingReceived: l.pinged}
	if c.deflate {
		r, opts.CompressionMode = replayedDeflate, websocket.CompressionNoContextTakeover
	}
	conn, err := websocket.Accept(&replay{l, make(http.Header)}, r, &opts)
	if err != nil {
		return nil, err
	}
	l.br.Reset(l) // Accept inserted a reader of its own
	conn.SetReadLimit(c.s.cfg.MaxMessage)
	l.conn = conn
	return l, nil
}

// drop ends the use of l, unless coder/websocket has a state that influences what it reads next.
// It reports whether it did. The caller is the reader, between two messages.
func (l *library) drop() bool {
	// A decompressor can leave bytes of a message unread, and coder/websocket then takes them for the
	// beginning of the next.
	if l.c.deflate {
		return false
	}
	l.dropped.Store(true)
	_ = l.conn.CloseNow() // it removes its finalizer; Close does nothing any more
	return true
}

// message reads one message, and the control frames before it. It appends the message to b.
func (l *library) message(b []byte) (serializer.Op, []byte, error) {
	typ, r, err := l.conn.Reader(context.Background())
	if err != nil {
		return 0, b, err
	}
	b, err = readAll(b, r)
	return serializer.Op(typ), b, err
}

// readAll appends everything that r has to b. Unlike io.ReadAll, it begins with a given buffer.
func readAll(b []byte, r io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// pinged is called for a ping. It returns false, so that coder/websocket does not answer.
func (l *library) pinged(_ context.Context, payload []byte) bool {
	l.c.pong(bytes.Clone(payload))
	return false
}

// Read is part of net.Conn. It returns no bytes beyond the end of a frame, so that nothing is left
// in l.br when coder/websocket has read a message.
func (l *library) Read(p []byte) (int, error) {
	c := l.c
	if len(p) == 0 {
		return 0, nil
	}
	if c.in == nil {
		if len(p) >= inputSize || c.raw == nil && len(p) >= ownInputSize { // a part of a payload
			n, err := l.readDirect(p)
			if err == nil {
				_, err = l.pass(p[:n], n)
			}
			return n, err
		}
		if err := c.readAhead(); err != nil {
			return 0, err
		}
	}
	b := c.in.unread()
	b = b[:min(len(b), len(p))]
	n, err := l.pass(b, 1)
	if err != nil {
		return 0, err
	}
	copy(p, b[:n])
	c.consume(n)
	return n, nil
}

// readDirect waits for bytes and puts them in p.
func (l *library) readDirect(p []byte) (int, error) {
	c := l.c
	c.yield()
	if c.raw == nil {
		n, err := c.nc.Read(p)
		if n > 0 {
			return n, c.received(p[:n])
		}
		return 0, c.readFailed(err)
	}
	l.direct = p
	err := c.raw.Read(c.fill)
	n := len(l.direct)
	l.direct = nil
	if err != nil {
		return 0, c.readFailed(err)
	}
	if c.readErr != nil {
		n = 0
	}
	return n, c.readErr
}

// pass accounts for the bytes of b up to the end of a frame, or, if these are fewer than least, of
// more frames. It returns how many these are, or an error if the message has too many fragments.
func (l *library) pass(b []byte, least int) (n int, err error) {
	for n < least {
		k, ok := l.passed.scan(b[n:], l.c.s.cfg.MaxFragments)
		if !ok && l.c.load() == stateOpen {
			return n, errFragments
		}
		n += k
	}
	return n, nil
}

// Write is part of net.Conn. It drops what coder/websocket writes.
func (l *library) Write(p []byte) (int, error) { return len(p), nil }

// Close is part of net.Conn. It is called when coder/websocket will not read any more. Another
// goroutine than the reader calls it if a control frame did not arrive completely in time; then the
// reader must wake up.
func (l *library) Close() error {
	if l.dropped.Load() {
		return nil
	}
	return l.Conn.SetReadDeadline(time.Unix(1, 0))
}

// replayed and replayedDeflate are handshakes without and with compression.
var (
	replayed        = replayedRequest("")
	replayedDeflate = replayedRequest(deflateAnswer)
)

func replayedRequest(extensions string) *http.Request {
	return &http.Request{Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection":     {"Upgrade"},
		"Upgrade":        {"websocket"},
		headerVersion:    {"13"},
		headerKey:        {"AAAAAAAAAAAAAAAAAAAAAA=="},
		headerExtensions: {extensions},
	}}
}

// replay is the http.ResponseWriter for a handshake that was answered before.
type replay struct {
	l      *library
	header http.Header
}

// Header is part of http.ResponseWriter, as are the following methods.
func (r *replay) Header() http.Header         { return r.header }
func (r *replay) Write(p []byte) (int, error) { return len(p), nil }
func (r *replay) WriteHeader(int)             {}

// Hijack is part of http.Hijacker.
func (r *replay) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return r.l, bufio.NewReadWriter(r.l.br, bufio.NewWriterSize(r.l, libraryWriteBuffer)), nil
}
