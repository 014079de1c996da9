package websocket

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"bennu.example/serializer"
)

const (
	batchSize  = 64 << 10  // frames joined in one write, and what a connection may write before it is another's turn
	directSize = 32 << 10  // of a payload that is written from where it is
	chunkSize  = 16 << 10  // written at a time without a descriptor: a record of TLS
	maxUnsent  = 128 << 10 // that the kernel is to hold, see limitUnsent
	maxHeader  = 10        // of a server's frame
)

// outgoing is a frame in a writer's hands.
type outgoing struct {
	frame   *serializer.Frame
	first   byte // of the header: FIN, RSV1 and the opcode
	payload []byte
}

// header appends the head of the frame.
func (o *outgoing) header(dst []byte) []byte {
	dst = append(dst, o.first)
	switch n := len(o.payload); {
	case n <= 125:
		return append(dst, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

func (o *outgoing) headerSize() int {
	switch n := len(o.payload); {
	case n <= 125:
		return 2
	case n <= 0xffff:
		return 4
	default:
		return 10
	}
}

// writer is a goroutine's tools for writing to one connection after another.
type writer struct {
	taken    []*serializer.Frame // the queue's, for frames
	frames   []outgoing
	i        int  // the frame to go on with
	offset   int  // how many of its bytes were written
	progress bool // something was written
	stalled  bool // the kernel took less than there was
	err      error

	writes, bytes int // since it was last counted

	try, wait func(fd uintptr) bool // attempt and attemptOrWait
}

var (
	writers = sync.Pool{New: func() any {
		w := &writer{}
		w.try, w.wait = w.attempt, w.attemptOrWait
		return w
	}}
	batches = sync.Pool{New: func() any { b := make([]byte, 0, batchSize); return &b }}
	chunks  = sync.Pool{New: func() any { b := make([]byte, 0, chunkSize); return &b }}
)

// next is the bytes to write next: frames joined in b, or a long payload itself.
func (w *writer) next(b []byte) []byte {
	b = b[:0]
	offset := w.offset
	for i := w.i; i < len(w.frames) && len(b) < cap(b); i++ {
		o := &w.frames[i]
		size := o.headerSize()
		if offset < size {
			if cap(b)-len(b) < size-offset {
				break
			}
			var head [maxHeader]byte
			b = append(b, o.header(head[:0])[offset:]...)
			offset = size
		}
		rest := o.payload[offset-size:]
		if len(b) == 0 && len(rest) >= directSize {
			return rest
		}
		b = append(b, rest[:min(len(rest), cap(b)-len(b))]...)
		offset = 0
	}
	return b
}

// wrote goes n bytes on.
func (w *writer) wrote(n int) {
	w.progress = w.progress || n > 0
	w.writes++
	w.bytes += n
	for n > 0 {
		o := &w.frames[w.i]
		left := o.headerSize() + len(o.payload) - w.offset
		if n < left {
			w.offset += n
			return
		}
		n -= left
		w.i++
		w.offset = 0
	}
}

// attempt writes what the kernel takes. It never waits.
func (w *writer) attempt(fd uintptr) bool {
	w.stalled, w.progress = false, false
	b := batches.Get().(*[]byte)
	defer batches.Put(b)
	for w.i < len(w.frames) {
		p := w.next(*b)
		n, err := tryWrite(fd, p)
		w.wrote(n)
		if err != nil && err != errWouldBlock {
			w.err = err
			return true
		}
		if n < len(p) {
			w.stalled = true
			return true
		}
	}
	return true
}

// attemptOrWait is attempt, but reports false, so that it is called again, if nothing was written.
func (w *writer) attemptOrWait(fd uintptr) bool {
	w.attempt(fd)
	return w.progress || w.err != nil
}

// clear forgets the frames.
func (w *writer) clear() {
	clear(w.taken)
	clear(w.frames)
	w.taken, w.frames = w.taken[:0], w.frames[:0]
	w.i, w.offset, w.stalled, w.err = 0, 0, false, nil
}

func (s *Server) putWriter(w *writer) {
	s.writes.Add(uint64(w.writes))
	s.wrote.Add(uint64(w.bytes))
	w.writes, w.bytes = 0, 0
	writers.Put(w)
}

// schedule has c's queue written, by a pool's writer or, without a descriptor, by a goroutine of its own. The caller holds c.mu and has set
// c.writing.
func (s *Server) schedule(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.raw == nil {
		s.live++
		go c.drain()
		return
	}
	if s.last == nil {
		s.first = c
	} else {
		s.last.next = c
	}
	s.last = c
	if s.writers < s.maxWriters {
		s.writers++
		s.live++
		go s.write()
	}
}

// unschedule takes the connection that has waited longest. If there is none, the writer that asks has to end.
func (s *Server) unschedule() *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.first
	if c == nil {
		s.writers--
		return nil
	}
	if s.first = c.next; s.first == nil {
		s.last = nil
	}
	c.next = nil
	return c
}

// write is one of the pool's goroutines. It never waits for a client.
func (s *Server) write() {
	w := writers.Get().(*writer)
	for c := s.unschedule(); c != nil; c = s.unschedule() {
		c.flush(w)
	}
	s.putWriter(w)
	s.ended(0)
}

// flush writes what the kernel takes of a batch. If more is left, it leaves it to others.
func (c *serverConn) flush(w *writer) {
	if !c.take(w) {
		return
	}
	if err := c.raw.Write(w.try); err != nil {
		w.err = err
	}
	stalled := w.stalled
	switch {
	case !c.settle(w):
	case stalled:
		c.s.began(0)
		go c.drain()
	default:
		c.mu.Lock()
		c.s.schedule(c)
		c.mu.Unlock()
	}
}

// drain writes until nothing is left, and waits for the client as long as that takes something now and then.
func (c *serverConn) drain() {
	w := writers.Get().(*writer)
	for more := true; more && c.take(w); more = c.settle(w) {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.WriteTimeout)) // if this fails, so does writing
		var err error
		if c.raw == nil {
			err = c.writeChunk(w)
		} else {
			err = c.raw.Write(w.wait)
			_ = c.nc.SetWriteDeadline(time.Time{}) // the pool's writers set none
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errSlow
		}
		if err != nil {
			w.err = err
		}
	}
	c.s.putWriter(w)
	c.s.ended(0)
}

