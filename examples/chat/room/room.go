package room

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Maximum lengths in characters.
const (
	maxUser = 32
	maxRoom = 64
	maxBody = 1000
	maxID   = 64
)

// Bounds of the history: messages per room, and rooms.
const (
	maxMessages = 50
	maxRooms    = 200
)

// message is a message in a room. A client sends the body. If it also sends an ID, it can repeat a
// message that got no reply: a second message with the same ID is ignored.
type message struct {
	ID   string    `json:"id"`
	User string    `json:"user"`
	Body string    `json:"body"`
	At   time.Time `json:"at"`
	By   string    `json:"by"` // the sender's presence ref, because several users may have the same name
}

// rooms is the state that all rooms share.
type rooms struct {
	history *history
	who     *presence.Presence
	node    string // empty without a cluster
}

// member is one client in one room. Its methods never run concurrently.
type member struct {
	*rooms
	user string
	ref  string // of its presence
	last string // ID of the last message in the join reply
}

type (
	params struct {
		User string `json:"user"`
	}
	welcome struct {
		User     string    `json:"user"`
		Node     string    `json:"node,omitempty"`
		Messages []message `json:"messages"`
	}
	typing struct {
		User string `json:"user"`
	}
	you struct {
		Ref string `json:"ref"`
	}
	joined struct{} // sent by join to its own channel
)

// newRoom returns the handler of all rooms.
func newRoom(who *presence.Presence, node string) *channel.Handler {
	r := &rooms{newHistory(maxMessages, maxRooms), who, node}
	callbacks := []channel.Option[member]{
		channel.Info((*member).joined),
		channel.On("new_msg", (*member).newMsg),
		channel.On("typing", (*member).typing),
		channel.OnAny((*member).other),
	}
	if node != "" {
		callbacks = append(callbacks, channel.Intercept("new_msg", (*member).forward))
	}
	return channel.Define(r.join, callbacks...)
}

// join accepts a member. The reply contains the recent messages.
func (r *rooms) join(m *member, _ context.Context, c *channel.Channel, p params) (any, error) {
	m.rooms, m.user = r, strings.TrimSpace(p.User)
	if err := checkName("name", m.user, maxUser); err != nil {
		return nil, err
	}
	if err := checkName("room's name", strings.TrimPrefix(c.Topic(), "room:"), maxRoom); err != nil {
		return nil, err
	}
	w := welcome{m.user, r.node, r.history.since(c.Topic(), "")}
	if n := len(w.Messages); n > 0 {
		m.last = w.Messages[n-1].ID
	}
	return w, c.Send(joined{})
}

// joined runs after the join reply, when the channel is subscribed. It sends the messages that were
// sent after the reply was made, and tracks the member in presence until the channel ends.
func (m *member) joined(_ context.Context, c *channel.Channel, _ joined) error {
	for _, missed := range m.history.since(c.Topic(), m.last) {
		if err := c.Push("new_msg", missed); err != nil {
			return err
		}
	}
	var err error
	if m.ref, err = m.who.Track(c, m.user, nil); err != nil {
		return err
	}
	if err := c.Push("you", you{m.ref}); err != nil {
		return err
	}
	return m.who.Push(c)
}

// newMsg broadcasts a message and replies with it.
func (m *member) newMsg(_ context.Context, c *channel.Channel, msg message) (push.Reply, error) {
	msg.By, msg.User, msg.Body, msg.At = m.ref, m.user, strings.TrimSpace(msg.Body), time.Now().UTC()
	switch {
	case msg.Body == "":
		return push.NoReply, push.Reject("the message is empty")
	case utf8.RuneCountInString(msg.Body) > maxBody:
		return push.NoReply, push.Reject(fmt.Sprintf("a message can have at most %d characters", maxBody))
	case utf8.RuneCountInString(msg.ID) > maxID:
		return push.NoReply, push.Reject(fmt.Sprintf("a message's ID can have at most %d characters", maxID))
	case msg.ID == "":
		msg.ID = uuid.NewString()
	}
	if stored, duplicate := m.history.add(c.Topic(), msg); duplicate {
		return push.OK(stored), nil
	}
	return push.OK(msg), c.Broadcast("new_msg", msg)
}

// forward sends a broadcast message to the client, and adds it to the history if it comes from
// another node. A node without members in a room does not receive the room's messages.
func (m *member) forward(_ context.Context, c *channel.Channel, msg message) error {
	m.history.add(c.Topic(), msg)
	return c.Push("new_msg", msg)
}

// typing notifies the other members that this one is typing.
func (m *member) typing(_ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
	return push.NoReply, c.BroadcastFrom("typing", typing{m.user})
}

// other rejects unknown events, which would otherwise crash the channel as in Phoenix.
func (m *member) other(_ context.Context, _ *channel.Channel, event string, _ serializer.Payload) (push.Reply, error) {
	return push.NoReply, push.Reject("unknown event " + event)
}

// checkName returns an error reply if a name is not allowed.
func checkName(what, name string, limit int) error {
	switch {
	case strings.TrimSpace(name) == "":
		return push.Reject("the " + what + " is missing")
	case utf8.RuneCountInString(name) > limit:
		return push.Reject(fmt.Sprintf("the %s can have at most %d characters", what, limit))
	case strings.ContainsFunc(name, isInvisible):
		return push.Reject("the " + what + " has invisible characters")
	}
	return nil
}

// isInvisible reports whether a character has no glyph of its own or reorders other characters.
// Such characters can make two names look the same, or a name look like a part of the page.
func isInvisible(c rune) bool {
	const brailleBlank, replacement = '\u2800', utf8.RuneError
	return c == brailleBlank || c == replacement || unicode.IsControl(c) ||
		unicode.In(c, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
			unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.Noncharacter_Code_Point)
}
