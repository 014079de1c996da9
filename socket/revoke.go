package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/transport"
)

// CodeDenied is the code of the close after Revoke or a final Refusal: the client must not come
// back with the same credentials.
const CodeDenied = 4403

const (
	// eventDenied is sent on $socket before the close.
	eventDenied = "denied"
	// maxCloseReason is the length of the reason in a WebSocket's close frame, in bytes.
	maxCloseReason = 123
)

// closeReason returns a reason that fits into a close frame.
func closeReason(reason string) string {
	if reason = strings.ToValidUTF8(reason, "\uFFFD"); len(reason) > maxCloseReason {
		reason = strings.ToValidUTF8(reason[:maxCloseReason], "")
	}
	return reason
}

// revocation is the payload of eventRevoke, and with a reason only that of eventDenied.
type revocation struct {
	ID     string `json:"id,omitempty"`
	Reason string `json:"reason"`
}

// Revoke ends all connections whose Request.ID is id, on all nodes, at once. Messages that their
// channels have not handled yet are dropped. Each client receives phx_close with the reason for its
// channels, then the event "denied" with the reason on $socket, and a second later the close with
// CodeDenied. Over long poll, and without Config.Auth, the connection ends as by Disconnect.
//
// A nil error means that the end of this node's connections is queued, and that the message was
// passed to the engine for the others. Revoke does not keep the client from coming back: let Verify
// refuse it before you call Revoke. Nodes that run a version without Revoke ignore it.
func (h *Handler) Revoke(ctx context.Context, id string, reason push.Reason) error {
	// Every handler receives the first message, also for handshakes whose subject is not known yet.
	control, r := h.cfg.PubSub.Control(), revocation{Reason: string(reason)}
	err := control.Broadcast(ctx, topicMembers, eventRevoke, revocation{id, r.Reason})
	if err = errors.Join(err, control.Broadcast(ctx, disconnectPrefix+id, eventRevoke, r)); err != nil {
		return fmt.Errorf("socket: revoke: %w", err)
	}
	return nil
}

// Reauthorize calls the Reauthorize callbacks of all channels of the connections whose Request.ID
// is id, on all nodes. Call it when the rights of a user have changed.
func (h *Handler) Reauthorize(ctx context.Context, id string) error {
	if err := h.cfg.PubSub.Control().Broadcast(ctx, disconnectPrefix+id, eventReauthorize, nil); err != nil {
		return fmt.Errorf("socket: reauthorize: %w", err)
	}
	return nil
}

// later runs f on a goroutine of the handler, because a delivery must not call a channel. There are
// at most two such tasks for each session and each of its former grants.
func (h *Handler) later(f func()) {
	_ = h.tasks.EnqueueAlways(f, 0) // after Shutdown there is nothing to end
}

// revoke ends the session because Revoke was called.
func (s *session) revoke(reason string) {
	const revoked = "socket revoked"
	s.logEvent(zerolog.InfoLevel, revoked).Str("reason", clip(reason)).Msg(revoked)
	s.h.counts.revoked.Add(1)
	s.deny(reason)
}

// deny ends the session because its client may not use it any more.
func (s *session) deny(reason string) {
	reason = closeReason(reason)
	a := s.auth
	if a == nil {
		for _, c := range s.others() {
			c.Revoke(reason)
		}
		s.conn.Close(transport.CodeGoingAway, "")
		return
	}
	a.mu.Lock()
	if a.in() >= phaseRefused {
		a.mu.Unlock()
		return
	}
	a.enter(phaseDenied) // nothing is accepted, and no grant is stored
	a.reason = reason
	closed := a.closed
	a.mu.Unlock()
	for _, c := range s.others() {
		c.Revoke(reason)
	}
	if closed { // its channels went on with what they had received
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.tell(eventDenied, revocation{Reason: reason})
	if !a.late {
		a.enter(phaseSilent)
	}
	if !a.closed {
		s.endDenied(deniedWait)
	}
}

// others returns the session's channels, except $socket, in no order.
func (s *session) others() []channelhost.Channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]channelhost.Channel, 0, s.channels.size())
	for topic, c := range s.channels.all() {
		if topic != topicSocket {
			list = append(list, c)
		}
	}
	return list
}

// reauthorize asks the channels whether they stay.
func (s *session) reauthorize() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ask := &channelhost.Regrant{Values: s.values()}
	if ask.Values == nil {
		ask.Values = context.Background()
	}
	for _, c := range s.channels.all() {
		c.Regrant(ask)
	}
}
