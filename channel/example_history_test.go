package channel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// visit joins "room:1" of a server that records the event "said", after three messages, with the
// params that a page would send. It returns the client and a function that returns the next event.
func visit(
	h *channel.Handler, ask map[string]any,
) (room *channel.Client, reply string, event func() string, end func()) {
	ctx := context.Background()
	rules := history.Rules{"room:*": {Events: []string{"said"}}}
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	handler := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": h}})
	server := httptest.NewServer(handler)
	client := socket.NewClient(server.URL, nil)
	client.Connect()
	for _, text := range []string{"one", "two", "three"} {
		if err := ps.Broadcast(ctx, "room:1", "said", line{text}); err != nil {
			fmt.Println(err)
		}
	}
	room = client.Channel("room:1", map[string]any{"$history": ask})
	events := make(chan string, 10)
	room.On("said", func(p serializer.Payload) {
		var in line
		if err := p.Decode(&in); err != nil {
			fmt.Println(err)
		}
		events <- in.Text
	})
	p, err := room.Join().Wait(ctx)
	if err != nil {
		fmt.Println(err)
	}
	var in struct {
		History struct {
			Missed int
			Why    string
		} `json:"$history"`
		Messages []string
	}
	if err := p.Decode(&in); err != nil {
		fmt.Println(err)
	}
	reply = fmt.Sprintf("%d messages loaded, %d missed (%s)", len(in.Messages), in.History.Missed, in.History.Why)
	return room, reply, func() string { return <-events }, func() {
		client.Close(ctx)
		handler.Shutdown(ctx)
		server.Close()
	}
}

type line struct {
	Text string `json:"text"`
}

// A client that comes back is sent what it missed, so that nothing has to be loaded for it.
func ExampleResume() {
	h := channel.Define(func(_ *guest, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		if c.Resume().OK {
			return nil, nil
		}
		return map[string]any{"messages": []string{"one", "two", "three"}}, nil // from the database
	})
	_, reply, _, end := visit(h, map[string]any{})
	defer end()
	fmt.Println(reply)
	// Output:
	// 3 messages loaded, 0 missed (new)
}

// A client that asks for the last ten messages receives those since it was invited.
func ExampleReach() {
	invited := time.Now().Add(-time.Minute)
	h := channel.Define((*guest).join,
		channel.Info((*guest).arrived),
		channel.Reach(func(*guest, context.Context, *channel.Channel) time.Time { return invited }))
	_, reply, event, end := visit(h, map[string]any{"last": 10})
	defer end()
	fmt.Println(reply)
	fmt.Println(event(), event(), event())
	// Output:
	// 0 messages loaded, 3 missed (new)
	// one two three
}

// Members may read back, and guests may not.
func ExamplePages() {
	mayRead := func(_ *guest, _ context.Context, c *channel.Channel) error {
		if c.Topic() != "room:1" {
			return errors.New("members only")
		}
		return nil
	}
	h := channel.Define((*guest).join, channel.Info((*guest).arrived), channel.Pages(mayRead))
	room, _, _, end := visit(h, map[string]any{})
	defer end()
	ctx := context.Background()
	top, err := channel.Call[struct{ Pos string }](ctx, room, "$history", map[string]any{"top": true})
	if err != nil {
		fmt.Println(err)
	}
	page, err := channel.Call[struct {
		Items []struct {
			Event   string
			Payload json.RawMessage
		}
		More bool
	}](ctx, room, "$history", map[string]any{"before": top.Pos, "max": 1})
	fmt.Println(len(page.Items), page.Items[0].Event, page.More, err)
	// Output:
	// 1 said true <nil>
}
