package socket_test

import (
	"context"
	"fmt"
	"time"

	"bennu.example/offline"
	"bennu.example/socket"
)

// A program stores what it has before the system suspends it, and removes it when the user logs
// out.
func ExampleClient_Persist() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := socket.NewClient("ws://localhost:4000/socket", &socket.ClientConfig{
		Offline: &offline.Config{Store: offline.NewMemory(), Identity: "ann"},
	})
	defer client.Close(ctx)
	fmt.Println(client.Persist(ctx))
	for _, m := range client.OfflineData() {
		fmt.Println(m.Topic, m.Kind, m.Position)
	}
	fmt.Println(client.CleanOffline(ctx))
	// Output:
	// <nil>
	// <nil>
}

// A program that starts lets its shared objects be updated, before the user opens one of them.
func ExampleClient_Restore() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := socket.NewClient("ws://localhost:4000/socket", &socket.ClientConfig{
		Offline: &offline.Config{Store: offline.NewMemory(), Identity: "ann"},
	})
	defer client.Close(ctx)
	client.Connect()
	err := client.Restore(ctx, func(topic string) any {
		return map[string]string{"page": "start"} // what the topic's join wants to know
	})
	fmt.Println(err)
	// Output: <nil>
}
