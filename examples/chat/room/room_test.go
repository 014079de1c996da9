package room

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/presence"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// serve serves the rooms in memory until the test ends.
func serve(t *testing.T) *channeltest.Server {
	t.Helper()
	cfg := Config{PubSub: recorded()}
	who := presence.New(cfg.PubSub, presence.Config{})
	t.Cleanup(func() {
		if err := who.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	sockets := cfg.sockets(who)
	sockets.Logger = nil // the test's
	return channeltest.Start(t, sockets)
}

func user(name string) params { return params{name} }

// sendFrom sends a message that must be accepted.
func sendFrom(t *testing.T, from *channeltest.Channel, m message) sent {
	t.Helper()
	return channeltest.Reply[sent](t, from.Push("new_msg", m))
}

func metas(c *channeltest.Channel, key string) []presence.Meta {
	e, _ := c.Presence.Get(key)
	return e.Metas
}

// accepted is the reply to a join.
type accepted struct {
	User     string
	Messages []message
}

func TestTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		ann := server.Join(t, "room:tea", user(" ann "))
		in := channeltest.Reply[accepted](t, ann.Joined)
		if in.User != "ann" || in.Messages == nil || len(in.Messages) > 0 {
			t.Errorf("join reply %+v", in)
		}
		ann.ExpectPresence(t, "ann")
		if own := metas(ann, "ann"); len(own) != 1 || own[0].Ref == "" {
			t.Errorf("presences %v", own)
		} else {
			ann.Expect(t, "you", you{own[0].Ref})
		}

		bob := server.Join(t, "room:tea", user("bob"))
		ann.ExpectPresence(t, "ann", "bob")
		bob.Push("typing", nil).Refute(t)
		ann.Expect(t, "typing", typing{"bob"})
		bob.Refute(t, "typing", nil)

		order := make(chan string, 2)
		bob.Channel.On("new_msg", func(serializer.Payload) { order <- "message" })
		pushed := bob.Push("new_msg", map[string]any{"body": " hello\n", "user": "eve", "at": "2000-01-01T00:00:00Z"})
		pushed.Receive("ok", func(serializer.Payload) { order <- "reply" })
		if first := <-order; first != "message" {
			t.Errorf("bob received the %s before his own message", first)
		}
		reply := channeltest.Reply[sent](t, pushed)
		m := channeltest.Receive[message](t, bob, "new_msg")
		if m.User != "bob" || m.Body != "hello" || m.ID == "" || m.ID != reply.ID || !m.At.Equal(time.Now()) {
			t.Errorf("bob received %+v, the reply was %+v", m, reply)
		}
		ann.Expect(t, "new_msg", m)
	})
}

func TestHistoryAtJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		ann := server.Join(t, "room:tea", user("ann"))
		for i := range maxMessages + 3 {
			sendFrom(t, ann, message{Body: fmt.Sprint(i)})
		}
		bob := server.Connect(t, nil)
		in := channeltest.Reply[accepted](t, bob.Join(t, "room:tea", user("bob")).Joined)
		last := fmt.Sprint(maxMessages + 2)
		if n := len(in.Messages); n != maxMessages || in.Messages[0].Body != "3" || in.Messages[n-1].Body != last {
			t.Errorf("%d messages: %v", n, in.Messages)
		}
		bob.Join(t, "room:coffee", user("bob")).Joined.ExpectOK(t, map[string]any{"messages": []message{}})
	})
}

// TestMessageDuringJoin checks that a client receives a message that is sent between its join reply
// and its subscription, whether it asks for history or not.
func TestMessageDuringJoin(t *testing.T) {
	for _, resumes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ps := recorded()
			r := &rooms{ps: ps, who: presence.New(ps, presence.Config{})}
			send := func(body string) error {
				return ps.Broadcast(t.Context(), "room:tea", "new_msg", message{ID: body, Body: body})
			}
			late := func(m *member, ctx context.Context, c *channel.Channel, p params) (any, error) {
				reply, err := r.join(m, ctx, c, p)
				return reply, errors.Join(err, send("meanwhile"))
			}
			server := channeltest.Start(t, socket.Config{
				Channels: channel.Routes{"room:*": channel.Define(late, channel.Info((*member).joined))}, PubSub: ps,
			})
			if err := send("before"); err != nil {
				t.Fatal(err)
			}
			ann := server.Connect(t, nil).Channel("room:tea", user("ann"))
			if resumes {
				ann.Channel.Resume(channel.ResumeConfig{})
			}
			ann.Join(t)
			in := channeltest.Reply[accepted](t, ann.Joined)
			if len(in.Messages) != 1 || in.Messages[0].Body != "before" {
				t.Errorf("join reply %+v", in)
			}
			if got := channeltest.Receive[message](t, ann, "new_msg"); got.Body != "meanwhile" {
				t.Errorf("received %+v", got)
			}
			ann.Refute(t, "new_msg", nil)
		})
	}
}

