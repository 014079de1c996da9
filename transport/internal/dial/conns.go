package dial

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"

	"bennu.example/transport"
)

// clientConns are the connections of a transport that belongs to one long-poll session. CloseIdleConnections may miss
// some: a connection of HTTP/2 is not idle yet when its last request has just been given up.
type Conns struct {
	transport *http.Transport

	mu     sync.Mutex
	live   map[*clientTracked]struct{}
	tls    []net.Conn // from the user's DialTLSContext, the last clientTLSConns of them
	closed bool
}

// clientTLSConns is more than a session has open at a time: a poll and a POST, each on a connection of HTTP/1.1.
const clientTLSConns = 8

// clientTracked is a connection that is forgotten when it is closed.
type clientTracked struct {
	net.Conn
	in *Conns
}

type clientDialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// trackClientConns has t tell of the connections that it makes.
func Track(t *http.Transport) *Conns {
	c := &Conns{transport: t, live: make(map[*clientTracked]struct{})}
	dial := t.DialContext
	switch old := t.Dial; { //nolint:staticcheck // the user may have set it
	case dial != nil:
	case old != nil:
		dial = func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	default:
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = c.tracked(dial, c.add)
	switch old := t.DialTLS; { //nolint:staticcheck // likewise
	case t.DialTLSContext != nil:
		t.DialTLSContext = c.tracked(t.DialTLSContext, c.addTLS)
	case old != nil:
		t.DialTLSContext = c.tracked(func(_ context.Context, network, address string) (net.Conn, error) {
			return old(network, address)
		}, c.addTLS)
	}
	return c
}

func (c *Conns) tracked(dial clientDialFunc, add func(net.Conn) (net.Conn, error)) clientDialFunc {
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
	t := &clientTracked{conn, c}
	c.live[t] = struct{}{}
	return t, nil
}

// addTLS keeps the connection without wrapping it: net/http must see that it is a *tls.Conn to speak HTTP/2 on it.
func (c *Conns) addTLS(conn net.Conn) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, transport.ErrClosed
	}
	if len(c.tls) == clientTLSConns {
		c.tls = slices.Delete(c.tls, 0, 1)
	}
	c.tls = append(c.tls, conn)
	return conn, nil
}

func (t *clientTracked) Close() error {
	t.in.mu.Lock()
	delete(t.in.live, t)
	t.in.mu.Unlock()
	return t.Conn.Close()
}

// closeAll closes all connections and prevents new ones.
func (c *Conns) CloseAll() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for t := range c.live {
		t.Conn.Close()
	}
	for _, conn := range c.tls {
		if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // closing a tls.Conn may wait for a peer that does not read
			t.NetConn().Close()
		}
		conn.Close()
	}
	c.tls = nil
}
