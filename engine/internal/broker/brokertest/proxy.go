package brokertest

import (
	"net"
	"sync"
	"testing"
)

// Proxy is a way to an engine that can be made deaf, and cut. Its methods may be called from any goroutine.
type Proxy struct {
	Addr string // where it listens

	to    string
	ln    net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // both ends of each connection
	hears chan struct{}         // closed while it forwards
}

// NewProxy starts a proxy to an address. It ends with the test.
func NewProxy(t testing.TB, to string) *Proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr().String(), to: to, ln: ln, conns: make(map[net.Conn]struct{}), hears: make(chan struct{})}
	close(p.hears)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.Hear()
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
			p.wait() // who connects to a deaf engine gets no answer either
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

// forward copies until an end is closed, and then closes the other one.
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
	hears := p.hears
	p.mu.Unlock()
	<-hears
}

// Deaf keeps all bytes, and the news of closed connections, until Hear.
func (p *Proxy) Deaf() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.hears:
		p.hears = make(chan struct{})
	default:
	}
}

// Hear lets them pass.
func (p *Proxy) Hear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.hears:
	default:
		close(p.hears)
	}
}

// Cut closes all connections. Bytes that are under way are lost.
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
