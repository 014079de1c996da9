package websocket

import (
	"compress/flate"
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/coder/websocket"

	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
)

// run is the reader of a connection that no poller watches: it waits for the client and serves it
// until the connection ends.
//
// Between messages it waits here: with few calls on the stack and without a buffer. A connection
// that is not active continues on a new goroutine, because serving needs a larger stack, and a
// stack that has grown stays large. It gives up its library, too.
func (c *serverConn) run() {
	for c.wait() && c.serve() {
		if !c.isActive() {
			c.dropLibrary()
			go c.run()
			return
		}
	}
}

// wait returns true when there is something to read. If there will be nothing more to read, it ends
// the connection and returns false.
func (c *serverConn) wait() bool {
	if c.raw == nil || c.pending() {
		return true
	}
	if err := c.readAhead(); err != nil {
		c.finish(err)
		return false
	}
	return true
}

// pending reports whether there are bytes that were read ahead.
func (c *serverConn) pending() bool { return c.in != nil || c.lib != nil && c.lib.br.Buffered() > 0 }

// serve reads messages while there is something to read. It returns false if the connection ended.
func (c *serverConn) serve() bool {
	for {
		next, err := c.message()
		if next != nil {
			next.Start()
		}
		if err != nil {
			c.finish(err)
			return false
		}
		switch {
		case c.raw == nil && c.sparse: // run does not notice pauses
			c.dropLibrary()
		case c.raw != nil && !c.pending():
			return true
		}
	}
}

// message reads one message or control frame, and passes a message to the session. Next is the
// mailbox that must handle it, if that is pending. An error means that nothing more can be read. It
// is a websocket.CloseError if the client sent a close frame.
func (c *serverConn) message() (next mailbox.Pending, err error) {
	c.awaitRoom()
	if c.lib != nil && c.deflate || c.s.noFrames { // see library.drop
		return c.libraryMessage()
	}
	if c.in == nil {
		if err := c.readAhead(); err != nil {
			return nil, err
		}
	}
	f, state := parseFrame(c.in.unread(), c.s.cfg.MaxMessage)
	if state == framePartial {
		if err := c.readMore(); err != nil {
			return nil, err
		}
		f, state = parseFrame(c.in.unread(), c.s.cfg.MaxMessage)
	}
	if state != frameWhole {
		return c.libraryMessage()
	}
	payload := f.unmasked()
	c.consume(f.size)
	switch f.op {
	case opPing:
		c.pong(payload)
	case opPong:
	case opClose:
		return nil, closeError(payload)
	default:
		return c.receive(f.op, payload), nil
	}
	return nil, nil
}

// libraryMessage is message for what the library reads.
func (c *serverConn) libraryMessage() (next mailbox.Pending, err error) {
	if c.lib == nil {
		if c.lib, err = newLibrary(c); err != nil {
			return nil, err
		}
	}
	b := messages.Get().(*[]byte)
	op, all, err := c.lib.message((*b)[:0])
	*b = all
	var data []byte
	if err == nil {
		data = append(make([]byte, 0, len(all)), all...)
	}
	if cap(*b) <= maxPooledBytes {
		messages.Put(b)
	}
	if err != nil {
		return nil, err
	}
	return c.receive(op, data), nil
}

// dropLibrary releases the library of a connection that has not sent anything for it for a while.
func (c *serverConn) dropLibrary() {
	if c.lib != nil && c.lib.drop() {
		c.lib = nil
	}
}

// receive passes a message to the session, unless it is refused.
func (c *serverConn) receive(op serializer.Op, data []byte) mailbox.Pending {
	switch {
	case c.load() != stateOpen: // it is being closed, and waits for the client's close frame only
	case int64(len(data)) > c.s.cfg.MaxMessage: // by one byte, which the library accepts after decompression
		c.refuse(&transport.CloseError{Code: transport.CodeTooBig})
	case op == serializer.OpText && !utf8.Valid(data):
		c.refuse(&transport.CloseError{Code: transport.CodeBadUTF8})
	default:
		return c.dispatch(op, data)
	}
	return nil
}

// pendingReceiver is implemented by sessions that can leave it to the connection which goroutine
// handles a message. Package socket does.
type pendingReceiver interface {
	// ReceivePending is transport.Session.Receive, but returns the mailbox of the message if that was
	// idle.
	ReceivePending(op serializer.Op, data []byte) (mailbox.Pending, error)
}

