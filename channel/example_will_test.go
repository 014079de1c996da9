package channel_test

import (
	"context"
	"fmt"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// The will of a client names its user, whatever the client says. A client sets it with
// channel.Client.Will, or on the channel $socket.
func ExampleAllowWill() {
	type room struct{ user string }
	handler := channel.Define(
		func(r *room, _ context.Context, _ *channel.Channel, p struct{ User string }) (any, error) {
			r.user = p.User // in truth: of the connection's grant
			return nil, nil
		},
		channel.AllowWill(func(r *room, _ context.Context, _ *channel.Channel, event string, _ serializer.Payload,
		) (serializer.Payload, error) {
			if event != "gone" {
				return serializer.Payload{}, push.Reject("forbidden")
			}
			return serializer.Value(map[string]string{"user": r.user}), nil
		}),
	)
	routes := channel.Routes{"room:*": handler}
	fmt.Println(len(routes))
	// Output: 1
}
