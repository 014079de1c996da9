package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// serve runs a server with two kinds of channels. Those of room:* track their clients. The channel
// script pushes each event back to the client that sent it.
func serve(t *testing.T) (url string) {
	t.Helper()
	ps := pubsub.New(nil)
	p := presence.New(ps, presence.Config{})
	type script = struct{}
	pushBack := func(_ *script, _ context.Context, c *channel.Channel, event string, payload serializer.Payload) (
		push.Reply, error,
	) {
		return push.OK(nil), c.Push(event, payload)
	}
	forward := func(event string) channel.Option[script] {
		return channel.On(event, func(s *script, ctx context.Context, c *channel.Channel, payload serializer.Payload) (
			push.Reply, error,
		) {
			return pushBack(s, ctx, c, event, payload)
		})
	}
	scripted := channel.Define(
		func(*script, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.OnAny(pushBack),
		forward(presence.EventState), forward(presence.EventDiff)) // reserved events do not reach OnAny
	h := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": members(p), "script": scripted}})
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.Close()
		h.Shutdown(context.Background())
		p.Close(context.Background())
	})
	return server.URL
}

// dial returns a connected client that rejoins at once.
func dial(t *testing.T, url string) *socket.Client {
	t.Helper()
	c, err := socket.Dial(t.Context(), url, &socket.ClientConfig{
		RejoinAfter: func(int) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// until waits until ok accepts the list.
func until(t *testing.T, c *presence.Client, synced chan struct{}, what string, ok func(presence.State) bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok(c.List()) {
		select {
		case <-synced:
		case <-deadline:
			t.Fatalf("no %s: %s", what, short(c.List()))
		}
	}
}

// TestClientOverSocket has two clients join, update, crash and rejoin, and leave. Their lists
// follow.
func TestClientOverSocket(t *testing.T) {
	t.Parallel()
	url := serve(t)
	a := dial(t, url).Channel(topic, map[string]string{"user": "u1"})
	who := presence.NewClient(a, nil)
	synced := make(chan struct{}, 100)
	who.OnSync(func() { synced <- struct{}{} })
	var left []string
	who.OnLeave(func(key string, current, _ presence.Entry) {
		if len(current.Metas) == 0 {
			left = append(left, key)
		}
	})
	has := func(keys ...string) func(presence.State) bool {
		return func(s presence.State) bool {
			var got []string
			for key := range s.All() {
				got = append(got, key)
			}
			return strings.Join(got, " ") == strings.Join(keys, " ")
		}
	}
	a.Join()
	until(t, who, synced, "own presence", has("u1"))
	b := dial(t, url).Channel(topic, map[string]string{"user": "u2"})
	b.Join()
	until(t, who, synced, "second one", has("u1", "u2"))
	if _, err := channel.Call[struct{}](t.Context(), a, "update", device{"status": "away"}); err != nil {
		t.Error(err)
	}
	until(t, who, synced, "update", func(s presence.State) bool {
		e, _ := s.Get("u1")
		metas, err := presence.Metas[struct{ Device, Status string }](e)
		return err == nil && len(metas) == 1 && metas[0].Device == "tab" && metas[0].Status == "away"
	})
	a.Push("no such event", nil) // the channel crashes, and the client rejoins
	until(t, who, synced, "state of the next join", func(s presence.State) bool {
		e, _ := s.Get("u1")
		metas, err := presence.Metas[struct{ Status string }](e)
		return err == nil && len(metas) == 1 && metas[0].Status == "" && s.Len() == 2
	})
	b.Leave()
	until(t, who, synced, "leave", has("u1"))
	who.Close()
	if _, err := a.Leave().Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if got := left[len(left)-1]; got != "u2" {
		t.Errorf("the last to leave was %s", got)
	}
}

// TestClientSyncedOnlyWhileJoined follows Synced through the ends of a join and of the client.
func TestClientSyncedOnlyWhileJoined(t *testing.T) {
	t.Parallel()
	url := serve(t)
	socketClient := dial(t, url)
	c := socketClient.Channel("script", nil)
	who := presence.NewClient(c, nil)
	events := make(chan string, 10)
	c.OnJoin(func(serializer.Payload) { events <- "join" })
	c.OnError(func(error) { events <- "error" })
	c.OnClose(func(error) { events <- "close" })
	who.OnSync(func() { events <- "sync" })
	expect := func(event string, synced bool) {
		t.Helper()
		if got := <-events; got != event || who.Synced() != synced {
			t.Fatalf("%s and synced %t, want %s and %t", got, who.Synced(), event, synced)
		}
	}
	state := func() {
		t.Helper()
		if _, err := channel.Call[struct{}](t.Context(), c, presence.EventState, json.RawMessage(long("u1:1"))); err != nil {
			t.Fatal(err)
		}
		expect("sync", true)
	}
	c.Join()
	expect("join", false)
	state()

	socketClient.Pause()
	expect("error", false)
	if who.List().Len() != 1 {
		t.Error("the list did not stay")
	}
	socketClient.Connect()
	expect("join", false)
	_, err := channel.Call[struct{}](t.Context(), c, presence.EventDiff, json.RawMessage(longDiff("u2:2", "")))
	if err != nil || who.Synced() {
		t.Fatalf("synced by a diff: %v", err)
	}
	state()

	if _, err := c.Leave().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if who.Synced() { // also before the callback of the leave
		t.Fatal("synced after the leave")
	}
	expect("close", false)
}

// TestClientSyncedAfterClose checks that Synced returns false after Close, and that the list stays.
func TestClientSyncedAfterClose(t *testing.T) {
	t.Parallel()
	c := presence.NewLooseClient(zerolog.Nop())
	c.Receive("1", presence.EventState, long("u1:1"))
	if !c.Synced() {
		t.Fatal("not synced by a state")
	}
	c.Close()
	if c.Synced() || c.List().Len() != 1 {
		t.Error("synced after Close, or the list is gone")
	}
}

// TestClientLeavesOnClose closes and pauses clients of both transports. Others see the leave at
// once.
func TestClientLeavesOnClose(t *testing.T) {
	t.Parallel()
	url := serve(t)
	watch := dial(t, url).Channel(topic, map[string]string{"user": "watch"})
	who := presence.NewClient(watch, nil)
	synced := make(chan struct{}, 100)
	who.OnSync(func() { synced <- struct{}{} })
	watch.Join()
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll} {
		for _, end := range []string{"close", "pause"} {
			user := fmt.Sprintf("%s-%d", end, by)
			c, err := socket.Dial(t.Context(), url, &socket.ClientConfig{Transport: by})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close(context.Background()) })
			c.Channel(topic, map[string]string{"user": user}).Join()
			until(t, who, synced, user, func(s presence.State) bool { _, ok := s.Get(user); return ok })
			if end == "close" {
				if err := c.Close(t.Context()); err != nil {
					t.Error(err)
				}
			} else {
				c.Pause()
			}
			until(t, who, synced, "end of "+user, func(s presence.State) bool { _, ok := s.Get(user); return !ok })
		}
	}
}