// dispatch calls the session. If the session fails, the connection is closed with a close frame.
func (c *serverConn) dispatch(op serializer.Op, data []byte) (next mailbox.Pending) {
	c.reader.Or(readerBusy)
	returned := false
	defer func() {
		c.reader.And(^uint32(readerBusy))
		if returned {
			return
		}
		v := recover()
		c.refuseFor(guard.ReasonFor(v), &transport.CloseError{Code: transport.CodeInternal})
		if v == nil { // runtime.Goexit ended this goroutine
			if c.watched {
				c.s.readers.Add(c)
			} else {
				go c.run()
			}
		}
	}()
	var err error
	if s, ok := c.session.(pendingReceiver); ok {
		next, err = s.ReceivePending(op, data)
	} else {
		err = c.session.Receive(op, data)
	}
	returned = true
	if err != nil {
		c.refuse(err)
	}
	return next
}

// refuse closes the connection because of a message, or because the session returned err for it.
func (c *serverConn) refuse(err error) {
	closed, ok := errors.AsType[*transport.CloseError](err)
	if !ok {
		closed = &transport.CloseError{Code: transport.CodeInternal}
	}
	c.refuseFor(closed, closed)
}

// refuseFor closes the connection with the code of closed. The session receives reason.
func (c *serverConn) refuseFor(reason error, closed *transport.CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginClose(reason, closed.Code, closed.Reason)
}

// finish ends the connection after the reader's last error. It is the last call of the reader.
func (c *serverConn) finish(err error) {
	if c.readErr == nil && c.answerEnd(err) {
		c.linger()
	}
	c.fail(c.readErr)
	c.s.timers.remove(c)
	if c.lib != nil {
		_ = c.lib.conn.CloseNow() // it returns its buffers to their pool
	}
	c.release()
	if c.watched {
		c.s.getPoller().forget(c) // there is one as long as there are connections
	}
	defer c.s.removeLive(1)
	defer guard.NotifyPanic(c.s.cfg.OnPanic)
	c.session.Closed(c.err) // nobody writes c.err any more
}

// answerEnd answers the error that ended reading: the client's close frame, or a violation of the
// protocol that the library found. It reports whether the reader must read on until the network
// connection is closed, because the answer is still to be written or the client may not have seen
// our close frame.
func (c *serverConn) answerEnd(err error) bool {
	c.mu.Lock()
	c.batches++
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		c.beginClose(&transport.CloseError{Code: int(ce.Code), Reason: ce.Reason}, answerCode(ce), "")
		c.peerDone = true
	} else {
		code := violationCode(err)
		c.beginClose(&transport.CloseError{Code: code, Reason: innermost(err)}, code, "")
		c.failed = true
	}
	state := c.load()
	readOn := state == stateClosing || state == stateClosed && c.failed
	c.mu.Unlock()
	c.endBatch() // it writes the answer now, on this goroutine
	return readOn
}

// closeError returns the client's close frame as an error. Its payload is valid.
func closeError(payload []byte) websocket.CloseError {
	if len(payload) == 0 {
		return websocket.CloseError{Code: websocket.StatusNoStatusRcvd}
	}
	code := binary.BigEndian.Uint16(payload)
	return websocket.CloseError{Code: websocket.StatusCode(code), Reason: string(payload[2:])}
}

// answerCode returns the code that answers a client's close frame, as Bandit does.
func answerCode(ce websocket.CloseError) int {
	switch c := ce.Code; {
	case !utf8.ValidString(ce.Reason):
		return transport.CodeProtocol
	case c == websocket.StatusNoStatusRcvd, c <= 1003, c >= 1007 && c <= 1011, c >= 3000:
		return int(websocket.StatusNormalClosure)
	}
	return transport.CodeProtocol
}

// violationCode returns the code for an error of the library that is not an error of the network.
func violationCode(err error) int {
	if errors.Is(err, websocket.ErrMessageTooBig) || errors.Is(err, errFragments) {
		return transport.CodeTooBig
	}
	if _, ok := errors.AsType[flate.CorruptInputError](err); ok {
		return transport.CodeBadUTF8 // "data inconsistent with the type of the message"
	}
	return transport.CodeProtocol
}

// innermost returns the text of the innermost error that err wraps.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
