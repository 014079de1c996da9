package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

const (
	// clientFrameHeader is the maximum length of a client's frame header, with its mask.
	clientFrameHeader = 14
	// clientMaxSingle is the payload below which the library writes a frame in one system call.
	clientMaxSingle = 4000
)

// clientConn is a transport.ClientConn over a WebSocket.
type clientConn struct {
	conn         *websocket.Conn
	wire         *dial.Wire
	writeTimeout time.Duration
	closeTimeout time.Duration

	// writing has size 1 and is full during a Write. One Write runs at a time, so that its frames are
	// flushed together.
	writing    chan struct{}
	writeTimer *time.Timer // runs during a Write

	closing  atomic.Bool   // Close was called
	closed   chan struct{} // closed when Close is done
	closeErr error         // the result of Close

	mu       sync.Mutex
	writeErr error // of the first Write that failed
	readErr  error // the final error of Read
}

func newClientConn(conn *websocket.Conn, wire *dial.Wire, cfg *transport.ClientConfig) *clientConn {
	c := &clientConn{
		conn:         conn,
		wire:         wire,
		writeTimeout: cfg.WriteTimeout,
		closeTimeout: cfg.CloseTimeout,
		writing:      make(chan struct{}, 1),
		closed:       make(chan struct{}),
	}
	c.writeTimer = time.AfterFunc(cfg.WriteTimeout, c.writeTimedOut)
	c.writeTimer.Stop()
	return c
}

// Bytes is part of transport.ClientConn.
func (c *clientConn) Bytes() (in, out uint64) { return c.wire.In.Load(), c.wire.Out.Load() }

// Read is part of transport.ClientConn.
func (c *clientConn) Read() (serializer.Op, []byte, error) {
	typ, r, err := c.conn.Reader(context.Background())
	if err == nil {
		var data []byte
		if data, err = readClientMessage(r); err == nil && !c.closing.Load() {
			if typ != websocket.MessageText || utf8.Valid(data) {
				return serializer.Op(typ), data, nil
			}
			_ = c.closeHandshake(transport.CodeBadUTF8, "") // the connection ends, whatever the result
			err = websocket.CloseError{Code: transport.CodeBadUTF8, Reason: "text that is not UTF-8"}
		}
	}
	return 0, nil, c.readFailed(err)
}

// readFailed turns the first error of reading into the final error of Read. It closes the network
// connection, unless Close does.
func (c *clientConn) readFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readErr != nil {
		return c.readErr
	}
	var closed websocket.CloseError
	switch {
	case c.closing.Load():
		c.readErr = transport.ErrClosed
		return c.readErr
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

// clientBuffers has buffers for messages of unknown length.
var clientBuffers = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// clientMaxPooled is the maximum size of a pooled buffer. A larger buffer becomes the message that
// needed it.
const clientMaxPooled = 64 << 10

// readClientMessage reads a message to its end.
func readClientMessage(r io.Reader) ([]byte, error) {
	pooled := clientBuffers.Get().(*[]byte)
	defer clientBuffers.Put(pooled)
	buf, n := *pooled, 0
	for {
		m, err := r.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF && len(buf) > clientMaxPooled:
			return buf[:n:n], nil
		case err == io.EOF:
			*pooled = buf
			return append(make([]byte, 0, n), buf[:n]...), nil
		case err != nil:
			return nil, err
		case n == len(buf):
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// Batch is part of transport.ClientConn.
func (c *clientConn) Batch(frames []*serializer.Frame) int {
	n, size := 0, 0
	for n < len(frames) && (n == 0 || size+clientFrameHeader+len(frames[n].Data) <= dial.CorkSize) {
		size += clientFrameHeader + len(frames[n].Data)
		n++
	}
	return n
}

// Write is part of transport.ClientConn.
func (c *clientConn) Write(frames ...*serializer.Frame) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if c.closing.Load() {
		return transport.ErrClosed
	}
	c.writeTimer.Reset(c.writeTimeout)
	err := c.write(frames)
	c.writeTimer.Stop()
	if err == nil {
		return nil
	}
	if c.closing.Load() {
		return transport.ErrClosed
	}
	return c.writeFailed(err)
}

func (c *clientConn) write(frames []*serializer.Frame) error {
	if len(frames) == 1 && len(frames[0].Data) < clientMaxSingle {
		return c.conn.Write(context.Background(), websocket.MessageType(frames[0].Op), frames[0].Data)
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

// writeFailed keeps the first error of writing, and returns it. The connection cannot be used any
// more. It is closed only after a delay, because frames of the server may still be there to read.
func (c *clientConn) writeFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr == nil {
		c.writeErr = fmt.Errorf("transport: write: %w", err)
		time.AfterFunc(c.closeTimeout, c.wire.Abort)
	}
	return c.writeErr
}

// writeTimedOut ends a Write that takes too long.
func (c *clientConn) writeTimedOut() {
	_ = c.writeFailed(os.ErrDeadlineExceeded) // Write returns it
	c.wire.Abort()
}

// Close is part of transport.ClientConn.
func (c *clientConn) Close(code int, reason string) error {
	if c.closing.CompareAndSwap(false, true) {
		c.closeErr = c.closeHandshake(code, reason)
		close(c.closed)
	}
	<-c.closed
	return c.closeErr
}

// closeHandshake performs the close handshake, within closeTimeout.
func (c *clientConn) closeHandshake(code int, reason string) error {
	if !sendableCode(code) {
		code = int(websocket.StatusNoStatusRcvd)
	}
	timer := time.AfterFunc(c.closeTimeout, c.wire.Abort)
	err := c.conn.Close(websocket.StatusCode(code), closeReason(reason))
	switch {
	case !timer.Stop():
		err = os.ErrDeadlineExceeded
	case err == nil || websocket.CloseStatus(err) != -1 || c.endedEarlier():
		return nil // a server may answer with another code
	}
	return fmt.Errorf("transport: close: %w", err)
}

// endedEarlier reports whether the connection had ended before Close was called.
func (c *clientConn) endedEarlier() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readErr != nil && c.readErr != transport.ErrClosed
}
