package call_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"slices"

	"bennu.example/call"
	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/socket"
)

// The server asks everyone in a room whether they are ready.
func ExampleGather() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"game": channel.Define((*shop).join)}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	for _, name := range []string{"ann", "bob", "cid"} {
		client, err := socket.Dial(ctx, server.URL, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close(ctx)
		game := client.Channel("game", nil)
		call.Handle(game, "ready", func(context.Context, struct{}) (string, error) {
			if name == "cid" {
				return "", push.Reject("cid is busy")
			}
			return name + " is ready", nil
		})
		if _, err := game.Join().Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}

	decode := func(a call.Answer, err error) (text string) {
		if err == nil {
			err = a.Payload.Decode(&text)
		}
		if err != nil {
			return err.Error()
		}
		return text
	}
	var answers []string
	for a, err := range call.Gather(ctx, h.PubSub(), "game", "ready", nil, call.GatherConfig{}) {
		answers = append(answers, decode(a, err))
	}
	slices.Sort(answers)
	for _, text := range answers {
		fmt.Println(text)
	}
	// Output:
	// ann is ready
	// bob is ready
	// call: gather ready on game: push: replied error: cid is busy
}
