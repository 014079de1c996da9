//go:build unix

package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// rawConn is nc's descriptor, nil if it has none that we may use: a TLS connection's bytes are not the client's.
func rawConn(nc net.Conn) syscall.RawConn {
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ := nc.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := nc.SyscallConn()
		return raw
	}
	return nil
}

// limitUnsent keeps the kernel from holding much that it cannot send yet, megabytes by default: what waits in the queue can still be dropped, is
// counted, and costs nothing that is not shared with other connections. It also makes the kernel tell soon when the client takes something.
func limitUnsent(nc net.Conn) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc = t.NetConn()
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok || optNotSentLowat == 0 {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return // it is closed, as reading will show
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, optNotSentLowat, maxUnsent) // a system without it serves all the same
	})
}

// tryRead reads what there is, without waiting. It reports false if there was nothing.
func (c *serverConn) tryRead(fd uintptr) bool {
	p := c.direct
	var in *input
	if p == nil {
		in = inputs.Get().(*input)
		p = in.buf
	}
	n, err := syscall.Read(int(fd), p)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), p)
	}
	if err == nil && n > 0 {
		_ = c.arrived(p[:n]) // asked for by who waits
		if in == nil {
			c.direct = p[:n]
		} else {
			in.r, in.w = 0, n
			c.in = in
		}
		return true
	}
	if in != nil {
		inputs.Put(in)
	}
	switch err {
	case nil:
		c.readErr = io.EOF
	case syscall.EAGAIN:
		c.paused = true
		return false
	default:
		c.readErr = os.NewSyscallError("read", err)
	}
	return true
}

// tryWrite writes without waiting. The error is errWouldBlock if the kernel takes nothing.
func tryWrite(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errWouldBlock
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

var errWouldBlock = errors.New("would block")
