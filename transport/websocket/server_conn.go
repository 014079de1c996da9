package websocket

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/outbox"
)

// Opcodes that a session does not see.
const (
	opClose serializer.Op = 8
	opPong  serializer.Op = 10
)

// maxCloseReason is what fits in a close frame.
const maxCloseReason = 123

// errSlow is the reason of a connection's end when the client took nothing for too long.
var errSlow = fmt.Errorf("nothing could be written for too long: %w", transport.ErrFull)

// connState is how far a connection has come. It only grows.
type connState uint32

const (
	stateOpen    connState = iota
	stateClosing           // the close frame is queued: nothing more is accepted
	stateClosed            // the close frame is written, and the stream is ended behind it
	stateDead              // the network connection is of no use any more
)

// wsConn is the server's end of one WebSocket. It stands between the library, which reads from it what the client sends, and the network.
// What the library writes is not passed on: the only frames that it makes of itself are the close frames of its errors, and a
// wsConn makes its own. Data frames go past the library, from the queue.
//
// One goroutine reads, calls the session and ends the connection (run). At most one other writes at a time, while writing is set. The
// network connection is closed by whichever of them, or the timer, finds that it is over; the reader then gets an error and does the rest.
type serverConn struct {
	s       *Server
	nc      net.Conn
	raw     syscall.RawConn // nil: the portable path
	lib     *websocket.Conn
	br      *bufio.Reader // the library's, so that we know what it has read ahead
	session transport.Session
	timer   *time.Timer

	seen  atomic.Int64               // when something last came from the client, by WebSocket.now
	busy  atomic.Bool                // the session is being called, or the reader waits in awaitRoom: the client's silence is not known
	state atomic.Uint32              // a connState, written under mu
	jam   atomic.Pointer[congestion] // nil: the connection is not congested; written under mu

	// The reader's.
	fill      func(fd uintptr) bool // tryRead
	in        *input                // read ahead; nil when there is nothing
	spare     *input                // of the portable path, for next time
	direct    []byte                // where tryRead is to read to instead; cut to what it read
	readErr   error                 // what the network said
	lively    uint8                 // how many short gaps there were in succession
	cut       bool                  // a message has too many fragments
	paused    bool                  // there was nothing to read for a moment
	deflate   bool                  // negotiated; it does not change
	drained   uint32                // bytes that came after the close frame was written
	fragments fragments

	mu       sync.Mutex
	writing  bool          // the queue is a writer's to empty
	peerDone bool          // nothing more is expected from the client: once the close frame is written, it is over
	failed   bool          // the client broke the protocol: what it still sends is not parsed
	sparse   bool          // the reader's, here for its size: more than livelyGap passed between the last two times that something came
	queue    *outbox.Queue // nil when empty
	offset   int           // how many bytes of the queue's first frame were written, of its head also
	err      error         // why it ended
	deadline time.Duration // when the timer is to fire, by WebSocket.now
	next     *serverConn   // the list of those that wait for a writer
}

// congestion is what waits for a congested connection.
type congestion struct {
	over   chan struct{} // closed when the reader may go on
	isOver bool          // over is closed; under the connection's lock
	resume func()        // see Conn.Congested; nil: nobody is to be notified; under the connection's lock
}

// letRead lets the reader go on. The caller holds the connection's lock.
func (jam *congestion) letRead() {
	if !jam.isOver {
		jam.isOver = true
		close(jam.over)
	}
}

func newServerConn(s *Server) *serverConn {
	c := &serverConn{s: s}
	c.fill = c.tryRead
	return c
}

// attach gives c its network connection and what was already read from it.
func (c *serverConn) attach(nc net.Conn, early []byte, deflate bool) {
	c.nc = nc
	c.deflate = deflate
	if !c.s.portable {
		c.raw = rawConn(nc)
	}
	limitUnsent(nc)
	if len(early) > 0 {
		c.in = newInput(early)
		c.cut = !c.fragments.scan(early, c.s.cfg.MaxFragments)
	}
}

