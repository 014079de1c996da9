package socket_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// TestDisconnectOverridesConfig checks that a transport and a handler can return to Disconnect
// where the configuration chose to drop.
func TestDisconnectOverridesConfig(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		websocket transport.SlowPolicy
		options   []channel.Option[nobody]
		ends      bool
	}{
		{"config", transport.Inherit, nil, false},
		{"transport", transport.Disconnect, nil, true},
		{"handler", transport.Inherit, []channel.Option[nobody]{channel.OnSlow[nobody]("", transport.Disconnect)}, true},
		{"handler inherits", transport.Inherit, []channel.Option[nobody]{channel.OnSlow[nobody]("", transport.Inherit)},
			false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, socket.Config{
				OnSlow: transport.DropNewest, MaxQueue: 40_000,
				WebSocket: websocket.Config{OnSlow: test.websocket},
				Channels:  channel.Routes{"room:*": echoes(test.options...)},
			})
			stalled, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
			if err != nil {
				t.Fatal(err)
			}
			defer stalled.Close()
			if err := stalled.Send([]byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
				t.Fatal(err)
			}
			if _, err := stalled.Text(); err != nil {
				t.Fatal(err)
			}
			stats := s.h.Stats().WebSocket
			for range 10_000 {
				if stats = s.h.Stats().WebSocket; stats.Slow+stats.Dropped > 0 {
					break
				}
				payload := map[string]string{"pad": strings.Repeat("x", 4000)}
				if err := s.h.PubSub().Broadcast(t.Context(), "room:1", "ticked", payload); err != nil {
					t.Fatal(err)
				}
			}
			if ended := stats.Slow == 1 && stats.Dropped == 0; ended != test.ends {
				t.Errorf("%+v, want the connection to end: %v", stats, test.ends)
			}
		})
	}
}

// TestSocketChannelIsNotSlow checks that no event of $socket is dropped, whatever Config.OnSlow is.
func TestSocketChannelIsNotSlow(t *testing.T) {
	t.Parallel()
	for _, policy := range []transport.SlowPolicy{transport.DropOldest, transport.DropNewest} {
		s := serve(t, socket.Config{OnSlow: policy, MaxQueue: 40_000, Channels: channel.Routes{"room:*": echoes(
			onEvent("login", func(ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				claims := strings.Repeat("x", 4000)
				loggedIn := true
				for loggedIn && ctx.Err() == nil { // until the client has ended
					loggedIn = socket.Authenticate(ctx, socket.Grant{ID: "ann", Claims: claims}) == nil
				}
				return push.NoReply, nil
			}))},
			Auth: &socket.Auth{Anonymous: true, Verify: func(context.Context, string, *socket.Request) (socket.Grant, error) {
				return socket.Grant{}, push.Reason("no")
			}},
		})
		stalled, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		defer stalled.Close()
		for _, frame := range []string{`["1","1","$socket","phx_join",{}]`, `["1","1","room:1","phx_join",{}]`} {
			if err := stalled.Send([]byte(frame)); err != nil {
				t.Fatal(err)
			}
			if _, err := stalled.Text(); err != nil {
				t.Fatal(err)
			}
		}
		if err := stalled.Send([]byte(`["1","2","room:1","login",{}]`)); err != nil {
			t.Fatal(err)
		}
		late := time.Now().Add(patience)
		for s.h.Stats().WebSocket.Slow+s.h.Stats().WebSocket.Dropped == 0 && time.Now().Before(late) {
			runtime.Gosched()
		}
		if st := s.h.Stats().WebSocket; st.Slow != 1 || st.Dropped != 0 {
			t.Errorf("%v: %+v", policy, st)
		}
	}
}
