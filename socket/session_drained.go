package socket

import (
	"sync"

	"bennu.example/internal/channelhost"
)

// parked is the channels that wait until their connection has drained. It has a lock of its own,
// because it is used during deliveries, under the lock of a topic.
type parked struct {
	mu       sync.Mutex
	channels map[channelhost.Channel]struct{}
}

// Drained is part of channelhost.Carrier.
func (s *session) Drained(c channelhost.Channel) bool {
	p := &s.parked
	p.mu.Lock()
	if p.channels == nil {
		p.channels = make(map[channelhost.Channel]struct{})
	}
	p.channels[c] = struct{}{}
	if len(p.channels) > 2*s.h.cfg.MaxChannels { // some have ended
		for c := range p.channels {
			if c.HasEnded() {
				delete(p.channels, c)
			}
		}
	}
	p.mu.Unlock()
	if !s.conn.Drained(s.readOn) {
		return false
	}
	p.mu.Lock()
	delete(p.channels, c)
	p.mu.Unlock()
	return true
}

// readOn continues the channels that wait.
func (s *session) readOn() {
	p := &s.parked
	p.mu.Lock()
	channels := p.channels
	p.channels = nil
	p.mu.Unlock()
	for c := range channels {
		c.ReadOn()
	}
}