// start begins to serve the session that open makes.
func (c *serverConn) start(lib *websocket.Conn, open func(transport.Conn) transport.Session) {
	c.lib = lib
	c.br.Reset((*libraryConn)(c)) // the library put its own reader between
	c.s.began(1)
	c.seen.Store(int64(c.s.now()))
	c.mu.Lock() // the timer could fire at once
	c.deadline = c.s.now() + c.s.cfg.IdleTimeout
	c.timer = time.AfterFunc(c.s.cfg.IdleTimeout, c.tick)
	c.mu.Unlock()
	opened := false
	defer func() {
		if !opened { // it panicked
			c.timer.Stop()
			c.lost(&transport.CloseError{Code: transport.CodeInternal})
			c.lib.CloseNow()
			c.s.ended(1)
		}
	}()
	c.session = open(c)
	opened = true
	go c.run()
}

// Send implements [Conn].
func (c *serverConn) Send(f *serializer.Frame, how transport.Delivery) error {
	e := c.s.slow.Entry(f, how)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load() != stateOpen {
		return transport.ErrClosed
	}
	if q := c.queue; q != nil {
		// What a writer has may have arrived already: the client can answer it sooner than the writer gets to say so. It does not count.
		switch c.s.slow.Admit(q, &e, how.Answer, q.TakenBytes) {
		case outbox.Dropped:
			return nil
		case outbox.NoRoom:
			return transport.ErrNoRoom
		case outbox.Overflow:
			q.DropAll()
			c.shut(transport.ErrFull, transport.CodeOverloaded, "slow consumer")
			return transport.ErrFull
		}
	}
	c.push(e)
	return nil
}

// Close implements [Conn].
func (c *serverConn) Close(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut(&transport.CloseError{Code: code, Reason: reason}, code, reason)
}

func (c *serverConn) load() connState { return connState(c.state.Load()) }

// push queues e and sees to it that somebody writes it. The caller holds mu.
func (c *serverConn) push(e outbox.Entry) {
	if c.queue == nil {
		c.queue = outbox.Get()
	}
	c.queue.Enqueue(e)
	if c.s.slow.Congests(c.queue.OwnBytes) && c.load() == stateOpen {
		c.congest()
	}
	if !c.writing {
		c.writing = true
		c.s.schedule(c)
	}
}

// shut begins the end of the connection, unless it has begun: err is why, code and reason are what the client is told, behind all that is
// queued. The caller holds mu.
func (c *serverConn) shut(err error, code int, reason string) {
	if c.load() != stateOpen {
		return
	}
	c.err = err
	switch {
	case err == transport.ErrIdle:
		c.s.idle.Add(1)
	case code == transport.CodeTooBig:
		c.s.tooBig.Add(1)
	case code == transport.CodeProtocol, code == transport.CodeBadUTF8:
		c.s.invalid.Add(1)
	}
	c.state.Store(uint32(stateClosing))
	if jam := c.jam.Load(); jam != nil {
		jam.letRead() // for the client's close frame
	}
	c.within(c.s.cfg.CloseTimeout)
	c.push(outbox.Entry{Frame: closeFrame(code, reason)})
}

// within sets the time for what the connection's end waits for now. The caller holds mu.
func (c *serverConn) within(d time.Duration) {
	c.deadline = c.s.now() + d
	c.timer.Reset(d)
}

// closeFrame makes a close frame. A code that must not be sent is sent as 1011, a reason that does not fit is cut.
func closeFrame(code int, reason string) *serializer.Frame {
	if !sendableCode(code) {
		code = transport.CodeInternal
	}
	reason = closeReason(reason)
	data := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reason)), uint16(code))
	return &serializer.Frame{Op: opClose, Data: append(data, reason...)}
}

// sendableCode reports whether either end may send the close code.
func sendableCode(code int) bool {
	switch code {
	case 1004, 1005, 1006:
		return false
	}
	return 1000 <= code && code <= 1014 || 3000 <= code && code <= 4999
}

