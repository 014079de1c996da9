package socket

import (
	"context"
	"testing"

	"bennu.example/channel"
	"bennu.example/serializer"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	h := func() *channel.Handler {
		return channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return nil, nil
		})
	}
	rooms, special, foods, foo, all := h(), h(), h(), h(), h()
	r, err := newRouter(channel.Routes{"room:*": rooms, "room:special": special, "foo*": foo, "food*": foods})
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]*channel.Handler{
		"room:": rooms, "room:a:b": rooms, "room": nil, "Room:1": nil, "room:*": rooms,
		"room:special": special, "room:special2": rooms,
		"foot": foo, "food": foods, "foods": foods, "": nil, "phoenix": nil,
	} {
		if r.match(topic) != want {
			t.Errorf("topic %q: wrong handler", topic)
		}
	}
	if r, err = newRouter(channel.Routes{"*": all}); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"", "x", "x$"} {
		if r.match(topic) != all {
			t.Errorf("the route * does not match %q", topic)
		}
	}
	for _, topic := range []string{"$", "$socket", "$kick", "$room:1"} {
		if r.match(topic) != nil {
			t.Errorf("the route * matches the reserved topic %s", topic)
		}
	}
	for pattern, h := range map[string]*channel.Handler{
		"a*b": rooms, "**": rooms, "*a": rooms, "x": nil, "$*": all, "$": all, "$socket": all,
	} {
		if _, err := newRouter(channel.Routes{pattern: h}); err == nil {
			t.Errorf("route %q was accepted", pattern)
		}
	}
}
