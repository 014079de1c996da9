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

// guardedServer has the channels lobby, for everybody, and orders, for users. It accepts the tokens
// "user-ann" and "user-bob" for an hour.
func guardedServer() *socket.Handler {
	who := func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		g, _ := socket.GrantFrom(ctx)
		return map[string]string{"user": g.ID}, nil
	}
	users := func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		g, ok := socket.GrantFrom(ctx)
		if !ok {
			return nil, push.Reason("users only")
		}
		return map[string]string{"user": g.ID}, nil
	}
	verify := func(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
		if token != "user-ann" && token != "user-bob" {
			return socket.Grant{}, errors.New("unknown token")
		}
		user := token[len("user-"):]
		claims := map[string]string{"user": user}
		return socket.Grant{ID: user, Expires: time.Now().Add(time.Hour), Claims: claims}, nil
	}
	return socket.NewHandler(socket.Config{
		Auth:     &socket.Auth{Verify: verify, Anonymous: true},
		Channels: channel.Routes{"lobby": channel.Define(who), "orders": channel.Define(users)},
	})
}

// A client logs in and out over its open connection.
func ExampleClient_Authenticate() {
	h := guardedServer()
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
	orders := client.Channel("orders", nil).WaitForAuth()
	join := orders.Join() // it waits for the login

	err = client.Authenticate(ctx, "a wrong token")
	fmt.Println(errors.Is(err, socket.ErrDenied), client.Auth().Status)

	err = client.Authenticate(ctx, "user-ann")
	fmt.Println(err, client.Auth().Status, string(client.Auth().Claims.Bytes()), client.Token())
	reply, err := join.Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)

	fmt.Println(client.Deauthenticate(ctx), client.Auth().Status == socket.Anonymous)
	// Output:
	// true anonymous
	// <nil> authenticated {"user":"ann"} user-ann
	// {"user":"ann"} <nil>
	// <nil> true
}

// AuthTokenFunc is called for each connection and whenever the token expires. WaitAuth waits until
// the server has accepted one.
func ExampleClient_WaitAuth() {
	h := guardedServer()
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, &socket.ClientConfig{
		AuthTokenFunc: func(context.Context) (string, error) { return "user-bob", nil }, // from the program's web server
	})
	defer client.Close(ctx)
	changes := make(chan socket.AuthStatus, 10)
	defer client.OnAuth(func(s socket.AuthState) { changes <- s.Status })()
	client.Connect()
	if err := client.WaitAuth(ctx); err != nil {
		fmt.Println(err)
		return
	}
	s := client.Auth()
	fmt.Println(<-changes, "expires in", time.Until(s.Expires).Round(time.Minute))
	// Output: authenticated expires in 1h0m0s
}

// The iterator ends when the client is closed, or with the loop.
func ExampleClient_AuthStates() {
	h := guardedServer()
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, &socket.ClientConfig{AuthToken: "user-ann"})
	defer client.Close(ctx)
	states := client.AuthStates(ctx)
	client.Connect()
	for s := range states {
		switch s.Status {
		case socket.AuthDenied:
			fmt.Println("show the login:", s.Err)
		case socket.Authenticated:
			fmt.Println("show the orders")
			return
		case socket.AuthUnknown, socket.Anonymous, socket.Expiring, socket.Expired:
		}
	}
	// Output: show the orders
}

// A push that the server refuses because the token has expired is not sent again.
func ExampleErrTokenExpired() {
	err := fmt.Errorf("push: %w", &push.Error{
		Status: "error", Payload: serializer.Value(map[string]string{"reason": "token expired"}),
	})
	fmt.Println(errors.Is(err, socket.ErrTokenExpired))
	// Output: true
}