// closeReason is what a close frame can say of a reason: UTF-8, and not more than fits.
func closeReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxCloseReason {
		return reason
	}
	n := maxCloseReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// ping answers a ping of the client's. The pong is queued behind the data, so a client that pings and does not read is not read either.
func (c *serverConn) ping(_ context.Context, payload []byte) bool {
	c.awaitRoom()
	// An error means that the connection is ending.
	_ = c.Send(&serializer.Frame{Op: opPong, Data: append([]byte(nil), payload...)}, transport.Delivery{Answer: true})
	return false
}

// Congested implements [Conn].
func (c *serverConn) Congested(resume func()) bool {
	if c.jam.Load() == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	jam := c.jam.Load()
	if jam != nil && resume != nil {
		jam.resume = resume
	}
	return jam != nil
}

// awaitRoom is called by the reader. While the connection is congested it waits, and the client is not read. If the client takes nothing
// meanwhile, WriteTimeout ends the wait.
func (c *serverConn) awaitRoom() {
	jam := c.jam.Load()
	if jam == nil {
		return
	}
	c.busy.Store(true)
	for ; jam != nil && c.load() == stateOpen; jam = c.jam.Load() {
		<-jam.over
	}
	c.seen.Store(int64(c.s.now())) // the client may have sent something long ago
	c.busy.Store(false)
}

// congest begins congestion. The caller holds mu.
func (c *serverConn) congest() {
	if c.jam.Load() == nil {
		c.jam.Store(&congestion{over: make(chan struct{})})
	}
}

// uncongest ends congestion, if there is any, and lets the reader go on. It returns what to call after mu was released. The caller holds mu.
func (c *serverConn) uncongest() (resume func()) {
	jam := c.jam.Load()
	if jam == nil {
		return func() {}
	}
	c.jam.Store(nil)
	jam.letRead()
	if jam.resume == nil {
		return func() {}
	}
	return jam.resume
}

// lateness is how late a timer may be before we think that it was not the client who slept.
const lateness = 20 * time.Millisecond

// tick runs when the timer fires.
func (c *serverConn) tick() {
	c.mu.Lock()
	now := c.s.now()
	state := c.load()
	if state == stateOpen {
		late := now - c.deadline
		c.deadline = time.Duration(c.seen.Load()) + c.s.cfg.IdleTimeout
		switch {
		case c.busy.Load():
			c.deadline = now + c.s.cfg.IdleTimeout
		case c.deadline <= now && late > lateness:
			// This process, or the machine, stood still. What the client sent meanwhile has yet to be read.
			c.deadline = now + late
		}
	}
	switch left := c.deadline - now; {
	case state == stateDead:
	case left > 0:
		c.timer.Reset(left)
	case state == stateOpen:
		c.shut(transport.ErrIdle, transport.CodeProtocol, "")
	default:
		c.mu.Unlock()
		c.abandon(state == stateClosing)
		return
	}
	c.mu.Unlock()
}

// abandon closes the network connection. With reset, nothing more is sent, not even what the kernel has taken.
func (c *serverConn) abandon(reset bool) {
	if reset {
		nc := c.nc
		if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
			nc = t.NetConn() // TLS would wait to say goodbye
		}
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // or the kernel goes on for a while: no harm
		}
		_ = nc.Close()
	}
	_ = c.nc.Close() // there is nothing to be done about an error
}

// lost ends the connection without a word to the client, since the network is gone or the client does not listen.
func (c *serverConn) lost(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.state.Store(uint32(stateDead))
	resume := c.uncongest()
	quiet := c.becameQuiet()
	if !c.writing {
		c.freeQueue()
	}
	c.mu.Unlock()
	resume()
	quiet()
	c.abandon(errors.Is(err, transport.ErrFull))
}

// freeQueue gives the queue back. The caller holds mu, and no writer has any of it.
func (c *serverConn) freeQueue() {
	if c.queue != nil {
		c.queue.Free()
		c.queue, c.offset = nil, 0
	}
}
