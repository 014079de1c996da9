package room

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
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

// maxMessages bounds the messages in the reply to a join that does not continue after a position.
const maxMessages = 50

// Rules returns what is recorded: the messages of all rooms. A client that was offline receives all
// that it missed, unless that is more than a room keeps.
func Rules() history.Rules {
	return history.Rules{"room:*": {Events: []string{"new_msg"}, Count: 500, Age: 30 * 24 * time.Hour}}
}

// message is a message in a room. A client sends the body. If it also sends an ID, it can repeat a
// message that got no reply: a second message with the same ID within 2 min is ignored.
type message struct {
	ID   string    `json:"id"`
	User string    `json:"user"`
	Body string    `json:"body"`
	At   time.Time `json:"at"`
	By   string    `json:"by"` // the sender's presence ref, because several users may have the same name
}

// rooms is the state that all rooms share.
type rooms struct {
	ps   *pubsub.PubSub
	who  *presence.Presence
	node string // empty without a cluster
}

// member is one client in one room. Its methods never run concurrently.
type member struct {
	*rooms
	user string
	ref  string // of its presence
}

type (
	params struct {
		User string `json:"user"`
	}
	welcome struct {
		User string `json:"user"`
		Node string `json:"node,omitempty"`
		// Messages are the most recent ones. Nil means that the client receives what it missed.
		Messages []serializer.Payload `json:"messages,omitzero"`
	}
	sent struct {
		ID string `json:"id"`
	}
	typing struct {
		User string `json:"user"`
	}
	you struct {
		Ref string `json:"ref"`
	}
	joined struct{} // sent by join to its own channel
)

// newRoom returns the handler of all rooms. The topics are recorded by ps.
func newRoom(ps *pubsub.PubSub, who *presence.Presence, node string) *channel.Handler {
	r := &rooms{ps, who, node}
	return channel.Define(r.join,
		channel.Info((*member).joined),
		channel.On("new_msg", (*member).newMsg),
		channel.Once[member](push.OnceConfig{}, "new_msg"), // a client with an outbox may send it again
		channel.On("typing", (*member).typing),
		channel.OnAny((*member).other))
}

// join accepts a member. The reply contains the recent messages, unless those that the client
// missed follow.
func (r *rooms) join(m *member, ctx context.Context, c *channel.Channel, p params) (any, error) {
	m.rooms, m.user = r, strings.TrimSpace(p.User)
	if err := checkName("name", m.user, maxUser); err != nil {
		return nil, err
	}
	if err := checkName("room's name", strings.TrimPrefix(c.Topic(), "room:"), maxRoom); err != nil {
		return nil, err
	}
	w := welcome{User: m.user, Node: r.node}
	if !c.Resume().OK {
		var err error
		if w.Messages, err = r.recent(ctx, c.Topic()); err != nil {
			return nil, err
		}
	}
	return w, c.Send(joined{})
}

// recent returns the newest messages of a room, oldest first.
func (r *rooms) recent(ctx context.Context, topic string) ([]serializer.Payload, error) {
	batch, err := r.ps.Before(ctx, topic, history.Position{}, maxMessages)
	messages := make([]serializer.Payload, 0, len(batch.Records))
	for _, record := range batch.Records {
		messages = append(messages, record.Payload)
	}
	return messages, err
}

// joined runs after the join reply, when the channel is subscribed. It tracks the member in
// presence until the channel ends.
func (m *member) joined(_ context.Context, c *channel.Channel, _ joined) error {
	var err error
	if m.ref, err = m.who.Track(c, m.user, nil); err != nil {
		return err
	}
	if err := c.Push("you", you{m.ref}); err != nil {
		return err
	}
	return m.who.Push(c)
}

// newMsg records and broadcasts a message. The sender receives it as all members do.
func (m *member) newMsg(ctx context.Context, c *channel.Channel, msg message) (push.Reply, error) {
	msg.By, msg.User, msg.Body, msg.At = m.ref, m.user, strings.TrimSpace(msg.Body), time.Now().UTC()
	once := onceKey(msg.User, msg.ID)
	switch {
	case msg.Body == "":
		return push.NoReply, push.Reject("the message is empty")
	case utf8.RuneCountInString(msg.Body) > maxBody:
		return push.NoReply, push.Reject(fmt.Sprintf("a message can have at most %d characters", maxBody))
	case utf8.RuneCountInString(msg.ID) > maxID:
		return push.NoReply, push.Reject(fmt.Sprintf("a message's ID can have at most %d characters", maxID))
	case msg.ID == "":
		msg.ID, once = uuid.NewString(), ""
	}
	_, err := m.ps.AppendOnce(ctx, once, c.Topic(), "new_msg", msg)
	return push.OK(sent{msg.ID}), err // an error reply, if the message was not recorded
}

// onceKey returns the key by which the log recognises a repeated message. Users may choose the same
// IDs.
func onceKey(user, id string) string {
	sum := sha256.Sum256([]byte(user + "\x00" + id))
	return base64.RawURLEncoding.EncodeToString(sum[:])
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
