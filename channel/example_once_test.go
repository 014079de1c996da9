package channel_test

import (
	"context"
	"fmt"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
)

// A client that got no reply pushes the message again, with the same "$id" in its payload. The
// callback is not called again, and the client gets the first reply. Several nodes share a Store.
func ExampleOnce() {
	type room struct{}
	type message struct{ Body string }
	sent := 0
	handler := channel.Define(
		func(*room, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		channel.Once[room](push.OnceConfig{Window: 48 * time.Hour}, "msg"),
		channel.On("msg", func(_ *room, _ context.Context, c *channel.Channel, m message) (push.Reply, error) {
			sent++ // in truth: an insertion whose key is c.PushID()
			return push.OK(map[string]string{"id": c.PushID()}), nil
		}),
	)
	routes := channel.Routes{"room:*": handler}
	fmt.Println(len(routes), sent)
	// Output: 1 0
}

// The id of a push suits a unique key of a database, so that the push is stored once even if the
// process dies before the reply is recorded.
func ExampleChannel_PushID() {
	type room struct{}
	_ = channel.On("msg", func(_ *room, ctx context.Context, c *channel.Channel, body string) (push.Reply, error) {
		fmt.Printf("insert into messages values (%q, %q) on conflict do nothing\n", c.PushID(), body)
		return push.OK(nil), nil
	})
	// Output:
}
