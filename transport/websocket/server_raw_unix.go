//go:build unix

package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// maxUnsent is how many bytes the kernel shall hold that it cannot send yet: see limitUnsent.
const maxUnsent = 128 << 10

var errWouldBlock = errors.New("would block")

// rawConn returns nc's descriptor, or nil if it has none that can be used: on a TLS connection, the
// bytes of the descriptor are not those of the client.
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

// limitUnsent bounds what the kernel holds but cannot send yet, which is megabytes by default.
// Frames that wait in the queue instead can still be dropped, are counted, and share their memory
// with other connections. The kernel also reports sooner that the client reads again. Raw is the
// descriptor of nc, or nil.
func limitUnsent(nc net.Conn, raw syscall.RawConn) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc, raw = t.NetConn(), nil
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok || optNotSentLowat == 0 {
		return
	}
	if raw == nil {
		var err error
		if raw, err = tcp.SyscallConn(); err != nil {
			return // the connection is closed, which reading will report
		}
	}
	_ = raw.Control(setUnsentLimit) // a system without the option works, too
}

func setUnsentLimit(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, optNotSentLowat, maxUnsent)
}

// tryRead reads what there is without waiting, behind what is in the input, or into the library's
// buffer. If there is nothing, it returns false unless c.dontWait is set.
func (c *serverConn) tryRead(fd uintptr) bool {
	in := c.in
	var p []byte
	direct := c.lib != nil && c.lib.direct != nil
	if direct {
		p = c.lib.direct
	} else {
		if in == nil {
			in = inputs.Get().(*input)
		}
		p = in.buf[in.w:]
	}
	n, err := read(int(fd), p)
	for err == syscall.EINTR {
		n, err = read(int(fd), p)
	}
	if err == nil && n > 0 {
		_ = c.received(p[:n]) // the caller of raw.Read returns readErr
		if direct {
			c.lib.direct = p[:n]
		} else {
			in.w += n
			c.in = in
		}
		return true
	}
	if in != c.in {
		inputs.Put(in)
	}
	switch err {
	case nil:
		c.readErr = io.EOF
	case syscall.EAGAIN:
		c.paused = true
		return c.dontWait
	default:
		c.readErr = os.NewSyscallError("read", err)
	}
	return true
}

// tryWrite writes without waiting. It returns errWouldBlock if the kernel accepts nothing.
func tryWrite(fd uintptr, p []byte) (int, error) {
	for {
		n, err := write(int(fd), p)
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
