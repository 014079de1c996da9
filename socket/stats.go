package socket

import (
	"sync/atomic"

	"bennu.example/transport"
)

// Stats are counts of a Handler since it was made. What is refused, dropped or ended for a bound's sake is counted by its reason.
type Stats struct {
	Sockets int // that are connected, or have not ended yet

	Refused      uint64 // handshakes: by origin, version, subprotocol or Connect
	TooFast      uint64 // handshakes beyond Config.HandshakeRate
	BadMessages  uint64 // sockets that ended because they sent what is no message
	NoTopic      uint64 // joins of topics that no route matches, or that are too long, or their refs
	TooMany      uint64 // joins beyond Config.MaxChannels
	FastJoins    uint64 // joins beyond Config.JoinRate
	FastMessages uint64 // messages beyond Config.MessageRate
	Crashes      uint64 // channels that ended by an error or a panic, or whose join did

	WebSocket transport.WebSocketStats
	LongPoll  transport.LongPollStats
}

// counters are what Stats are made of.
type counters struct {
	refused, tooFast, badMessages, noTopic, tooMany, fastJoins, fastMessages, crashes atomic.Uint64
}

// Stats counts.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	sockets := len(h.sessions)
	h.mu.Unlock()
	return Stats{
		Sockets:      sockets,
		Refused:      h.counts.refused.Load(),
		TooFast:      h.counts.tooFast.Load(),
		BadMessages:  h.counts.badMessages.Load(),
		NoTopic:      h.counts.noTopic.Load(),
		TooMany:      h.counts.tooMany.Load(),
		FastJoins:    h.counts.fastJoins.Load(),
		FastMessages: h.counts.fastMessages.Load(),
		Crashes:      h.counts.crashes.Load(),
		WebSocket:    h.websocket.Stats(),
		LongPoll:     h.longpoll.Stats(),
	}
}
