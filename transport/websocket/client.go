package websocket

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

// clientTokenPrefix marks the subprotocol that is an auth token. Despite the name the token behind it is standard base64.
const clientTokenPrefix = "base64url.bearer.phx."

// clientFrameHeader is how long the header of a client's frame may be, with its mask.
const clientFrameHeader = 14

// DialWebSocket opens a WebSocket. The context bounds the handshake only, and without a deadline it is not bounded. The error is,
// by errors.As, a *HandshakeError if the server answered anything but a WebSocket.
func Dial(ctx context.Context, cfg transport.ClientConfig) (transport.ClientConn, error) {
	cfg = dial.WithDefaults(cfg)
	u, err := dial.Endpoint(&cfg, "websocket", "ws", "wss")
	if err != nil {
		return nil, err
	}
	hc, own := dial.HTTPClient(&cfg)
	if own != nil {
		own.DisableKeepAlives = true // the connection is ours after the handshake, and after a refusal nobody's
	}
	shake := &clientHandshake{next: hc.Transport}
	hc.Transport = shake
	header, host := dial.RequestHeader(cfg.Header)
	conn, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient:   hc,
		HTTPHeader:   header,
		Host:         host,
		Subprotocols: clientSubprotocols(header, cfg.AuthToken),
	})
	if err != nil {
		if resp != nil && shake.refused != nil {
			return nil, shake.refused
		}
		return nil, dial.Error(u, err)
	}
	conn.SetReadLimit(cfg.MaxMessage)
	c := &clientConn{
		conn:         conn,
		wire:         shake.wire,
		writeTimeout: cfg.WriteTimeout,
		closeTimeout: cfg.CloseTimeout,
		writing:      make(chan struct{}, 1),
		closed:       make(chan struct{}),
	}
	c.late = time.AfterFunc(cfg.WriteTimeout, c.writeTimedOut)
	c.late.Stop()
	return c, nil
}

// clientSubprotocols lists what is offered: what the user's header says, from which it is taken, and the auth token. A server that takes
// tokens answers with "phoenix"; one that does not, and has subprotocols off, ignores all of it.
func clientSubprotocols(h http.Header, token string) []string {
	var list []string
	for _, v := range h.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	h.Del("Sec-WebSocket-Protocol")
	if token != "" {
		list = append(list, "phoenix", clientTokenPrefix+base64.RawStdEncoding.EncodeToString([]byte(token)))
	}
	return list
}

// clientHandshake is a RoundTripper that puts our wire under the connection the server switches to, and keeps the answer of a server that
// does not.
type clientHandshake struct {
	next    http.RoundTripper
	wire    *dial.Wire
	refused *transport.HandshakeError
}

func (s *clientHandshake) RoundTrip(req *http.Request) (*http.Response, error) {
	s.refused = nil
	var conn net.Conn
	trace := httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	resp, err := s.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &trace)))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		s.refused = dial.Refusal(resp)
		resp.Body = http.NoBody
		return resp, nil
	}
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		s.wire = dial.NewWire(rwc, conn)
		resp.Body = s.wire
	}
	return resp, nil
}

// clientConn is a ClientConn on a WebSocket.
type clientConn struct {
	conn         *websocket.Conn
	wire         *dial.Wire
	writeTimeout time.Duration
	closeTimeout time.Duration

	writing chan struct{} // of size 1, full while a Write is running: one at a time, so that what it gathers is flushed together
	late    *time.Timer   // running while a Write is

	closing  atomic.Bool   // Close was called
	closed   chan struct{} // and has done all it can
	closeErr error

	mu       sync.Mutex
	writeErr error // of the first Write that failed
	readErr  error // what Read returns from now on
}

func (c *clientConn) Bytes() (in, out uint64) { return c.wire.In.Load(), c.wire.Out.Load() }

func (c *clientConn) Read() (serializer.Op, []byte, error) {
	typ, r, err := c.conn.Reader(context.Background())
	if err == nil {
		var data []byte
		if data, err = readClientMessage(r); err == nil && !c.closing.Load() {
			if typ != websocket.MessageText || utf8.Valid(data) {
				return serializer.Op(typ), data, nil
			}
			_ = c.shut(transport.CodeBadUTF8, "") // it ends either way
			err = websocket.CloseError{Code: transport.CodeBadUTF8, Reason: "text that is not UTF-8"}
		}
	}
	return 0, nil, c.ended(err)
}

