package channeltest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// visitor is the state of the room of the tests.
type visitor struct{ user string }

type person struct {
	User string `json:"user"`
}

type said struct {
	User string `json:"user"`
	Body string `json:"body"`
}

// tick is a message of the server's own code.
type tick struct{ n int }

type userKey struct{}

// roomConfig returns the configuration of a server with a room. If who is not nil, it tracks the
// members.
func roomConfig(ps *pubsub.PubSub, who *presence.Presence) socket.Config {
	type (
		ctx  = context.Context
		ch   = *channel.Channel
		any_ = serializer.Payload
	)
	room := channel.Define(
		func(m *visitor, ctx ctx, c ch, p person) (any, error) {
			if m.user = p.User; m.user == "" {
				m.user, _ = ctx.Value(userKey{}).(string)
			}
			switch m.user {
			case "":
				return nil, push.Reject("who are you?")
			case "crash":
				return nil, errors.New("on purpose")
			}
			if who != nil {
				return map[string]string{"hello": m.user}, c.Send(who)
			}
			return map[string]string{"hello": m.user}, nil
		},
		channel.Info(func(m *visitor, _ ctx, c ch, who *presence.Presence) error {
			if _, err := who.Track(c, m.user, nil); err != nil {
				return err
			}
			return who.Push(c)
		}),
		channel.Info(func(_ *visitor, _ ctx, c ch, t tick) error { return c.Push("tick", map[string]int{"n": t.n}) }),
		channel.On("say", func(m *visitor, _ ctx, c ch, p said) (push.Reply, error) {
			if p.Body == "" {
				return push.NoReply, push.Reject("empty")
			}
			return push.OK(map[string]int{"length": len(p.Body)}), c.Broadcast("said", said{m.user, p.Body})
		}),
		channel.On("whisper", func(m *visitor, _ ctx, c ch, p said) (push.Reply, error) {
			return push.NoReply, c.BroadcastFrom("whispered", said{m.user, p.Body})
		}),
		channel.On("echo", func(_ *visitor, _ ctx, c ch, p any_) (push.Reply, error) { return push.OK(p), nil }),
		channel.On("odd", func(_ *visitor, _ ctx, c ch, p any_) (push.Reply, error) {
			return push.Reply{Status: "odd", Payload: p}, nil
		}),
		channel.On("stop", func(_ *visitor, _ ctx, c ch, p any_) (push.Reply, error) {
			return push.NoReply, channel.Stop("over")
		}),
		channel.On("crash", func(_ *visitor, _ ctx, c ch, p any_) (push.Reply, error) { panic("on purpose") }),
		channel.Intercept("secret", func(m *visitor, _ ctx, c ch, p any_) error {
			if m.user == "bob" {
				return c.Push("secret", p)
			}
			return nil
		}),
	)
	return socket.Config{Channels: channel.Routes{"room:*": room}, PubSub: ps}
}

func user(name string) person { return person{name} }

// both runs a test in a synctest bubble and outside.
func both(t *testing.T, f func(t *testing.T)) {
	t.Run("real time", func(t *testing.T) { t.Parallel(); f(t) })
	t.Run("virtual time", func(t *testing.T) { t.Parallel(); synctest.Test(t, f) })
}

