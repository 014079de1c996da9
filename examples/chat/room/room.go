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

// Limits of what a client sends, in characters.
const (
	userLimit = 32
	roomLimit = 64
	bodyLimit = 1000
	idLimit   = 64
)

// Bounds of what is remembered: messages in a room, and rooms.
const (
	keptMessages = 50
	keptRooms    = 200
)

// message is what is said in a room. The client gives the body, and an id if it means to try again when it hears nothing: the
// same id twice is the same message.
type message struct {
	ID   string    `json:"id"`
	User string    `json:"user"`
	Body string    `json:"body"`
	At   time.Time `json:"at"`
	By   string    `json:"by"` // the presence of the member who said it: any number of them may have the same name
}

// hall is what all rooms share.
type hall struct {
	history *history
	who     *presence.Presence
	node    string // "" if there is one only
}

// member is one client in one room. Its methods never run at the same time.
type member struct {
	*hall
	user  string
	ref   string // of its presence
	heard string // the last message in its welcome
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
	joined struct{} // a member's message to itself
)

func newRoom(who *presence.Presence, node string) *channel.Handler {
	h := &hall{newHistory(keptMessages, keptRooms), who, node}
	callbacks := []channel.Option[member]{
		channel.Info((*member).joined),
		channel.On("new_msg", (*member).newMsg),
		channel.On("typing", (*member).typing),
		channel.OnAny((*member).other),
	}
	if node != "" {
		callbacks = append(callbacks, channel.Intercept("new_msg", (*member).hear))
	}
	return channel.Define(h.join, callbacks...)
}

func (h *hall) join(m *member, _ context.Context, c *channel.Channel, p params) (any, error) {
	m.hall, m.user = h, strings.TrimSpace(p.User)
	if err := checkName("name", m.user, userLimit); err != nil {
		return nil, err
	}
	if err := checkName("room's name", strings.TrimPrefix(c.Topic(), "room:"), roomLimit); err != nil {
		return nil, err
	}
	w := welcome{m.user, h.node, h.history.since(c.Topic(), "")}
	if n := len(w.Messages); n > 0 {
		m.heard = w.Messages[n-1].ID
	}
	return w, c.Send(joined{})
}

// joined does what a join cannot, as the client is not in the room before it is answered.
func (m *member) joined(_ context.Context, c *channel.Channel, _ joined) error {
	for _, missed := range m.history.since(c.Topic(), m.heard) { // said after the welcome was written
		if err := c.Push("new_msg", missed); err != nil {
			return err
		}
	}
	var err error
	if m.ref, err = m.who.Track(c, m.user, nil); err != nil { // until the channel ends
		return err
	}
	if err := c.Push("you", you{m.ref}); err != nil {
		return err
	}
	return m.who.Push(c)
}

func (m *member) newMsg(_ context.Context, c *channel.Channel, msg message) (push.Reply, error) {
	msg.By = m.ref
	msg.User, msg.Body, msg.At = m.user, strings.TrimSpace(msg.Body), time.Now().UTC()
	switch {
	case msg.Body == "":
		return push.NoReply, push.Reject("a message needs some text")
	case utf8.RuneCountInString(msg.Body) > bodyLimit:
		return push.NoReply, push.Reject(fmt.Sprintf("a message can have at most %d characters", bodyLimit))
	case utf8.RuneCountInString(msg.ID) > idLimit:
		return push.NoReply, push.Reject(fmt.Sprintf("a message's id can have at most %d characters", idLimit))
	case msg.ID == "":
		msg.ID = uuid.NewString()
	}
	if said, again := m.history.add(c.Topic(), msg); again {
		return push.OK(said), nil
	}
	return push.OK(msg), c.Broadcast("new_msg", msg)
}

// hear remembers what is said on other nodes, while somebody on this one hears it.
func (m *member) hear(_ context.Context, c *channel.Channel, msg message) error {
	m.history.add(c.Topic(), msg)
	return c.Push("new_msg", msg)
}

func (m *member) typing(_ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
	return push.NoReply, c.BroadcastFrom("typing", typing{m.user})
}

// other answers what this server does not know. Without it, an unknown event would crash the channel, as in Phoenix.
func (m *member) other(_ context.Context, _ *channel.Channel, event string, _ serializer.Payload) (push.Reply, error) {
	return push.NoReply, push.Reject("unknown event " + event)
}

// checkName is an error reply unless the name may be used.
func checkName(what, name string, limit int) error {
	switch {
	case strings.TrimSpace(name) == "":
		return push.Reject("the " + what + " is missing")
	case utf8.RuneCountInString(name) > limit:
		return push.Reject(fmt.Sprintf("the %s can have at most %d characters", what, limit))
	case strings.ContainsFunc(name, isInvisible):
		return push.Reject("the " + what + " has characters that cannot be shown")
	}
	return nil
}

// isInvisible reports whether a character has no look of its own, or changes the order of others:
// with these, two names can look the same, and one can look like a piece of the page.
func isInvisible(c rune) bool {
	const brailleBlank, replacement = '\u2800', utf8.RuneError
	return c == brailleBlank || c == replacement || unicode.IsControl(c) || unicode.In(c, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.Noncharacter_Code_Point)
}
