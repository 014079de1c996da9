package channeltest_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channeltest"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// TestFailures checks the whole text of the failures.
func TestFailures(t *testing.T) {
	const (
		lobby = "room:lobby"
		join  = "\n\tlast frames (-> sent, <- received):" +
			"\n\t\t-> room:lobby phx_join {\"user\":\"ann\"} ref 2" +
			"\n\t\t<- room:lobby phx_reply ok {\"hello\":\"ann\"} ref 2"
		pushed = join + "\n\t\t-> room:lobby say {\"user\":\"\",\"body\":\"hi\"} ref 3"
		reply  = "\n\t\t<- room:lobby said {\"user\":\"ann\",\"body\":\"hi\"}" +
			"\n\t\t<- room:lobby phx_reply ok {\"length\":2} ref 3"
	)
	say := func(t testing.TB, ann *channeltest.Channel) *channeltest.Push {
		p := ann.Push("say", said{Body: "hi"})
		p.ExpectOK(t, nil)
		return p
	}
	for name, tc := range map[string]struct {
		test func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel)
		want string
	}{
		"expect without events": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Expect(t, "said", said{"ann", "ho"})
		}, `client 1 on "room:lobby": no event "said" like {"user":"ann","body":"ho"} within 10s` +
			"\n\tno other event was received" + join},
		"expect another": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			say(t, ann)
			ann.Expect(t, "said", said{"ann", "ho"})
		}, `client 1 on "room:lobby": no event "said" like {"user":"ann","body":"ho"} within 10s` +
			"\n\treceived instead:\n\t\tsaid {\"user\":\"ann\",\"body\":\"hi\"} (body is \"hi\", want \"ho\")" + pushed + reply},
		"expect any": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Expect(t, "", nil)
		}, `client 1 on "room:lobby": no event within 10s` + "\n\tno other event was received" + join},
		"expect a value that cannot be encoded": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Expect(t, "said", func() {})
		}, `client 1 on "room:lobby": the wanted payload cannot be encoded: ` +
			"serializer: payload cannot be sent: json: unsupported type: func()"},
		"broadcast": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			all := s.Subscribe(t, lobby)
			say(t, ann)
			all.Expect(t, "said", serializer.Binary([]byte("x")))
		}, `broadcasts of "room:lobby": no event "said" like 1 bytes "x" within 10s` +
			"\n\treceived instead:\n\t\tsaid {\"user\":\"ann\",\"body\":\"hi\"} (it is not binary)\n"},
		"refute": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			say(t, ann)
			ann.Refute(t, "said", nil)
		}, `client 1 on "room:lobby": unexpected "said" {"user":"ann","body":"hi"}` + pushed + reply},
		"refute what arrives later": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			time.AfterFunc(99*time.Millisecond, func() {
				_ = s.PubSub().Broadcast(t.Context(), lobby, "said", nil)
			})
			ann.Refute(t, "said", nil)
		}, `client 1 on "room:lobby": unexpected "said" {}` + join + "\n\t\t<- room:lobby said {}"},
		"refute what is under way": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.Network.Delay(300 * time.Millisecond)
			s.Broadcast(t, lobby, "said", nil)
			ann.Refute(t, "said", nil)
		}, `client 1 on "room:lobby": unexpected "said" {}` + join + "\n\t\t<- room:lobby said {}"},
		"receive": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			say(t, ann)
			channeltest.Receive[[]int](t, ann, "said")
		}, `event "said": the payload is not a []int: ` +
			"serializer: decode payload: json: cannot unmarshal object into Go value of type []int" +
			"\n\t{\"user\":\"ann\",\"body\":\"hi\"}"},
		"other reply": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Push("say", said{}).ExpectOK(t, nil)
		}, `client 1 on "room:lobby": push "say": reply "error" {"reason":"empty"}, want "ok"` + join +
			"\n\t\t-> room:lobby say {\"user\":\"\",\"body\":\"\"} ref 3" +
			"\n\t\t<- room:lobby phx_reply error {\"reason\":\"empty\"} ref 3"},
		"other reason": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Push("say", said{}).ExpectError(t, "full")
		}, `client 1 on "room:lobby": push "say": reply "error" {"reason":"empty"} does not match {"reason":"full"}: ` +
			`reason is "empty", want "full"` + join +
			"\n\t\t-> room:lobby say {\"user\":\"\",\"body\":\"\"} ref 3" +
			"\n\t\t<- room:lobby phx_reply error {\"reason\":\"empty\"} ref 3"},
		"no reply": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			s.Timeout = time.Second
			ann.Push("whisper", nil).ExpectOK(t, nil)
		}, `client 1 on "room:lobby": push "whisper": no reply: context deadline exceeded` + join +
			"\n\t\t-> room:lobby whisper {} ref 3"},
		"refute a reply": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			say(t, ann).Refute(t)
		}, `client 1 on "room:lobby": push "say": unexpected reply "ok" {"length":2}` + pushed + reply},
		"refute an error": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Push("say", said{}).Refute(t)
		}, `client 1 on "room:lobby": push "say": unexpected reply "error" {"reason":"empty"}` + join +
			"\n\t\t-> room:lobby say {\"user\":\"\",\"body\":\"\"} ref 3" +
			"\n\t\t<- room:lobby phx_reply error {\"reason\":\"empty\"} ref 3"},
		"reply of another type": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			channeltest.Reply[string](t, say(t, ann))
		}, `client 1 on "room:lobby": push "say": the reply is not a string: serializer: decode payload: json: ` +
			"cannot unmarshal object into Go value of type string\n\t{\"length\":2}"},
		"refused join": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.Join(t, "room:other", nil)
		}, `client 1 on "room:other": join: reply "error" {"reason":"who are you?"}, want "ok"` +
			"\n\tthe channel is errored: channel: join room:other: push: replied error: who are you?" + join +
			"\n\t\t-> room:other phx_join {} ref 3" +
			"\n\t\t<- room:other phx_reply error {\"reason\":\"who are you?\"} ref 3"},
		"accepted join": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.ExpectRefused(t, "room:other", user("ann"), "full")
		}, `client 1 on "room:other": join of "room:other": reply "ok" {"hello":"ann"}, want "error" like {"reason":"full"}` +
			join + "\n\t\t-> room:other phx_join {\"user\":\"ann\"} ref 3" +
			"\n\t\t<- room:other phx_reply ok {\"hello\":\"ann\"} ref 3"},
		"accepted client": {func(t testing.TB, s *channeltest.Server, _ *channeltest.Channel) {
			s.ExpectRefused(t, nil)
		}, "the server accepted client 2, want it to be refused"},
		"no connection": {func(t testing.TB, s *channeltest.Server, _ *channeltest.Channel) {
			s.Network.Refuse()
			s.Connect(t, nil)
		}, "client 2 cannot connect: socket: dial: transport: dial ws://server.test/socket/websocket: " +
			"dial tcp 192.0.2.1:80: connection refused"},
		"status": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.ExpectStatus(t, socket.StatusDenied)
		}, `client 1: the status is not "denied" after 10s` + join},
		"no rejoin": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.ExpectJoin(t)
		}, `client 1 on "room:lobby": no join within 10s` + join},
		"no crash": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.ExpectCrash(t)
		}, `client 1 on "room:lobby": no phx_error within 10s` + join},
		"not closed": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.ExpectClose(t)
		}, `client 1 on "room:lobby": it is not closed within 10s` + join},
		"not ended": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.ExpectEnd(t)
		}, `client 1 on "room:lobby": the server's channel has not ended after 10s` + join},
		"no channel": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Leave(t)
			ann.ServerChannel(t)
		}, `client 1 on "room:lobby": the server has no such channel after 10s` +
			"\n\tthe channel is closed: client left" + join +
			"\n\t\t-> room:lobby phx_leave {} ref 3" +
			"\n\t\t<- room:lobby phx_reply ok {} ref 3" +
			"\n\t\t<- room:lobby phx_close {} ref 2"},
		"presence": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.ExpectPresence(t, "bob", "ann")
		}, `client 1 on "room:lobby": present are [], want [ann bob], after 10s ` +
			"(the server has pushed no presence_state since the join)" + join},
		"offline": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.Disconnect(t)
			ann.Expect(t, "said", nil)
		}, `client 1 on "room:lobby": no event "said" within 10s` + "\n\tno other event was received" +
			"\n\tthe channel is errored: REASON" + "\n\tthe socket is STATE" + join},
		"not joined again": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Client.Disconnect(t)
			ann.Client.Network.Drop()
			ann.Client.Reconnect(t)
		}, "client 1 cannot connect again: context deadline exceeded" + "\n\tthe socket is STATE" + join},
		"crash": {func(t testing.TB, _ *channeltest.Server, ann *channeltest.Channel) {
			ann.Push("crash", nil)
			ann.ExpectCrash(t)
		}, "1 callback(s) crashed: see the log above (Server.AllowCrashes allows it)"},
		"own network": {func(t testing.TB, s *channeltest.Server, ann *channeltest.Channel) {
			s.Connect(t, &socket.ClientConfig{HTTPClient: s.Network.HTTPClient()})
		}, "HTTPClient must be nil, because the network is in memory"},
		"broadcast of a value that cannot be encoded": {func(t testing.TB, s *channeltest.Server, _ *channeltest.Channel) {
			s.Broadcast(t, lobby, "said", func() {})
		}, "pubsub: broadcast said to room:lobby: serializer: payload cannot be sent: json: unsupported type: func()"},
		"no node": {func(t testing.TB, _ *channeltest.Server, _ *channeltest.Channel) {
			channeltest.Start(t, roomConfig(pubsub.New(pubsubtest.NewCluster().Node("a")), nil))
		}, "the PubSub is not connected after 10s: is its Run called? (<nil>)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				failures := fails(func(t testing.TB) {
					s := channeltest.Start(t, roomConfig(nil, nil))
					tc.test(t, s, s.Join(t, lobby, user("ann")))
				})
				if len(failures) != 1 {
					t.Fatalf("%d failures: %s", len(failures), strings.Join(failures, "\n"))
				}
				if got := masked(failures[0]); got != "channeltest: "+tc.want {
					t.Errorf("failed with\n%s\nwant\nchanneltest: %s", got, tc.want)
				}
			})
		})
	}
}

// masked replaces what depends on chance, such as the errors of a connection that is cut.
func masked(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "\tthe socket is ") {
			lines[i] = "\tthe socket is STATE"
		}
		if strings.HasPrefix(line, "\tthe channel is errored: ") && !strings.Contains(line, "who are you") {
			lines[i] = "\tthe channel is errored: REASON"
		}
	}
	return strings.Join(lines, "\n")
}
