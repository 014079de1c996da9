package token_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http/httptest"
	"time"

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

// A key is changed without anybody noticing: the new one signs, and the old one is still accepted.
func ExampleConfig() {
	first, second := []byte("the first key, of 32 bytes or more"), []byte("the second key, of 32 bytes or more")
	before, err := token.New[string](token.Config{Keys: [][]byte{first}, Purpose: "user socket"})
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := before.Sign("ann")
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := token.New[string](token.Config{Keys: [][]byte{second, first}, Purpose: "user socket", MaxAge: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(after.Verify(signed))

	// What was signed for one purpose is of no use for another.
	reset, err := token.New[string](token.Config{Keys: [][]byte{second, first}, Purpose: "password reset"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = reset.Verify(signed)
	fmt.Println(errors.Is(err, token.ErrInvalid))
	// Output:
	// ann <nil>
	// true
}

// A token carries a value of any type that encodes as JSON. Who has the token can read it, so it holds no secrets.
func ExampleTokens() {
	type session struct {
		User string `json:"u"`
		Role string `json:"r,omitempty"`
	}
	sessions, err := token.New[session](token.Config{Keys: [][]byte{[]byte("32 bytes or more, from the secrets")}, Purpose: "session"})
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := sessions.Sign(session{"ann", "admin"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, shown := range []string{signed, signed + "x", ""} {
		s, err := sessions.Verify(shown)
		switch {
		case err == nil:
			fmt.Println(s.User, s.Role)
		case errors.Is(err, token.ErrExpired):
			fmt.Println("log in again")
		default:
			fmt.Println(err)
		}
	}
	// Output:
	// ann admin
	// token: invalid
	// token: missing
}

// New refuses keys that are too short.
func ExampleNew() {
	_, err := token.New[string](token.Config{Keys: [][]byte{[]byte("secret")}, Purpose: "user socket"})
	fmt.Println(err != nil)

	key := make([]byte, token.MinKey)
	rand.Read(key) // never fails; a real one is made once, kept secret, and the same on all nodes
	users, err := token.New[string](token.Config{Keys: [][]byte{key}, Purpose: "user socket"})
	fmt.Println(users != nil, err)
	// Output:
	// true
	// true <nil>
}
