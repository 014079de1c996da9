package websocket

import (
	"compress/flate"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
)

const (
	inputSize      = 4096     // read ahead in one system call
	ownInputSize   = 512      // the same without a descriptor, where the buffer cannot be given back while waiting
	maxPooledBytes = 64 << 10 // of a buffer in which a message was put together
)

// After its close frame, the server reads and drops what the client still sends until the client hangs up, but for at
// most this long and this many bytes. The time lets the close frame arrive over most networks.
const (
	drainTime  = 500 * time.Millisecond
	drainBytes = 4 << 20
)

var errDrained = errors.New("client sent too much after the close frame")

// input is bytes that were read ahead, those from r to w.
type input struct {
	buf  []byte
	r, w int
	own  bool // not from the pool
}

var (
	inputs   = sync.Pool{New: func() any { return &input{buf: make([]byte, inputSize)} }}
	messages = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}
)

func newInput(b []byte) *input { return &input{buf: append([]byte(nil), b...), w: len(b), own: true} }

// run waits for the client and serves it until the connection ends. Between messages it waits here, not in the library: few calls deep and with
// no buffer in hand, which keeps an idle goroutine's stack at the smallest size. Serving needs a larger one, which a stack keeps once it has grown;
// so a connection that does not have much to say goes on with a fresh goroutine.
func (c *serverConn) run() {
	for c.wait() && c.serve() {
		if !c.isLively() {
			go c.run()
			return
		}
	}
}

// wait returns when something came. If nothing will, it ends the connection and reports false.
func (c *serverConn) wait() bool {
	if c.raw == nil || c.pending() {
		return true
	}
	if err := c.readAhead(); err != nil {
		c.end(err)
		return false
	}
	return true
}

// pending reports whether there are bytes that the library has not looked at.
func (c *serverConn) pending() bool { return c.in != nil || c.br.Buffered() > 0 }

// A connection is lively when its client sent something several times in succession with less than a second between.
const (
	livelyGap   = time.Second
	livelyCount = 8
)

func (c *serverConn) isLively() bool {
	if c.sparse {
		c.lively = 0
	} else if c.lively < livelyCount {
		c.lively++
	}
	return c.lively == livelyCount
}

// serve reads messages as long as there is something to read. If the connection has ended it reports false.
func (c *serverConn) serve() bool {
	for {
		if err := c.message(); err != nil {
			c.end(err)
			return false
		}
		if c.raw != nil && !c.pending() {
			return true
		}
	}
}

// message reads one message and gives it to the session. An error means that nothing more can be read, at least not by the library.
func (c *serverConn) message() error {
	c.awaitRoom()
	typ, r, err := c.lib.Reader(context.Background())
	if err != nil {
		return err
	}
	b := messages.Get().(*[]byte)
	*b, err = readAll((*b)[:0], r)
	var data []byte
	if err == nil {
		data = append(make([]byte, 0, len(*b)), *b...)
	}
	if cap(*b) <= maxPooledBytes {
		messages.Put(b)
	}
	switch {
	case err != nil:
		return err
	case c.load() != stateOpen: // it is being closed: the client's close frame is all that matters
	case int64(len(data)) > c.s.cfg.MaxMessage: // by one byte, which the library lets pass after inflating
		c.refuse(&transport.CloseError{Code: transport.CodeTooBig})
	case typ == websocket.MessageText && !utf8.Valid(data):
		c.refuse(&transport.CloseError{Code: transport.CodeBadUTF8})
	default:
		c.deliver(serializer.Op(typ), data)
	}
	return nil
}

// readAll appends to b what r gives. Unlike io.ReadAll it starts with the buffer that it is given.
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

// deliver calls the session. Whatever that does, the connection goes on, if only to its end.
func (c *serverConn) deliver(op serializer.Op, data []byte) {
	c.busy.Store(true)
	returned := false
	defer func() {
		c.busy.Store(false)
		if returned {
			return
		}
		v := recover()
		c.refuseFor(guard.ReasonFor(v), &transport.CloseError{Code: transport.CodeInternal})
		if v == nil { // runtime.Goexit: this goroutine is lost
			go c.run()
		}
	}()
	err := c.session.Receive(op, data)
	returned = true
	if err != nil {
		c.refuse(err)
	}
}

// refuse closes the connection because of what the client sent, or what the session made of it.
func (c *serverConn) refuse(err error) {
	told, ok := errors.AsType[*transport.CloseError](err)
	if !ok {
		told = &transport.CloseError{Code: transport.CodeInternal}
	}
	c.refuseFor(told, told)
}

// refuseFor closes the connection with the code of closed. The session receives the reason.
func (c *serverConn) refuseFor(reason error, closed *transport.CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut(reason, closed.Code, closed.Reason)
}

// end ends the connection after the reader's last error, and is the last thing that the reader does.
func (c *serverConn) end(err error) {
	if c.readErr == nil && c.answer(err) {
		c.linger()
	}
	c.lost(c.readErr)
	c.timer.Stop()
	_ = c.lib.CloseNow() // it gives its buffers back
	c.release()
	defer c.s.ended(1)
	defer guard.NotifyPanic(c.s.cfg.OnPanic)
	c.session.Closed(c.err) // nobody writes it any more
}

// answer answers what the library took for the end: the client's close frame, or a violation of the protocol. It
// reports whether to go on reading until the network connection is closed: the answer is still to be written, or the
// client may not have seen our close frame.
func (c *serverConn) answer(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		c.shut(&transport.CloseError{Code: int(ce.Code), Reason: ce.Reason}, answerTo(ce), "")
		c.peerDone = true
	} else {
		code := violation(err)
		c.shut(&transport.CloseError{Code: code, Reason: innermost(err)}, code, "")
		c.failed = true
	}
	state := c.load()
	return state == stateClosing || state == stateClosed && c.failed
}

