package socket_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"bennu.example/channel"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/socket"
)

// TestKickOnAnotherNode checks that a member on another node is removed, and that both ends find
// the reason.
func TestKickOnAnotherNode(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cluster := pubsubtest.NewCluster()
	ended := make(chan error, 1)
	cfg := socket.Config{Channels: channel.Routes{"room:*": echoes(
		channel.Terminate(func(_ *nobody, _ context.Context, _ *channel.Channel, reason error) { ended <- reason }),
	)}}
	a, b := newClusterNode(t, cluster, socket.Config{}), newClusterNode(t, cluster, cfg)
	server := httptest.NewServer(b)
	defer server.Close()
	defer a.Shutdown(ctx)
	defer b.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(ctx)
	room := client.Channel("room:1", nil)
	closed := make(chan error, 1)
	room.OnClose(func(err error) { closed <- err })
	if _, err := room.Join().Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Kick(ctx, "room:1", socket.Member{ConnectionID: client.Info().ConnectionID}, "moved"); err != nil {
		t.Fatal(err)
	}
	for name, errs := range map[string]chan error{"server": ended, "client": closed} {
		select {
		case err := <-errs:
			if !errors.Is(err, push.Reason("moved")) || errors.Is(err, push.Reason("kicked")) {
				t.Errorf("%s: %v", name, err)
			}
		case <-ctx.Done():
			t.Fatalf("%s: no end", name)
		}
	}
}
