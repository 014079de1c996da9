//go:build !unix

package websocket

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns nil, so every connection takes the portable path: there are no descriptors that
// can be read and written without waiting.
func rawConn(net.Conn) syscall.RawConn { return nil }

func limitUnsent(net.Conn, syscall.RawConn) {}

func (c *serverConn) tryRead(uintptr) bool { panic("websocket: this system has no descriptors") }

func tryWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

var errWouldBlock = errors.New("would block")
