package call_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"bennu.example/call"
	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// Question and Answer are the payloads of the examples.
type (
	Question struct {
		Amount int `json:"amount"`
	}
	Answer struct {
		Yes bool `json:"yes"`
	}
	shop struct{}
)

func (*shop) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

// buy asks the client to confirm before it answers the push.
func (*shop) buy(ctx context.Context, c *channel.Channel, order Question) (push.Reply, error) {
	answer, err := call.To[Answer](ctx, c, "confirm", order)
	if err != nil {
		return push.NoReply, err
	}
	return push.OK(map[string]bool{"bought": answer.Yes}), nil
}

// serve serves the shop until stop is called.
func serve() (url string, stop func()) {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{
		"shop": channel.Define((*shop).join, channel.On("buy", (*shop).buy)),
	}})
	server := httptest.NewServer(h)
	return server.URL, func() {
		_ = h.Shutdown(context.Background())
		server.Close()
	}
}

// The callback of a push asks the client whether it means it.
func ExampleTo() {
	url, stop := serve()
	defer stop()
	client, err := socket.Dial(context.Background(), url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	room := client.Channel("shop", nil)
	call.Handle(room, "confirm", func(_ context.Context, q Question) (Answer, error) {
		return Answer{Yes: q.Amount < 100}, nil
	})
	room.Join()
	for _, amount := range []int{30, 300} {
		reply, err := channel.Call[map[string]bool](context.Background(), room, "buy", Question{amount})
		fmt.Println(amount, reply, err)
	}
	// Output:
	// 30 map[bought:true] <nil>
	// 300 map[bought:false] <nil>
}

// A client that does not want to answer returns an error with a reason.
func ExampleHandle() {
	url, stop := serve()
	defer stop()
	client, err := socket.Dial(context.Background(), url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	room := client.Channel("shop", nil)
	call.Handle(room, "confirm", func(context.Context, Question) (Answer, error) {
		return Answer{}, push.Reject("nobody at home")
	})
	room.Join()
	_, err = channel.Call[Answer](context.Background(), room, "buy", Question{30})
	fmt.Println(err)
	// Output: push: replied error: nobody at home
}
