package longpoll

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// incomingCall is a call of another node for a session of this one. It has a goroutine.
type incomingCall struct {
	cluster    *cluster
	id         callID
	l          *localSession
	use        *remoteUse
	ctx        context.Context
	cancel     context.CancelFunc
	messages   chan peerMessage // further messages of the other node
	superseded bool             // a newer poll arrived while this one waited; under cluster.mu
	previous   *incomingCall    // the poll that this one replaces
	waited     chan struct{}    // closed when the call no longer waits for the session
	bytes      int              // the size of a POST, taken from cluster.bodies; 0 for a poll
}

// serve begins to serve a call, or refuses it.
func (p *cluster) serve(m peerMessage) {
	l := p.s.local(m.session)
	if l == nil {
		p.send(m.from, &peerMessage{kind: peerGone, call: m.call})
		return
	}
	c := &incomingCall{
		cluster:  p,
		id:       callID{m.from, m.call},
		l:        l,
		messages: make(chan peerMessage, 4),
		waited:   make(chan struct{}),
	}
	if m.kind == peerPost && (m.total == 0 || m.total > uint64(p.s.maxPackedBody())) {
		c.respond(&peerMessage{kind: peerStatus, number: http.StatusBadRequest})
		return
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	run := c.poll
	if m.kind == peerPost {
		c.bytes = int(m.total)
		run = func() { c.post(m) }
	}
	if !c.begin() {
		c.cancel()
		c.respond(&peerMessage{kind: peerBusy})
		return
	}
	go func() {
		defer c.end()
		run()
	}()
}

// begin registers the call. It reports false if there is no room for it.
func (c *incomingCall) begin() bool {
	p := c.cluster
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.uses[c.l.id]
	if u == nil {
		u = new(remoteUse)
	}
	isPost := c.bytes > 0
	if p.closed || p.incoming[c.id] != nil {
		return false
	}
	if isPost {
		if u.posts >= maxPeerPosts || !p.bodies.tryTake(c.l.id, int64(c.bytes)) {
			return false
		}
		u.posts++
	} else {
		if c.previous = u.waiting; c.previous != nil {
			c.previous.superseded = true
			c.previous.cancel()
		}
		u.waiting = c
	}
	u.calls++
	c.use = u
	p.uses[c.l.id] = u
	p.incoming[c.id] = c
	p.work.Add(1)
	return true
}

// end removes the call.
func (c *incomingCall) end() {
	p := c.cluster
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.work.Done()
	c.cancel()
	delete(p.incoming, c.id)
	if c.bytes > 0 {
		c.use.posts--
		p.bodies.give(c.l.id, int64(c.bytes))
	}
	if c.use.calls--; c.use.calls == 0 {
		delete(p.uses, c.l.id)
	}
}

// enqueue passes a message of the other node to the call. The other node sends one message at a
// time, except for peerSettle, which it may send at any time.
func (c *incomingCall) enqueue(m peerMessage) {
	select {
	case c.messages <- m:
	default:
	}
	if m.kind == peerSettle {
		c.cancel()
	}
}

// respond sends m to the calling node.
func (c *incomingCall) respond(m *peerMessage) {
	m.call = c.id.call
	c.cluster.send(c.id.from, m)
}

// poll serves a poll.
func (c *incomingCall) poll() {
	if c.previous != nil {
		<-c.previous.waited // it was cancelled; a session must receive its polls in order
		c.previous = nil
	}
	c.respond(&peerMessage{kind: peerWait})
	p := &poll{aborting: make(chan struct{}, 1)}
	messages, gone := c.l.poll(c.ctx, p)
	superseded := c.endWait()
	switch {
	case messages != nil:
		c.l.settle(c.transfer(p, packFrames(messages)))
	case gone:
		c.respond(&peerMessage{kind: peerGone})
	case superseded:
		c.respond(&peerMessage{kind: peerLater})
	default:
		c.respond(&peerMessage{kind: peerAnswer})
	}
}

// endWait marks the end of the wait for the session. It reports whether a newer poll ended it.
func (c *incomingCall) endWait() (superseded bool) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	close(c.waited)
	if c.use.waiting == c {
		c.use.waiting = nil
	}
	return c.superseded
}

// transfer sends an answer to the calling node. It reports whether the answer counts as delivered:
// the calling node's report, or if that is lost, whether the node had permission to write it.
func (c *incomingCall) transfer(p *poll, data []byte) (delivered bool) {
	patience := c.cluster.s.cfg.PeerTimeout
	c.sendPart(data, 0)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	closed := c.cluster.done
	for permitted := false; ; {
		select {
		case m := <-c.messages:
			switch m.kind {
			case peerMore:
				c.sendPart(data, m.offset)
				timeout.Reset(patience)
			case peerTake:
				permitted = true
				c.respond(&peerMessage{kind: peerTaken})
				timeout.Reset(patience + writeTimeout)
			case peerSettle:
				return permitted && m.number == 1
			}
		case <-p.aborting: // a newer poll waits for these messages
			if !permitted {
				return false
			}
			c.respond(&peerMessage{kind: peerAbort})
			timeout.Reset(patience)
		case <-closed:
			closed = nil
			timeout.Reset(patience)
		case <-timeout.C:
			return permitted
		}
	}
}

// sendPart sends the part of an answer that begins at an offset.
func (c *incomingCall) sendPart(data []byte, offset uint64) {
	if offset < uint64(len(data)) {
		part := data[offset:][:min(peerChunk, uint64(len(data))-offset)]
		c.respond(&peerMessage{kind: peerAnswer, total: uint64(len(data)), offset: offset, data: part})
	}
}

// post serves a POST that begins with m.
func (c *incomingCall) post(m peerMessage) {
	parts, ok := c.parts(m)
	if !ok {
		return
	}
	c.respond(&peerMessage{kind: peerWait})
	returned := make(chan struct{})
	var beat sync.WaitGroup
	beat.Go(func() {
		again := time.NewTicker(c.cluster.s.cfg.PeerTimeout / 2)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				c.respond(&peerMessage{kind: peerWait})
			case <-returned:
				return
			}
		}
	})
	released := make(chan struct{})
	status := c.l.post(c.ctx, parts, func() { close(released) })
	close(returned)
	beat.Wait()
	c.respond(&peerMessage{kind: peerStatus, number: uint64(status)})
	<-released // until then the messages count in cluster.bodies
}

// parts requests the rest of a POST that begins with m, and returns its messages.
func (c *incomingCall) parts(m peerMessage) (parts []part, ok bool) {
	data, total := m.data, c.bytes
	timeout := time.NewTimer(0)
	defer timeout.Stop()
	for len(data) < total {
		timeout.Reset(c.cluster.s.cfg.PeerTimeout)
		c.respond(&peerMessage{kind: peerNext})
		select {
		case m = <-c.messages:
		case <-timeout.C:
			return nil, false
		case <-c.ctx.Done():
			return nil, false
		}
		if m.kind != peerPost || m.offset != uint64(len(data)) || len(m.data) == 0 {
			return nil, false
		}
		data = append(data, m.data...)
	}
	if len(data) > total {
		return nil, false
	}
	parts, err := unpackParts(data)
	return parts, err == nil
}
