package presence_test

import (
	"context"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// TestReplyBeforeDiff has a client track, update, change and untrack itself. It receives each reply
// before the diff, on both transports, whoever broadcasts the diff: the callback or a worker.
func TestReplyBeforeDiff(t *testing.T) {
	t.Parallel()
	fetch := func(context.Context, string, []string) (map[string]any, error) { return nil, nil }
	for transportName, transport := range map[string]socket.ClientTransport{
		"WebSocket": socket.TransportWebSocket, "long poll": socket.TransportLongPoll,
	} {
		for name, cfg := range map[string]presence.Config{"callback": {}, "worker": {Fetch: fetch}} {
			t.Run(transportName+", "+name, func(t *testing.T) {
				t.Parallel()
				testReplyBeforeDiff(t, transport, cfg)
			})
		}
	}
}

func testReplyBeforeDiff(t *testing.T, transport socket.ClientTransport, cfg presence.Config) {
	ps := pubsub.New(nil)
	p := presence.New(ps, cfg)
	diffs := make(chan struct{}, 1)
	server := httptest.NewServer(socket.NewHandler(socket.Config{
		PubSub: ps, Channels: channel.Routes{"room:*": selfTracking(p, diffs)},
	}))
	defer server.Close()
	defer p.Close(context.Background())
	c, err := socket.Dial(t.Context(), server.URL, &socket.ClientConfig{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	room := c.Channel(topic, nil)
	order := make(chan string, 10)
	room.On(presence.EventDiff, func(serializer.Payload) { order <- "diff" })
	joined := make(chan struct{})
	room.Join().Receive(push.StatusOK, func(serializer.Payload) { close(joined) })
	<-joined
	defer ps.Subscribe(topic, diffWatcher(diffs)).Cancel() // it receives each diff after the channel
	for _, event := range []string{"track", "update", "change", "untrack", "track", "untrack all"} {
		room.Push(event, nil).Receive(push.StatusOK, func(serializer.Payload) { order <- "reply" })
		var got []string
		for len(got) < 2 {
			select {
			case what := <-order:
				got = append(got, what)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: only %q came", event, got)
			}
		}
		if !slices.Equal(got, []string{"reply", "diff"}) {
			t.Errorf("%s: got %q, want the reply first", event, got)
		}
	}
}

// diffWatcher is a subscriber that reports each diff.
type diffWatcher chan struct{}

func (w diffWatcher) Deliver(b *pubsub.Broadcast) error {
	if b.Event == presence.EventDiff {
		w <- struct{}{}
	}
	return nil
}

// selfTracking returns a handler whose callbacks do what their events are called. They return after
// the diff was broadcast.
func selfTracking(p *presence.Presence, diffs chan struct{}) *channel.Handler {
	on := func(event string, f func(c *channel.Channel) error) channel.Option[struct{}] {
		return channel.On(event, func(_ *struct{}, _ context.Context, c *channel.Channel, _ device) (push.Reply, error) {
			if err := f(c); err != nil {
				return push.NoReply, err
			}
			<-diffs
			return push.OK(nil), nil
		})
	}
	return channel.Define(
		func(*struct{}, context.Context, *channel.Channel, device) (any, error) { return nil, nil },
		on("track", func(c *channel.Channel) error { _, err := p.Track(c, "u1", nil); return err }),
		on("update", func(c *channel.Channel) error { _, err := p.Update(c, "u1", device{"a": "b"}); return err }),
		on("change", func(c *channel.Channel) error {
			_, err := presence.Change(p, c, "u1", func(meta *device) { (*meta)["a"] = "c" })
			return err
		}),
		on("untrack", func(c *channel.Channel) error { p.Untrack(c, "u1"); return nil }),
		on("untrack all", func(c *channel.Channel) error { p.UntrackAll(c); return nil }),
	)
}
