package channeltest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// The tests of this file are what a user's program might test.

// TestTokensExpire lets a client refresh its token over a day, and lose it then.
func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		cfg := roomConfig(nil, nil)
		cfg.Auth = &socket.Auth{
			Verify: func(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
				if !strings.HasPrefix(token, "hourly") || time.Since(begun) > 24*time.Hour {
					return socket.Grant{}, push.Reason("expired")
				}
				return socket.Grant{ID: "user:ann", Expires: time.Now().Add(time.Hour)}, nil
			},
		}
		server := channeltest.Start(t, cfg)
		tokens := 0
		ann := server.Connect(t, &socket.ClientConfig{
			AuthTokenFunc: func(context.Context) (string, error) {
				tokens++
				return fmt.Sprint("hourly", tokens), nil
			},
			DeniedAfter: func(int) time.Duration { return -1 },
		}).Join(t, "room:lobby", user("ann"))
		time.Sleep(23 * time.Hour)
		ann.Push("echo", nil).ExpectOK(t, nil)
		if stats := server.Handler().Stats(); stats.Refreshed < 20 || ann.Client.Socket.Stats().Connections != 1 {
			t.Errorf("%d tokens, %+v", tokens, stats)
		}
		time.Sleep(3 * time.Hour)
		ann.Client.ExpectStatus(t, socket.StatusFailed)
	})
}

// TestSlowClientIsDisconnected fills the queue of a client that receives nothing.
func TestSlowClientIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		ann, bob := server.Join(t, "room:lobby", user("ann")), server.Join(t, "room:lobby", user("bob"))
		bob.Client.Network.Drop()
		for range 100 {
			ann.Push("say", said{Body: strings.Repeat("x", 50_000)}).ExpectOK(t, nil)
		}
		if err := bob.ExpectEnd(t); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("ended by %v", err)
		}
		ann.Expect(t, "said", nil)
		bob.Client.Network.Restore()
		bob.ExpectJoin(t)
	})
}

// TestNodesAndPartition cuts the connection between two nodes, and heals it.
func TestNodesAndPartition(t *testing.T) {
	both(t, func(t *testing.T) {
		cluster := pubsubtest.NewCluster()
		var servers []*channeltest.Server
		var nodes []*pubsubtest.Node
		for _, name := range []string{"one", "two"} {
			node := cluster.Node(name)
			ps := pubsub.New(node)
			pubsubtest.Start(t, ps)
			who := presence.New(ps, presence.Config{})
			t.Cleanup(func() {
				if err := who.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			nodes, servers = append(nodes, node), append(servers, channeltest.Start(t, roomConfig(ps, who)))
		}
		ann, bob := servers[0].Join(t, "room:1", user("ann")), servers[1].Join(t, "room:1", user("bob"))
		ann.ExpectPresence(t, "ann", "bob")
		bob.ExpectPresence(t, "ann", "bob")
		cluster.Cut(nodes[0], nodes[1])
		ann.Push("say", said{Body: "lost"}).ExpectOK(t, nil)
		bob.Refute(t, "said", nil)
		cluster.Heal()
		ann.Push("say", said{Body: "hello"}).ExpectOK(t, nil)
		bob.Expect(t, "said", said{"ann", "hello"})
		if err := servers[1].Handler().Kick(t.Context(), "room:1", socket.Member{}, "over"); err != nil {
			t.Error(err)
		}
		for _, c := range []*channeltest.Channel{ann, bob} {
			if err := c.ExpectClose(t); !errors.Is(err, push.Reason("over")) {
				t.Errorf("closed by %v", err)
			}
		}
	})
}

// TestReset lets a client miss more than the log keeps.
func TestReset(t *testing.T) {
	both(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}),
			history.Rules{"room:*": {Events: []string{"said"}, Count: 10}})
		server := channeltest.Start(t, roomConfig(ps, nil))
		ann := server.Join(t, "room:1", user("ann"))
		bob := server.Connect(t, nil).Channel("room:1", user("bob"))
		resets := make(chan string, 10)
		bob.Channel.Resume(channel.ResumeConfig{
			Last: 3, OnReset: func(_ serializer.Payload, why string) { resets <- why },
		})
		bob.Join(t)
		ann.Push("say", said{Body: "first"}).ExpectOK(t, nil)
		bob.Expect(t, "said", map[string]string{"body": "first"})
		bob.Client.Disconnect(t)
		for i := range 500 {
			ann.Push("say", said{Body: fmt.Sprint(i)}).ExpectOK(t, nil)
		}
		bob.Client.Reconnect(t)
		for _, body := range []string{"497", "498", "499"} {
			if got := channeltest.Receive[said](t, bob, "said"); got.Body != body {
				t.Errorf("received %+v, want %s", got, body)
			}
		}
		// OnReset was called before the events of its join.
		if got := []string{<-resets, <-resets}; got[0] != "new" || got[1] != "trimmed" {
			t.Errorf("resets %q", got)
		}
	})
}