// TestClientEvents uses other names for the events of the state and the diffs (M275).
func TestClientEvents(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t)).Channel("script", nil)
	who := presence.NewClient(c, &presence.ClientConfig{StateEvent: "who", DiffEvent: "changed"})
	synced := make(chan struct{}, 100)
	who.OnSync(func() { synced <- struct{}{} })
	c.Join()
	for _, e := range [][2]string{
		{presence.EventState, long("wrong:1")},
		{"changed", longDiff("u3:3", "")},
		{"who", long("u1:1 u2:2")},
		{"changed", longDiff("", "u1:1")},
	} {
		if _, err := channel.Call[struct{}](t.Context(), c, e[0], json.RawMessage(e[1])); err != nil {
			t.Error(err)
		}
	}
	until(t, who, synced, "diff", func(s presence.State) bool { return short(s) == "u2:2 u3:3" })
}

// TestClientReceivesPresenceTwice has a presence arrive in the state and in a diff, in both orders.
// As in phoenix.js, OnJoin is called twice, and the presence is listed once.
func TestClientReceivesPresenceTwice(t *testing.T) {
	t.Parallel()
	url := serve(t)
	for name, events := range map[string][][2]string{
		"diff first":  {{presence.EventDiff, longDiff("u1:1", "")}, {presence.EventState, long("u1:1")}},
		"state first": {{presence.EventState, long("u1:1")}, {presence.EventDiff, longDiff("u1:1", "")}},
	} {
		c := dial(t, url).Channel("script", nil)
		who := presence.NewClient(c, nil)
		calls := make(chan string, 100)
		who.OnJoin(func(key string, current, joined presence.Entry) {
			calls <- fmt.Sprint(key, " ", joined.Metas[0].Ref, " after ", len(current.Metas))
		})
		c.Join()
		for _, e := range append(events, [2]string{presence.EventDiff, longDiff("u2:2", "")}) {
			if _, err := channel.Call[struct{}](t.Context(), c, e[0], json.RawMessage(e[1])); err != nil {
				t.Error(err)
			}
		}
		for _, want := range []string{"u1 1 after 0", "u1 1 after 1", "u2 2 after 0"} {
			if got := <-calls; got != want {
				t.Errorf("%s: called with %q, want %q", name, got, want)
			}
		}
		if got := short(who.List()); got != "u1:1 u2:2" {
			t.Errorf("%s: the list is %s", name, got)
		}
	}
}

// TestClientBeginsWithList begins with the list of an earlier process: it is shown until the
// server's state arrives, and then only the differences are reported.
func TestClientBeginsWithList(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t)).Channel("script", nil)
	last := parse(t, "u1:1 u2:2")
	who := presence.NewClient(c, &presence.ClientConfig{Last: last})
	var calls journal
	synced := make(chan struct{}, 1)
	who.OnJoin(calls.joined)
	who.OnLeave(calls.left)
	who.OnSync(func() { synced <- struct{}{} })
	if got := short(who.List()); got != "u1:1 u2:2" || who.Synced() {
		t.Fatalf("%s, synced %t", got, who.Synced())
	}
	c.Join()
	state := json.RawMessage(long("u2:2 u3:3"))
	if _, err := channel.Call[struct{}](t.Context(), c, presence.EventState, state); err != nil {
		t.Fatal(err)
	}
	<-synced
	if got := short(who.List()); got != "u2:2 u3:3" || !who.Synced() {
		t.Errorf("%s, synced %t", got, who.Synced())
	}
	if got := calls.take(); got != "u3 [] +3; u1 [] -1" {
		t.Errorf("callbacks: %s", got)
	}
	if got := short(last); got != "u1:1 u2:2" {
		t.Errorf("the program's list has become %s", got)
	}
}
