package longpoll

import (
	"context"
	"sync"
	"time"
)

// Peers carries what the LongPolls of a cluster's nodes say to each other. Its methods may be called from any goroutine.
type Peers interface {
	// Listen has receive called with what is sent to an address, in order for each sender and one at a time, until stop is called. When
	// stop returns, no call is running. What is under way when receive does not keep up is bounded in bytes. Receive does not wait; it may
	// call Send. The data must not change any more.
	Listen(address string, receive func(data []byte)) (stop func())

	// Send sends data, of up to 256 KiB and a bit, to an address. It does not wait. An error says that it will not arrive; without one it
	// may be lost too, but arrives once at most.
	Send(address string, data []byte) error
}

const (
	// peerChunk is how much a node sends to another before it waits for an answer. Engines have a bound for a message: NATS 1 MiB.
	peerChunk = 256 << 10
	// maxPeerBodies bounds the POSTs that came from other nodes and are in work, in bytes, and maxPeerPosts their number for a session. One
	// that finds no room is answered with status 408, as one that the session does not come to.
	maxPeerBodies = 64 << 20
	maxPeerPosts  = 4
)

// peerage is a LongPoll's part in its cluster: it calls other nodes for requests that came here, and serves what they call for. Each call is
// one request of a client. The node that has the request asks, one thing at a time; so the queues of a call hold what is under way.
type cluster struct {
	s    *Server
	stop func()
	done chan struct{}  // closed by close
	work sync.WaitGroup // the calls that are served

	mu     sync.Mutex
	closed bool
	made   uint64
	calls  map[uint64]*outgoingCall // to other nodes
	served map[servedID]*incomingCall
	guests map[tokenID]*remoteUse // by session
	bodies int                    // bytes of the POSTs that are served
}

// servedID names a call that another node made.
type servedID struct {
	from tokenID
	call uint64
}

// guest is what other nodes do with one session of this node.
type remoteUse struct {
	waiting *incomingCall // the latest poll, as long as it waits
	calls   int
	posts   int
}

func newCluster(s *Server) *cluster {
	p := &cluster{
		s:      s,
		done:   make(chan struct{}),
		calls:  make(map[uint64]*outgoingCall),
		served: make(map[servedID]*incomingCall),
		guests: make(map[tokenID]*remoteUse),
	}
	p.stop = s.cfg.Peers.Listen(s.tokens.address(s.node), p.receive)
	return p
}

func (p *cluster) close() {
	p.mu.Lock()
	first := !p.closed
	if first {
		p.closed = true
		close(p.done)
	}
	for _, g := range p.guests {
		if g.waiting != nil && g.waiting.l.alive() { // otherwise it is at its end, and may have messages
			g.waiting.cancel()
		}
	}
	p.mu.Unlock()
	p.work.Wait() // the last messages of sessions that ended just now are still asked for
	if first {
		p.stop()
	}
}

// send reports whether m may arrive.
func (p *cluster) send(to tokenID, m *peerMessage) bool {
	m.from = p.s.node
	data := m.append(make([]byte, 0, peerHeader+32+len(m.data)))
	return p.s.cfg.Peers.Send(p.s.tokens.address(to), data) == nil
}

// receive takes what another node says.
func (p *cluster) receive(data []byte) {
	m, err := parsePeer(data)
	switch {
	case err != nil:
	case m.kind >= peerWait:
		p.answered(m)
	case m.kind == peerPoll, m.kind == peerPost && m.offset == 0:
		p.serve(m)
	default:
		p.mu.Lock()
		c := p.served[servedID{m.from, m.call}]
		p.mu.Unlock()
		switch {
		case c != nil:
			c.tell(m)
		case m.kind != peerSettle:
			p.send(m.from, &peerMessage{kind: peerGone, call: m.call})
		}
	}
}

// answered hands an answer to the call that it is for.
func (p *cluster) answered(m peerMessage) {
	p.mu.Lock()
	c := p.calls[m.call]
	p.mu.Unlock()
	switch {
	case c == nil && m.kind == peerAbort: // it was written, or not; that was said and has been lost
		p.send(m.from, &peerMessage{kind: peerSettle, call: m.call, number: 1})
	case c == nil || c.node != m.from:
	case m.kind == peerAbort:
		if c.poll != nil { // a POST has nothing to abort
			c.poll.abort()
		}
	default:
		select {
		case c.answers <- m:
		default: // not what was asked for
		}
	}
}

// peerCall is a request of this node that another one is asked to serve.
type outgoingCall struct {
	peers   *cluster
	id      uint64
	node    tokenID
	poll    *poll // nil: a POST
	answers chan peerMessage
	over    bool // the other node has nothing left to end
}

// call begins a call. It returns nil if there may be none any more.
func (p *cluster) call(node tokenID, poll *poll) *outgoingCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.made++
	c := &outgoingCall{peers: p, id: p.made, node: node, poll: poll, answers: make(chan peerMessage, 4)}
	p.calls[c.id] = c
	return c
}

// end forgets the call.
func (c *outgoingCall) end() {
	c.peers.mu.Lock()
	defer c.peers.mu.Unlock()
	delete(c.peers.calls, c.id)
}

func (c *outgoingCall) send(m *peerMessage) bool {
	m.call = c.id
	return c.peers.send(c.node, m)
}

// ask says m and waits for what the other node says to it.
func (c *outgoingCall) ask(ctx context.Context, m *peerMessage) (answer peerMessage, ok bool) {
	if !c.send(m) {
		return peerMessage{}, false
	}
	return c.next(ctx, c.peers.s.cfg.PeerTimeout)
}

// next waits for what the other node says.
func (c *outgoingCall) next(ctx context.Context, within time.Duration) (answer peerMessage, ok bool) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case answer = <-c.answers:
		return answer, true
	case <-timeout.C:
	case <-ctx.Done():
	case <-c.peers.done:
	}
	return peerMessage{}, false
}
