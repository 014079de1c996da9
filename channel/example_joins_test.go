package channel_test

import (
	"context"
	"fmt"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// A join that was refused is repeated with other params, without waiting for the delay.
func ExampleClient_SetParams() {
	_, enter, end := serve(channel.Define(
		func(_ *struct{}, _ context.Context, _ *channel.Channel, p struct{ Password string }) (any, error) {
			if p.Password != "open sesame" {
				return nil, push.Reject("wrong password")
			}
			return map[string]string{"welcome": "in"}, nil
		}))
	defer end()
	room := enter(map[string]string{"password": "let me in"}, nil)
	joined := make(chan string)
	room.OnJoin(func(reply serializer.Payload) { joined <- string(reply.Bytes()) })

	_, err := room.Join().Wait(context.Background())
	fmt.Println(err)
	if err := room.SetParams(map[string]string{"password": "open sesame"}); err != nil {
		fmt.Println(err)
	}
	room.Rejoin()
	fmt.Println(<-joined)
	// Output:
	// push: replied error: wrong password
	// {"welcome":"in"}
}