func TestPushAndEvents(t *testing.T) {
	both(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		lobby := server.Subscribe(t, "room:lobby")
		ann, bob := server.Join(t, "room:lobby", user("ann")), server.Join(t, "room:lobby", user("bob"))
		if got := channeltest.Reply[map[string]string](t, ann.Joined)["hello"]; got != "ann" {
			t.Errorf("the join's reply is %q", got)
		}
		ann.Push("say", said{Body: "hello"}).ExpectOK(t, map[string]int{"length": 5})
		ann.Push("say", said{}).ExpectError(t, "empty")
		ann.Push("odd", nil).Expect(t, "odd", map[string]any{})
		bob.Expect(t, "said", map[string]string{"body": "hello"})
		lobby.Expect(t, "said", said{"ann", "hello"})
		if got := channeltest.Receive[said](t, ann, "said"); got != (said{"ann", "hello"}) {
			t.Errorf("ann received %+v", got)
		}
		ann.Push("whisper", said{Body: "psst"}).Refute(t)
		bob.Expect(t, "whispered", nil)
		ann.Refute(t, "whispered", nil)
		ann.Push("echo", serializer.Binary([]byte{1, 2})).ExpectOK(t, []byte{1, 2})
		lobby.Expect(t, "whispered", nil)
		lobby.Refute(t, "", nil)

		server.Broadcast(t, "room:lobby", "secret", map[string]int{"n": 1})
		bob.Expect(t, "secret", map[string]int{"n": 1})
		ann.Refute(t, "secret", nil)
		if err := ann.ServerChannel(t).Send(tick{7}); err != nil {
			t.Error(err)
		}
		ann.Expect(t, "tick", map[string]int{"n": 7})
		if err := ann.ServerChannel(t).BroadcastFrom("from", nil); err != nil {
			t.Error(err)
		}
		bob.Expect(t, "from", nil)
		ann.Refute(t, "from", nil)
	})
}

func TestRefusals(t *testing.T) {
	both(t, func(t *testing.T) {
		cfg := roomConfig(nil, nil)
		cfg.Connect = func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var p struct{ Bad string }
			if err := r.Params.Decode(&p); err != nil || p.Bad != "" {
				return nil, errors.New("bad")
			}
			r.ID = "anybody"
			return ctx, nil
		}
		server := channeltest.Start(t, cfg)
		server.ExpectRefused(t, &socket.ClientConfig{Params: map[string]string{"bad": "yes"}})
		client := server.Connect(t, nil)
		if got := client.ExpectRefused(t, "room:lobby", nil, "who are you?"); got.Reason() != "who are you?" {
			t.Errorf("refused: %v", got)
		}
		client.ExpectRefused(t, "nowhere", nil, "unmatched topic")
		client.Join(t, "room:lobby", user("ann"))
	})
}

func TestEnds(t *testing.T) {
	both(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		server.AllowCrashes = true
		client := server.Connect(t, nil)
		ann := client.Join(t, "room:1", user("ann"))
		ann.Leave(t)
		if err := ann.ExpectEnd(t); !errors.Is(err, channel.ErrLeft) {
			t.Errorf("ended by %v", err)
		}
		bob := client.Join(t, "room:1", user("bob"))
		bob.Push("stop", nil)
		if err := bob.ExpectClose(t); !errors.Is(err, push.Reason("over")) {
			t.Errorf("closed by %v", err)
		}
		eve := client.Join(t, "room:2", user("eve"))
		eve.Push("crash", nil)
		if err := eve.ExpectCrash(t); err == nil {
			t.Error("no error")
		}
		eve.ExpectJoin(t)
		if err := eve.ExpectEnd(t); err == nil {
			t.Error("no reason")
		}
		if err := server.Handler().Kick(t.Context(), "room:2", socket.Member{}, "spam"); err != nil {
			t.Error(err)
		}
		if err := eve.ExpectClose(t); !errors.Is(err, push.Reason("spam")) {
			t.Errorf("closed by %v", err)
		}
		last := client.Join(t, "room:3", user("ann"))
		client.Close(t)
		if err := last.ExpectEnd(t); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("ended by %v", err)
		}
	})
}

func TestPresenceAndReconnect(t *testing.T) {
	both(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}),
			history.Rules{"room:*": {Events: []string{"said"}}})
		who := presence.New(ps, presence.Config{})
		t.Cleanup(func() {
			if err := who.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		server := channeltest.Start(t, roomConfig(ps, who))
		ann := server.Join(t, "room:lobby", user("ann"))
		bob := server.Connect(t, nil).Channel("room:lobby", user("bob"))
		bob.Channel.Resume(channel.ResumeConfig{})
		bob.Join(t)
		ann.ExpectPresence(t, "bob", "ann")
		bob.Client.Disconnect(t)
		ann.ExpectPresence(t, "ann")
		ann.Push("say", said{Body: "missed"}).ExpectOK(t, nil)
		bob.Client.Reconnect(t)
		bob.ExpectJoin(t)
		bob.Expect(t, "said", map[string]string{"body": "missed"})
		ann.ExpectPresence(t, "ann", "bob")

		bob.Client.Network.Cut()
		bob.ExpectJoin(t)
		server.Restart(t)
		bob.Client.Reconnect(t)
		ann.Client.Reconnect(t)
		ann.ExpectJoin(t)
		bob.ExpectJoin(t)
		ann.Push("say", said{Body: "again"}).ExpectOK(t, nil)
		bob.Expect(t, "said", map[string]string{"body": "again"})
	})
}

