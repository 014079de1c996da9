package channeltest_test

import (
	"context"
	"testing"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/push"
	"bennu.example/socket"
)

// member is one client in a room.
type member struct{ user string }

type (
	params  struct{ User string }
	message struct {
		User string `json:"user"`
		Body string `json:"body"`
	}
)

func (m *member) join(_ context.Context, c *channel.Channel, p params) (any, error) {
	if m.user = p.User; m.user == "" {
		return nil, push.Reject("the name is missing")
	}
	return map[string]string{"welcome": m.user}, nil
}

func (m *member) newMsg(_ context.Context, c *channel.Channel, msg message) (push.Reply, error) {
	if msg.Body == "" {
		return push.NoReply, push.Reject("the message is empty")
	}
	return push.OK(nil), c.Broadcast("new_msg", message{m.user, msg.Body})
}

var rooms = channel.Define((*member).join, channel.On("new_msg", (*member).newMsg))

func TestNewMsg(t *testing.T) {
	server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": rooms}})
	ann := server.Join(t, "room:lobby", map[string]string{"user": "ann"})
	bob := server.Join(t, "room:lobby", map[string]string{"user": "bob"})
	ann.Push("new_msg", map[string]string{"body": "hello"}).ExpectOK(t, nil)
	bob.Expect(t, "new_msg", message{"ann", "hello"})
}
