package channel

import (
	"context"

	"bennu.example/serializer"
)

// observe is channelhost.Observe.
func observe(handler any, joined func(any), terminated func(any, error)) any {
	h := &Handler{callbacks: handler.(*Handler).callbacks}
	join, terminate := h.join, h.terminate
	h.join = func(ctx context.Context, c *Channel, p serializer.Payload) (any, error) {
		reply, err := join(ctx, c, p)
		if err == nil {
			joined(c)
		}
		return reply, err
	}
	h.terminate = func(ctx context.Context, c *Channel, reason error) error {
		terminated(c, reason)
		if terminate != nil {
			return terminate(ctx, c, reason)
		}
		return nil
	}
	return h
}
