package token_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/socket/token"
)

type userKey struct{}

// A page gets a token when its user logs in, and the socket that it opens shows it.
func Example() {
	users, err := token.New[string](token.Config{
		Keys:    [][]byte{[]byte("32 bytes or more, from the secrets")},
		Purpose: "user socket",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := socket.NewHandler(socket.Config{
		AuthToken: true,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			user, err := users.Verify(r.Token)
			if err != nil {
				return nil, err
			}
			r.ID = "user:" + user
			return context.WithValue(ctx, userKey{}, user), nil
		},
		Channels: channel.Routes{"me": channel.Define(
			func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				return ctx.Value(userKey{}), nil
			})},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	signed, err := users.Sign("ann") // the page's handler does this, for who is logged in
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
	reply, err := client.Channel("me", nil).Join().Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)
	// Output: "ann" <nil>
}
