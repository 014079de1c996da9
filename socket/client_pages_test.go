package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"testing"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

type reader struct{}

func (*reader) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

func (*reader) drop(context.Context, *channel.Channel, serializer.Payload) error { return nil }

// archive is a server with "room:1", whose events anyone may page, except those that it intercepts,
// and "closed:1", which has no pages.
func archive(t *testing.T) (*pubsub.PubSub, func(socket.ClientConfig) *socket.Client) {
	pages := channel.Pages(func(*reader, context.Context, *channel.Channel) error { return nil })
	rules := history.Rules{"room:*": {Count: 1000}, "closed:*": {}}
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	h := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{
		"room:*":   channel.Define((*reader).join, channel.Intercept("secret", (*reader).drop), pages),
		"closed:*": channel.Define((*reader).join),
		"off:*":    channel.Define((*reader).join, pages),
	}})
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return ps, func(cfg socket.ClientConfig) *socket.Client {
		c := socket.NewClient(server.URL, &cfg)
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		c.Connect()
		return c
	}
}

func resumed(c *socket.Client, topic string) *channel.Client {
	room := c.Channel(topic, nil)
	room.Resume(channel.ResumeConfig{})
	room.Join()
	return room
}

// TestClientBefore checks that a client reads back all that a topic has, page by page, with every
// version of the wire.
func TestClientBefore(t *testing.T) {
	ps, connect := archive(t)
	var want []history.Record
	// say records an event n times.
	say := func(n int, event string, payload any) {
		for range n {
			pos, err := ps.Append(t.Context(), "room:1", event, payload)
			if err != nil {
				t.Fatal(err)
			}
			if event != "secret" {
				want = append(want, history.Record{Position: pos, Event: event, Payload: serializer.Value(payload)})
			}
		}
	}
	say(60, "msg", map[string]any{"n": 1, "text": "é"})
	say(250, "secret", nil) // pages without any event
	say(1, "bytes", serializer.Binary([]byte{0, 1, 255}))
	say(1, "bytes", serializer.Binary(nil))
	say(3, "msg", nil)
	for _, s := range serializer.Default() {
		t.Run(s.Version(), func(t *testing.T) {
			room := resumed(connect(socket.ClientConfig{Serializer: s}), "room:1")
			if err := room.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			at, more := room.Position(), true
			var got []history.Record
			for more {
				var page []history.Record
				var err error
				if page, more, err = room.Before(t.Context(), at, 40); err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 || len(page) > 40 {
					t.Fatalf("%d records", len(page))
				}
				got, at = append(page, got...), page[0].Position
			}
			show := func(r history.Record) string {
				if r.Payload.IsBinary() {
					return fmt.Sprint(r.Position, " ", r.Event, " ", r.Payload.Bytes())
				}
				raw, err := r.Payload.JSON()
				return fmt.Sprintf("%v %s %s %v", r.Position, r.Event, raw, err)
			}
			want := want[:len(want)-1] // the position is that of the last record
			if !slices.EqualFunc(got, want, func(a, b history.Record) bool { return show(a) == show(b) }) {
				t.Errorf("%d records, want %d", len(got), len(want))
				for i := range min(len(got), len(want)) {
					if show(got[i]) != show(want[i]) {
						t.Fatalf("record %d is %s, want %s", i, show(got[i]), show(want[i]))
					}
				}
			}
			if page, _, err := room.Before(t.Context(), at, 40); err != nil || len(page) > 0 {
				t.Errorf("before the first record: %v, %v", page, err)
			}
		})
	}
}

func TestClientBeforeErrors(t *testing.T) {
	ps, connect := archive(t)
	first, err := ps.Append(t.Context(), "room:1", "msg", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ps.Forget(t.Context(), "room:1"); err != nil {
		t.Fatal(err)
	}
	c := connect(socket.ClientConfig{})
	room, closed, off := resumed(c, "room:1"), resumed(c, "closed:1"), resumed(c, "off:1")
	plain := c.Channel("room:2", nil)
	plain.Join()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		room   *channel.Client
		ctx    context.Context
		before history.Position
		want   error
	}{
		"no position": {room, t.Context(), history.Position{}, history.ErrPosition},
		"forgotten":   {room, t.Context(), first, history.ErrTrimmed},
		"off":         {off, t.Context(), first, history.ErrNoRule},
		"ended":       {room, ended, first, context.Canceled},
	} {
		if records, more, err := tc.room.Before(tc.ctx, tc.before, 1); !errors.Is(err, tc.want) || records != nil || more {
			t.Errorf("%s: %v, %v, %v; want %v", name, records, more, err, tc.want)
		}
	}
	_, _, err = closed.Before(t.Context(), first, 1)
	if refused, ok := errors.AsType[*push.Error](err); !ok || refused.Reason() != "forbidden" {
		t.Errorf("without Pages: %v", err)
	}
	if _, _, err := plain.Before(t.Context(), first, 1); err == nil {
		t.Error("without Resume: no error")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := room.Before(t.Context(), first, 1); !errors.Is(err, channel.ErrClosed) {
		t.Errorf("closed: %v, want %v", err, channel.ErrClosed)
	}
}
