package dial

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// CorkSize is how many bytes a corked Wire gathers into one write. The WebSocket library itself
// writes a frame in pieces of 4 KiB.
const CorkSize = 64 << 10

var corkBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// Wire is the network connection under the client's end of a WebSocket. It counts bytes. While it
// is corked, it gathers what is written, because the WebSocket library flushes each frame by
// itself.
//
// Its methods may be called from any goroutine. Only one goroutine at a time may use Cork and
// Uncork. The WebSocket library calls Close; the owner calls Abort to end a connection that hangs.
type Wire struct {
	In, Out atomic.Uint64 // bytes received and sent

	rwc io.ReadWriteCloser

	// under is the TCP connection below a TLS connection, or nil. Closing a TLS connection first
	// notifies the peer, which takes up to 5 s if the peer does not read.
	under net.Conn

	// writing has size 1 and is full during a write. The library writes pongs and close frames at any
	// time, and these must not interleave with a flush.
	writing chan struct{}
	corked  *[]byte // nil if not corked
	closed  atomic.Bool
}

// NewWire returns a Wire that reads and writes rwc. If conn, the connection of the HTTP request, is
// a TLS connection, Abort closes the TCP connection below it.
func NewWire(rwc io.ReadWriteCloser, conn net.Conn) *Wire {
	w := &Wire{rwc: rwc, writing: make(chan struct{}, 1)}
	if c, ok := conn.(*tls.Conn); ok {
		w.under = c.NetConn()
	}
	return w
}

// lock locks writing. The lock may be held until the network accepts the bytes. It is not a mutex,
// because time in synctest does not advance while a goroutine waits for a mutex.
func (w *Wire) lock() { w.writing <- struct{}{} }

func (w *Wire) unlock() { <-w.writing }

func (w *Wire) Read(p []byte) (int, error) {
	n, err := w.rwc.Read(p)
	w.In.Add(uint64(n))
	return n, err
}

func (w *Wire) Write(p []byte) (int, error) {
	w.lock()
	defer w.unlock()
	if w.corked == nil {
		return w.write(p)
	}
	if len(*w.corked)+len(p) > CorkSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	*w.corked = append(*w.corked, p...)
	return len(p), nil
}

func (w *Wire) write(p []byte) (int, error) {
	n, err := w.rwc.Write(p)
	w.Out.Add(uint64(n))
	return n, err
}

func (w *Wire) flush() error {
	p := *w.corked
	*w.corked = p[:0]
	if len(p) == 0 {
		return nil
	}
	_, err := w.write(p)
	return err
}

// Cork makes Write gather bytes until Uncork, or until there are CorkSize.
func (w *Wire) Cork() {
	w.lock()
	defer w.unlock()
	w.corked = corkBuffers.Get().(*[]byte)
}

// Uncork writes the gathered bytes.
func (w *Wire) Uncork() error {
	w.lock()
	defer w.unlock()
	err := w.flush()
	corkBuffers.Put(w.corked)
	w.corked = nil
	return err
}

// Close closes the connection. On TLS it may wait for the peer.
func (w *Wire) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	return w.rwc.Close()
}

// Abort closes the connection without waiting. Blocked calls of Read, Write and Close return.
func (w *Wire) Abort() {
	if w.under != nil {
		w.under.Close()
	}
	w.Close()
}
