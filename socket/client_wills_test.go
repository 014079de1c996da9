package socket_test

import (
	"context"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// willServer is a server that allows wills, with a client that observes them.
type willServer struct {
	*server

	allowed chan string // the events of the wills that were allowed
	seen    chan string // the wills that were broadcast, and the event "end"
	end     *channel.Client
}

func serveWills(t *testing.T) *willServer {
	s := &willServer{allowed: make(chan string, 100), seen: make(chan string, 100)}
	s.server = serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(channel.AllowWill(
		func(_ *nobody, _ context.Context, _ *channel.Channel, event string, p serializer.Payload,
		) (serializer.Payload, error) {
			s.allowed <- event
			if event == "refused" {
				return p, push.Reject("no")
			}
			return p, nil
		}))}, Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
		r.ID = "user"
		return ctx, nil
	}})
	s.end = join(t, s.client(t, nil), "room:1", nil)
	s.end.OnMessage(func(m serializer.Message) {
		if m.Kind != serializer.KindReply {
			text, _ := m.Payload.JSON()
			_, rest, _ := m.Payload.Cut("$id")
			if rest, err := rest.JSON(); err == nil {
				text = rest
			}
			s.seen <- m.Event + string(text)
		}
	})
	return s
}

// client returns a client that comes back soon after its connection was lost.
func (s *willServer) client(t *testing.T, change func(*socket.ClientConfig)) *socket.Client {
	return suite{url: s.url + "/socket"}.dial(t, func(cfg *socket.ClientConfig) {
		cfg.Logger = s.logger
		cfg.ReconnectDelay = func(socket.Retry) time.Duration { return 10 * time.Millisecond }
		if change != nil {
			change(cfg)
		}
	})
}

// wantSet waits until a will is set.
func (s *willServer) wantSet(t *testing.T, room *channel.Client, event string) {
	t.Helper()
	select {
	case got := <-s.allowed:
		if got != event {
			t.Fatalf("will %s, want %s", got, event)
		}
	case <-within(t).Done():
		t.Fatal("no will was set")
	}
	reply(t, room.Push("echo", nil)) // it was stored before
}

// want waits for what the observer has seen.
func (s *willServer) want(t *testing.T, wills ...string) {
	t.Helper()
	for _, want := range wills {
		select {
		case got := <-s.seen:
			if got != want {
				t.Fatalf("seen %s, want %s", got, want)
			}
		case <-within(t).Done():
			t.Fatalf("%s was not seen", want)
		}
	}
	reply(t, s.end.Push("echo", nil))
	if len(s.seen) > 0 {
		t.Fatalf("seen %s as well", <-s.seen)
	}
}

// rejoin ends the client's connection and waits until it has joined again.
func (s *willServer) rejoin(t *testing.T, room *channel.Client, end func()) {
	t.Helper()
	back := make(chan struct{}, 1)
	defer room.OnJoin(func(serializer.Payload) { back <- struct{}{} })()
	end()
	select {
	case <-back:
	case <-within(t).Done():
		t.Fatal("the client did not come back")
	}
}

func TestClientWill(t *testing.T) {
	t.Parallel()
	s := serveWills(t)
	c := s.client(t, nil)
	room := c.Channel("room:1", nil)
	cancel := room.Will("later", nil, time.Hour, false) // before the join
	reply(t, room.Join())
	s.wantSet(t, room, "later")
	s.rejoin(t, room, func() { c.Pause(); c.Connect() })
	s.wantSet(t, room, "later")
	room.Will("refused", nil, 0, false)
	s.wantSet(t, room, "refused")
	room.Will("gone", map[string]int{"n": 1}, 0, false)
	s.wantSet(t, room, "gone")
	cancel()
	closeSocket(t, c)
	s.want(t, `gone{"n":1}`)
}

// TestClientWillLostOnly checks that a will for the loss of the connection does not run when the
// client closes it.
func TestClientWillLostOnly(t *testing.T) {
	t.Parallel()
	s := serveWills(t)
	c := s.client(t, nil)
	room := join(t, c, "room:1", nil)
	room.Will("lost", nil, 0, true)
	s.wantSet(t, room, "lost")
	room.Will("gone", nil, 0, false)
	s.wantSet(t, room, "gone")
	closeSocket(t, c)
	s.want(t, "gone{}")
}

// TestClientWillOnce checks that such a will is not set again on another connection, but after a
// crash of the channel.
func TestClientWillOnce(t *testing.T) {
	t.Parallel()
	s := serveWills(t)
	c := s.client(t, func(cfg *socket.ClientConfig) {
		cfg.RejoinAfter = func(int) time.Duration { return time.Millisecond }
	})
	room := join(t, c, "room:1", nil)
	room.WillOnce("once", nil, time.Hour, false)
	s.wantSet(t, room, "once")
	room.Will("always", nil, time.Hour, false)
	s.wantSet(t, room, "always")
	s.rejoin(t, room, func() { room.Push("unknown", nil) }) // the server's channel crashes
	s.wantSet(t, room, "once")
	s.wantSet(t, room, "always")
	s.rejoin(t, room, func() { c.Pause(); c.Connect() })
	s.wantSet(t, room, "always")
	cancel := room.WillOnce("twice", nil, time.Hour, false)
	s.wantSet(t, room, "twice")
	cancel()
	cancel()
	reply(t, room.Push("echo", nil))
	if len(s.allowed) > 0 {
		t.Errorf("will %s was set", <-s.allowed)
	}
}
