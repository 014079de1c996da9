package presence

import (
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// NewLooseClient returns a Client without a channel. Its messages come from Receive.
func NewLooseClient(log zerolog.Logger) *Client {
	return &Client{log: log, events: [2]string{EventState, EventDiff}}
}

// Receive passes a message to a loose Client.
func (p *Client) Receive(joinRef, event, payload string) {
	p.receive(serializer.Message{JoinRef: serializer.StringRef(joinRef), Event: event, Payload: encoded([]byte(payload))})
}

// Age sets the number of rooms that were created so far.
func (p *Presence) Age(rooms int64) {
	for _, s := range p.shards {
		s.made = rooms % maxMade
	}
}

// Overflow reports to the Client that its channel has dropped an event.
func (p *Client) Overflow() { p.failed(&channel.OverflowError{Topic: "t", Dropped: 1}) }

// KindOf returns the kind of a message between nodes, and the kind of its delta, if any.
func KindOf(data []byte) string {
	g, err := parseGossip(data)
	if err != nil {
		return "?"
	}
	kind := map[gossipKind]string{beat: "beat", request: "request", answer: "answer", goodbye: "goodbye"}[g.kind]
	switch {
	case g.delta == nil:
	case g.delta.Full:
		kind += " full"
	default:
		kind += " delta"
	}
	return kind
}

// Tick calls the tick of the only shard of p, as if its timer had fired late.
func (p *Presence) Tick(late time.Duration) { p.shards[0].gossip.tick(time.Now(), late) }

// Members returns how many other nodes p knows, and for how many it has data.
func (p *Presence) Members() (members, replicas int) {
	s := p.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gossip.members), len(s.set.Clocks()) - 1
}

// Rooms returns how many topics are in memory.
func (p *Presence) Rooms() (n int) {
	for _, s := range p.shards {
		s.mu.Lock()
		n += len(s.rooms)
		s.mu.Unlock()
	}
	return n
}

// Payload returns the payload of Push.
func (p *Presence) Payload(topic string) []byte { return p.payload(topic).Bytes() }

// DeltaSize takes the changes that are due to be sent to all nodes, and returns the size of the
// messages.
func (p *Presence) DeltaSize() int {
	s := p.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, o := range s.gossip.toAll(time.Now()) {
		n += len(o.encode())
	}
	return n
}

// MergeFrom merges all presences of another node, as if that node had sent them.
func (p *Presence) MergeFrom(from *Presence) {
	f, s := from.shards[0], p.shards[0]
	f.mu.Lock()
	self := f.set.Self()
	delta := f.set.Extract(s.set.Self(), f.set.Clocks())
	raw := (&gossip{kind: answer, from: self, to: s.set.Self(), delta: delta}).encode()
	f.mu.Unlock()
	s.mu.Lock()
	s.set.Up(self)
	s.mu.Unlock()
	s.gossip.receive(&pubsub.Broadcast{Event: gossipEvent, Payload: serializer.Binary(raw)})
}
