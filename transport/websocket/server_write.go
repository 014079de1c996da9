package websocket

import (
	"errors"
	"net"
	"os"
	"time"
)

// maxIdleWaiting is the largest array that Server.waiting keeps while it is empty.
const maxIdleWaiting = 1024

// schedule gets c's queue written: by a writer of the pool, or without a descriptor by a goroutine
// of its own. The caller holds c.mu and has set c.writing.
func (s *Server) schedule(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.raw == nil {
		s.live++
		go c.drain()
		return
	}
	s.waiting.Push(c)
	if s.writers < s.maxWriters {
		s.writers++
		s.live++
		go s.write()
	}
}

// Batch calls f, and then writes the frames that f has sent, on this goroutine. They are still in
// the processor's cache, and need no turn of the writers. More than batchSize does not wait for the
// end of f, because other goroutines send as well. The caller must hold no locks, and f must not
// block.
func (c *serverConn) Batch(f func()) {
	c.mu.Lock()
	c.batches++
	c.mu.Unlock()
	defer c.endBatch()
	f()
}

func (c *serverConn) endBatch() {
	c.mu.Lock()
	c.batches--
	if c.batches > 0 || c.writing || c.queue == nil {
		c.mu.Unlock()
		return
	}
	c.writing = true
	if c.raw == nil {
		c.s.schedule(c)
		c.mu.Unlock()
		return
	}
	c.s.addLive(0)
	c.mu.Unlock()
	c.flushNow()
}

// flushNow is flush on the goroutine of its caller, which has set c.writing and has called
// addLive(0) under mu.
func (c *serverConn) flushNow() {
	w := writers.Get().(*writer)
	c.flush(w)
	w.release(c.s)
	c.s.removeLive(0)
}

// unschedule returns the connection that has waited longest for a writer. If it returns nil, the
// calling writer must end.
func (s *Server) unschedule() *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting.Len() == 0 {
		s.waiting.Clear(maxIdleWaiting)
		s.writers--
		return nil
	}
	return s.waiting.Pop()
}

// write is one goroutine of the pool. It never waits for a client.
func (s *Server) write() {
	w := writers.Get().(*writer)
	for c := s.unschedule(); c != nil; c = s.unschedule() {
		c.flush(w)
	}
	w.release(s)
	s.removeLive(0)
}

// flush writes what the kernel accepts of one batch. If frames are left, it schedules c again, or
// starts drain if the kernel accepts no more.
func (c *serverConn) flush(w *writer) {
	if !c.takeBatch(w) {
		return
	}
	if err := c.raw.Write(w.try); err != nil {
		w.err = err
	}
	stalled := w.stalled
	switch {
	case !c.settleBatch(w):
	case stalled:
		c.s.addLive(0)
		go c.drain()
	default:
		c.mu.Lock()
		c.s.schedule(c)
		c.mu.Unlock()
	}
}

// drain writes until nothing is left. It waits for the client, as long as that accepts something
// within each WriteTimeout.
func (c *serverConn) drain() {
	w := writers.Get().(*writer)
	for more := true; more && c.takeBatch(w); more = c.settleBatch(w) {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.WriteTimeout)) // if this fails, so does writing
		var err error
		if c.raw == nil {
			err = c.writeChunk(w)
		} else {
			err = c.raw.Write(w.wait)
			_ = c.nc.SetWriteDeadline(time.Time{}) // the writers of the pool need none
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errSlow
		}
		if err != nil {
			w.err = err
		}
	}
	w.release(c.s)
	c.s.removeLive(0)
}

// writeChunk writes a part of a batch without a descriptor.
func (c *serverConn) writeChunk(w *writer) error {
	b := chunks.Get().(*[]byte)
	defer chunks.Put(b)
	p := w.next(*b)
	n, err := c.nc.Write(p[:min(len(p), chunkSize)])
	w.advance(n)
	return err
}

// takeBatch gives w the next batch. If the connection is dead, it returns false, and c has no
// writer any more.
func (c *serverConn) takeBatch(w *writer) bool {
	c.mu.Lock()
	if c.load() == stateDead {
		c.writing = false
		c.freeQueue()
		c.mu.Unlock()
		return false
	}
	c.queue.Stamp(c.s.now())
	// A small batch leaves frames that DropOldest can drop.
	w.taken = c.queue.Take(w.taken, min(batchSize, c.s.cfg.MaxQueue/4))
	for _, f := range w.taken {
		w.frames = append(w.frames, outgoing{frame: f, first: 0x80 | byte(f.Op), payload: f.Data})
	}
	w.offset = c.queue.Offset
	c.mu.Unlock()
	if c.deflate {
		for i := range w.frames {
			w.frames[i].deflate(c.s.deflated)
		}
	}
	return true
}

// settleBatch removes what w wrote from the queue. It returns true if frames are left. Otherwise c
// has no writer any more.
func (c *serverConn) settleBatch(w *writer) (more bool) {
	err := w.err
	hangUp, halfClose := false, false
	c.mu.Lock()
	last, obsolete := c.queue.Written(w.i, w.offset > 0)
	c.s.slow.Conflated.Add(uint64(obsolete))
	c.queue.Offset = w.offset
	w.clear()
	if last != nil && last.Op == opClose && c.load() == stateClosing {
		c.state.Store(uint32(stateClosed))
		c.setDeadline(c.s.drainTime)
		hangUp, halfClose = c.peerDone, !c.peerDone
	}
	if err != nil {
		c.state.Store(uint32(stateDead)) // now, so that no other writer continues after a part of a frame
		if c.err == nil {
			c.err = err // otherwise the connection was ending, and its reason was counted
			if err == errSlow {
				c.s.slow.Ended.Add(1)
			}
		}
	}
	hasRoom := c.roomFunc()
	more = c.load() != stateDead && !c.queue.Empty()
	if !more {
		c.writing = false
		c.freeQueue()
	}
	resume := func() {}
	if c.queue == nil || c.s.slow.ResumesReading(c.queue.OwnBytes) {
		resume = c.uncongest()
	}
	c.mu.Unlock()
	resume()
	hasRoom()
	switch {
	case err != nil:
		c.fail(err)
	case hangUp:
		c.closeNetwork(false)
	case halfClose:
		c.halfClose()
	}
	return more
}

// halfClose ends the server's side of the TCP connection after the close frame, because many
// clients notice nothing else.
//
// What the client still sends is read and dropped for a moment: see drainTime. Closing a socket
// with unread input would reset the connection, and the reset can overtake the close frame.
func (c *serverConn) halfClose() {
	type closeWriter interface{ CloseWrite() error }
	if t, ok := c.nc.(interface {
		closeWriter
		NetConn() net.Conn
	}); ok { // TLS, whose own end of the stream does not end the TCP connection
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
	if failed { // the client's answer to the close frame would not be recognized
		c.closeNetwork(false)
	}
}