func TestIdentity(t *testing.T) {
	both(t, func(t *testing.T) {
		cfg := roomConfig(nil, nil)
		var banned atomic.Bool
		for _, cfg.Auth = range []*socket.Auth{nil, {
			Verify: func(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
				if token != "good" || banned.Load() {
					return socket.Grant{}, push.Reason("banned")
				}
				return socket.Grant{ID: "user:2"}, nil
			},
		}} {
			server := channeltest.Start(t, cfg)
			ctx := context.WithValue(context.Background(), userKey{}, "ann")
			ann := server.ConnectAs(t, socket.Grant{ID: "user:1", Context: ctx}).Join(t, "room:1", nil)
			if got := channeltest.Reply[map[string]string](t, ann.Joined)["hello"]; got != "ann" {
				t.Errorf("hello %q", got)
			}
			info, _ := socket.InfoFrom(ann.ServerChannel(t).Context())
			if info.Subject != "user:1" {
				t.Errorf("the server knows the client as %q", info.Subject)
			}
			if cfg.Auth == nil {
				if err := server.Handler().Disconnect(t.Context(), "user:1"); err != nil {
					t.Error(err)
				}
				ann.ExpectJoin(t)
				continue
			}
			server.ExpectRefused(t, &socket.ClientConfig{AuthToken: "bad"})
			eve := server.Connect(t, &socket.ClientConfig{AuthToken: "good"}).Join(t, "room:1", user("eve"))
			banned.Store(true)
			if err := server.Handler().Revoke(t.Context(), "user:2", "banned"); err != nil {
				t.Error(err)
			}
			if err := eve.ExpectClose(t); !errors.Is(err, push.Reason("banned")) {
				t.Errorf("closed by %v", err)
			}
			eve.Client.ExpectStatus(t, socket.StatusDenied)
		}
	})
}

func TestHoursInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		ann := server.Join(t, "room:lobby", user("ann"))
		time.Sleep(3 * time.Hour)
		ann.Push("echo", nil).ExpectOK(t, nil)
		if n := ann.Client.Socket.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		ann, bob := server.Join(t, "room:lobby", user("ann")), server.Join(t, "room:lobby", user("bob"))
		ann.Client.Network.Delay(40 * time.Millisecond)
		server.Network.Delay(60 * time.Millisecond)
		begun := time.Now()
		ann.Push("echo", nil).ExpectOK(t, nil)
		if took := time.Since(begun); took != 200*time.Millisecond {
			t.Errorf("a round trip took %v", took)
		}
		server.Network.Restore()
		ann.Client.Network.Restore()

		// After a short outage, everything arrives.
		ann.Client.Network.Drop()
		p := ann.Push("say", said{Body: "late"})
		p.Refute(t)
		bob.Refute(t, "said", nil)
		ann.Client.Network.Restore()
		p.ExpectOK(t, nil)
		bob.Expect(t, "said", nil)

		// In a long one, both ends give up.
		ann.Client.Network.Drop()
		p = ann.Push("say", said{Body: "lost"})
		time.Sleep(2 * time.Minute)
		if _, err := p.Wait(t.Context()); !errors.Is(err, push.ErrTimeout) && !errors.Is(err, push.ErrLost) {
			t.Errorf("the push failed with %v", err)
		}
		if err := ann.ExpectEnd(t); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("ended by %v", err)
		}
		bob.Push("echo", nil).ExpectOK(t, nil)
		ann.Client.Network.Restore()
		ann.Client.Reconnect(t)
		ann.Push("echo", nil).ExpectOK(t, nil)

		server.Network.Refuse()
		server.ExpectRefused(t, nil)
		bob.Push("echo", nil).ExpectOK(t, nil)
	})
}

