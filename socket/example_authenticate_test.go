package socket_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/socket"
)

// Authenticate logs a client in with a name and a password. Its page receives a token for its next
// connections in the event "auth" on $socket.
func ExampleAuthenticate() {
	type credentials struct{ Name, Password string }
	login := func(_ *struct{}, ctx context.Context, _ *channel.Channel, in credentials) (push.Reply, error) {
		if in.Password != "correct horse" {
			return push.NoReply, push.Reason("wrong password")
		}
		return push.OK(nil), socket.Authenticate(ctx, socket.Grant{ID: in.Name, Token: "signed for " + in.Name})
	}
	who := func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ struct{}) (push.Reply, error) {
		g, _ := socket.GrantFrom(ctx)
		return push.OK(g.ID), nil
	}
	verify := func(context.Context, string, *socket.Request) (socket.Grant, error) {
		return socket.Grant{}, push.Reason("the tokens of this example are not verified")
	}
	h := socket.NewHandler(socket.Config{
		Auth: &socket.Auth{Verify: verify, Anonymous: true},
		Channels: channel.Routes{"lobby": channel.Define(
			func(*struct{}, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
			channel.On("login", login), channel.On("who", who),
		)},
	})
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
	lobby := client.Channel("lobby", nil)
	lobby.Join()
	for _, password := range []string{"guess", "correct horse"} {
		_, err := lobby.Push("login", credentials{"ann", password}).Wait(ctx)
		fmt.Println(err)
		fmt.Println(channel.Call[string](ctx, lobby, "who", struct{}{}))
	}
	// Output:
	// push: replied error: wrong password
	//  <nil>
	// <nil>
	// ann <nil>
}
