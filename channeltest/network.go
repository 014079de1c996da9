package channeltest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Network is the network between a server and one client, or all clients: see [Client.Network] and
// [Server.Network]. It is in memory, and has faults on demand. The faults of a server's Network and
// those of a client's add up.
//
// Its methods may be called from any goroutine. None of them waits, except DialContext.
type Network struct {
	parent *Network // a client's is part of the server's; nil for the server's own
	to     *listener
	mu     sync.Mutex
	addr   net.IP // of the client
	ports  int
	parts  []*Network
	pipes  []*pipe
	state  faults
	refuse bool

	restarting bool          // the server does not listen
	change     chan struct{} // closed and replaced with every change
	http       *http.Transport

	applying sync.Mutex // of the root: faults are applied to connections one after the other
}

func newNetwork(to *listener) *Network {
	n := &Network{to: to, change: make(chan struct{}), addr: net.IPv4(192, 0, 2, 1)} // an address for documentation
	n.http = &http.Transport{DialContext: n.DialContext}
	return n
}

// part returns a network of a client.
func (n *Network) part() *Network {
	part := newNetwork(n.to)
	part.parent = n
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parts = append(n.parts, part)
	part.addr = net.IPv4(198, 51, byte(100+len(n.parts)>>8), byte(len(n.parts))) // one for each client
	return part
}

// Cut breaks all connections. Both ends read an error, and what is under way is lost. New
// connections work.
func (n *Network) Cut() {
	pipes, parts := n.all()
	for _, p := range pipes {
		p.reset()
	}
	for _, part := range parts {
		part.Cut()
	}
}

// Drop loses everything that is sent from now on, and no end is notified, as when a cable is
// pulled. As with TCP, what was sent meanwhile arrives after Restore, if the ends still wait for
// it. New connections wait for Restore, too.
func (n *Network) Drop() { n.set(func() { n.state.dropping = true }) }

// Delay makes everything that is sent from now on arrive after d. A round trip takes twice as long.
func (n *Network) Delay(d time.Duration) { n.set(func() { n.state.delay = d }) }

// Refuse makes new connections fail. Existing connections work: call Cut to break them as well.
func (n *Network) Refuse() { n.set(func() { n.refuse = true }) }

// Restore ends the faults of Drop, Delay and Refuse.
func (n *Network) Restore() { n.set(func() { n.state, n.refuse = faults{}, false }) }

// HTTPClient returns an HTTP client that reaches the server under any host name. It is for programs
// that dial by themselves, as in socket.ClientConfig.HTTPClient, and for other requests.
func (n *Network) HTTPClient() *http.Client { return &http.Client{Transport: n.http} }

// DialContext connects to the server, whatever the address. It is for net/http.Transport.
func (n *Network) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: n.to.Addr(), Err: err}
	}
	if err := n.handshake(ctx); err != nil {
		return fail(err)
	}
	n.mu.Lock()
	n.ports++
	addr := &net.TCPAddr{IP: n.addr, Port: 49151 + n.ports%16384}
	n.mu.Unlock()
	p, near, far := newPipe(addr, n.to.Addr())
	n.add(p)
	select {
	case n.to.conns <- far:
		return near, nil
	case <-n.to.closed:
		p.reset()
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		p.reset()
		return fail(ctx.Err())
	}
}

// add adds a connection, and forgets those that are over.
func (n *Network) add(p *pipe) {
	applying := &n.root().applying
	applying.Lock()
	defer applying.Unlock()
	n.mu.Lock()
	n.pipes = append(slices.DeleteFunc(n.pipes, (*pipe).isOver), p)
	n.mu.Unlock()
	p.set(n.faults())
}

// isOver reports whether no end of the connection uses it any more.
func (p *pipe) isOver() bool {
	p.there.mu.Lock()
	defer p.there.mu.Unlock()
	return p.there.ended && p.there.abandoned || p.there.reset
}

// handshake waits as long as that of TCP takes.
func (n *Network) handshake(ctx context.Context) error {
	var waited time.Duration
	for {
		changed := []<-chan struct{}{n.changed(), nil}
		if n.parent != nil {
			changed[1] = n.parent.changed()
		}
		f := n.faults()
		var passed <-chan time.Time
		switch {
		case n.refuses():
			return syscall.ECONNREFUSED
		case f.dropping:
		case f.delay > waited/2:
			timer := time.NewTimer(2*f.delay - waited)
			defer timer.Stop()
			passed = timer.C
		default:
			return ctx.Err()
		}
		select {
		case <-changed[0]:
		case <-changed[1]:
		case <-passed:
			waited = 2 * f.delay
		case <-n.to.closed: // net/http does not cancel ctx when its request ends
			return syscall.ECONNREFUSED
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// set changes the faults, and applies them to the connections.
func (n *Network) set(change func()) {
	n.mu.Lock()
	change()
	close(n.change)
	n.change = make(chan struct{})
	n.mu.Unlock()
	applying := &n.root().applying
	applying.Lock()
	defer applying.Unlock()
	n.apply()
}

func (n *Network) root() *Network {
	if n.parent != nil {
		return n.parent
	}
	return n
}

// apply applies the faults to the connections. The caller holds the root's applying.
func (n *Network) apply() {
	pipes, parts := n.all()
	f := n.faults()
	for _, p := range pipes {
		p.set(f)
	}
	for _, part := range parts {
		part.apply()
	}
}

func (n *Network) all() ([]*pipe, []*Network) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.pipes), slices.Clone(n.parts)
}

func (n *Network) changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.change
}

// faults returns those that affect connections: its own and those of its parent.
func (n *Network) faults() faults {
	n.mu.Lock()
	f := n.state
	n.mu.Unlock()
	if n.parent != nil {
		g := n.parent.faults()
		f.dropping = f.dropping || g.dropping
		f.delay += g.delay
	}
	return f
}

// refuses reports whether new connections fail.
func (n *Network) refuses() bool {
	n.mu.Lock()
	refuse := n.refuse || n.restarting
	n.mu.Unlock()
	return refuse || n.parent != nil && n.parent.refuses()
}

// close closes the connections that are kept for further requests.
func (n *Network) close() {
	_, parts := n.all()
	for _, part := range parts {
		part.close()
	}
	n.http.CloseIdleConnections()
}

// listener is the server's net.Listener.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept is part of net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, fmt.Errorf("channeltest: accept: %w", net.ErrClosed)
	}
}

// Close is part of net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is part of net.Listener.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80} }
