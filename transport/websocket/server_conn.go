package websocket

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/outbox"
)

// Opcodes that a session does not see.
const (
	opClose serializer.Op = 8
	opPing  serializer.Op = 9
	opPong  serializer.Op = 10
)

// errSlow is the reason for the end of a connection whose client read nothing for WriteTimeout.
var errSlow = fmt.Errorf("websocket: write timed out: %w", transport.ErrFull)

// connState is the state of a connection. It only grows.
type connState uint32

const (
	stateOpen    connState = iota
	stateClosing           // the close frame is queued: nothing more is accepted
	stateClosed            // the close frame is written, and TCP is half-closed
	stateDead              // the network connection cannot be used any more
)

// serverConn is the server's end of one WebSocket. It reads whole frames itself, and has a library
// for everything else that clients send. It writes all frames itself.
//
// One goroutine at a time is the reader: it reads, calls the session and ends the connection. Where
// there is a poller, it is one of Server.readers that runs Work, and only while there is something
// to read; elsewhere it runs run. At most one other goroutine writes at a time, while writing is
// true. Either of them, or a timeout, closes the network connection when it finds that the
// connection is over. The reader then gets an error and does the rest.
type serverConn struct {
	s       *Server
	nc      net.Conn
	raw     syscall.RawConn // nil means the portable path
	session transport.Session

	lastReceived atomic.Int64               // when the client last sent something, by Server.now
	reader       atomic.Uint32              // the bits of the reader, such as readerRuns
	state        atomic.Uint32              // a connState; written under mu
	congestion   atomic.Pointer[congestion] // nil if not congested; written under mu

	// The following fields belong to the reader.

	fill      func(fd uintptr) bool // tryRead
	lib       *library              // nil until it is needed
	in        *input                // bytes that were read ahead; nil if there are none
	spare     *input                // of the portable path: the buffer for the next time
	readErr   error                 // the error of the network
	active    uint8                 // how many short pauses there were in succession, up to activeCount
	dontWait  bool                  // tryRead ends the wait if there is nothing
	paused    bool                  // the last wait found nothing to read at first
	deflate   bool                  // compression was negotiated; constant
	discarded uint32                // bytes received after the close frame was written
	slot      uint32                // of the poller, if it is watched
	watched   bool                  // by the poller; constant while the connection is open
	pausing   bool                  // here for its size, but guarded by mu: see watchPause

	mu       sync.Mutex
	writing  bool          // a writer owns the front of the queue
	peerDone bool          // the client sends nothing more: the connection is over when the close frame is written
	failed   bool          // the client violated the protocol: what it sends is not parsed any more
	sparse   bool          // the reader's, here for its size: more than activePause passed before the last bytes
	batches  uint32        // calls of Batch that have not returned
	queue    *outbox.Queue // nil if empty
	err      error         // why the connection ended
	deadline time.Duration // when timedOut is called, by Server.now; written under mu and that of timers

	// The following fields belong to timers.

	link  **serverConn // what refers to this connection in its slot; nil if it is in none
	later *serverConn  // in the list of that slot
}

func newServerConn(s *Server) *serverConn {
	c := &serverConn{s: s}
	c.fill = c.tryRead
	c.reader.Store(readerRuns) // until startReading
	return c
}

// attach sets the network connection, and the bytes that were already read from it.
func (c *serverConn) attach(nc net.Conn, early []byte) {
	c.nc = nc
	if !c.s.portable {
		c.raw = rawConn(nc)
	}
	limitUnsent(nc, c.raw)
	if len(early) > 0 {
		c.in = newInput(early)
	}
}

// start calls open and starts the reader.
func (c *serverConn) start(open func(transport.Conn) transport.Session) {
	c.s.addLive(1)
	c.lastReceived.Store(int64(c.s.now()))
	c.mu.Lock()
	c.setDeadline(c.s.cfg.IdleTimeout)
	c.mu.Unlock()
	opened := false
	defer func() {
		if !opened { // open panicked
			c.fail(&transport.CloseError{Code: transport.CodeInternal})
			c.s.timers.remove(c)
			c.s.removeLive(1)
		}
	}()
	c.session = open(c)
	opened = true
	c.startReading()
}

// Send is part of transport.Conn.
func (c *serverConn) Send(f *serializer.Frame, how transport.Delivery) error {
	e := c.s.slow.Entry(f, how)
	c.mu.Lock()
	if how.Now && c.canWrite() {
		c.add(e)
		c.writing = true
		c.s.addLive(0)
		c.mu.Unlock()
		c.flushNow()
		return nil
	}
	defer c.mu.Unlock()
	if c.load() != stateOpen {
		return transport.ErrClosed
	}
	if q := c.queue; q != nil {
		// The frames that a writer has taken do not count. They may have arrived already: a client can
		// answer them before the writer reports that they were written.
		switch c.s.slow.Admit(q, &e, how.Answer, q.TakenBytes) {
		case outbox.Dropped:
			return nil
		case outbox.NoRoom:
			return transport.ErrNoRoom
		case outbox.Overflow:
			q.DropAll()
			c.beginClose(transport.ErrFull, transport.CodeOverloaded, "slow consumer")
			return transport.ErrFull
		}
	}
	c.enqueue(e)
	return nil
}

