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

// The server puts a token into the page of a user who has logged in, and the page's socket sends
// it.
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

	signed, err := users.Sign("ann") // in the handler of the page, for the user who is logged in
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

// A key can be changed while tokens are in use: the new key signs, and the old one is still
// accepted.
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
	after, err := token.New[string](token.Config{
		Keys:    [][]byte{second, first},
		Purpose: "user socket",
		MaxAge:  time.Hour,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(after.Verify(signed))

	// A token for one purpose is invalid for another.
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

// A token carries a value of any type that can be encoded as JSON. The holder of the token can read
// it, so it must not contain secrets.
func ExampleTokens() {
	type session struct {
		User string `json:"u"`
		Role string `json:"r,omitempty"`
	}
	cfg := token.Config{Keys: [][]byte{[]byte("32 bytes or more, from the secrets")}, Purpose: "session"}
	sessions, err := token.New[session](cfg)
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

// New returns an error for keys that are too short.
func ExampleNew() {
	_, err := token.New[string](token.Config{Keys: [][]byte{[]byte("secret")}, Purpose: "user socket"})
	fmt.Println(err != nil)

	key := make([]byte, token.MinKey)
	rand.Read(key) // never fails; a real key is generated once, kept secret, and used by all nodes
	users, err := token.New[string](token.Config{Keys: [][]byte{key}, Purpose: "user socket"})
	fmt.Println(users != nil, err)
	// Output:
	// true
	// true <nil>
}
