package channel

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"bennu.example/internal/channelhost"
	"bennu.example/push"
)

// Event is the name of an event that a server sends, with the type of its payload. A constant
// declares both once:
//
//	const newMessage channel.Event[message] = "new_msg"
type Event[P any] string

// Push is Channel.Push of the event.
func (e Event[P]) Push(c *Channel, payload P) error { return c.Push(string(e), payload) }

// Broadcast is Channel.Broadcast of the event.
func (e Event[P]) Broadcast(c *Channel, payload P) error { return c.Broadcast(string(e), payload) }

// BroadcastFrom is Channel.BroadcastFrom of the event.
func (e Event[P]) BroadcastFrom(c *Channel, payload P) error {
	return c.BroadcastFrom(string(e), payload)
}

// Sends declares that the clients of a handler receive an event, by pushes or broadcasts of any
// code. It has no effect on them: package tsgen tells it to the pages. It is written
// Sends[room](newMessage).
func Sends[S, P any](e Event[P]) Option[S] {
	return Option[S]{func(h *Handler) {
		if !h.types.AddSent(string(e), reflect.TypeFor[P]()) {
			panic(fmt.Sprintf("channel: two Sends for event %q", string(e)))
		}
	}}
}

// replying returns a callback of On that returns a push.Reply.
func replying[S, P, R any](
	f func(s *S, ctx context.Context, c *Channel, p P) (R, error),
) func(s *S, ctx context.Context, c *Channel, p P) (push.Reply, error) {
	if f, ok := any(f).(func(*S, context.Context, *Channel, P) (push.Reply, error)); ok {
		return f
	}
	payload := payloadOf[R]()
	return func(s *S, ctx context.Context, c *Channel, p P) (push.Reply, error) {
		r, err := f(s, ctx, c, p)
		if err != nil && !errors.Is(err, ErrStop) {
			return push.NoReply, err
		}
		return push.OK(payload(r)), err
	}
}

// payloadOf returns the function that makes a payload of an R. A nil pointer and a nil map mean an
// empty object, as nil does.
func payloadOf[R any]() func(R) any {
	switch reflect.TypeFor[R]().Kind() {
	case reflect.Pointer, reflect.Map:
		return func(r R) any {
			if reflect.ValueOf(r).IsNil() {
				return nil
			}
			return r
		}
	}
	return func(r R) any { return r }
}

// typesOf is channelhost.TypesOf.
func (h *Handler) typesOf() channelhost.Types {
	types := h.types
	types.Any = h.any != nil
	return types
}
