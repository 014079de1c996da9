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
	// maxInbox bounds what other nodes sent and was not looked at yet, in bytes. What does not fit is lost, and asked for later.
	maxInbox = 16 << 20
	// transferTicks is how many ticks lie between the decisions to ask others.
	transferTicks = 2
	// patience is how many ticks pass before a node that did not answer is asked again.
	patience = 2
)

// gossiper tells the replicas of a shard on other nodes what is new, and listens to them. Its shard guards it.
type gossiper struct {
	s     *shard
	cfg   *Config
	addr  string // this node's, for the adapter
	topic string // a control topic
	inbox mailbox.Mailbox[*pubsub.Broadcast]
	sub   *pubsub.Subscription
	noGap func()
	wake  chan struct{} // has a token when something is to be told soon
	stop  chan struct{}
	done  chan struct{}

	gens    *crdt.Generations[*entry]
	members map[string]*member
	silent  int       // ticks since the last message to all
	sent    time.Time // the last message to all
	said    uint64    // this node's clock then
	told    int       // ticks since the last one with all clocks
	soon    bool      // something is to be told before the next tick
	eager   bool      // others may know more: ask soon
	ticks   int
	failing bool // the last message to all was not taken
	twin    bool // another node has this node's name, and that was logged
}

// member is another node.
type member struct {
	replica crdt.Replica
	addr    string
	heard   time.Time
	up      bool
	back    time.Time   // when it was heard again after it was down
	clocks  crdt.Clocks // the last that it told
	asked   time.Time   // when, if it has not answered
}

func newGossiper(s *shard, topic, addr string) *gossiper {
	g := &gossiper{
		s: s, cfg: &s.p.cfg, addr: addr, topic: topic,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		gens: crdt.NewGenerations[*entry](100, 1000, 10_000), members: make(map[string]*member),
	}
	g.silent, g.told = g.cfg.Silence, 1 // the first message tells that this node is here
	g.inbox.Init(maxInbox, g.receive)
	return g
}

func (g *gossiper) start() {
	g.sub = g.s.p.ps.Control().Subscribe(g.topic, g)
	g.noGap = g.s.p.ps.OnGap(func(error) { g.gap() })
	go g.run()
}

// end stops the gossiper, and tells the others that this node is gone for good, unless they are to keep what they have.
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
	g.s.mu.Unlock() // the adapter is others' code
	var err error
	for _, o := range last {
		err = g.send(ctx, o)
	}
	return err
}

