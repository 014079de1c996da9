package main

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy forwards TCP connections to a server and can disturb them. It runs until close.
type proxy struct {
	l  net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex
	upstream string
	pairs    []*pair
	closed   bool
}

// bufferSize is the size of the kernel's buffers, small so that the server detects soon that a
// client does not read.
const bufferSize = 16 << 10

func newProxy(upstream string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{l: l, upstream: upstream}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) setUpstream(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = addr
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.forward(c.(*net.TCPConn)) })
	}
}

// pair is a forwarded connection: the client's side and the server's.
type pair struct {
	client, server *net.TCPConn
	stalled        atomic.Int64 // no data is forwarded until this time, in Unix nanoseconds
	done           chan struct{}
	once           sync.Once
}

func (p *proxy) forward(client *net.TCPConn) {
	defer client.Close()
	p.mu.Lock()
	upstream := p.upstream
	p.mu.Unlock()
	nc, err := net.DialTimeout("tcp", upstream, 5*time.Second)
	if err != nil {
		return
	}
	c := &pair{client: client, server: nc.(*net.TCPConn), done: make(chan struct{})}
	defer c.end()
	for _, half := range []*net.TCPConn{c.client, c.server} {
		_ = half.SetReadBuffer(bufferSize) // best effort
		_ = half.SetWriteBuffer(bufferSize)
	}
	if !p.add(c) {
		return
	}
	defer p.remove(c)
	var rejoin sync.WaitGroup
	rejoin.Go(func() { c.pump(c.client, c.server) })
	c.pump(c.server, c.client)
	rejoin.Wait()
}

func (p *proxy) add(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.pairs = append(p.pairs, c)
	return true
}

func (p *proxy) remove(c *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, x := range p.pairs {
		if x == c {
			last := len(p.pairs) - 1
			p.pairs[i] = p.pairs[last]
			p.pairs = p.pairs[:last]
			return
		}
	}
}

// pump copies one direction. When it ends, it closes both.
func (c *pair) pump(to, from *net.TCPConn) {
	defer c.end()
	buf := make([]byte, bufferSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !c.wait() {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			c.wait() // the end of the stream is delayed as well
			return
		}
	}
}

// wait waits while the pair is stalled. It returns false if the pair ended.
func (c *pair) wait() bool {
	for {
		d := time.Until(time.Unix(0, c.stalled.Load()))
		if d <= 0 {
			return true
		}
		t := time.NewTimer(min(d, 50*time.Millisecond)) // the stall may be ended early: see clearStalls
		select {
		case <-t.C:
		case <-c.done:
			t.Stop()
			return false
		}
	}
}

func (c *pair) end() {
	c.once.Do(func() {
		close(c.done)
		c.client.Close()
		c.server.Close()
	})
}

func (c *pair) stall(d time.Duration) { c.stalled.Store(time.Now().Add(d).UnixNano()) }

// reset closes both sides with RST.
func (c *pair) reset() {
	_ = c.client.SetLinger(0) // it may be closed already
	_ = c.server.SetLinger(0)
	c.end()
}

// vanish closes the server's side and stalls the client's, which does not detect it for d.
func (c *pair) vanish(d time.Duration) {
	c.stall(d)
	c.server.Close()
}

// any returns a random connection, or nil if there is none.
func (p *proxy) any(rng *rand.Rand) *pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pairs) == 0 {
		return nil
	}
	return p.pairs[rng.IntN(len(p.pairs))]
}

// clearStalls ends all stalls.
func (p *proxy) clearStalls() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.pairs {
		c.stalled.Store(0)
	}
}

func (p *proxy) close() {
	p.l.Close()
	p.mu.Lock()
	p.closed = true
	all := append([]*pair(nil), p.pairs...)
	p.mu.Unlock()
	for _, c := range all {
		c.end()
	}
	p.wg.Wait()
}
