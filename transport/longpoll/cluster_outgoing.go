package longpoll

import (
	"context"
	"time"
)

// outgoingCall is a request of a client of this node that another node serves.
type outgoingCall struct {
	cluster   *cluster
	id        uint64
	node      tokenID
	poll      *poll // nil for a POST
	responses chan peerMessage
	ended     bool // the other node has ended the call
}

// call begins a call. It returns nil after close.
func (p *cluster) call(node tokenID, poll *poll) *outgoingCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.lastCall++
	c := &outgoingCall{cluster: p, id: p.lastCall, node: node, poll: poll, responses: make(chan peerMessage, 4)}
	p.outgoing[c.id] = c
	return c
}

// end removes the call.
func (c *outgoingCall) end() {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	delete(c.cluster.outgoing, c.id)
}

// send sends m to the other node. It reports whether m may arrive.
func (c *outgoingCall) send(m *peerMessage) bool {
	m.call = c.id
	return c.cluster.send(c.node, m)
}

// request sends m and waits for the response.
func (c *outgoingCall) request(ctx context.Context, m *peerMessage) (response peerMessage, ok bool) {
	if !c.send(m) {
		return peerMessage{}, false
	}
	return c.next(ctx, c.cluster.s.cfg.PeerTimeout)
}

// next waits for the next response, for at most d.
func (c *outgoingCall) next(ctx context.Context, d time.Duration) (response peerMessage, ok bool) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case response = <-c.responses:
		return response, true
	case <-timeout.C:
	case <-ctx.Done():
	case <-c.cluster.done:
	}
	return peerMessage{}, false
}
