package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/socket"
	"bennu.example/stream"
	"bennu.example/transport"
)

// Connections lists the clients of a handler, with what waits for them.
func ExampleHandler_Connections() {
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
	client.Channel("room:lobby", map[string]string{"user": "ann"}).Join().Wait(ctx)

	for c := range h.Connections() {
		fmt.Println(c.Transport, c.ConnectionID == client.Info().ConnectionID, c.Queued < 1000)
		for topic, waiting := range c.Channels() {
			fmt.Println(topic, waiting < 1000)
		}
	}
	// Output:
	// websocket true true
	// room:lobby true
}

// Slowest finds the clients and the callbacks that hold most memory.
func ExampleHandler_Slowest() {
	h := socket.NewHandler(socket.Config{})
	defer h.Shutdown(context.Background())

	for _, s := range h.Slowest(10) {
		switch s.Kind {
		case stream.Outgoing:
			fmt.Println("client of", s.Socket, "has not read", s.Bytes, "bytes for", s.Oldest)
		case stream.Mailbox:
			fmt.Println("callbacks of", s.Topic, "have not handled", s.Count, "messages")
		}
	}
	fmt.Println("nobody else is slow")
	// Output: nobody else is slow
}

// Disconnect ends one connection. Its client comes back with another one.
func ExampleConnection_Disconnect() {
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
	client.Channel("room:lobby", map[string]string{"user": "ann"}).Join().Wait(ctx)
	lost := make(chan error, 1)
	client.OnState(func(s socket.State) {
		if s.Status == socket.StatusWaiting {
			lost <- s.Cause
		}
	})

	for c := range h.Connections() {
		c.Disconnect()
	}
	var closed *transport.CloseError
	if errors.As(<-lost, &closed) {
		fmt.Println("closed with", closed.Code)
	}
	// Output: closed with 1001
}
