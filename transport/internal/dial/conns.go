package dial

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"

	"bennu.example/transport"
)

// Conns tracks the connections of an http.Transport that belongs to one long-poll session, so that
// they can be closed with it. CloseIdleConnections may miss some: a connection of HTTP/2 is not
// idle yet when its last request has just been cancelled.
//
// Its methods may be called from any goroutine. The session calls CloseAll once.
type Conns struct {
	transport *http.Transport

	mu     sync.Mutex
	live   map[*trackedConn]struct{}
	tls    []net.Conn // made by the user's DialTLSContext: the last maxTLSConns of them
	closed bool
}

// maxTLSConns is more than a session has open at a time: those of a poll and a POST over HTTP/1.1.
const maxTLSConns = 8

// trackedConn is a connection that removes itself from Conns when it is closed.
type trackedConn struct {
	net.Conn
	in *Conns
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// Track wraps the dial functions of t, which must not be in use yet, and returns its connections.
func Track(t *http.Transport) *Conns {
	c := &Conns{transport: t, live: make(map[*trackedConn]struct{})}
	dial := t.DialContext
	switch old := t.Dial; { //nolint:staticcheck // the user may have set the deprecated field
	case dial != nil:
	case old != nil:
		dial = func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	default:
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = c.wrap(dial, c.add)
	switch old := t.DialTLS; { //nolint:staticcheck // the user may have set the deprecated field
	case t.DialTLSContext != nil:
		t.DialTLSContext = c.wrap(t.DialTLSContext, c.addTLS)
	case old != nil:
		t.DialTLSContext = c.wrap(func(_ context.Context, network, address string) (net.Conn, error) {
			return old(network, address)
		}, c.addTLS)
	}
	return c
}

// wrap returns a function that dials and passes each connection to add.
func (c *Conns) wrap(dial dialFunc, add func(net.Conn) (net.Conn, error)) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil || conn == nil {
			return conn, err
		}
		return add(conn)
	}
}

func (c *Conns) add(conn net.Conn) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, transport.ErrClosed
	}
	t := &trackedConn{conn, c}
	c.live[t] = struct{}{}
	return t, nil
}

// addTLS keeps the connection without wrapping it: net/http speaks HTTP/2 only on a *tls.Conn.
func (c *Conns) addTLS(conn net.Conn) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, transport.ErrClosed
	}
	if len(c.tls) == maxTLSConns {
		c.tls = slices.Delete(c.tls, 0, 1)
	}
	c.tls = append(c.tls, conn)
	return conn, nil
}

func (t *trackedConn) Close() error {
	t.in.mu.Lock()
	delete(t.in.live, t)
	t.in.mu.Unlock()
	return t.Conn.Close()
}

// CloseAll closes all connections. Dialing fails afterwards.
func (c *Conns) CloseAll() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for t := range c.live {
		t.Conn.Close()
	}
	for _, conn := range c.tls {
		// Closing a tls.Conn may wait for a peer that does not read.
		if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
			t.NetConn().Close()
		}
		conn.Close()
	}
	c.tls = nil
}
