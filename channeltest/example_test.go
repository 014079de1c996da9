package channeltest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/socket"
)

// shoutRoom returns a channel that broadcasts what its members shout.
func shoutRoom() *channel.Handler {
	type member struct{ user string }
	type shout struct {
		User string `json:"user"`
		Body string `json:"body"`
	}
	return channel.Define(
		func(m *member, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
			if m.user = p.User; m.user == "" {
				return nil, push.Reject("user is required")
			}
			return map[string]string{"welcome": m.user}, nil
		},
		channel.On("shout", func(m *member, _ context.Context, c *channel.Channel, s shout) (push.Reply, error) {
			if s.Body == "" {
				return push.NoReply, push.Reject("body is required")
			}
			return push.OK(nil), c.Broadcast("shout", shout{m.user, s.Body})
		}))
}

func as(user string) map[string]string { return map[string]string{"user": user} }

// The first test of a room. The examples of this package pass a test like this one to run, which
// calls it as go test does, and prints the result.
func ExampleStart() {
	run(func(t testing.TB) { // func TestShout(t *testing.T)
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", map[string]string{"user": "ann"})
		bob := server.Join(t, "room:lobby", map[string]string{"user": "bob"})
		ann.Push("shout", map[string]string{"body": "hello"}).ExpectOK(t, nil)
		bob.Expect(t, "shout", map[string]string{"body": "hello", "user": "ann"})
	})
	// Output: PASS
}

// A failure says what arrived instead, and which frames the client sent and received.
func ExampleInbox_Expect() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", as("ann"))
		ann.Push("shout", map[string]string{"body": "hello"}).ExpectOK(t, nil)
		server.Timeout = 20 * time.Millisecond // not to wait for 10 s
		ann.Expect(t, "shout", map[string]string{"body": "bye"})
	})
	// Output:
	// FAIL channeltest: client 1 on "room:lobby": no event "shout" like {"body":"bye"} within 20ms
	// 	received instead:
	// 		shout {"user":"ann","body":"hello"} (body is "hello", want "bye")
	// 	last frames (-> sent, <- received):
	// 		-> room:lobby phx_join {"user":"ann"} ref 2
	// 		<- room:lobby phx_reply ok {"welcome":"ann"} ref 2
	// 		-> room:lobby shout {"body":"hello"} ref 3
	// 		<- room:lobby shout {"user":"ann","body":"hello"}
	// 		<- room:lobby phx_reply ok {} ref 3
}

func ExampleInbox_Refute() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", as("ann"))
		ann.Push("shout", nil).ExpectError(t, "body is required")
		ann.Refute(t, "shout", nil)
	})
	// Output: PASS
}

// A test can decode an event instead of comparing it with a pattern.
func ExampleReceive() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", as("ann"))
		ann.Push("shout", map[string]string{"body": "hello"})
		type shout struct{ User, Body string }
		if s := channeltest.Receive[shout](t, ann, "shout"); len(s.Body) != 5 {
			t.Errorf("received %+v", s)
		}
	})
	// Output: PASS
}

// The reply to a join, and the reply to a push, decoded.
func ExampleReply() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", as("ann"))
		welcome := channeltest.Reply[map[string]string](t, ann.Joined)
		fmt.Println(welcome["welcome"])
	})
	// Output:
	// ann
	// PASS
}

// A push, and the reply that it must get.
func ExamplePush() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann := server.Join(t, "room:lobby", as("ann"))
		ann.Push("shout", map[string]string{"body": "hello"}).ExpectOK(t, map[string]any{})
		refused := ann.Push("shout", map[string]string{"body": ""}).ExpectError(t, "body is required")
		fmt.Println(refused.Reason())
	})
	// Output:
	// body is required
	// PASS
}

// The broadcasts of a topic, whoever receives them. The helper takes the Inbox of a client's
// channel as well as that of a topic.
func ExampleReceiver() {
	expectHello := func(t testing.TB, from channeltest.Receiver) {
		from.Expect(t, "shout", map[string]string{"body": "hello"})
	}
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		lobby := server.Subscribe(t, "room:lobby")
		ann := server.Join(t, "room:lobby", as("ann"))
		ann.Push("shout", map[string]string{"body": "hello"})
		expectHello(t, lobby)
		expectHello(t, ann)
	})
	// Output: PASS
}

// A client that is offline misses a record, and receives it when it comes back.
func ExampleClient_Disconnect() {
	run(func(t testing.TB) {
		log := history.NewMemory(history.MemoryConfig{})
		ps := pubsub.NewRecorded(nil, log, history.Rules{"room:*": {Events: []string{"shout"}}})
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}, PubSub: ps})
		ann := server.Join(t, "room:lobby", as("ann"))
		bob := server.Connect(t, nil).Channel("room:lobby", as("bob"))
		bob.Channel.Resume(channel.ResumeConfig{})
		bob.Join(t)

		bob.Client.Disconnect(t)
		ann.Push("shout", map[string]string{"body": "hello"}).ExpectOK(t, nil)
		bob.Client.Reconnect(t)
		bob.Expect(t, "shout", map[string]string{"body": "hello"})
	})
	// Output: PASS
}

