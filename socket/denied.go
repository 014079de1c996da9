package socket

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
)

const (
	// maxDenied is the number of sessions of a handler that tell their clients that they were refused
	// finally.
	maxDenied = 1000
	// deniedHold is how long such a session lasts. phoenix.js connects again after any close, so this
	// bounds the rate of a page that ignores eventDenied.
	deniedHold = 30 * time.Second
	// deniedWait is the time in which the client of any other session can read eventDenied.
	deniedWait = time.Second
)

// isFinal returns the reason of a final refusal.
func isFinal(err error) (reason string, final bool) {
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r == nil || !r.Final {
		return "", false
	}
	return closeReason(r.Body), true
}

// hold reports whether a client whose handshake failed gets a session that tells it so. If it does,
// the caller must count it down in Handler.denied when the session has ended.
func (h *Handler) hold(who *identity, err error) bool {
	if h.cfg.Auth == nil {
		return false
	}
	reason, final := isFinal(err)
	if !final {
		return false
	}
	h.counts.denied.Add(1)
	if h.cfg.NoSocketChannel {
		return false
	}
	if h.denied.Add(1) > maxDenied {
		h.denied.Add(-1)
		return false
	}
	who.refused, who.reason = true, reason
	who.grant, who.parent = &verified{Context: context.Background()}, context.Background()
	return true
}

// endDenied closes the connection after that time. The caller holds auth.mu.
func (s *session) endDenied(after time.Duration) {
	a := s.auth
	a.stage, a.due = stageDenied, time.Now().Add(after)
	s.h.expiry.set(s, a.due)
}

// tellRefused is a message of the channel $socket to itself: the join of a client that was refused
// in the handshake was answered.
type tellRefused struct{}

func (o *socketState) tellRefused(_ context.Context, c *channel.Channel, _ tellRefused) error {
	_ = c.Push(eventDenied, revocation{Reason: o.s.auth.reason}) // a client that has gone needs no event
	return nil
}

// finalDenial is a message of the channel $socket to itself: Verify has refused the client finally.
type finalDenial struct{ reason string }

// deny ends the connection of a client that was refused finally.
func (o *socketState) deny(_ context.Context, _ *channel.Channel, d finalDenial) error {
	const denied = "socket denied"
	o.s.logEvent(zerolog.InfoLevel, denied).Str("reason", clip(d.reason)).Msg(denied)
	o.s.h.counts.denied.Add(1)
	o.s.deny(d.reason)
	return nil
}
