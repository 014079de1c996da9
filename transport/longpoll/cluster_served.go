package longpoll

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// served is a call of another node for a session of this one. It has a goroutine.
type incomingCall struct {
	peers  *cluster
	id     servedID
	l      *localSession
	guest  *remoteUse
	ctx    context.Context
	cancel context.CancelFunc
	said   chan peerMessage // what the other node says
	later  bool             // a newer poll came while this one waited; under peers.mu
	before *incomingCall    // the poll that this one replaces
	waited chan struct{}    // closed when it waits no more
	bytes  int              // what a POST takes of peers.bodies
}

// serve begins to serve a call, unless there is no room for it.
func (p *cluster) serve(m peerMessage) {
	l := p.s.local(m.session)
	if l == nil {
		p.send(m.from, &peerMessage{kind: peerGone, call: m.call})
		return
	}
	c := &incomingCall{
		peers: p, id: servedID{m.from, m.call}, l: l, said: make(chan peerMessage, 4), waited: make(chan struct{}),
	}
	if m.kind == peerPost && (m.total == 0 || m.total > uint64(p.s.cfg.MaxBody)+16*maxParts) {
		c.say(&peerMessage{kind: peerStatus, number: http.StatusBadRequest})
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
		c.say(&peerMessage{kind: peerStatus, number: statusTimeout})
		return
	}
	go func() {
		defer c.end()
		run()
	}()
}

// begin makes the call known. It reports false if there is no room.
func (c *incomingCall) begin() bool {
	p := c.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.guests[c.l.id]
	if g == nil {
		g = new(remoteUse)
	}
	isPost := c.bytes > 0
	if p.closed || p.served[c.id] != nil || isPost && (g.posts >= maxPeerPosts || p.bodies+c.bytes > maxPeerBodies) {
		return false
	}
	if isPost {
		g.posts++
		p.bodies += c.bytes
	} else {
		if c.before = g.waiting; c.before != nil {
			c.before.later = true
			c.before.cancel()
		}
		g.waiting = c
	}
	g.calls++
	c.guest = g
	p.guests[c.l.id] = g
	p.served[c.id] = c
	p.work.Add(1)
	return true
}

func (c *incomingCall) end() {
	p := c.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.work.Done()
	c.cancel()
	delete(p.served, c.id)
	if c.bytes > 0 {
		c.guest.posts--
		p.bodies -= c.bytes
	}
	if c.guest.calls--; c.guest.calls == 0 {
		delete(p.guests, c.l.id)
	}
}

// tell hands on what the other node says. It is under way one thing at a time, but for the end, which comes besides.
func (c *incomingCall) tell(m peerMessage) {
	select {
	case c.said <- m:
	default:
	}
	if m.kind == peerSettle {
		c.cancel()
	}
}

func (c *incomingCall) say(m *peerMessage) {
	m.call = c.id.call
	c.peers.send(c.id.from, m)
}

// poll serves a poll.
func (c *incomingCall) poll() {
	if c.before != nil {
		<-c.before.waited // it was told; and a session has to see its polls in order
		c.before = nil
	}
	c.say(&peerMessage{kind: peerWait})
	p := &poll{far: make(chan struct{}, 1)}
	messages, gone := c.l.poll(c.ctx, p)
	later := c.leave()
	switch {
	case messages != nil:
		c.l.settle(c.give(p, packFrames(messages)))
	case gone:
		c.say(&peerMessage{kind: peerGone})
	case later:
		c.say(&peerMessage{kind: peerLater})
	default:
		c.say(&peerMessage{kind: peerAnswer})
	}
}

// leave is the end of waiting. It reports whether that came by a newer poll.
func (c *incomingCall) leave() (later bool) {
	c.peers.mu.Lock()
	defer c.peers.mu.Unlock()
	close(c.waited)
	if c.guest.waiting == c {
		c.guest.waiting = nil
	}
	return c.later
}

// give gives an answer to the node that has the request, and reports whether to count it as delivered: what that node says, and if it says
// nothing any more, whether it was allowed to write it.
func (c *incomingCall) give(p *poll, data []byte) (delivered bool) {
	patience := c.peers.s.cfg.PeerTimeout
	c.answer(data, 0)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	closed := c.peers.done
	for taken := false; ; {
		select {
		case m := <-c.said:
			switch m.kind {
			case peerMore:
				c.answer(data, m.offset)
				timeout.Reset(patience)
			case peerTake:
				taken = true
				c.say(&peerMessage{kind: peerTaken})
				timeout.Reset(patience + writeTimeout)
			case peerSettle:
				return taken && m.number == 1
			}
		case <-p.far: // a newer poll waits for these messages
			if !taken {
				return false
			}
			c.say(&peerMessage{kind: peerAbort})
			timeout.Reset(patience)
		case <-closed:
			closed = nil
			timeout.Reset(patience)
		case <-timeout.C:
			return taken
		}
	}
}

// answer says a part of an answer.
func (c *incomingCall) answer(data []byte, from uint64) {
	if from < uint64(len(data)) {
		rest := data[from:]
		c.say(&peerMessage{kind: peerAnswer, total: uint64(len(data)), offset: from, data: rest[:min(peerChunk, len(rest))]})
	}
}

// post serves a POST that begins with m.
func (c *incomingCall) post(m peerMessage) {
	parts, ok := c.parts(m)
	if !ok {
		return
	}
	c.say(&peerMessage{kind: peerWait})
	returned := make(chan struct{})
	var beat sync.WaitGroup
	beat.Go(func() {
		again := time.NewTicker(c.peers.s.cfg.PeerTimeout / 2)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				c.say(&peerMessage{kind: peerWait})
			case <-returned:
				return
			}
		}
	})
	released := make(chan struct{})
	status := c.l.post(c.ctx, parts, func() { close(released) })
	close(returned)
	beat.Wait()
	c.say(&peerMessage{kind: peerStatus, number: uint64(status)})
	<-released // until then the messages count in peers.bodies
}

// parts gets all messages of a POST.
func (c *incomingCall) parts(m peerMessage) (parts []part, ok bool) {
	data, total := m.data, c.bytes
	timeout := time.NewTimer(0)
	defer timeout.Stop()
	for len(data) < total {
		timeout.Reset(c.peers.s.cfg.PeerTimeout)
		c.say(&peerMessage{kind: peerNext})
		select {
		case m = <-c.said:
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