// The network loses everything, and what was sent meanwhile arrives when it works again. A client
// that waits too long breaks the connection and connects again.
func ExampleNetwork() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		ann, bob := server.Join(t, "room:lobby", as("ann")), server.Join(t, "room:lobby", as("bob"))
		ann.Client.Network.Drop()
		pushed := ann.Push("shout", map[string]string{"body": "hello"})
		bob.Refute(t, "shout", nil)
		ann.Client.Network.Restore()
		pushed.ExpectOK(t, nil)
		bob.Expect(t, "shout", nil)
	})
	// Output: PASS
}

// A program that connects by itself, and one that broadcasts over HTTP.
func ExampleNetwork_HTTPClient() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		server.Mux.HandleFunc("POST /news", func(_ http.ResponseWriter, r *http.Request) {
			_ = server.PubSub().Broadcast(r.Context(), "room:lobby", "news", nil)
		})
		client, err := socket.Dial(t.Context(), server.URL, &socket.ClientConfig{HTTPClient: server.Network.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close(t.Context())

		ann := server.Join(t, "room:lobby", as("ann"))
		resp, err := server.Network.HTTPClient().Post("http://server.test/news", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		ann.Expect(t, "news", nil)
	})
	// Output: PASS
}

// A message of the server's own code, and the reason for which a channel ended.
func ExampleChannel() {
	type remind struct{ text string }
	reminders := channel.Define(
		func(*struct{}, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		channel.Info(func(_ *struct{}, _ context.Context, c *channel.Channel, r remind) error {
			return c.Push("reminder", map[string]string{"text": r.text})
		}))
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"reminders": reminders}})
		ann := server.Join(t, "reminders", nil)
		if err := ann.ServerChannel(t).Send(remind{"tea"}); err != nil {
			t.Fatal(err)
		}
		ann.Expect(t, "reminder", map[string]string{"text": "tea"})
		ann.Leave(t)
		if reason := ann.ExpectEnd(t); !errors.Is(reason, channel.ErrLeft) {
			t.Errorf("the channel ended because of %v", reason)
		}
	})
	// Output: PASS
}

// A client with an identity, without a token, and a moderator who removes it.
func ExampleServer_ConnectAs() {
	run(func(t testing.TB) {
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": shoutRoom()}})
		eve := server.ConnectAs(t, socket.Grant{ID: "user:eve"}).Join(t, "room:lobby", as("eve"))
		err := server.Handler().Kick(t.Context(), "room:lobby", socket.Member{ID: "user:eve"}, "spam")
		if err != nil {
			t.Fatal(err)
		}
		if err := eve.ExpectClose(t); !errors.Is(err, push.Reason("spam")) {
			t.Errorf("closed because of %v", err)
		}
	})
	// Output: PASS
}

// Two nodes of a cluster.
func ExampleServer() {
	run(func(t testing.TB) {
		cluster := pubsubtest.NewCluster()
		var nodes []*channeltest.Server
		for _, name := range []string{"one", "two"} {
			ps := pubsub.New(cluster.Node(name))
			pubsubtest.Start(t, ps)
			nodes = append(nodes, channeltest.Start(t, socket.Config{
				Channels: channel.Routes{"room:*": shoutRoom()}, PubSub: ps,
			}))
		}
		ann := nodes[0].Join(t, "room:lobby", as("ann"))
		bob := nodes[1].Join(t, "room:lobby", as("bob"))
		ann.Push("shout", map[string]string{"body": "hello"})
		bob.Expect(t, "shout", map[string]string{"user": "ann"})
	})
	// Output: PASS
}

// The list of who is there, as a client sees it.
func ExampleChannel_ExpectPresence() {
	type track struct{}
	run(func(t testing.TB) {
		ps := pubsub.New(nil)
		who := presence.New(ps, presence.Config{})
		t.Cleanup(func() { _ = who.Close(context.Background()) })
		room := channel.Define(
			func(user *string, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
				*user = p.User
				return nil, c.Send(track{})
			},
			channel.Info(func(user *string, _ context.Context, c *channel.Channel, _ track) error {
				if _, err := who.Track(c, *user, nil); err != nil {
					return err
				}
				return who.Push(c)
			}))
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": room}, PubSub: ps})
		ann, bob := server.Join(t, "room:lobby", as("ann")), server.Join(t, "room:lobby", as("bob"))
		ann.ExpectPresence(t, "ann", "bob")
		bob.Leave(t)
		ann.ExpectPresence(t, "ann")
	})
	// Output: PASS
}
