package websocket

import (
	"os"
	"sync"
	"syscall"
	"time"

	"bennu.example/internal/mailbox"
)

// poller notifies the connections of a Server when they can be read. It is one goroutine, which
// itself waits in Go's network poller for an epoll instance. It starts with the server's first
// connection and ends with the last.
//
// The kernel reports each arrival once (it is edge-triggered), and again each later one. So nothing
// needs to be armed again after a connection was read, and reading must continue until nothing is
// left: see serverConn.Work.
type poller struct {
	s    *Server
	file *os.File // the epoll instance
	fd   int

	mu    sync.Mutex
	conns []*serverConn // by their slots, which are also what events contain; nil where there is none
	free  []uint32      // the slots that are nil

	polling sync.Mutex // taken before mu, and before the lock of Server.readers
	stopped bool
	events  [128]syscall.EpollEvent
	ready   []mailbox.Workable // empty, except in poll
}

// edgeTriggered is EPOLLET, which package syscall defines as a negative number.
const edgeTriggered = 1 << 31

// getPoller returns the poller, or nil if the system has none left.
func (s *Server) getPoller() *poller {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poller == nil && !s.noPoller {
		if s.poller = newPoller(s); s.poller != nil {
			s.live++
			go s.poller.run()
		}
	}
	return s.poller
}

func newPoller(s *Server) *poller {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	_ = syscall.SetNonblock(fd, true) // if this fails, so does SetReadDeadline
	p := &poller{s: s, fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if p.file.SetReadDeadline(time.Time{}) != nil { // Go's poller does not take it
		_ = p.file.Close()
		return nil
	}
	return p
}

// stop ends the goroutine. All connections have ended.
func (p *poller) stop() {
	if p == nil {
		return
	}
	p.polling.Lock()
	p.stopped = true
	p.polling.Unlock()
	_ = p.file.Close() // it fails only if it is closed already
}

// watch makes the poller notify c when there is something to read, or at an error of the network.
// It returns false if that will not happen.
func (p *poller) watch(c *serverConn) bool {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		c.slot, p.free = p.free[n-1], p.free[:n-1]
		p.conns[c.slot] = c
	} else {
		c.slot = uint32(len(p.conns))
		p.conns = append(p.conns, c)
	}
	p.mu.Unlock()
	event := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLPRI | syscall.EPOLLRDHUP | edgeTriggered,
		Fd:     int32(c.slot),
	}
	var refused error
	err := c.raw.Control(func(fd uintptr) { refused = syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, int(fd), &event) })
	if err == nil && refused == nil {
		return true
	}
	p.forget(c)
	return false
}

// forget is called when c has ended. The kernel reports nothing of a closed descriptor, but poll
// may be about to notify c, or the next connection that has the slot. That one finds nothing to
// read, or makes reads that are not needed.
func (p *poller) forget(c *serverConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c.slot] = nil
	p.free = append(p.free, c.slot)
}

// run is the goroutine.
func (p *poller) run() {
	defer p.s.removeLive(0)
	raw, err := p.file.SyscallConn()
	if err != nil {
		return // it was stopped
	}
	_ = raw.Read(func(uintptr) (done bool) { // the error is that of stop
		for found := true; found; {
			p.polling.Lock()
			found = p.poll()
			p.polling.Unlock()
		}
		return false
	})
}

// poll lets the server's readers read what is ready. It reports whether there was something, or
// there may be more. The caller holds polling.
func (p *poller) poll() bool {
	if p.stopped {
		return false
	}
	n, err := epollWait(p.fd, p.events[:])
	for err == syscall.EINTR {
		n, err = epollWait(p.fd, p.events[:])
	}
	if n <= 0 {
		return false
	}
	p.mu.Lock()
	for i := range n {
		e := &p.events[i]
		if c := p.conns[uint32(e.Fd)]; c != nil && c.notify(e.Events != syscall.EPOLLIN) {
			p.ready = append(p.ready, c)
		}
	}
	p.mu.Unlock()
	p.s.readers.Add(p.ready...)
	found := len(p.ready) > 0 || n == len(p.events)
	clear(p.ready)
	p.ready = p.ready[:0]
	return found
}

// poll is called by a reader that has nothing to do. It does not wait for another one, or for the
// poller's goroutine, which do the same.
func (s *Server) poll() bool {
	s.mu.Lock()
	p := s.poller
	s.mu.Unlock()
	if p == nil || !p.polling.TryLock() {
		return false
	}
	defer p.polling.Unlock()
	return p.poll()
}
