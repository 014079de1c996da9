package presence

import "time"

// KindOf names the kind of a message between nodes, and whether it brings news.
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

// Tick has the only shard of p tick as if it came late.
func (p *Presence) Tick(late time.Duration) { p.shards[0].gossip.tick(time.Now(), late) }

// Members is how many other nodes p knows, and for how many it has data.
func (p *Presence) Members() (members, replicas int) {
	s := p.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gossip.members), len(s.set.Clocks()) - 1
}

// Rooms is how many topics are in memory.
func (p *Presence) Rooms() (n int) {
	for _, s := range p.shards {
		s.mu.Lock()
		n += len(s.rooms)
		s.mu.Unlock()
	}
	return n
}
