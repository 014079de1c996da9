//go:build !unix

package websocket

import (
	"errors"
	"net"
	"syscall"
)

// Without descriptors that can be read and written without waiting, every connection takes the portable path.
func rawConn(net.Conn) syscall.RawConn { return nil }

func limitUnsent(net.Conn) {}

func (c *serverConn) tryRead(uintptr) bool { panic("transport: no descriptors on this system") }

func tryWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

var errWouldBlock = errors.New("would block")
