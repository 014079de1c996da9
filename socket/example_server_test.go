package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// A counter is one client's own count, kept for as long as it is joined.
type counter struct{ n int }

func (t *counter) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

func (t *counter) add(_ context.Context, _ *channel.Channel, by int) (push.Reply, error) {
	if by < 0 {
		return push.NoReply, push.Reject("only up")
	}
	t.n += by
	return push.OK(t.n), nil
}

func ExampleNewHandler() {
	counters := channel.Define((*counter).join, channel.On("add", (*counter).add))
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"counter:*": counters}})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	server := httptest.NewServer(mux) // http.ListenAndServe, outside of an example
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL+"/socket", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	mine := client.Channel("counter:1", nil)
	mine.Join()
	for _, by := range []int{2, 3, -1} {
		n, err := channel.Call[int](ctx, mine, "add", by)
		fmt.Println(n, err)
	}
	// Output:
	// 2 <nil>
	// 5 <nil>
	// 0 push: replied error: only up
}

type userKey struct{}

// Who a client is, is decided once, before its socket is made; every callback finds it in its context.
func ExampleConfig_connect() {
	users := map[string]string{"secret": "ann"} // by token
	h := socket.NewHandler(socket.Config{
		AuthToken: true,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			user, ok := users[r.Token]
			if !ok {
				return nil, errors.New("unknown token")
			}
			r.ID = "user:" + user // h.Disconnect(ctx, "user:ann") ends all of ann's sockets
			return context.WithValue(ctx, userKey{}, user), nil
		},
		Channels: channel.Routes{"me": channel.Define(
			func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				return "hello " + ctx.Value(userKey{}).(string), nil
			})},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{AuthToken: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	reply, err := client.Channel("me", nil).Join().Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)

	_, err = socket.Dial(ctx, server.URL, &socket.ClientConfig{AuthToken: "wrong"})
	fmt.Println(err != nil)
	// Output:
	// "hello ann" <nil>
	// true
}

// What happens elsewhere reaches everyone on a topic through the handler's PubSub.
func ExampleHandler_PubSub() {
	news := channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil })
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"news": news}})
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
	room := client.Channel("news", nil)
	events := room.Events("headline")
	if _, err := room.Join().Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := h.PubSub().Broadcast(ctx, "news", "headline", map[string]string{"title": "It works"}); err != nil {
		fmt.Println(err)
	}
	for m, err := range events {
		fmt.Println(string(m.Payload.Bytes()), err)
		break
	}
	// Output: {"title":"It works"} <nil>
}
