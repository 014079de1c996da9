package longpoll

import "sync"

// Peers sends messages between the Servers of a cluster's nodes. Its methods may be called from any
// goroutine.
type Peers interface {
	// Listen registers receive to be called with the messages that are sent to an address, until
	// stop is called. Messages of one sender arrive in order. Calls are made one at a time; when
	// stop returns, none is running.
	//
	// Messages that wait while receive runs must be bounded in bytes. The function does not block,
	// and may call Send. The data must not change after the call.
	Listen(address string, receive func(data []byte)) (stop func())

	// Send sends data, of up to about 256 KiB, to an address. It does not block. An error means
	// that the message will not arrive. A message may be lost without an error, but it must not
	// arrive twice.
	Send(address string, data []byte) error
}

const (
	// peerChunk is how many bytes of a request or answer a node sends to another before it waits
	// for a response. Engines bound the size of a message: NATS at 1 MiB.
	peerChunk = 256 << 10
	// maxPeerBodies bounds the POSTs of other nodes that are in work, in bytes, except for the first
	// step of each: see bodyStep. Those of one session are bounded by MaxBody together, and by
	// maxPeerPosts in number. A further POST is answered with peerBusy.
	//
	// The POSTs of this node's own clients have a budget of their own. With a common one, two nodes
	// that forward to each other could wait for each other.
	maxPeerBodies = 64 << 20
	maxPeerPosts  = 4
)

// cluster is the part of a Server that exchanges messages with other nodes. It calls other nodes to
// serve requests that arrived at this one, and serves their calls. Each call is one request of a
// client. The calling node sends one message at a time and waits for the response, so the queue of
// a call is bounded.
type cluster struct {
	s    *Server
	stop func()
	done chan struct{}  // closed by close
	work sync.WaitGroup // the incoming calls

	bodies bodies // of the incoming POSTs

	mu       sync.Mutex
	closed   bool
	lastCall uint64
	outgoing map[uint64]*outgoingCall
	incoming map[callID]*incomingCall
	uses     map[tokenID]*remoteUse // by session
}

// callID identifies an incoming call.
type callID struct {
	from tokenID
	call uint64
}

// remoteUse is the use of one session of this node by the other nodes.
type remoteUse struct {
	waiting *incomingCall // the latest poll, while it waits
	calls   int
	posts   int
}

// newCluster returns the cluster of s, which listens to the Peers until close.
func newCluster(s *Server) *cluster {
	p := &cluster{
		s:        s,
		done:     make(chan struct{}),
		outgoing: make(map[uint64]*outgoingCall),
		incoming: make(map[callID]*incomingCall),
		uses:     make(map[tokenID]*remoteUse),
	}
	p.bodies.init(s.maxPackedBody(), maxPeerBodies)
	p.stop = s.cfg.Peers.Listen(s.tokens.address(s.node), p.receive)
	return p
}

// close ends the outgoing calls and the incoming polls, and waits for the incoming calls.
func (p *cluster) close() {
	p.mu.Lock()
	first := !p.closed
	if first {
		p.closed = true
		close(p.done)
	}
	for _, u := range p.uses {
		if u.waiting != nil && u.waiting.l.alive() { // the poll of a session that just ended may have messages
			u.waiting.cancel()
		}
	}
	p.mu.Unlock()
	p.work.Wait() // other nodes may still request the last messages of sessions that just ended
	if first {
		p.stop()
	}
}

// send sends m to a node. It reports whether m may arrive.
func (p *cluster) send(to tokenID, m *peerMessage) bool {
	m.from = p.s.node
	data := m.append(make([]byte, 0, peerHeader+32+len(m.data)))
	return p.s.cfg.Peers.Send(p.s.tokens.address(to), data) == nil
}

// receive routes a message of another node.
func (p *cluster) receive(data []byte) {
	m, err := parsePeer(data)
	switch {
	case err != nil:
	case m.kind >= peerWait:
		p.routeResponse(m)
	case m.kind == peerPoll, m.kind == peerPost && m.offset == 0:
		p.serve(m)
	default:
		p.mu.Lock()
		c := p.incoming[callID{m.from, m.call}]
		p.mu.Unlock()
		switch {
		case c != nil:
			c.enqueue(m)
		case m.kind != peerSettle:
			p.send(m.from, &peerMessage{kind: peerGone, call: m.call})
		}
	}
}

// routeResponse passes a response to its outgoing call.
func (p *cluster) routeResponse(m peerMessage) {
	p.mu.Lock()
	c := p.outgoing[m.call]
	p.mu.Unlock()
	switch {
	case c == nil && m.kind == peerAbort: // the answer was written or has failed, but the peerSettle was lost
		p.send(m.from, &peerMessage{kind: peerSettle, call: m.call, number: 1})
	case c == nil || c.node != m.from:
	case m.kind == peerAbort:
		if c.poll != nil { // a POST cannot be aborted
			c.poll.abort()
		}
	default:
		select {
		case c.responses <- m:
		default: // a response that was not requested
		}
	}
}