// TestReturningClient checks that a client that comes back receives what it missed, and no
// snapshot; and that after a restart without the log it gets what there is.
func TestReturningClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		bob := server.Join(t, "room:tea", user("bob"))
		var resets []string
		resume := func(ann *channeltest.Channel, cfg channel.ResumeConfig) accepted {
			cfg.OnReset = func(_ serializer.Payload, why string) { resets = append(resets, why) }
			ann.Channel.Resume(cfg)
			ann.Join(t)
			return channeltest.Reply[accepted](t, ann.Joined)
		}
		ann := server.Connect(t, nil).Channel("room:tea", user("ann"))
		if in := resume(ann, channel.ResumeConfig{}); in.Messages == nil {
			t.Errorf("first join: %+v", in)
		}
		since := ann.Channel.Position()
		ann.Client.Disconnect(t)
		for i := range maxMessages + 3 { // more than a snapshot has
			sendFrom(t, bob, message{Body: fmt.Sprint(i)})
		}
		ann.Client.Reconnect(t)
		var in accepted
		if err := ann.ExpectJoin(t).Decode(&in); err != nil || in.User != "ann" || in.Messages != nil {
			t.Errorf("rejoin: %+v, %v", in, err)
		}
		for i := range maxMessages + 3 {
			if m := channeltest.Receive[message](t, ann, "new_msg"); m.Body != fmt.Sprint(i) {
				t.Fatalf("message %d is %+v", i, m)
			}
		}
		if len(resets) != 1 || resets[0] != "new" {
			t.Errorf("resets %q", resets)
		}

		server = serve(t) // as after a restart without the log
		sendFrom(t, server.Join(t, "room:tea", user("bob")), message{Body: "anew"})
		ann = server.Connect(t, nil).Channel("room:tea", user("ann"))
		in = resume(ann, channel.ResumeConfig{Since: since})
		if len(in.Messages) != 1 || in.Messages[0].Body != "anew" || len(resets) != 2 || resets[1] != "epoch" {
			t.Errorf("join after a restart: %+v, resets %q", in, resets)
		}
	})
}

func TestRepeatedMessageIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		ann := server.Join(t, "room:tea", user("ann"))
		first := sendFrom(t, ann, message{ID: "x", Body: "hello"})
		if second := sendFrom(t, ann, message{ID: "x", Body: "hello again"}); first.ID != "x" || second != first {
			t.Errorf("replies %+v and %+v", first, second)
		}
		ann.Expect(t, "new_msg", map[string]string{"body": "hello"})
		ann.Refute(t, "new_msg", nil)
		// Another user's message may have the same ID.
		bob := server.Join(t, "room:tea", user("bob"))
		sendFrom(t, bob, message{ID: "x", Body: "mine"})
		bob.Expect(t, "new_msg", map[string]string{"user": "bob", "body": "mine"})
	})
}

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		ann := server.Join(t, "room:tea", user("ann"))
		bob1 := server.Join(t, "room:tea", user("bob"))
		bob2 := server.Join(t, "room:tea", user("bob"))
		server.Join(t, "room:coffee", user("carl"))
		late := server.Join(t, "room:tea", user("dora"))
		late.ExpectPresence(t, "ann", "bob", "dora")
		if a, b, d := metas(late, "ann"), metas(late, "bob"), metas(late, "dora"); len(a) != 1 || len(b) != 2 || len(d) != 1 {
			t.Errorf("presences %v %v %v", a, b, d)
		}
		left := func() string {
			t.Helper()
			for {
				d := channeltest.Receive[presence.Diff](t, ann, "presence_diff")
				if e, ok := d.Leaves.Get("bob"); ok {
					if len(e.Metas) != 1 || d.Joins.Len() != 0 {
						t.Fatalf("bob's leave gave %v", d)
					}
					return e.Metas[0].Ref
				}
			}
		}
		bob1.Leave(t)
		first := left()
		bob2.Client.Disconnect(t)
		if second := left(); second == first {
			t.Errorf("both of bob's presences have the ref %s", first)
		}
	})
}