// Close is part of transport.Conn.
func (c *serverConn) Close(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginClose(&transport.CloseError{Code: code, Reason: reason}, code, reason)
}

// Queued returns how much waits for the client, for package socket.
func (c *serverConn) Queued() (frames, bytes int, oldest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue == nil {
		return 0, 0, 0
	}
	return c.queue.Count(), c.queue.Size(), c.queue.Age(c.s.now())
}

func (c *serverConn) load() connState { return connState(c.state.Load()) }

// canWrite reports whether a frame can be written without the writers, because nothing waits for
// the client and writing does not block. The caller holds mu.
func (c *serverConn) canWrite() bool {
	return c.queue == nil && !c.writing && c.batches == 0 && c.raw != nil && !c.deflate && c.load() == stateOpen
}

// add appends e to the queue. The caller holds mu.
func (c *serverConn) add(e outbox.Entry) {
	if c.queue == nil {
		c.queue = outbox.Get()
	}
	c.queue.Enqueue(e)
	if c.s.slow.Congests(c.queue.OwnBytes) && c.load() == stateOpen {
		c.congest()
	}
}

// enqueue appends e to the queue, and schedules a writer unless one is at work. The caller holds
// mu.
func (c *serverConn) enqueue(e outbox.Entry) {
	c.add(e)
	if !c.writing && (c.batches == 0 || c.queue.Size() >= batchSize) {
		c.writing = true
		c.s.schedule(c)
	}
}

// beginClose begins the end of the connection, unless it has begun. The session receives err. The
// client receives code and reason after everything that is queued. The caller holds mu.
func (c *serverConn) beginClose(err error, code int, reason string) {
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
	if g := c.congestion.Load(); g != nil {
		g.resumeReader() // to read the client's close frame
	}
	c.setDeadline(c.s.cfg.CloseTimeout)
	c.enqueue(outbox.Entry{Frame: closeFrame(code, reason)})
}

// setDeadline makes timers call timedOut after d. The caller holds mu.
func (c *serverConn) setDeadline(d time.Duration) {
	c.s.timers.set(c, c.s.now()+d)
}

// pong answers a ping of the client. The pong is queued after the data, so the server also stops
// reading from a client that pings and does not read.
func (c *serverConn) pong(payload []byte) {
	c.awaitRoom()
	// An error means that the connection is ending.
	_ = c.Send(&serializer.Frame{Op: opPong, Data: payload}, transport.Delivery{Answer: true})
}

// lateness is how late timedOut may be called. If it is later, the process or the machine stood
// still.
const lateness = 20 * time.Millisecond

// timedOut is called when the deadline has passed.
func (c *serverConn) timedOut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.s.now()
	state := c.load()
	deadline := c.deadline
	if state == stateOpen {
		late := now - deadline
		deadline = time.Duration(c.lastReceived.Load()) + c.s.cfg.IdleTimeout
		switch {
		case c.reader.Load()&readerBusy != 0:
			deadline = now + c.s.cfg.IdleTimeout
		case deadline <= now && late > lateness:
			// Frames that arrived while this process stood still have not been read yet.
			deadline = now + late
		}
		if c.pausing {
			deadline = min(deadline, c.checkPause(now))
		}
	}
	switch {
	case state == stateDead:
	case deadline > now:
		c.s.timers.set(c, deadline)
	case state == stateOpen:
		c.beginClose(transport.ErrIdle, transport.CodeProtocol, "")
	default:
		c.s.addLive(0)
		go func() { // with TLS, closing waits for the client
			c.closeNetwork(state == stateClosing)
			c.s.removeLive(0)
		}()
	}
}

// closeNetwork closes the network connection. If reset is true, nothing more is sent, not even what
// the kernel has accepted.
func (c *serverConn) closeNetwork(reset bool) {
	if reset {
		nc := c.nc
		if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
			nc = t.NetConn() // TLS would wait to notify the peer
		}
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // if this fails, the kernel goes on sending for a while
		}
		_ = nc.Close()
	}
	_ = c.nc.Close() // nothing can be done about an error
	c.wake()
}

// fail ends the connection without a close frame, because the network failed or the client does not
// read.
func (c *serverConn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.state.Store(uint32(stateDead))
	resume := c.uncongest()
	hasRoom := c.roomFunc()
	if !c.writing {
		c.freeQueue()
	}
	c.mu.Unlock()
	resume()
	hasRoom()
	c.closeNetwork(errors.Is(err, transport.ErrFull))
}

// freeQueue returns the queue to the pool. The caller holds mu, and no writer uses the queue.
func (c *serverConn) freeQueue() {
	if c.queue != nil {
		c.queue.Free()
		c.queue = nil
	}
}
