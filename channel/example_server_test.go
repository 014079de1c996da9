package channel_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// dial serves a handler on the topic "room:1" and joins it.
func dial(h *channel.Handler) (room *channel.Client, events func(name string) string, end func()) {
	handler := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": h}})
	server := httptest.NewServer(handler)
	ctx := context.Background()
	client := socket.NewClient(server.URL, nil)
	client.Connect()
	room = client.Channel("room:1", nil)
	got := make(chan serializer.Message, 10)
	room.OnMessage(func(m serializer.Message) {
		if m.Kind != serializer.KindReply {
			got <- m
		}
	})
	room.Join()
	events = func(name string) string {
		for m := range got {
			if m.Event == name {
				return string(m.Payload.Bytes())
			}
		}
		return ""
	}
	return room, events, func() {
		client.Close(ctx)
		handler.Shutdown(ctx)
		server.Close()
	}
}

// guest is one client's state.
type guest struct{ greeting string }

func (g *guest) join(_ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
	g.greeting = "welcome to " + c.Topic()
	return nil, c.Send(arrived{}) // pushing is possible once the join is answered
}

type arrived struct{}

func (g *guest) arrived(_ context.Context, c *channel.Channel, _ arrived) error {
	return c.Push("greeting", map[string]string{"text": g.greeting})
}

// Info does what a join cannot do itself: the channel sends itself a message.
func ExampleInfo() {
	_, event, end := dial(channel.Define((*guest).join, channel.Info((*guest).arrived)))
	defer end()
	fmt.Println(event("greeting"))
	// Output: {"text":"welcome to room:1"}
}

// Intercept sees a broadcast on its way to one client, and changes it.
func ExampleIntercept() {
	type line struct {
		Text string `json:"text"`
	}
	room, event, end := dial(channel.Define((*guest).join,
		channel.On("say", func(_ *guest, _ context.Context, c *channel.Channel, l line) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("said", l)
		}),
		channel.Intercept("said", func(_ *guest, _ context.Context, c *channel.Channel, l line) error {
			return c.Push("said", line{strings.ReplaceAll(l.Text, "damn", "d**n")})
		})))
	defer end()
	room.Push("say", line{"damn it"})
	fmt.Println(event("said"))
	// Output: {"text":"d**n it"}
}

// Of the cursors that wait for a slow client, only the newest of each user is kept; of the ticks, nothing that finds no room.
func ExampleLatest() {
	type cursor struct {
		User string `json:"user"`
		At   int    `json:"at"`
	}
	room, event, end := dial(channel.Define((*guest).join,
		channel.On("move", func(_ *guest, _ context.Context, c *channel.Channel, m cursor) (push.Reply, error) {
			return push.NoReply, c.Broadcast("moved", m)
		}),
		channel.Latest[guest]("moved", func(m cursor) string { return m.User }),
		channel.OnSlow[guest]("tick", transport.DropNewest)))
	defer end()
	room.Push("move", cursor{"ann", 7})
	fmt.Println(event("moved"))
	// Output: {"user":"ann","at":7}
}

// A reply need not come from the callback: the message is kept by its Ref.
func ExampleChannel_Reply() {
	room, _, end := dial(channel.Define((*guest).join,
		channel.On("work", func(_ *guest, ctx context.Context, c *channel.Channel, n int) (push.Reply, error) {
			ref := c.Ref()
			time.AfterFunc(time.Millisecond, func() { c.Reply(ref, push.OK(n*n)) })
			return push.NoReply, nil
		})))
	defer end()
	n, err := channel.Call[int](context.Background(), room, "work", 7)
	fmt.Println(n, err)
	// Output: 49 <nil>
}

// Middleware goes around every event.
func ExampleUse() {
	log := func(next channel.Func) channel.Func {
		return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
			fmt.Println("handling", event)
			return next(ctx, c, event, p)
		}
	}
	room, _, end := dial(channel.Define((*guest).join, channel.Use[guest](log),
		channel.OnAny(func(_ *guest, _ context.Context, _ *channel.Channel, event string, _ serializer.Payload) (push.Reply, error) {
			return push.Reply{}, push.Reject("unknown event " + event)
		})))
	defer end()
	_, err := room.Push("anything", nil).Wait(context.Background())
	fmt.Println(err)
	// Output:
	// handling anything
	// push: replied error: unknown event anything
}
