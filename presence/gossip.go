package presence

import (
	"context"
	"math/rand/v2"
	"time"

	"bennu.example/internal/crdt"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

const (
	gossipEvent = "gossip"
	// maxInbox bounds the received messages that were not processed yet, in bytes. Messages that do
	// not fit are dropped. Their content is requested later.
	maxInbox = 16 << 20
	// transferTicks is the number of ticks between checks for missing data, which send requests.
	transferTicks = 2
	// patience is the number of ticks after which a request that got no answer is sent again.
	patience = 2
)

// gossiper exchanges changes with the replicas of a shard on other nodes. The lock of the shard
// guards it.
type gossiper struct {
	s     *shard
	cfg   *Config
	addr  string // of this node, for the adapter
	topic string // a control topic
	inbox mailbox.Mailbox[*pubsub.Broadcast]
	sub   *pubsub.Subscription
	noGap func()
	wake  chan struct{} // has a token when a message is due before the next tick
	stop  chan struct{}
	done  chan struct{}

	gens        *crdt.Generations[*entry]
	members     map[string]*member
	silent      int       // ticks since the last message to all nodes
	sent        time.Time // when the last message to all nodes was sent
	sentClock   uint64    // the clock of this node in that message
	sinceClocks int       // ticks since the last message with all clocks
	isDue       bool      // a message is due before the next tick
	isMissing   bool      // data may be missing: send requests soon
	ticks       int
	failing     bool // the adapter refused the last message to all nodes
	nameClash   bool // another node has this node's name, and that was logged
}

// member is another node.
type member struct {
	replica   crdt.Replica
	addr      string
	lastSeen  time.Time // when its last heartbeat or update arrived
	up        bool
	back      time.Time   // when its first message after a silence arrived
	clocks    crdt.Clocks // the last that it sent
	requested time.Time   // when the request that it has not answered was sent
}

func newGossiper(s *shard, topic, addr string) *gossiper {
	g := &gossiper{
		s: s, cfg: &s.p.cfg, addr: addr, topic: topic,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		gens: crdt.NewGenerations[*entry](100, 1000, 10_000), members: make(map[string]*member),
	}
	g.silent, g.sinceClocks = g.cfg.Silence, 1 // so that the first tick announces this node
	g.inbox.Init(maxInbox, g.receive)
	return g
}

func (g *gossiper) start() {
	g.sub = g.s.p.ps.Control().Subscribe(g.topic, g)
	g.noGap = g.s.p.ps.OnGap(func(error) { g.gap() })
	go g.run()
}

// end stops the gossiper and sends a goodbye message, unless Config.KeepOnClose is set.
func (g *gossiper) end(ctx context.Context) error {
	g.noGap()
	g.sub.Cancel()
	g.inbox.Close(false)
	close(g.stop)
	<-g.done
	g.inbox.Wait()
	g.s.mu.Lock()
	last := []outgoing{{"", &gossip{kind: goodbye, from: g.s.set.Self(), addr: g.addr}}}
	if g.cfg.KeepOnClose {
		last = g.toAll(time.Now())
	}
	g.s.mu.Unlock() // the adapter is others' code, so it is called under no lock
	var err error
	for _, o := range last {
		err = g.send(ctx, o)
	}
	return err
}

// Deliver is part of pubsub.Subscriber.
func (g *gossiper) Deliver(b *pubsub.Broadcast) error {
	if g.inbox.Enqueue(b, len(b.Payload.Bytes())) == mailbox.ErrFull {
		g.s.p.log.Warn().Int("bytes", g.inbox.Used()).Msg("presence: inbox full, messages of other nodes dropped")
		return nil
	}
	return nil
}

// gap is called when messages may have been lost.
func (g *gossiper) gap() {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.announce()
}

// announce makes a message with all clocks and requests for missing data due soon.
func (g *gossiper) announce() {
	g.silent, g.sinceClocks, g.isMissing = g.cfg.Silence+1, 1, true
	g.stir()
}

// stir makes a message with the latest changes due soon.
func (s *shard) stir() {
	if s.gossip != nil {
		s.gossip.stir()
	}
}

func (g *gossiper) stir() {
	if g.isDue {
		return
	}
	g.isDue = true
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run ticks until the gossiper is stopped.
func (g *gossiper) run() {
	defer close(g.done)
	next := time.Now().Add(rand.N(g.cfg.Period/4 + 1))
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-g.wake:
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(next) {
			g.tick(now, now.Sub(next))
			next = time.Now().Add(g.cfg.Period)
		}
		timer.Reset(time.Until(g.sendDue(now, next)))
	}
}

// sendDue sends the message that is due soon if Delay has passed since the last one. It returns
// when to call it again.
func (g *gossiper) sendDue(now, next time.Time) time.Time {
	g.s.mu.Lock()
	if !g.isDue {
		g.s.mu.Unlock()
		return next
	}
	if at := g.sent.Add(g.cfg.Delay); now.Before(at) {
		g.s.mu.Unlock()
		if at.Before(next) {
			return at
		}
		return next
	}
	g.isDue = false
	out := g.toAll(now)
	if g.isMissing {
		out = append(out, g.requests(now)...)
	}
	g.s.mu.Unlock()
	g.sendAll(out)
	return next
}

// tick does the periodic work. Late is its delay. If the process was suspended, messages of other
// nodes may wait in the inbox, so the delay does not count as silence of these nodes.
func (g *gossiper) tick(now time.Time, late time.Duration) {
	g.s.mu.Lock()
	g.isDue = false
	g.silent++
	g.sinceClocks++
	out := g.toAll(now)
	if g.ticks++; g.ticks >= transferTicks || g.isMissing {
		g.ticks = 0
		out = append(out, g.requests(now)...)
	}
	var leaves []*entry
	for name, m := range g.members {
		if late > g.cfg.Period {
			m.lastSeen = m.lastSeen.Add(late)
		}
		switch silence := now.Sub(m.lastSeen); {
		case silence > g.cfg.Permdown:
			leaves = append(leaves, g.forget(name)...)
		case silence > g.cfg.Down && m.up:
			m.up = false
			leaves = append(leaves, g.s.set.Down(m.replica)...)
			g.s.p.log.Info().Str("node", name).Dur("silence", silence).Msg("presence: node is down")
		}
	}
	rooms := g.s.apply(g.readmitAll(now), leaves)
	g.s.mu.Unlock()
	g.sendAll(out)
	g.s.broadcastRooms(rooms...)
}

// toAll returns the message to all nodes, if one is due.
func (g *gossiper) toAll(now time.Time) []outgoing {
	d := g.s.set.TakeDelta()
	if d == nil && g.silent <= g.cfg.Silence {
		return nil
	}
	if d != nil {
		g.gens.Push(d)
	}
	g.silent, g.sent = 0, now
	self := g.s.set.Self()
	g.sentClock = g.s.set.Clock(self)
	m := &gossip{kind: beat, from: self, addr: g.addr, delta: d}
	if d != nil && g.sinceClocks == 0 { // all clocks are sent at most once per tick
		m.kind, m.clocks = news, crdt.Clocks{self: g.sentClock}
	} else {
		g.sinceClocks, m.clocks = 0, g.s.set.Clocks()
	}
	return []outgoing{{"", m}}
}

// requests returns requests for missing data. It chooses a small set of members that together have
// all of it.
func (g *gossiper) requests(now time.Time) (out []outgoing) {
	urgent := g.isMissing // wait for answers that are pending instead of requesting the same from another member
	g.isMissing = false
	self, own := g.s.set.Self(), g.s.set.Clocks()
	for _, m := range g.members {
		if m.up { // the set may still have it as down: see readmit
			own[m.replica] = g.s.set.Clock(m.replica)
		}
	}
	var ws crdt.Witnesses
	for _, m := range g.members {
		if m.up && (urgent || !g.pending(m, now)) {
			ws = ws.Add(crdt.Witness{Replica: m.replica, Clocks: m.clocks.Only(own)})
		}
	}
	for _, w := range ws.Add(crdt.Witness{Replica: self, Clocks: own}) {
		if m := g.members[w.Replica.Name]; w.Replica != self && !g.pending(m, now) {
			m.requested = now
			out = append(out, outgoing{m.addr, &gossip{kind: request, from: self, addr: g.addr, to: m.replica, clocks: own}})
		}
	}
	return out
}

// pending reports whether an answer of a member may still arrive.
func (g *gossiper) pending(m *member, now time.Time) bool {
	return now.Sub(m.requested) < patience*g.cfg.Period
}

// forget removes a member and its presences.
func (g *gossiper) forget(name string) (leaves []*entry) {
	m := g.members[name]
	delete(g.members, name)
	g.gens.Forget(m.replica)
	g.s.p.log.Info().Str("node", name).Msg("presence: node is gone")
	return g.s.set.Forget(m.replica)
}

// outgoing is a message to a node. If to is empty, it goes to all nodes.
type outgoing struct {
	to string
	*gossip
}

func (g *gossiper) sendAll(out []outgoing) {
	for _, o := range out {
		err := g.send(context.Background(), o)
		if o.to != "" {
			continue // the request is sent again, after patience
		}
		g.s.mu.Lock()
		if err != nil {
			g.silent = g.cfg.Silence // the change was not sent, so the next tick sends all clocks
		}
		changed := g.failing != (err != nil)
		g.failing = err != nil
		g.s.mu.Unlock()
		if changed {
			g.s.p.log.Warn().Err(err).Bool("failing", err != nil).Msg("presence: broadcast to other nodes")
		}
	}
}

func (g *gossiper) send(ctx context.Context, o outgoing) error {
	payload := serializer.Binary(o.encode())
	if o.to == "" {
		return g.s.p.ps.Control().BroadcastFrom(ctx, g, g.topic, gossipEvent, payload)
	}
	return g.s.p.ps.Control().SendTo(ctx, o.to, g.topic, gossipEvent, payload)
}

// receive handles a message of another node. The inbox calls it.
func (g *gossiper) receive(b *pubsub.Broadcast) {
	m, err := parseGossip(b.Payload.Bytes())
	if err != nil || b.Event != gossipEvent {
		g.s.p.log.Error().Err(err).Str("topic", b.Topic).Msg("presence: message dropped")
		return
	}
	g.s.mu.Lock()
	var rooms []*room
	var out []outgoing
	self := g.s.set.Self()
	switch {
	case g.s.closed || m.from == self:
	case m.from.Name == self.Name:
		g.handleNameClash(m)
	case m.kind == beat || m.kind == news:
		out = g.updateFor(m)
		rooms = g.handleAlive(m)
	case m.kind == goodbye:
		if mem := g.members[m.from.Name]; mem != nil && mem.replica == m.from {
			rooms = g.s.apply(nil, g.forget(m.from.Name))
		}
	case m.to != self:
	case m.kind == request:
		out = append(out, outgoing{m.addr, &gossip{kind: answer, from: self, addr: g.addr, to: m.from, delta: g.extract(m)}})
	case m.kind == answer:
		if mem := g.members[m.from.Name]; mem != nil && mem.replica == m.from {
			mem.requested = time.Time{}
		}
		joins, leaves := g.merge(m.delta)
		joins = append(joins, g.readmitAll(time.Now())...)
		rooms = g.s.apply(joins, append(leaves, g.s.arrived(joins)...))
	}
	g.s.mu.Unlock()
	g.sendAll(out)
	g.s.broadcastRooms(rooms...)
}

// handleNameClash handles a message from a node with the name of this one. It comes from an earlier
// start of this node, or two nodes are configured with the same name.
func (g *gossiper) handleNameClash(m *gossip) {
	if m.from.Vsn > g.s.set.Self().Vsn && !g.nameClash {
		g.nameClash = true
		g.s.p.log.Error().Str("node", m.from.Name).Str("address", m.addr).
			Msg("presence: two nodes have the same name, other nodes see only one of them")
	}
}

// updateFor returns an update for the sender of a heartbeat whose clocks show that it missed
// messages of this node. The update has the clocks of this node, so the other node sends a request.
// This is faster than to wait for the next heartbeat. Messages are missed if the adapter sent its
// queue, after the engine was back, before the other node was connected.
//
// The update is not a heartbeat, because the other node could answer that with an update of its
// own.
func (g *gossiper) updateFor(m *gossip) []outgoing {
	self := g.s.set.Self()
	mem := g.members[m.from.Name]
	if m.kind != beat || m.clocks[self] >= g.sentClock || mem == nil || mem.replica != m.from || !mem.up {
		return nil // it missed nothing; or it is new or back, and handleAlive makes a message to all nodes due
	}
	clocks := g.s.set.Clocks() // of all replicas, so that one request is enough
	clocks[self] = g.sentClock // later changes are still to be sent to all nodes
	reply := &gossip{kind: news, from: self, addr: g.addr, clocks: clocks, delta: &crdt.Delta[*entry]{}}
	return []outgoing{{m.addr, reply}}
}

// handleAlive handles a heartbeat or an update.
func (g *gossiper) handleAlive(m *gossip) []*room {
	var leaves []*entry
	mem := g.members[m.from.Name]
	if mem != nil && mem.replica != m.from {
		if mem.up && m.from.Vsn < mem.replica.Vsn {
			return nil // delayed, from an earlier start of the node
		}
		leaves = g.forget(m.from.Name)
		mem = nil
	}
	if mem == nil {
		mem = &member{replica: m.from}
		g.members[m.from.Name] = mem
	}
	mem.lastSeen, mem.addr = time.Now(), m.addr
	if m.kind == beat || mem.clocks == nil {
		mem.clocks = m.clocks
	} else {
		mem.clocks.Raise(m.clocks)
	}
	if !mem.up {
		mem.up, mem.back = true, mem.lastSeen
		g.announce()
		g.s.p.log.Info().Str("node", m.from.Name).Msg("presence: node is up")
	}
	if known, _ := g.s.set.Known(m.from); !known {
		g.s.set.Up(m.from) // so that merge accepts its changes
	}
	joins, gone := g.merge(m.delta)
	joins = append(g.readmit(mem, mem.lastSeen), joins...)
	if g.s.set.Clock(m.from) < m.clocks[m.from] { // an earlier message was lost
		g.isMissing = true
		g.stir()
	}
	return g.s.apply(joins, append(append(leaves, gone...), g.s.arrived(joins)...))
}

// readmit brings back the presences of a member that was down. It waits until this node has the
// current ones, so that presences that ended meanwhile do not appear again, but at most patience
// ticks.
func (g *gossiper) readmit(m *member, now time.Time) (joins []*entry) {
	if m.up && (g.s.set.Clock(m.replica) >= m.clocks[m.replica] || now.Sub(m.back) >= patience*g.cfg.Period) {
		return g.s.set.Up(m.replica)
	}
	return nil
}

func (g *gossiper) readmitAll(now time.Time) (joins []*entry) {
	for _, m := range g.members {
		joins = append(joins, g.readmit(m, now)...)
	}
	return joins
}

// merge merges a delta and returns the presences that joined and left.
func (g *gossiper) merge(d *crdt.Delta[*entry]) (joins, leaves []*entry) {
	if d == nil {
		return nil, nil
	}
	for _, p := range d.Parts {
		for _, e := range p.Values {
			g.s.intern(e)
		}
	}
	if d.Full {
		g.gens.Reset()
	} else {
		g.gens.Push(d)
	}
	return g.s.set.Merge(d)
}

// extract returns the data that the sender of a request is missing.
func (g *gossiper) extract(m *gossip) *crdt.Delta[*entry] {
	if d := g.gens.Extract(m.clocks); d != nil {
		return d
	}
	return g.s.set.Extract(m.from, m.clocks)
}
