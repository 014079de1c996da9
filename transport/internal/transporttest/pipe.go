package transporttest

import (
	"net"
	"sync"
)

// PipeListener is a net.Listener whose connections are sent to it, such as one end of a net.Pipe.
type PipeListener struct {
	Conns chan net.Conn

	once sync.Once
	done chan struct{}
}

// NewPipeListener returns a listener. Close ends it.
func NewPipeListener() *PipeListener {
	return &PipeListener{Conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept returns the next connection that is sent to Conns.
func (l *PipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.Conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return net.ErrClosed.
func (l *PipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns a placeholder.
func (l *PipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
