package call_test

import (
	"context"
	"fmt"
	"log"

	"bennu.example/call"
	"bennu.example/socket"
)

// A file is sent in parts, of which at most four are on their way.
func ExampleNewWriter() {
	ctx := context.Background()
	client, err := socket.Dial(ctx, "wss://example.com/socket", nil)
	if err != nil {
		log.Fatal(err)
	}
	room := client.Channel("upload:1", nil)
	room.Join()
	w := call.NewWriter(ctx, room, "part", 4)
	for n := range 100 {
		if err := w.Write(map[string]int{"part": n}); err != nil {
			break // Close returns the same error
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
}

// Close tells whether the server has accepted everything.
func ExampleWriter() {
	url, stop := serve()
	defer stop()
	client, err := socket.Dial(context.Background(), url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	room := client.Channel("shop", nil)
	call.Handle(room, "confirm", func(context.Context, Question) (Answer, error) { return Answer{Yes: true}, nil })
	room.Join()
	w := call.NewWriter(context.Background(), room, "buy", 0)
	for n := range 40 {
		if err := w.Write(Question{n}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(w.Close())
	// Output: <nil>
}
