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

// ClientID is part of channelhost.Carrier.
func (s *session) ClientID() string { return s.clientID }

// Bounds of the connect parameter $client.
const (
	minClientID = 16
	maxClientID = 64
)

// validClientID returns the connect parameter $client, or "" if it is not a client id: 16 to 64
// letters, digits, "_" and "-".
func validClientID(param any) string {
	id, ok := param.(string)
	if !ok || len(id) < minClientID || len(id) > maxClientID {
		return ""
	}
	for _, c := range []byte(id) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-') {
			return ""
		}
	}
	return id
}
