package channel_test

import (
	"context"
	"fmt"

	"bennu.example/channel"
	"bennu.example/serializer"
)

// A program that shows the state of a room reads its changes. They end with the channel.
func ExampleChange() {
	_, enter, end := serve(channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }))
	defer end()
	room := enter(nil, nil)
	changes := room.Changes()
	room.Join()
	for c, err := range changes.All(context.Background()) {
		if err != nil { // this loop is too slow: changes were dropped
			continue
		}
		fmt.Println(c.Old, "to", c.New)
		switch c.New {
		case channel.StateJoined:
			room.Leave()
		case channel.StateClosed:
			fmt.Println(c.Cause)
		}
	}
	// Output:
	// closed to joining
	// joining to joined
	// joined to leaving
	// leaving to closed
	// client left
}
