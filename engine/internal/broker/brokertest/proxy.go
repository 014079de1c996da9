package brokertest

import (
	"net"
	"sync"
	"testing"
)

// Proxy forwards connections to an engine. A test can stall and cut them. Its methods may be called
// from any goroutine.
type Proxy struct {
	Addr string // the address on which it listens

	to    string
	ln    net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // both ends of each connection
	open  chan struct{}         // closed while it forwards
}

// NewProxy starts a proxy to an address. It is stopped when the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr().String(), to: to, ln: ln, conns: make(map[net.Conn]struct{}), open: make(chan struct{})}
	close(p.open)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.Resume()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	for {
		a, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() {
			p.wait() // new connections stall, too
			b, err := net.Dial("tcp", p.to)
			if err != nil {
				_ = a.Close()
				return
			}
			p.mu.Lock()
			p.conns[a], p.conns[b] = struct{}{}, struct{}{}
			p.mu.Unlock()
			p.wg.Go(func() { p.forward(a, b) })
			p.forward(b, a)
		})
	}
}

// forward copies until one end is closed, and then closes the other.
func (p *Proxy) forward(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.wait()
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	delete(p.conns, from)
	p.mu.Unlock()
	_ = to.Close()
	_ = from.Close()
}

func (p *Proxy) wait() {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	<-open
}

// Stall holds back all bytes, and the closing of connections, until Resume.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

// Resume forwards again.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Cut closes all connections. Bytes in transit are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}
