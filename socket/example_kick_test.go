package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// Kick removes members of a topic. Both ends find the reason.
func ExampleHandler_Kick() {
	const banned push.Reason = "banned" // shared by the server and its clients
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.OnClose(func(err error) { fmt.Println("closed:", errors.Is(err, banned)) })
	room.Join().Wait(ctx)

	who := socket.Member{ConnectionID: client.Info().ConnectionID}
	fmt.Println(h.Kick(ctx, "room:lobby", who, banned))
	<-room.Done()
	// Unordered output:
	// <nil>
	// closed: true
}

// A callback ends its channel with a reason by channel.Stop.
func Example_stop() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("bye", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK(nil), channel.Stop("the game is over")
		}),
	)}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", nil)
	room.OnClose(func(err error) { fmt.Println(err) })
	room.Join()
	room.Push("bye", nil)
	<-room.Done()
	// Output: channel: server sent phx_close: the game is over
}