// TestJoinAgain checks that a client that joins again on the same connection is listed once.
func TestJoinAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t)
		conn, _, err := websocket.Dial(t.Context(), server.URL+"/websocket?vsn=2.0.0",
			&websocket.DialOptions{HTTPClient: server.Network.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		for _, ref := range []string{"1", "2"} {
			join := fmt.Sprintf(`["%s","%[1]s","room:tea","phx_join",{"user":"ann"}]`, ref)
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(join)); err != nil {
				t.Fatal(err)
			}
			state := ""
			for !strings.Contains(state, `"presence_state"`) {
				_, data, err := conn.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				state = string(data)
			}
			if n := strings.Count(state, `"phx_ref"`); n != 1 {
				t.Errorf("%d presences in %s", n, state)
			}
		}
		bob := server.Join(t, "room:tea", user("bob"))
		bob.ExpectPresence(t, "ann", "bob")
		if n := len(metas(bob, "ann")); n != 1 {
			t.Errorf("ann is listed %d times", n)
		}
	})
}

func TestLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("ä", n) }
	tooLong := func(what string, limit int) string {
		return fmt.Sprintf("%s can have at most %d characters", what, limit)
	}
	for name, tc := range map[string]struct {
		room   string
		params any
		reason string // empty if the join is accepted
	}{
		"longest":          {long(maxRoom), user(long(maxUser)), ""},
		"no user":          {"tea", nil, "the name is missing"},
		"blank user":       {"tea", user(" \n "), "the name is missing"},
		"long user":        {"tea", user(long(maxUser + 1)), tooLong("the name", maxUser)},
		"control":          {"tea", user("a\u0007b"), "the name has invisible characters"},
		"no room":          {"", user("ann"), "the room's name is missing"},
		"long room":        {long(maxRoom + 1), user("ann"), tooLong("the room's name", maxRoom)},
		"user is a number": {"tea", map[string]any{"user": 7}, "invalid payload"},
	} {
		t.Run("join/"+name, func(t *testing.T) {
			client := serve(t).Connect(t, nil)
			if tc.reason == "" {
				client.Join(t, "room:"+tc.room, tc.params)
				return
			}
			client.ExpectRefused(t, "room:"+tc.room, tc.params, tc.reason)
		})
	}
	ann := serve(t).Join(t, "room:tea", user("ann"))
	for name, tc := range map[string]struct {
		event   string
		payload any
		reason  string
	}{
		"longest":        {"new_msg", message{Body: long(maxBody), ID: long(maxID)}, ""},
		"no body":        {"new_msg", nil, "the message is empty"},
		"blank body":     {"new_msg", message{Body: " \n"}, "the message is empty"},
		"long body":      {"new_msg", message{Body: long(maxBody + 1)}, tooLong("a message", maxBody)},
		"long ID":        {"new_msg", message{Body: "x", ID: long(maxID + 1)}, tooLong("a message's ID", maxID)},
		"body is a list": {"new_msg", map[string]any{"body": []int{1}}, "invalid payload"},
		"unknown event":  {"shout", nil, "unknown event shout"},
	} {
		t.Run("push/"+name, func(t *testing.T) {
			if p := ann.Push(tc.event, tc.payload); tc.reason == "" {
				p.ExpectOK(t, nil)
			} else {
				p.ExpectError(t, tc.reason)
			}
		})
	}
}

// TestInvisibleCharacters checks that names cannot contain characters that make two names look the
// same or that rearrange the page.
func TestInvisibleCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []rune{
		0x00, '\n', 0x7f, 0x85, 0x9b, // control
		0x061c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069, // bidirectional
		0x00ad, 0x034f, 0x115f, 0x1160, 0x17b4, 0x180b, 0x180e, 0x200b, 0x200c, 0x200d, 0x2060, 0x2064, // without width
		0x206a, 0x2800, 0x3164, 0xfe0f, 0xfeff, 0xffa0, 0xe0041, 0xe0100, // without width
		0x2028, 0x2029, 0xe000, 0xfffd, 0xffff, 0x10ffff, // separators, private use and unassigned
	} {
		for _, name := range []string{"an" + string(c) + "n", string(c) + "x" + string(c)} {
			if checkName("name", name, maxUser) == nil {
				t.Errorf("%q is allowed", name)
			}
		}
	}
	for _, name := range []string{"ann", "Ann Lee", "žluťoučký", "李小龍", "שלום", "مرحبا", "नमस्ते", "🙂", "e\u0301"} {
		if err := checkName("name", name, maxUser); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestOtherOriginIsRefused checks that scripts of other sites cannot connect.
func TestOtherOriginIsRefused(t *testing.T) {
	t.Parallel()
	err := serve(t).ExpectRefused(t, &socket.ClientConfig{Header: http.Header{"Origin": {"https://evil.example"}}})
	var refused *transport.HandshakeError
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Errorf("error %v, want status 403", err)
	}
}
