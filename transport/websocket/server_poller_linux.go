package websocket

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// defaultParkAfter is how long a client pauses before its connection is parked. To park costs some
// microseconds, and a goroutine that waits some kilobytes.
const defaultParkAfter = 200 * time.Millisecond

// poller waits for the clients of parked connections. It is one goroutine, which itself waits in
// Go's network poller for an epoll instance. It starts with the first connection that is parked,
// and ends with the last connection of the server.
//
// Each connection is armed for one event. It stays known to the kernel until its descriptor is
// closed.
type poller struct {
	s    *Server
	file *os.File // the epoll instance
	fd   int

	mu    sync.Mutex
	known map[uintptr]*serverConn // by their addresses, which are also what events contain
}

// getPoller returns the poller, or nil if the system has none left.
func (s *Server) getPoller() *poller {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poller == nil {
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
	p := &poller{s: s, fd: fd, file: os.NewFile(uintptr(fd), "epoll"), known: make(map[uintptr]*serverConn)}
	if p.file.SetReadDeadline(time.Time{}) != nil { // Go's poller does not take it
		_ = p.file.Close()
		return nil
	}
	return p
}

// stop ends the goroutine. All connections have ended.
func (p *poller) stop() {
	if p != nil {
		_ = p.file.Close() // it fails only if it is closed already
	}
}

// arm makes the poller call unpark when there is something to read, or at an error of the network.
// It returns false if that will not happen. It does not use c after the kernel has accepted it.
func (p *poller) arm(c *serverConn) bool {
	id := uintptr(unsafe.Pointer(c))
	p.mu.Lock()
	op := syscall.EPOLL_CTL_MOD
	if p.known[id] == nil {
		op = syscall.EPOLL_CTL_ADD
		p.known[id] = c
	}
	p.mu.Unlock()
	event := eventFor(id)
	event.Events = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT
	var refused error
	err := c.raw.Control(func(fd uintptr) { refused = syscall.EpollCtl(p.fd, op, int(fd), &event) })
	if err == nil && refused == nil {
		return true
	}
	if op == syscall.EPOLL_CTL_ADD {
		p.mu.Lock()
		delete(p.known, id)
		p.mu.Unlock()
	}
	return false
}

// forget is called when c has ended.
func (s *Server) forget(c *serverConn) {
	s.mu.Lock()
	p := s.poller
	s.mu.Unlock()
	if p != nil {
		p.mu.Lock()
		delete(p.known, uintptr(unsafe.Pointer(c)))
		p.mu.Unlock()
	}
}

// run is the goroutine.
func (p *poller) run() {
	defer p.s.removeLive(0)
	raw, err := p.file.SyscallConn()
	if err != nil {
		return // it was stopped
	}
	var events [128]syscall.EpollEvent
	ready := make([]*serverConn, 0, len(events))
	_ = raw.Read(func(fd uintptr) (done bool) { // the error is that of stop
		for n := len(events); n == len(events); {
			if n, err = syscall.EpollWait(int(fd), events[:], 0); err == syscall.EINTR {
				n = len(events)
				continue
			}
			p.mu.Lock()
			for i := range max(n, 0) {
				if c := p.known[connOf(&events[i])]; c != nil {
					ready = append(ready, c)
				}
			}
			p.mu.Unlock()
			for _, c := range ready {
				c.unpark()
			}
			clear(ready)
			ready = ready[:0]
		}
		return false
	})
}

// eventFor returns an event that contains id.
func eventFor(id uintptr) syscall.EpollEvent {
	return syscall.EpollEvent{Fd: int32(uint32(id)), Pad: int32(uint64(id) >> 32)}
}

// connOf returns the id in an event.
func connOf(e *syscall.EpollEvent) uintptr {
	return uintptr(uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd)))
}
