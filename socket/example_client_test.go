package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// room greets who joins, and repeats what it is told.
func exampleRoom() *channel.Handler {
	return channel.Define(
		func(_ *struct{}, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
			if p.User == "" {
				return nil, push.Reject("user is required")
			}
			return map[string]string{"welcome": p.User}, nil
		},
		channel.On("say", func(_ *struct{}, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}))
}

// Connect, join, push, and wait for the reply.
func ExampleDial() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, nil) // "wss://example.com/socket"
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)

	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	reply, err := room.Join().Wait(ctx)
	fmt.Printf("joined: %s %v\n", reply.Bytes(), err)

	reply, err = room.Push("say", map[string]string{"body": "hello"}).Wait(ctx)
	fmt.Printf("said: %s %v\n", reply.Bytes(), err)

	_, err = client.Channel("room:attic", nil).Join().Wait(ctx)
	var refused *push.Error
	if errors.As(err, &refused) {
		fmt.Println("refused:", refused.Reason())
	}
	// Output:
	// joined: {"welcome":"ann"} <nil>
	// said: {"body":"hello"} <nil>
	// refused: user is required
}

// Nothing need be connected yet: joins and pushes wait.
func ExampleNewClient() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, nil)
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join()
	said := room.Push("say", map[string]string{"body": "early"})
	fmt.Println(client.State().Status)
	client.Connect()
	reply, err := said.Wait(ctx)
	fmt.Printf("%s %v\n", reply.Bytes(), err)
	fmt.Println(client.State().Status)
	// Output:
	// disconnected
	// {"body":"early"} <nil>
	// connected
}

// A token that expires: the function is called for every attempt to connect, and a refused client asks it for another.
func ExampleClientConfig() {
	h := socket.NewHandler(socket.Config{
		AuthToken: true,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			if r.Token != "fresh" {
				return nil, errors.New("expired")
			}
			return ctx, nil
		},
		Channels: channel.Routes{"room:*": exampleRoom()},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	cached := "stale"
	client := socket.NewClient(server.URL, &socket.ClientConfig{
		AuthTokenFunc: func(ctx context.Context) (string, error) {
			token := cached
			cached = "fresh" // what comes of a request to who gives out tokens, outside of an example
			return token, nil
		},
		DeniedAfter: func(tries int) time.Duration { return 10 * time.Millisecond },
	})
	defer client.Close(ctx)
	states := client.States(ctx)
	client.Connect()
	for s := range states {
		fmt.Println(s.Status)
		if s.Status == socket.Connected {
			break
		}
	}
	// Output:
	// disconnected
	// connecting
	// denied
	// connecting
	// connected
}
