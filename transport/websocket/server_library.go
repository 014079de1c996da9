package websocket

import (
	"net"
	"time"
)

// libraryConn is a serverConn as a net.Conn for the WebSocket library. Only the reader uses it,
// except for Close.
type libraryConn serverConn

// Read is part of net.Conn.
func (l *libraryConn) Read(p []byte) (int, error) {
	c := (*serverConn)(l)
	if len(p) == 0 {
		return 0, nil
	}
	if c.in == nil {
		if len(p) >= inputSize || c.raw == nil && len(p) >= ownInputSize {
			return c.readDirect(p)
		}
		if err := c.readAhead(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in.buf[c.in.r:c.in.w])
	if c.in.r += n; c.in.r == c.in.w {
		c.release()
	}
	return n, nil
}

// Write drops what the library writes. These are close frames only, because serverConn answers
// pings, and the library's error says the same.
func (l *libraryConn) Write(p []byte) (int, error) { return len(p), nil }

// Close is called when the library will not read any more. Another goroutine than the reader calls
// it if a control frame did not arrive completely in time; then the reader must wake up.
func (l *libraryConn) Close() error { return l.nc.SetReadDeadline(time.Unix(1, 0)) }

// LocalAddr is part of net.Conn, as are the following methods.
func (l *libraryConn) LocalAddr() net.Addr                { return l.nc.LocalAddr() }
func (l *libraryConn) RemoteAddr() net.Addr               { return l.nc.RemoteAddr() }
func (l *libraryConn) SetDeadline(t time.Time) error      { return l.nc.SetDeadline(t) }
func (l *libraryConn) SetReadDeadline(t time.Time) error  { return l.nc.SetReadDeadline(t) }
func (l *libraryConn) SetWriteDeadline(t time.Time) error { return l.nc.SetWriteDeadline(t) }
