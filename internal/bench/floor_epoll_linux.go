package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"unsafe"

	"bennu.example/internal/wstest"
)

// epollServer serves WebSockets on one thread.
type epollServer struct {
	epoll  int
	conns  map[int32]*epollConn
	topics map[string][]*epollConn
	dirty  []*epollConn // those with output
	spare  [][]byte     // buffers for output
	in     []byte       // what is read from any connection
}

// epollConn is a connection. It has no buffers while it is idle.
type epollConn struct {
	fd      int32
	open    bool   // the handshake is done
	dirty   bool   // it is in epollServer.dirty
	blocked bool   // the socket takes no more for now
	gone    bool   // it is closed
	topic   string // empty until it joins
	rest    []byte // the beginning of a frame
	out     []byte // what is to be written
}

const (
	maxBlocked = 64 << 20 // bounds what waits for a client, in bytes
	maxSpare   = 1 << 16  // bounds the size of a buffer that is kept
	pong       = 10       // an opcode
)

// serveEpoll serves on a listener until the process ends.
func serveEpoll(l net.Listener) error {
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close() // not before, and not by the garbage collector
	listener := int(file.Fd())
	if err := syscall.SetNonblock(listener, true); err != nil {
		return err
	}
	runtime.LockOSThread()
	s := &epollServer{conns: map[int32]*epollConn{}, topics: map[string][]*epollConn{}, in: make([]byte, 256<<10)}
	if s.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := s.watch(syscall.EPOLL_CTL_ADD, listener, syscall.EPOLLIN); err != nil {
		return err
	}
	events := make([]syscall.EpollEvent, 1024)
	for {
		n, err := syscall.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == listener {
				s.accept(listener)
			} else if c := s.conns[e.Fd]; c != nil {
				s.serve(c, e.Events)
			}
		}
		for _, c := range s.dirty {
			c.dirty = false
			s.flush(c)
		}
		s.dirty = s.dirty[:0]
	}
}

func (s *epollServer) watch(op, fd int, events uint32) error {
	return syscall.EpollCtl(s.epoll, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

func (s *epollServer) accept(listener int) {
	for {
		fd, _, err := syscall.Accept4(listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		if err := s.watch(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLIN); err != nil {
			_ = syscall.Close(fd)
			continue
		}
		s.conns[int32(fd)] = &epollConn{fd: int32(fd)}
	}
}

// serve reads what a connection has, or writes what it takes.
func (s *epollServer) serve(c *epollConn, events uint32) {
	if events&syscall.EPOLLOUT != 0 {
		s.flush(c)
	}
	if events&^syscall.EPOLLOUT == 0 || c.gone {
		return
	}
	kept := copy(s.in, c.rest)
	n, errno := transfer(syscall.SYS_READ, c.fd, s.in[kept:])
	if errno == syscall.EAGAIN || errno == syscall.EINTR {
		return
	}
	if errno != 0 || n == 0 {
		s.close(c)
		return
	}
	data := s.in[:kept+n]
	if !c.open {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end >= 0 {
			s.send(c, upgrade(data[:end+4]))
			c.open = true
			data = data[end+4:]
		}
	}
	for c.open && !c.gone {
		first, payload, size := clientFrame(data)
		if size == 0 {
			break
		}
		data = data[size:]
		s.handle(c, first, payload)
	}
	switch {
	case c.gone:
	case len(data) == len(s.in): // a message that does not fit
		s.close(c)
	case len(data) == 0:
		c.rest = nil
	default:
		c.rest = append([]byte(nil), data...)
	}
}

// upgrade returns the answer to a handshake.
func upgrade(request []byte) []byte {
	sum := sha1.Sum([]byte(headerValue(request, "Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
}

// clientFrame returns the first frame in data, unmasked in place, and its size. The size is 0 if
// data has no whole frame.
func clientFrame(data []byte) (first byte, payload []byte, size int) {
	if len(data) < 6 {
		return 0, nil, 0
	}
	head, n := 2, int(data[1]&0x7f)
	switch {
	case n == 126:
		head, n = 4, int(binary.BigEndian.Uint16(data[2:]))
	case n == 127 && len(data) < 10:
		return 0, nil, 0
	case n == 127:
		head, n = 10, int(min(binary.BigEndian.Uint64(data[2:]), 1<<30))
	}
	size = head + 4 + n
	if len(data) < size {
		return 0, nil, 0
	}
	mask, payload := data[head:head+4], data[head+4:size]
	if mask[0]|mask[1]|mask[2]|mask[3] != 0 {
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
	}
	return data[0], payload, size
}

func (s *epollServer) handle(c *epollConn, first byte, payload []byte) {
	switch first & 0x0f {
	case wstest.Close:
		s.send(c, appendServerFrame(nil, wstest.Fin|wstest.Close, payload))
		s.flush(c)
		s.close(c)
		return
	case wstest.Ping:
		s.send(c, appendServerFrame(nil, wstest.Fin|pong, payload))
		return
	}
	if len(payload) == 0 {
		return
	}
	switch payload[0] {
	case 'j':
		s.leave(c)
		c.topic = string(payload[1:])
		s.topics[c.topic] = append(s.topics[c.topic], c)
		s.send(c, appendText(nil, payload))
	case 'l':
		s.leave(c)
		s.send(c, appendText(nil, payload))
	case 'p':
		frame := appendText(nil, payload[1:])
		for _, member := range s.topics[c.topic] {
			s.send(member, frame)
		}
	case 'e':
		s.send(c, appendText(nil, payload[1:]))
	}
}

// send adds output, which is written after all events of a round: several frames in one call.
func (s *epollServer) send(c *epollConn, frame []byte) {
	if last := len(s.spare) - 1; c.out == nil && last >= 0 {
		c.out, s.spare = s.spare[last], s.spare[:last]
	}
	c.out = append(c.out, frame...)
	if !c.dirty && !c.blocked {
		c.dirty = true
		s.dirty = append(s.dirty, c)
	}
}

func (s *epollServer) flush(c *epollConn) {
	if c.gone || len(c.out) == 0 {
		return
	}
	n, errno := transfer(syscall.SYS_WRITE, c.fd, c.out)
	switch {
	case errno == syscall.EAGAIN:
		n = 0
	case errno != 0:
		s.close(c)
		return
	}
	if n == len(c.out) {
		if cap(c.out) <= maxSpare {
			s.spare = append(s.spare, c.out[:0])
		}
		c.out = nil
	} else if c.out = c.out[n:]; len(c.out) > maxBlocked {
		s.close(c)
		return
	}
	if blocked := c.out != nil; blocked != c.blocked {
		c.blocked = blocked
		events := uint32(syscall.EPOLLIN)
		if blocked {
			events |= syscall.EPOLLOUT
		}
		if err := s.watch(syscall.EPOLL_CTL_MOD, int(c.fd), events); err != nil {
			s.close(c)
		}
	}
}

func (s *epollServer) leave(c *epollConn) {
	members := s.topics[c.topic]
	for i, m := range members {
		if m == c {
			members[i] = members[len(members)-1]
			members[len(members)-1] = nil
			s.topics[c.topic] = members[:len(members)-1]
			break
		}
	}
	c.topic = ""
}

func (s *epollServer) close(c *epollConn) {
	s.leave(c)
	c.gone = true
	delete(s.conns, c.fd)
	_ = syscall.Close(int(c.fd)) // which also ends its watch
}

// transfer reads or writes without telling the scheduler, since the call does not block.
func transfer(call uintptr, fd int32, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}
