package channeltest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxInFlight bounds the bytes that were written and not read in each direction of a connection, as
// the buffers of two kernels do. A writer waits for room.
const maxInFlight = 256 << 10

// pipe is a connection between two conns in memory. Unlike net.Pipe it has buffers, so that its
// ends need not wait for each other. In a synctest bubble, a goroutine that waits for it is durably
// blocked.
type pipe struct {
	there, back stream // from the client, and to it
}

// newPipe returns the two ends of a connection.
func newPipe(client, server net.Addr) (p *pipe, near, far net.Conn) {
	p = new(pipe)
	p.there.changed, p.back.changed = make(chan struct{}), make(chan struct{})
	return p, &conn{&p.back, &p.there, client, server}, &conn{&p.there, &p.back, server, client}
}

// set changes the faults of both directions.
func (p *pipe) set(f faults) {
	for _, s := range []*stream{&p.there, &p.back} {
		s.update(func() { s.faults = f })
	}
}

// reset ends the connection. Bytes that were not read are lost.
func (p *pipe) reset() {
	for _, s := range []*stream{&p.there, &p.back} {
		s.update(func() { s.reset, s.chunks, s.size = true, nil, 0 })
	}
}

// faults are those that affect a connection which exists.
type faults struct {
	dropping bool
	delay    time.Duration
}

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced with every change
	chunks  []chunk       // written and not read yet
	size    int           // of chunks
	faults  faults

	reset     bool      // by a fault of the network
	ended     bool      // the writer has closed the connection
	endedAt   time.Time // when the reader finds out
	abandoned bool      // the reader has closed the connection

	readBy, writeBy time.Time // the deadlines
}

// chunk is the bytes of one write.
type chunk struct {
	data []byte
	at   time.Time // when they arrive
}

// update changes the stream and wakes up the goroutines that wait.
func (s *stream) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.notify()
}

// notify wakes up the goroutines that wait. The caller holds mu.
func (s *stream) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait waits for a change, or until one of the times that are not zero. The caller holds mu, which
// wait releases meanwhile.
func (s *stream) wait(until ...time.Time) {
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	var next time.Time
	for _, at := range until {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if next.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// read waits for bytes and returns them.
func (s *stream) read(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := time.Now()
		var next time.Time // when the next bytes, or the end, arrive
		switch {
		case s.abandoned:
			return 0, net.ErrClosed
		case s.reset:
			return 0, syscall.ECONNRESET
		case passed(s.readBy, now):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case s.faults.dropping: // neither bytes nor the end arrive
		case len(s.chunks) > 0:
			if next = s.chunks[0].at; !next.After(now) {
				return s.take(p, now), nil
			}
		case s.ended:
			if next = s.endedAt; !next.After(now) {
				return 0, io.EOF
			}
		}
		s.wait(s.readBy, next)
	}
}

// take moves the bytes that have arrived to p. The caller holds mu.
func (s *stream) take(p []byte, now time.Time) (n int) {
	for len(s.chunks) > 0 && n < len(p) && !s.chunks[0].at.After(now) {
		k := copy(p[n:], s.chunks[0].data)
		n += k
		if s.chunks[0].data = s.chunks[0].data[k:]; len(s.chunks[0].data) == 0 {
			s.chunks = s.chunks[1:]
		}
	}
	s.size -= n
	s.notify()
	return n
}

// write waits for room and stores the bytes.
func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.ended:
			return n, net.ErrClosed
		case s.reset:
			return n, syscall.ECONNRESET
		case s.abandoned && !s.faults.dropping:
			return n, syscall.EPIPE
		case passed(s.writeBy, time.Now()):
			return n, os.ErrDeadlineExceeded
		}
		if k := min(len(p)-n, maxInFlight-s.size); k > 0 {
			s.chunks = append(s.chunks, chunk{append([]byte(nil), p[n:n+k]...), s.arrival()})
			s.size += k
			n += k
			s.notify()
		}
		if n == len(p) {
			return n, nil
		}
		s.wait(s.writeBy)
	}
}

// arrival returns when what is sent now arrives: after what was sent before. The caller holds mu.
func (s *stream) arrival() time.Time {
	at := time.Now().Add(s.faults.delay)
	if n := len(s.chunks); n > 0 && s.chunks[n-1].at.After(at) {
		at = s.chunks[n-1].at
	}
	return at
}

// passed reports whether there is a deadline that has passed.
func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }

// conn is one end of a pipe. It is a net.Conn.
type conn struct {
	in, out       *stream
	local, remote net.Addr
}

// Read is part of net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write is part of net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// wrap returns err as package net does.
func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Close is part of net.Conn. The other end reads what was written before.
func (c *conn) Close() error {
	c.out.update(func() {
		if !c.out.ended {
			c.out.ended, c.out.endedAt = true, c.out.arrival()
		}
	})
	c.in.update(func() { c.in.abandoned, c.in.chunks, c.in.size = true, nil, 0 })
	return nil
}

// LocalAddr is part of net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is part of net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline is part of net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline is part of net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.readBy = t })
	return nil
}

// SetWriteDeadline is part of net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.writeBy = t })
	return nil
}
