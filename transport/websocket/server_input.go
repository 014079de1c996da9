package websocket

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"
)

const (
	inputSize      = 4096     // bytes read ahead in one system call
	ownInputSize   = 512      // the same without a descriptor, where the connection keeps its buffer while it waits
	maxPooledBytes = 64 << 10 // of a buffer in which a message was assembled
)

// After its close frame, the server reads and drops what the client still sends, until the client
// closes the connection, but for at most this time and this many bytes. The time is enough for the
// close frame to arrive over most networks.
const (
	drainTime    = 500 * time.Millisecond
	maxDiscarded = 4 << 20
)

var errDiscarded = errors.New("client sent too much after the close frame")

// A connection is active when its client sent something activeCount times in succession with less
// than activePause between.
const (
	activePause = time.Second
	activeCount = 8
)

// input is bytes that were read ahead: those from r to w in buf.
type input struct {
	buf  []byte
	r, w int
	own  bool // not from the pool
}

var (
	inputs   = sync.Pool{New: func() any { return &input{buf: make([]byte, inputSize)} }}
	messages = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}
)

// newInput returns an input with a copy of b.
func newInput(b []byte) *input {
	if len(b) > inputSize {
		return &input{buf: bytes.Clone(b), w: len(b), own: true}
	}
	in := inputs.Get().(*input)
	in.w = copy(in.buf, b)
	return in
}

// unread returns the bytes that were not consumed.
func (in *input) unread() []byte { return in.buf[in.r:in.w] }

// consume removes n bytes from the input.
func (c *serverConn) consume(n int) {
	if c.in.r += n; c.in.r == c.in.w {
		c.release()
	}
}

// release returns the input to the pool.
func (c *serverConn) release() {
	if c.in != nil && !c.in.own {
		c.in.r, c.in.w = 0, 0
		inputs.Put(c.in)
	}
	c.in = nil
}

// isActive counts the pauses of the client, and reports whether the connection is active.
func (c *serverConn) isActive() bool {
	if c.sparse {
		c.active = 0
	} else if c.active < activeCount {
		c.active++
	}
	return c.active == activeCount
}

// linger reads and drops what the client still sends until the network connection is closed: by the
// writer once the close frame is written, by the client, or by the timer. Closing it with unread
// bytes would reset it, and the client might not see the close frame.
func (c *serverConn) linger() {
	if c.lib != nil {
		_ = c.nc.SetReadDeadline(time.Time{}) // library.Close set one; if this fails, so does reading
	}
	for c.release(); c.readAhead() == nil; c.release() {
	}
}

// readAhead waits for bytes and puts them in c.in.
func (c *serverConn) readAhead() error {
	c.yield()
	if c.raw == nil {
		return c.readPortably()
	}
	if err := c.raw.Read(c.fill); err != nil {
		return c.readFailed(err)
	}
	return c.readErr
}

// readMore appends to the input what has already arrived, without waiting. It changes nothing
// without a descriptor, which needs to wait.
func (c *serverConn) readMore() error {
	in := c.in
	if c.raw == nil || in.own {
		return nil
	}
	c.yield() // frames may never end where a read does, so that readMore is called every time
	in.r, in.w = 0, copy(in.buf, in.unread())
	sparse := c.sparse
	c.dontWait = true
	err := c.raw.Read(c.fill)
	c.dontWait = false
	c.sparse = c.sparse || sparse
	if err != nil {
		return c.readFailed(err)
	}
	return c.readErr
}

// yield lets other goroutines run first if the client never pauses. The reader does not wait then,
// and keeps the processor until the scheduler preempts it, after 10 ms. With many such clients, all
// others would wait for that time again and again. Without a descriptor it is not known whether the
// reader waited, so it always yields.
func (c *serverConn) yield() {
	if !c.paused {
		runtime.Gosched()
	}
	c.paused = false
}

// readPortably is readAhead without a descriptor. It keeps one buffer while the connection lasts.
func (c *serverConn) readPortably() error {
	in := c.spare
	if in == nil {
		in = &input{buf: make([]byte, ownInputSize), own: true}
		c.spare = in
	}
	n, err := c.nc.Read(in.buf)
	if n <= 0 {
		return c.readFailed(err)
	}
	in.r, in.w = 0, n
	c.in = in
	return c.received(in.buf[:n])
}

// readFailed keeps an error of the network, and returns it.
func (c *serverConn) readFailed(err error) error {
	if err == nil {
		err = io.ErrNoProgress
	}
	c.readErr = err
	return err
}

// received accounts for bytes of the client, and returns the error for which reading cannot go on.
func (c *serverConn) received(p []byte) error {
	now := c.s.now()
	c.sparse = now-time.Duration(c.lastReceived.Swap(int64(now))) > activePause
	if c.load() == stateClosed && c.readErr == nil {
		if c.discarded += uint32(min(len(p), maxDiscarded)); c.discarded > maxDiscarded {
			c.readErr = errDiscarded
		}
	}
	return c.readErr
}