// TestTransportsAndVersions joins over all transports, with all versions.
func TestTransportsAndVersions(t *testing.T) {
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll} {
		for _, version := range serializer.Default() {
			synctest.Test(t, func(t *testing.T) {
				server := channeltest.Start(t, roomConfig(nil, nil))
				cfg := &socket.ClientConfig{Transport: by, Serializer: version}
				ann := server.Connect(t, cfg).Join(t, "room:lobby", user("ann"))
				ann.Push("say", said{Body: "hello"}).ExpectOK(t, map[string]int{"length": 5})
				ann.Expect(t, "said", said{"ann", "hello"})
				ann.Client.Disconnect(t)
				time.Sleep(time.Hour)
				ann.Client.Reconnect(t)
				ann.Push("say", said{Body: "hello"}).ExpectOK(t, nil)
				ann.Refute(t, "other", nil)
				ann.Leave(t)
			})
		}
	}
}

// TestRestart checks that clients come back to a new handler, and that a test goes on receiving
// broadcasts.
func TestRestart(t *testing.T) {
	both(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		lobby := server.Subscribe(t, "room:lobby")
		ann, old := server.Join(t, "room:lobby", user("ann")), server.Handler()
		server.Restart(t)
		ann.Client.Reconnect(t)
		if server.Handler() == old {
			t.Error("the handler is the same")
		}
		if err := ann.ExpectEnd(t); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("ended by %v", err)
		}
		ann.Push("say", said{Body: "again"}).ExpectOK(t, nil)
		lobby.Expect(t, "said", said{"ann", "again"})
	})
}

// TestEndIsQuick checks that the end of a test does not wait for replies, nor for a network that
// loses everything.
func TestEndIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if failures := fails(func(t testing.TB) {
			server := channeltest.Start(t, roomConfig(nil, nil))
			ann, bob := server.Join(t, "room:lobby", user("ann")), server.Join(t, "room:lobby", user("bob"))
			ann.Push("whisper", nil)
			bob.Client.Network.Drop()
			bob.Push("echo", nil)
			server.Network.Delay(time.Millisecond)
		}); len(failures) > 0 {
			t.Error(failures)
		}
		if took := time.Since(begun); took > 100*time.Millisecond {
			t.Errorf("the test took %v", took)
		}
	})
}

// TestStuckCallback checks that a callback that does not return fails the test that started the
// server.
func TestStuckCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		cfg := socket.Config{Channels: channel.Routes{"stuck": channel.Define(
			func(*struct{}, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
			channel.Terminate(func(*struct{}, context.Context, *channel.Channel, error) { <-stuck }),
		)}}
		failures := fails(func(t testing.TB) {
			server := channeltest.Start(t, cfg)
			ann := server.Join(t, "stuck", nil)
			t.Cleanup(func() { time.AfterFunc(time.Minute, func() { close(stuck) }) })
			ann.Client.Disconnect(t)
		})
		want := []string{
			"channeltest: client 1: a channel of the server has not ended after 10s: does a callback wait?",
			"channeltest: 1 socket(s) have not ended, a callback may still run: ",
		}
		if len(failures) != len(want) || failures[0] != want[0] || !strings.HasPrefix(failures[1], want[1]) {
			t.Errorf("failures %q, want %q", failures, want)
		}
		<-stuck
	})
}

// TestFramesOverTheNetwork checks that a test can send frames that the Go client does not send.
func TestFramesOverTheNetwork(t *testing.T) {
	both(t, func(t *testing.T) {
		server := channeltest.Start(t, roomConfig(nil, nil))
		resp, err := server.Network.HTTPClient().Get("http://server.test/socket/longpoll?vsn=2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"token":`) {
			t.Errorf("status %d, %s, %v", resp.StatusCode, body, err)
		}
	})
}
