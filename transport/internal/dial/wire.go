package dial

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// clientCorkSize is how much is gathered into one write. A frame of the library alone comes in pieces of 4 KiB.
const CorkSize = 64 << 10

var clientCorks = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// clientWire is the connection under the WebSocket library, at the client's end. It counts bytes, and while corked it gathers
// what is written: the library flushes each frame by itself.
type Wire struct {
	rwc     io.ReadWriteCloser
	In, Out atomic.Uint64

	// under is the TCP connection below a TLS one, or nil. Closing a TLS connection first says so to the peer, which may
	// take 5 s when it does not read.
	under net.Conn

	writing chan struct{} // of size 1, full during a write: the library writes pongs and close frames, which a flush must not meet
	corked  *[]byte       // nil: not corked
	closed  atomic.Bool
}

func NewWire(rwc io.ReadWriteCloser, conn net.Conn) *Wire {
	w := &Wire{rwc: rwc, writing: make(chan struct{}, 1)}
	if c, ok := conn.(*tls.Conn); ok {
		w.under = c.NetConn()
	}
	return w
}

// lock is the lock of writing. It may be held for as long as the network makes it, which is why it is no mutex: synctest would not
// let time go on.
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

func (w *Wire) Cork() {
	w.lock()
	defer w.unlock()
	w.corked = clientCorks.Get().(*[]byte)
}

// uncork writes what was gathered.
func (w *Wire) Uncork() error {
	w.lock()
	defer w.unlock()
	err := w.flush()
	clientCorks.Put(w.corked)
	w.corked = nil
	return err
}

func (w *Wire) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	return w.rwc.Close()
}

// abort closes the connection without waiting for anything: whatever is blocked in Read, Write or Close returns.
func (w *Wire) Abort() {
	if w.under != nil {
		w.under.Close()
	}
	w.Close()
}
