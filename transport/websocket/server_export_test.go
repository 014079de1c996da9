package websocket

import (
	"runtime"
	"time"
	"unsafe"

	"bennu.example/transport"
)

// ForcePortable makes s treat every connection as one without a descriptor, as a TLS connection is.
func (s *Server) ForcePortable() { s.portable = true }

// WithoutPoller makes s keep a goroutine for each connection, as where there is no poller.
func (s *Server) WithoutPoller() { s.noPoller = true }

// IsIdle reports whether a connection has no goroutine, and none will start without a cause.
func IsIdle(conn transport.Conn) bool {
	c := conn.(*serverConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.pausing && c.reader.Load()&readerRuns == 0
}

// HasPoller reports whether there is a poller on this system.
const HasPoller = runtime.GOOS == "linux"

// ForceLibrary makes coder/websocket read everything that clients of s send.
func (s *Server) ForceLibrary() { s.noFrames = true }

// HasLibrary reports whether a connection has an instance of coder/websocket. The connection's
// reader must be waiting.
func HasLibrary(c transport.Conn) bool { return c.(*serverConn).lib != nil }

// SetDrainTime sets how long s reads what a client still sends after the close frame.
func (s *Server) SetDrainTime(d time.Duration) { s.drainTime = d }

// MaxDiscarded bounds what s reads from a client after the close frame.
const MaxDiscarded = maxDiscarded

// WSConnSize is the size of the struct of each connection.
const WSConnSize = unsafe.Sizeof(serverConn{})

// ScanFragments returns a function that scans the bytes of a connection, as a server does.
func ScanFragments(max int) func(p []byte) bool {
	var f fragments
	return func(p []byte) bool {
		for len(p) > 0 {
			n, ok := f.scan(p, max)
			if !ok {
				return false
			}
			p = p[n:]
		}
		return true
	}
}
