package socket_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// doorkeeper returns a handler that reports the topics of its joins.
func doorkeeper(joined chan<- string) *channel.Handler {
	return channel.Define(
		func(_ *struct{}, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			joined <- c.Topic()
			return nil, nil
		})
}

// A program joins its channels in the order in which its user needs them. The client keeps the
// order when it reconnects. JoinConcurrency is 1 here, so that each join waits for the reply to the
// one before.
func ExampleClient_Channel_priority() {
	joined := make(chan string, 3)
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": doorkeeper(joined)}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, &socket.ClientConfig{JoinConcurrency: 1})
	defer client.Close(ctx)
	client.Channel("room:archive", nil).Priority(-10).Join()
	client.Channel("room:lobby", nil).Join()
	client.Channel("room:inbox", nil).Priority(10).Join()
	client.Connect()
	fmt.Println(<-joined, <-joined, <-joined)
	// Output: room:inbox room:lobby room:archive
}

// With ManualRejoin, a program decides when channels join: here after it has connected and knows
// the params.
func ExampleClient_Rejoin() {
	joined := make(chan string, 2)
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": doorkeeper(joined)}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, &socket.ClientConfig{ManualRejoin: true})
	defer client.Close(ctx)
	lobby := client.Channel("room:lobby", nil)
	lobby.Join() // there is no connection: it waits for Rejoin
	client.Connect()
	if err := client.Ready(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("waits for", lobby.Stats().Waiting)
	if err := lobby.SetParams(map[string]int{"page": 2}); err != nil {
		fmt.Println(err)
	}
	client.Rejoin()
	fmt.Println("joined", <-joined)
	// Output:
	// waits for rejoin
	// joined room:lobby
}