// Deliver takes a message, for package pubsub.
func (g *gossiper) Deliver(b *pubsub.Broadcast) error {
	if g.inbox.Enqueue(b, len(b.Payload.Bytes())) == mailbox.ErrFull {
		g.s.p.log.Warn().Int("bytes", g.inbox.Used()).Msg("presence: too much from other nodes at once: some is dropped, and asked for later")
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

// announce has the others told soon how far this node has come, and asked.
func (g *gossiper) announce() {
	g.silent, g.told, g.eager = g.cfg.Silence+1, 1, true
	g.stir()
}

// stir has what is new told soon.
func (s *shard) stir() {
	if s.gossip != nil {
		s.gossip.stir()
	}
}

func (g *gossiper) stir() {
	if g.soon {
		return
	}
	g.soon = true
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
		timer.Reset(time.Until(g.hurry(now, next)))
	}
}

// hurry tells what is to be told soon if it is time, and returns when to come again.
func (g *gossiper) hurry(now, next time.Time) time.Time {
	g.s.mu.Lock()
	if !g.soon {
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
	g.soon = false
	out := g.toAll(now)
	if g.eager {
		out = append(out, g.ask(now)...)
	}
	g.s.mu.Unlock()
	g.sendAll(out)
	return next
}

// tick does what is done every period. Late is how late it is: this process may have been stopped meanwhile, and the others' messages
// wait; that is not their silence.
func (g *gossiper) tick(now time.Time, late time.Duration) {
	g.s.mu.Lock()
	g.soon = false
	g.silent++
	g.told++
	out := g.toAll(now)
	if g.ticks++; g.ticks >= transferTicks || g.eager {
		g.ticks = 0
		out = append(out, g.ask(now)...)
	}
	var leaves []*entry
	for name, m := range g.members {
		if late > g.cfg.Period {
			m.heard = m.heard.Add(late)
		}
		switch silence := now.Sub(m.heard); {
		case silence > g.cfg.Permdown:
			leaves = append(leaves, g.forget(name)...)
		case silence > g.cfg.Down && m.up:
			m.up = false
			leaves = append(leaves, g.s.set.Down(m.replica)...)
			g.s.p.log.Info().Str("node", name).Dur("silence", silence).Msg("presence: node is down")
		}
	}
	rooms := g.s.apply(g.riseAll(now), leaves)
	g.s.mu.Unlock()
	g.sendAll(out)
	g.s.broadcastRooms(rooms...)
}

// toAll is the message to all that is due, if one is.
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
	g.said = g.s.set.Clock(self)
	m := &gossip{kind: beat, from: self, addr: g.addr, delta: d}
	if d != nil && g.told == 0 { // all clocks once a tick are enough
		m.kind, m.clocks = news, crdt.Clocks{self: g.said}
	} else {
		g.told, m.clocks = 0, g.s.set.Clocks()
	}
	return []outgoing{{"", m}}
}

// ask is a request to each of those who together know what this node lacks.
func (g *gossiper) ask(now time.Time) (out []outgoing) {
	hasty := g.eager // those who were asked just now are to answer first: of several that know the same, one is enough
	g.eager = false
	self, own := g.s.set.Self(), g.s.set.Clocks()
	for _, m := range g.members {
		if m.up { // though it may be down in the set still: see rise
			own[m.replica] = g.s.set.Clock(m.replica)
		}
	}
	var ws crdt.Witnesses
	for _, m := range g.members {
		if m.up && (hasty || !g.pending(m, now)) {
			ws = ws.Add(crdt.Witness{Replica: m.replica, Clocks: m.clocks.Only(own)})
		}
	}
	for _, w := range ws.Add(crdt.Witness{Replica: self, Clocks: own}) {
		if m := g.members[w.Replica.Name]; w.Replica != self && !g.pending(m, now) {
			m.asked = now
			out = append(out, outgoing{m.addr, &gossip{kind: request, from: self, addr: g.addr, to: m.replica, clocks: own}})
		}
	}
	return out
}

// pending reports whether a member was asked and may answer yet.
func (g *gossiper) pending(m *member, now time.Time) bool {
	return now.Sub(m.asked) < patience*g.cfg.Period
}

// forget drops a member and all about it.
func (g *gossiper) forget(name string) (leaves []*entry) {
	m := g.members[name]
	delete(g.members, name)
	g.gens.Forget(m.replica)
	g.s.p.log.Info().Str("node", name).Msg("presence: node is gone")
	return g.s.set.Forget(m.replica)
}

// outgoing is a message for a node, or for all if that is "".
type outgoing struct {
	to string
	*gossip
}

func (g *gossiper) sendAll(out []outgoing) {
	for _, o := range out {
		err := g.send(context.Background(), o)
		if o.to != "" {
			continue // it will be asked again
		}
		g.s.mu.Lock()
		if err != nil {
			g.silent = g.cfg.Silence // they do not know what is new: at the next tick, tell them so
		}
		changed := g.failing != (err != nil)
		g.failing = err != nil
		g.s.mu.Unlock()
		if changed {
			g.s.p.log.Warn().Err(err).Bool("failing", err != nil).Msg("presence: telling other nodes")
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

// receive takes a message of another node. It is the inbox's function.
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
		g.namesake(m)
	case m.kind == beat || m.kind == news:
		out = g.nudge(m)
		rooms = g.heard(m)
	case m.kind == goodbye:
		if mem := g.members[m.from.Name]; mem != nil && mem.replica == m.from {
			rooms = g.s.apply(nil, g.forget(m.from.Name))
		}
	case m.to != self:
	case m.kind == request:
		out = append(out, outgoing{m.addr, &gossip{kind: answer, from: self, addr: g.addr, to: m.from, delta: g.extract(m)}})
	case m.kind == answer:
		if mem := g.members[m.from.Name]; mem != nil && mem.replica == m.from {
			mem.asked = time.Time{}
		}
		joins, leaves := g.merge(m.delta)
		joins = append(joins, g.riseAll(time.Now())...)
		rooms = g.s.apply(joins, append(leaves, g.s.arrived(joins)...))
	}
	g.s.mu.Unlock()
	g.sendAll(out)
	g.s.broadcastRooms(rooms...)
}

// namesake takes a message of one with this node's name: a former life of it, or a mistake.
func (g *gossiper) namesake(m *gossip) {
	if m.from.Vsn > g.s.set.Self().Vsn && !g.twin {
		g.twin = true
		g.s.p.log.Error().Str("node", m.from.Name).Str("address", m.addr).Msg("presence: another node has this node's name, and other nodes see one of them only")
	}
}

// nudge tells one who has missed what was said here, by its clocks, how far this node is, so that it asks. Without that it would know at the
// next sign of life only: what waited for the engine while that was away may have gone out before the other one was back. It is no beat,
// which could be answered likewise.
func (g *gossiper) nudge(m *gossip) []outgoing {
	self := g.s.set.Self()
	if mem := g.members[m.from.Name]; m.kind != beat || m.clocks[self] >= g.said || mem == nil || mem.replica != m.from || !mem.up {
		return nil // it lacks nothing; or it is new or back, and all are told
	}
	clocks := g.s.set.Clocks() // all, so that it need not ask several
	clocks[self] = g.said      // what is not said yet will be
	return []outgoing{{m.addr, &gossip{kind: news, from: self, addr: g.addr, clocks: clocks, delta: &crdt.Delta[*entry]{}}}}
}

// heard takes a sign of life.
func (g *gossiper) heard(m *gossip) []*room {
	var leaves []*entry
	mem := g.members[m.from.Name]
	if mem != nil && mem.replica != m.from {
		if mem.up && m.from.Vsn < mem.replica.Vsn {
			return nil // from its former life, and late
		}
		leaves = g.forget(m.from.Name)
		mem = nil
	}
	if mem == nil {
		mem = &member{replica: m.from}
		g.members[m.from.Name] = mem
	}
	mem.heard, mem.addr = time.Now(), m.addr
	if m.kind == beat || mem.clocks == nil {
		mem.clocks = m.clocks
	} else {
		mem.clocks.Raise(m.clocks)
	}
	if !mem.up {
		mem.up, mem.back = true, mem.heard
		g.announce()
		g.s.p.log.Info().Str("node", m.from.Name).Msg("presence: node is up")
	}
	if known, _ := g.s.set.Known(m.from); !known {
		g.s.set.Up(m.from) // so that what it tells is taken
	}
	joins, gone := g.merge(m.delta)
	joins = append(g.rise(mem, mem.heard), joins...)
	if g.s.set.Clock(m.from) < m.clocks[m.from] { // something before it was lost
		g.eager = true
		g.stir()
	}
	return g.s.apply(joins, append(append(leaves, gone...), g.s.arrived(joins)...))
}

// rise returns what a member has that is back, as soon as that is what it has now, so that nobody comes back who has left meanwhile; or if
// nobody can say.
func (g *gossiper) rise(m *member, now time.Time) (joins []*entry) {
	if m.up && (g.s.set.Clock(m.replica) >= m.clocks[m.replica] || now.Sub(m.back) >= patience*g.cfg.Period) {
		return g.s.set.Up(m.replica)
	}
	return nil
}

func (g *gossiper) riseAll(now time.Time) (joins []*entry) {
	for _, m := range g.members {
		joins = append(joins, g.rise(m, now)...)
	}
	return joins
}

// merge takes over a delta, and returns what came and what went.
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

// extract is what the sender of a request lacks.
func (g *gossiper) extract(m *gossip) *crdt.Delta[*entry] {
	if d := g.gens.Extract(m.clocks); d != nil {
		return d
	}
	return g.s.set.Extract(m.from, m.clocks)
}
