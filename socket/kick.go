package socket

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/push"
)

// Handlers receive the removal of members on one control topic, on every node.
const (
	topicMembers = "bennu:members"
	eventKick    = "kick"
	// maxKicks bounds the messages that wait for one handler, in bytes.
	maxKicks = 4 << 20
)

// Member selects members of a topic. An empty field matches everybody, so the zero Member is the
// whole topic. Clients choose their ClientID: without an ID it also matches those of other users
// who give the same one.
type Member struct {
	ID           string // Request.ID
	ClientID     string // Info.ClientID
	ConnectionID string // Info.ConnectionID
}

// kick is a removal on its way to the nodes.
type kick struct {
	Topic  string `json:"topic"`
	ID     string `json:"id,omitempty"`
	Client string `json:"client,omitempty"`
	Conn   string `json:"conn,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Kick removes members from a topic, on all nodes, whichever handler serves them. Each of them
// handles the messages that it has received. Then its client receives phx_close with the reason,
// and does not join again by itself. The reason given to Terminate wraps channel.ErrStop and the
// Reason, which errors.Is finds at both ends.
//
// A nil error means that the removal is queued on this node and was passed to the engine for the
// others. A client whose join callback runs at that moment is not removed, and Kick does not keep
// clients from joining again: let the join refuse them before you call Kick. Nodes that run a
// version without Kick ignore it.
func (h *Handler) Kick(ctx context.Context, topic string, who Member, reason push.Reason) error {
	k := kick{Topic: topic, ID: who.ID, Client: who.ClientID, Conn: who.ConnectionID, Reason: string(reason)}
	if err := h.cfg.PubSub.Control().Broadcast(ctx, topicMembers, eventKick, k); err != nil {
		return fmt.Errorf("socket: kick from %s: %w", topic, err)
	}
	return nil
}

// kicks receives the removals for a handler. They are carried out on a goroutine of the mailbox,
// because a delivery must not use the PubSub.
type kicks struct {
	h  *Handler
	in mailbox.Mailbox[*pubsub.Broadcast]
	on *pubsub.Subscription
}

func (k *kicks) begin(h *Handler) {
	k.h = h
	k.in.Init(maxKicks, k.handle)
	k.on = h.cfg.PubSub.Control().Subscribe(topicMembers, k)
}

// end waits until the mailbox is empty.
func (k *kicks) end() {
	k.on.Cancel()
	k.in.Close(false)
	k.in.Wait()
}

// Deliver is part of pubsub.Subscriber.
func (k *kicks) Deliver(b *pubsub.Broadcast) error {
	switch b.Event {
	case eventKick:
	case eventRevoke:
		var r revocation
		_ = b.Payload.Decode(&r) // without an ID if it is of a later version
		if r.ID == "" {
			return nil
		}
		k.h.revocations.add(r.ID, r.Reason)
	default:
		return nil
	}
	err := k.in.Enqueue(b, len(b.Payload.Bytes()))
	if errors.Is(err, mailbox.ErrClosed) {
		return nil // the handler has ended, and its clients with it
	}
	return err
}

// handle removes the members of one message, or ends the connections that one revokes.
func (k *kicks) handle(b *pubsub.Broadcast) {
	if b.Event == eventRevoke {
		k.revoke(b)
		return
	}
	var m kick
	if b.Payload.Decode(&m) != nil {
		return // of a later version
	}
	var removed []*session
	matches := func(up channelhost.Carrier) bool {
		s, ok := up.(*session)
		if !ok || s.h != k.h || !s.isMember(&m) {
			return false
		}
		removed = append(removed, s)
		return true
	}
	k.h.cfg.PubSub.Control().Visit(m.Topic, func(sub pubsub.Subscriber) {
		if member, ok := sub.(channelhost.Member); ok {
			member.Remove(matches, m.Reason)
		}
	})
	k.h.counts.kicked.Add(uint64(len(removed)))
	for _, s := range removed {
		const kicked = "member kicked"
		s.logEvent(zerolog.InfoLevel, kicked).Str("topic", clip(m.Topic)).Str("reason", clip(m.Reason)).Msg(kicked)
	}
}

// revoke ends the connections of a subject. They receive Revoke's other message as well, except
// those for which the engine had not subscribed yet.
func (k *kicks) revoke(b *pubsub.Broadcast) {
	var r revocation
	_ = b.Payload.Decode(&r) // Deliver has checked it
	k.h.cfg.PubSub.Control().VisitControl(disconnectPrefix+r.ID, func(sub pubsub.Subscriber) {
		if w, ok := sub.(*idWatch); ok {
			w.revoke(r.Reason)
		}
	})
}

// isMember reports whether the session is one that a kick means.
func (s *session) isMember(m *kick) bool {
	return (m.ID == "" || m.ID == s.subject()) && (m.Client == "" || m.Client == s.clientID) &&
		(m.Conn == "" || m.Conn == s.connectionID)
}
