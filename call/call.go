package call

import (
	"context"
	"fmt"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// To sends an event to the client of a channel, waits for the answer and decodes it. Its errors are
// those of [channel.Channel.Call], and that of an answer that cannot be decoded into an A.
func To[A any](ctx context.Context, c *channel.Channel, event string, payload any) (A, error) {
	var answer A
	got, err := c.Call(ctx, event, payload)
	if err != nil {
		return answer, err
	}
	if err := got.Decode(&answer); err != nil {
		return answer, fmt.Errorf("call: answer to %s on %s: %w", event, c.Topic(), err)
	}
	return answer, nil
}

// Handle is [channel.Client.Handle] with a question and an answer of Go types. The server receives
// the error "invalid payload" for a question that cannot be decoded into a Q.
func Handle[Q, A any](c *channel.Client, event string, f func(context.Context, Q) (A, error)) (off func()) {
	return c.Handle(event, func(ctx context.Context, p serializer.Payload) (any, error) {
		var question Q
		if p.Decode(&question) != nil {
			return nil, push.Reject("invalid payload")
		}
		return f(ctx, question)
	})
}
