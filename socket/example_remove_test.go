package socket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// seat is one user in one room.
type seat struct{ members *members }

// members has the channels of a room by user.
type members struct {
	mu  sync.Mutex
	all map[string]*channel.Channel
}

type user struct {
	User string `json:"user"`
}

func (s *seat) join(_ context.Context, c *channel.Channel, u user) (any, error) {
	s.members.mu.Lock()
	defer s.members.mu.Unlock()
	s.members.all[u.User] = c
	c.Subscribe("control:" + u.User)
	return nil, nil
}

type kick struct{}

// kicked ends the channel. Its client receives phx_close and does not rejoin.
func (s *seat) kicked(context.Context, *channel.Channel, kick) error { return channel.ErrStop }

// controlled ends the channel on behalf of any node.
func (s *seat) controlled(_ context.Context, _ *channel.Channel, b *pubsub.Broadcast) error {
	if b.Event == "kick" {
		return channel.ErrStop
	}
	return nil
}

// A client is removed from one room and keeps its other channels. The goroutine that removes it has
// the *channel.Channel, or broadcasts on a topic without a route.
func ExampleHandler_removeClient() {
	ctx := context.Background()
	room := &members{all: map[string]*channel.Channel{}}
	join := func(s *seat, ctx context.Context, c *channel.Channel, u user) (any, error) {
		s.members = room
		return s.join(ctx, c, u)
	}
	rooms := channel.Define(join, channel.Info((*seat).kicked), channel.Info((*seat).controlled))
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer h.Shutdown(ctx)

	c, err := socket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+"/socket", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(ctx)
	var topics []*channel.Client
	for _, name := range []string{"ann", "bob", "carl"} {
		t := c.Channel("room:"+name, user{name})
		if _, err := t.Join().Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
		topics = append(topics, t)
	}

	room.mu.Lock()
	ann := room.all["ann"]
	room.mu.Unlock()
	fmt.Println("send:", ann.Send(kick{}))
	fmt.Println("broadcast:", h.PubSub().Broadcast(ctx, "control:bob", "kick", nil))
	<-topics[0].Done()
	<-topics[1].Done()
	for _, t := range topics {
		state, _ := t.State()
		fmt.Println(t.Topic(), state)
	}
	// Output:
	// send: <nil>
	// broadcast: <nil>
	// room:ann closed
	// room:bob closed
	// room:carl joined
}
