package websocket

import (
	"time"
	"unsafe"
)

// ForcePortable makes s treat every connection as one without a descriptor, as a TLS connection is.
func (s *Server) ForcePortable() { s.portable = true }

// SetDrainTime sets how long s reads what a client still sends after the close frame.
func (s *Server) SetDrainTime(d time.Duration) { s.drainTime = d }

// MaxDiscarded bounds what s reads from a client after the close frame.
const MaxDiscarded = maxDiscarded

// WSConnSize is the size of the struct of each connection.
const WSConnSize = unsafe.Sizeof(serverConn{})

// ScanFragments returns a function that scans the bytes of a connection, as a server does.
func ScanFragments(max int) func(p []byte) bool {
	var f fragments
	return func(p []byte) bool { return f.scan(p, max) }
}
