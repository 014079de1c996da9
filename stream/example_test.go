package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"bennu.example/socket"
	"bennu.example/stream"
)

// A stream is read by Next or in a loop over All. Another goroutine may end it.
func ExampleStream() {
	ctx := context.Background()
	c, err := socket.Dial(ctx, "wss://example.com/socket", nil)
	if err != nil {
		log.Fatal(err)
	}
	room := c.Channel("room:lobby", nil)
	messages := room.Stream("new_msg")
	room.Join()
	go func() {
		<-ctx.Done()
		messages.Drain() // the loop reads what was received before, and then ends
	}()
	for {
		m, err := messages.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // messages were dropped, because this loop is too slow
			log.Print(err)
			continue
		}
		fmt.Println(m.Payload)
	}
}

// Stats shows which reader is too slow.
func ExampleStats() {
	room := socket.NewClient("wss://example.com/socket", nil).Channel("room:lobby", nil)
	messages := room.Stream("new_msg")
	if s := messages.Stats(); s.Kind == stream.Events && !s.Waiting {
		fmt.Printf("%s: %d events wait, %d bytes\n", s.Topic, s.Count, s.Bytes)
	}
	// Output: room:lobby: 0 events wait, 0 bytes
}