// writeChunk writes a part of a batch, without a descriptor.
func (c *serverConn) writeChunk(w *writer) error {
	b := chunks.Get().(*[]byte)
	defer chunks.Put(b)
	p := w.next(*b)
	n, err := c.nc.Write(p[:min(len(p), chunkSize)])
	w.wrote(n)
	return err
}

// take gives w the next batch. If there is none, since the connection is dead, it reports false and c is no longer being written to.
func (c *serverConn) take(w *writer) bool {
	c.mu.Lock()
	if c.load() == stateDead {
		c.writing = false
		c.freeQueue()
		c.mu.Unlock()
		return false
	}
	w.taken = c.queue.Take(w.taken, min(batchSize, c.s.cfg.MaxQueue/4)) // leaves policy DropOldest something to drop
	for _, f := range w.taken {
		w.frames = append(w.frames, outgoing{frame: f, first: 0x80 | byte(f.Op), payload: f.Data})
	}
	w.offset = c.offset
	c.mu.Unlock()
	if c.deflate {
		for i := range w.frames {
			w.frames[i].deflate(c.s.deflated)
		}
	}
	return true
}

// settle takes note of what w wrote. It reports whether c has more to be written, or else is no longer being written to.
func (c *serverConn) settle(w *writer) (more bool) {
	err := w.err
	hangUp, endStream := false, false
	c.mu.Lock()
	last, obsolete := c.queue.Written(w.i, w.offset > 0)
	c.s.slow.Conflated.Add(uint64(obsolete))
	c.offset = w.offset
	w.clear()
	if last != nil && last.Op == opClose && c.load() == stateClosing {
		c.state.Store(uint32(stateClosed))
		c.within(c.s.drainTime)
		hangUp, endStream = c.peerDone, !c.peerDone
	}
	if err != nil {
		c.state.Store(uint32(stateDead)) // at once, lest somebody else write on after half a frame
		if c.err == nil {
			c.err = err // otherwise it was ending, and was counted by that reason
			if err == errSlow {
				c.s.slow.Ended.Add(1)
			}
		}
	}
	quiet := c.becameQuiet()
	more = c.load() != stateDead && !c.queue.Empty()
	if !more {
		c.writing = false
		c.freeQueue()
	}
	resume := func() {}
	if c.queue == nil || c.s.slow.Drained(c.queue.OwnBytes) {
		resume = c.uncongest()
	}
	c.mu.Unlock()
	resume()
	quiet()
	switch {
	case err != nil:
		c.lost(err)
	case hangUp:
		c.abandon(false)
	case endStream:
		c.endStream()
	}
	return more
}

// endStream ends our side of the TCP connection right behind the close frame: many clients notice nothing but
// that. What the client still sends is read and dropped for a moment, see drainTime, because closing a socket with
// unread input resets the connection, and the reset can overtake the close frame.
func (c *serverConn) endStream() {
	type closeWriter interface{ CloseWrite() error }
	if t, ok := c.nc.(interface {
		closeWriter
		NetConn() net.Conn
	}); ok { // TLS: its own end of stream does not end the TCP connection
		_ = t.CloseWrite() // if this fails, so does the next
		if tcp, ok := t.NetConn().(closeWriter); ok && tcp.CloseWrite() == nil {
			return
		}
	} else if nc, ok := c.nc.(closeWriter); ok && nc.CloseWrite() == nil {
		return
	}
	c.mu.Lock()
	failed := c.failed
	c.mu.Unlock()
	if failed { // its answer to the close frame would not be recognized
		c.abandon(false)
	}
}
