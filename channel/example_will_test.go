package channel_test

import (
	"context"
	"fmt"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/will"
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

// The will of an editor unlocks its document in the database, in place of a broadcast.
func ExampleRunWill() {
	type editor struct{}
	unlock := func(_ context.Context, document, connection string) error {
		fmt.Println("unlock", document, "if", connection, "has locked it")
		return nil
	}
	handler := channel.Define(
		func(*editor, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		channel.AllowWill(func(_ *editor, _ context.Context, _ *channel.Channel, _ string, p serializer.Payload,
		) (serializer.Payload, error) {
			return p, nil
		}),
		channel.RunWill[editor](func(ctx context.Context, w will.Will) error {
			return unlock(ctx, w.Topic, w.Connection.ID)
		}),
	)
	routes := channel.Routes{"document:*": handler}
	fmt.Println(len(routes))
	// Output: 1
}