// answerTo is the code that answers a client's close frame: Bandit's.
func answerTo(ce websocket.CloseError) int {
	switch c := ce.Code; {
	case !utf8.ValidString(ce.Reason):
		return transport.CodeProtocol
	case c == websocket.StatusNoStatusRcvd, c <= 1003, c >= 1007 && c <= 1011, c >= 3000:
		return int(websocket.StatusNormalClosure)
	}
	return transport.CodeProtocol
}

// violation is the code for an error of the library's that is not the network's.
func violation(err error) int {
	if errors.Is(err, websocket.ErrMessageTooBig) || errors.Is(err, errFragments) {
		return transport.CodeTooBig
	}
	if _, ok := errors.AsType[flate.CorruptInputError](err); ok {
		return transport.CodeBadUTF8 // "data inconsistent with the type of the message"
	}
	return transport.CodeProtocol
}

// innermost is the text of the error that err wraps.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// linger reads and drops what the client still sends until somebody closes the network connection: the writer once the close frame is written, the
// client, or the timer. Closing it with bytes unread would reset it, and the client might never see the close frame.
func (c *serverConn) linger() {
	_ = c.nc.SetReadDeadline(time.Time{}) // the library's Close set one; if this fails, so does reading
	for c.release(); c.readAhead() == nil; c.release() {
	}
}

// readAhead waits for bytes and puts them in c.in.
func (c *serverConn) readAhead() error {
	c.giveWay()
	if c.raw == nil {
		return c.readPortably()
	}
	if err := c.raw.Read(c.fill); err != nil {
		return c.broke(err)
	}
	return c.arrivedErr()
}

// giveWay lets others go first if the client never stops talking: the reader never waits then, and has the processor until the scheduler takes it
// away, 10 ms later. With many such clients everybody else would wait for all of these times. Without a descriptor nobody knows whether it waited.
func (c *serverConn) giveWay() {
	if !c.paused {
		runtime.Gosched()
	}
	c.paused = false
}

// readPortably is readAhead without a descriptor. It keeps one buffer for as long as the connection lasts.
func (c *serverConn) readPortably() error {
	in := c.spare
	if in == nil {
		in = &input{buf: make([]byte, ownInputSize), own: true}
		c.spare = in
	}
	n, err := c.nc.Read(in.buf)
	if n <= 0 {
		return c.broke(err)
	}
	in.r, in.w = 0, n
	c.in = in
	return c.arrived(in.buf[:n])
}

// readDirect waits for bytes and puts them in p.
func (c *serverConn) readDirect(p []byte) (int, error) {
	c.giveWay()
	if c.raw == nil {
		n, err := c.nc.Read(p)
		if n > 0 {
			return n, c.arrived(p[:n])
		}
		return 0, c.broke(err)
	}
	c.direct = p
	err := c.raw.Read(c.fill)
	n := len(c.direct)
	c.direct = nil
	if err != nil {
		return 0, c.broke(err)
	}
	if c.readErr != nil {
		n = 0
	}
	return n, c.arrivedErr()
}

func (c *serverConn) broke(err error) error {
	if err == nil {
		err = io.ErrNoProgress
	}
	c.readErr = err
	return err
}

// arrived takes note of what came.
func (c *serverConn) arrived(p []byte) error {
	now := c.s.now()
	c.sparse = now-time.Duration(c.seen.Swap(int64(now))) > livelyGap
	if !c.cut && !c.fragments.scan(p, c.s.cfg.MaxFragments) {
		c.cut = true
	}
	if c.load() == stateClosed && c.readErr == nil {
		if c.drained += uint32(min(len(p), drainBytes)); c.drained > drainBytes {
			c.readErr = errDrained
		}
	}
	return c.arrivedErr()
}

// arrivedErr is why reading cannot go on, if so.
func (c *serverConn) arrivedErr() error {
	if c.readErr == nil && c.cut && c.load() == stateOpen {
		return errFragments
	}
	return c.readErr
}

// release gives the input back.
func (c *serverConn) release() {
	if c.in != nil && !c.in.own {
		inputs.Put(c.in)
	}
	c.in = nil
}

// libraryConn is a wsConn as the library sees it: a network connection.
type libraryConn serverConn

func (l *libraryConn) Read(p []byte) (int, error) {
	c := (*serverConn)(l)
	if len(p) == 0 {
		return 0, nil
	}
	if c.in == nil {
		if len(p) >= inputSize || c.raw == nil && len(p) >= ownInputSize {
			return c.readDirect(p)
		}
		if err := c.readAhead(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in.buf[c.in.r:c.in.w])
	if c.in.r += n; c.in.r == c.in.w {
		c.release()
	}
	return n, nil
}

// Write swallows what the library wants to say: only ever a close frame, since c answers pings, and for that its error is enough.
func (l *libraryConn) Write(p []byte) (int, error) { return len(p), nil }

// Close is called by the library when it will not read any more. If it is not the reader that calls, because a control frame did not arrive whole
// in time, the reader must wake up.
func (l *libraryConn) Close() error { return l.nc.SetReadDeadline(time.Unix(1, 0)) }

func (l *libraryConn) LocalAddr() net.Addr                { return l.nc.LocalAddr() }
func (l *libraryConn) RemoteAddr() net.Addr               { return l.nc.RemoteAddr() }
func (l *libraryConn) SetDeadline(t time.Time) error      { return l.nc.SetDeadline(t) }
func (l *libraryConn) SetReadDeadline(t time.Time) error  { return l.nc.SetReadDeadline(t) }
func (l *libraryConn) SetWriteDeadline(t time.Time) error { return l.nc.SetWriteDeadline(t) }