// ended makes the error that Read returns from now on of the first one, and lets go of the connection.
func (c *clientConn) ended(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readErr != nil {
		return c.readErr
	}
	var closed websocket.CloseError
	switch {
	case c.closing.Load():
		c.readErr = transport.ErrClosed
		return c.readErr // and Close lets go
	case errors.As(err, &closed):
		c.readErr = &transport.CloseError{Code: int(closed.Code), Reason: closed.Reason}
	case errors.Is(err, websocket.ErrMessageTooBig):
		c.readErr = dial.CloseError(transport.CodeTooBig, "message too big", err)
	case c.writeErr != nil:
		c.readErr = c.writeErr
	default:
		c.readErr = fmt.Errorf("transport: read: %w", err)
	}
	c.wire.Abort()
	return c.readErr
}

// clientScratch has buffers to read messages of unknown length into.
var clientScratch = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// clientMaxScratch is how large a buffer may be that is kept. A larger one goes to the reader of the message that needed it.
const clientMaxScratch = 64 << 10

// readClientMessage reads a message to its end.
func readClientMessage(r io.Reader) ([]byte, error) {
	kept := clientScratch.Get().(*[]byte)
	defer clientScratch.Put(kept)
	buf, n := *kept, 0
	for {
		m, err := r.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF && len(buf) > clientMaxScratch:
			return buf[:n:n], nil
		case err == io.EOF:
			*kept = buf
			return append(make([]byte, 0, n), buf[:n]...), nil
		case err != nil:
			return nil, err
		case n == len(buf):
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// Batch returns how many frames are gathered into one system call.
func (c *clientConn) Batch(frames []*serializer.Frame) int {
	n, size := 0, 0
	for n < len(frames) && (n == 0 || size+clientFrameHeader+len(frames[n].Data) <= dial.CorkSize) {
		size += clientFrameHeader + len(frames[n].Data)
		n++
	}
	return n
}

func (c *clientConn) Write(frames ...*serializer.Frame) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if c.closing.Load() {
		return transport.ErrClosed
	}
	c.late.Reset(c.writeTimeout)
	err := c.write(frames)
	c.late.Stop()
	if err == nil {
		return nil
	}
	if c.closing.Load() {
		return transport.ErrClosed
	}
	return c.writeFailed(err)
}

func (c *clientConn) write(frames []*serializer.Frame) error {
	if len(frames) == 1 && len(frames[0].Data) < 4000 {
		return c.conn.Write(context.Background(), websocket.MessageType(frames[0].Op), frames[0].Data) // one system call by itself
	}
	c.wire.Cork()
	var err error
	for _, f := range frames {
		if err = c.conn.Write(context.Background(), websocket.MessageType(f.Op), f.Data); err != nil {
			break
		}
	}
	return errors.Join(err, c.wire.Uncork())
}

// writeFailed keeps the first reason for which a Write failed, and returns it. The connection is not usable any more, but what the
// server said before may still be there to read, so it is not torn down at once.
func (c *clientConn) writeFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr == nil {
		c.writeErr = fmt.Errorf("transport: write: %w", err)
		time.AfterFunc(c.closeTimeout, c.wire.Abort)
	}
	return c.writeErr
}

func (c *clientConn) writeTimedOut() {
	_ = c.writeFailed(os.ErrDeadlineExceeded) // Write returns it
	c.wire.Abort()
}

func (c *clientConn) Close(code int, reason string) error {
	if c.closing.CompareAndSwap(false, true) {
		c.closeErr = c.shut(code, reason)
		close(c.closed)
	}
	<-c.closed
	return c.closeErr
}

// shut makes the closing handshake, within closeTimeout.
func (c *clientConn) shut(code int, reason string) error {
	if !sendableCode(code) {
		code = int(websocket.StatusNoStatusRcvd)
	}
	late := time.AfterFunc(c.closeTimeout, c.wire.Abort)
	err := c.conn.Close(websocket.StatusCode(code), closeReason(reason))
	switch {
	case !late.Stop():
		err = os.ErrDeadlineExceeded
	case err == nil || websocket.CloseStatus(err) != -1 || c.over():
		return nil // servers answer with a code of their own
	}
	return fmt.Errorf("transport: close: %w", err)
}

// over reports whether the connection ended before it was closed here.
func (c *clientConn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readErr != nil && c.readErr != transport.ErrClosed
}
