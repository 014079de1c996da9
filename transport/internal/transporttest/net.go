// Package transporttest has what the tests of the transports share: a network in memory that can
// fail, servers for the client ends, and helpers that compare frames, errors and times.
package transporttest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Net is an HTTP server in memory, and a client that reaches it under every host name. It works
// with and without synctest; its connections use the clock of the bubble. Its methods may be called
// from any goroutine.
type Net struct {
	*http.Client
	Conns  atomic.Int32 // the number of connections made so far
	Writes atomic.Int32 // the number of writes by clients

	refusing atomic.Bool

	mu      sync.Mutex
	live    []*netConn    // the clients' ends
	running int           // handlers; http.Server does not count those that hijack
	idle    chan struct{} // set when the test is over, closed when no handler runs
}

// NewNet serves h until the test ends, and then waits for the handlers.
func NewNet(t testing.TB, h http.Handler) *Net {
	t.Helper()
	n := &Net{}
	l := NewPipeListener()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.enter() {
			defer n.leave()
			h.ServeHTTP(w, r)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case l.Conns <- there:
		case <-l.done:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n.Conns.Add(1)
		c := &netConn{Conn: here, net: n, closed: make(chan struct{})}
		n.mu.Lock()
		n.live = append(n.live, c)
		n.mu.Unlock()
		return c, nil
	}}
	n.Client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		server.Close() // closes l
		<-served
		n.Cut()
		tr.CloseIdleConnections()
		n.wait()
	})
	return n
}

// enter counts a handler that begins. It returns false when the test is over.
func (n *Net) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.idle != nil {
		return false
	}
	n.running++
	return true
}

// leave counts a handler that returns.
func (n *Net) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running--; n.running == 0 && n.idle != nil {
		close(n.idle)
	}
}

// wait waits until no handler runs, and prevents new ones.
func (n *Net) wait() {
	n.mu.Lock()
	n.idle = make(chan struct{})
	if n.running == 0 {
		close(n.idle)
	}
	n.mu.Unlock()
	<-n.idle
}

// Cut breaks all connections, as a network does.
func (n *Net) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.live {
		c.Conn.Close()
	}
}

// Stall blocks all bytes from the client to the server on the connections made so far.
func (n *Net) Stall() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.live {
		c.stalled.Store(true)
	}
}

// Refuse makes every write of a client fail.
func (n *Net) Refuse() { n.refusing.Store(true) }

// netConn is the client's end of a connection.
type netConn struct {
	net.Conn
	net     *Net
	stalled atomic.Bool
	once    sync.Once
	closed  chan struct{}
}

func (c *netConn) Write(p []byte) (int, error) {
	c.net.Writes.Add(1)
	if c.net.refusing.Load() {
		return 0, syscall.EPIPE
	}
	if c.stalled.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *netConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
