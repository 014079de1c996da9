package socket_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// A callback knows its connection.
func ExampleInfoFrom() {
	who := func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
		info, _ := socket.InfoFrom(ctx)
		return push.OK(info.ClientID), nil
	}
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("who", who),
	)}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{ClientID: "kiosk-0017-entrance"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", nil)
	room.Join()
	fmt.Println(channel.Call[string](ctx, room, "who", nil))
	// Output: kiosk-0017-entrance <nil>
}

// Info tells a client the server's limits, and whether the server has the channel $socket at all.
func ExampleClient_Info() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client, err := socket.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join().Wait(ctx) // the reply of $socket comes before
	var info socket.Info = client.Info()
	var limits socket.Limits = info.Limits
	fmt.Println(info.Server, info.Version == socket.Version, limits.Channels, limits.Idle)
	_, maxError, ok := client.TimeOffset()
	fmt.Println(ok, maxError < time.Minute, time.Until(client.Now()) < time.Minute, len(client.NewKey()))
	// Output:
	// true true 100 1m0s
	// true true true 26
}
