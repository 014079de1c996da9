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
	"bennu.example/socket/token"
)

// Auth verifies signed tokens of 15 minutes. A client that has joined $socket is asked for a new
// token before the end, and its channels go on.
func ExampleAuth() {
	users, err := token.New[string](token.Config{
		Keys:    [][]byte{[]byte("32 bytes or more, from the secrets")},
		Purpose: "user socket",
		MaxAge:  15 * time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	verify := func(_ context.Context, text string, _ *socket.Request) (socket.Grant, error) {
		user, expires, err := users.VerifyUntil(text)
		return socket.Grant{ID: user, Expires: expires, Claims: map[string]string{"user": user}}, err
	}
	who := func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
		g, ok := socket.GrantFrom(ctx)
		return push.OK(g.ID), map[bool]error{false: push.Reason("anonymous")}[ok]
	}
	h := socket.NewHandler(socket.Config{
		Auth: &socket.Auth{Verify: verify},
		Channels: channel.Routes{"room:*": channel.Define(
			func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
			channel.On("who", who),
			channel.Reauthorize(func(_ *struct{}, ctx context.Context, _ *channel.Channel) error {
				if _, ok := socket.GrantFrom(ctx); !ok {
					return push.Reason("members only") // ends the channel of a client that logged out
				}
				return nil
			}),
		)},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	signed, err := users.Sign("ann") // the program's web server sends it to the page
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{AuthToken: signed})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", nil)
	room.Join()
	fmt.Println(channel.Call[string](ctx, room, "who", nil))
	room.OnClose(func(err error) { fmt.Println(err) })
	fmt.Println(h.Revoke(ctx, "ann", "account suspended"))
	<-room.Done()
	fmt.Println(socket.CodeTokenExpired, socket.CodeDenied) // after the expiry, and after Revoke
	// Unordered output:
	// ann <nil>
	// <nil>
	// channel: server sent phx_close: account suspended
	// 4401 4403
}
