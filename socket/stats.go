package socket

import (
	"errors"
	"reflect"
	"slices"
	"sync/atomic"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// Stats are the counters of a Handler. Everything that is refused, dropped or ended because of a
// bound is counted by its reason.
type Stats struct {
	// Draining is true from the beginning of Shutdown. The readiness probe of a balancer or an
	// orchestrator fails then, because new handshakes are refused.
	Draining bool

	Sockets    int // connected, or not completely ended
	Handshakes int // in progress: Connect runs, or the client has not read the answer

	Refused uint64 // handshakes refused by origin, version, subprotocol or Connect
	TooFast uint64 // handshakes beyond Config.HandshakeRate or Admission.HandshakeRate

	TooManySockets uint64 // handshakes beyond Admission.MaxSockets or MaxKeys

	NoTopic      uint64 // joins of topics that no route matches
	TooLong      uint64 // joins and other messages beyond Config.MaxTopic
	TooMany      uint64 // joins beyond Config.MaxChannels
	FastJoins    uint64 // joins beyond Config.JoinRate or Admission.JoinRate
	FastMessages uint64 // messages beyond Config.MessageRate or Admission.MessageRate, and too many heartbeats

	SlowJoins     uint64 // joins beyond Config.JoinTimeout
	FullMailboxes uint64 // channels that ended beyond Config.MaxMailbox
	Stuck         uint64 // channels whose callback had not returned 5 s after their topic was joined again
	Crashes       uint64 // callbacks that panicked or returned an unexpected error, including those of joins and ends

	Kicked    uint64 // channels that Kick ended
	Revoked   uint64 // connections that Revoke ended
	Denied    uint64 // clients that a final Refusal denied, in the handshake or when they sent a token
	Refreshed uint64 // tokens that clients sent on $socket, and that were accepted
	Expired   uint64 // grants that expired before a new token came

	NoCredit uint64 // broadcasts that a client did not receive because it had no credit

	Wills uint64 // last wills that this handler broadcast

	OnceEvicted uint64 // replies of channel.Once that their stores dropped before the end of the window

	BadMessages uint64 // sockets that ended because of a malformed or too deeply nested message

	WebSocket websocket.Stats
	LongPoll  longpoll.Stats
}

// counters are the atomic form of Stats.
type counters struct {
	refused, tooFast, tooManySockets         atomic.Uint64
	badMessages                              atomic.Uint64
	denials                                  [denials]atomic.Uint64
	slowJoins, fullMailboxes, stuck, crashes atomic.Uint64
	kicked, refreshed, expired               atomic.Uint64
	revoked, denied, wills, noCredit         atomic.Uint64
}

// of returns the number of messages that were refused for one of the reasons.
func (c *counters) of(reasons ...denial) (n uint64) {
	for _, r := range reasons {
		n += c.denials[r].Load()
	}
	return n
}

// ofEnd returns the counter of channels that ended, or joins that failed, because of err.
func (c *counters) ofEnd(err error) *atomic.Uint64 {
	switch {
	case errors.Is(err, channel.ErrJoinTimeout):
		return &c.slowJoins
	case errors.Is(err, channel.ErrFull):
		return &c.fullMailboxes
	case errors.Is(err, channel.ErrReplaced):
		return &c.stuck
	}
	return &c.crashes
}

// Stats returns the counts. It may be called at any time.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	draining, sockets, handshakes := h.draining, len(h.sessions), len(h.opening)
	h.mu.Unlock()
	return Stats{
		Draining:   draining,
		Sockets:    sockets,
		Handshakes: handshakes,
		Refused:    h.counts.refused.Load(),
		TooFast:    h.counts.tooFast.Load(),

		TooManySockets: h.counts.tooManySockets.Load(),

		NoTopic:       h.counts.of(unmatchedTopic),
		TooLong:       h.counts.of(longTopic, longEvent, longRef),
		TooMany:       h.counts.of(tooManyChannels, tooManyRunning),
		FastJoins:     h.counts.of(tooManyJoins, keyJoins),
		FastMessages:  h.counts.of(tooManyMessages, keyMessages, tooManyHeartbeats),
		SlowJoins:     h.counts.slowJoins.Load(),
		FullMailboxes: h.counts.fullMailboxes.Load(),
		Stuck:         h.counts.stuck.Load(),
		Crashes:       h.counts.crashes.Load(),
		Kicked:        h.counts.kicked.Load(),
		Revoked:       h.counts.revoked.Load(),
		Denied:        h.counts.denied.Load(),
		Refreshed:     h.counts.refreshed.Load(),
		Expired:       h.counts.expired.Load(),
		NoCredit:      h.counts.noCredit.Load(),
		Wills:         h.counts.wills.Load(),
		OnceEvicted:   h.routes.onceEvicted(),
		BadMessages:   h.counts.badMessages.Load(),
		WebSocket:     h.websocket.Stats(),
		LongPoll:      h.longpoll.Stats(),
	}
}

// onceEvicted returns the number of replies that the stores of the handlers have evicted.
func (r *router) onceEvicted() (n uint64) {
	var seen []any
	count := func(h *channel.Handler) {
		store := channelhost.OnceStore(h)
		counts, ok := store.(interface{ Evicted() uint64 })
		if ok && reflect.TypeOf(store).Comparable() && !slices.Contains(seen, store) {
			seen = append(seen, store)
			n += counts.Evicted()
		}
	}
	for _, h := range r.exact {
		count(h)
	}
	for _, p := range r.prefixes {
		count(p.handler)
	}
	return n
}
