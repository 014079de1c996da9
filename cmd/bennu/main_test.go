package main

import (
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/output"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
)

// TestMain lets the test binary be the command for TestGuide.
func TestMain(m *testing.M) {
	leak.Main(m, func() {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		main()
	})
}

// room is the handler that the commands are tried on.
type room struct {
	who  *presence.Presence
	user string
}

type (
	params    struct{ User string }
	afterJoin struct{}
	body      struct {
		Body string `json:"body"`
	}
)

func newRoom(who *presence.Presence) *channel.Handler {
	return channel.Define(
		func(r *room, _ context.Context, c *channel.Channel, p params) (any, error) {
			if r.who, r.user = who, p.User; p.User == "" {
				return nil, push.Reject("the name is missing")
			}
			return map[string]string{"welcome": p.User}, c.Send(afterJoin{})
		},
		channel.Info(func(r *room, _ context.Context, c *channel.Channel, _ afterJoin) error {
			if _, err := r.who.Track(c, r.user, map[string]string{"at": "home"}); err != nil {
				return err
			}
			return r.who.Push(c)
		}),
		channel.Pages(func(*room, context.Context, *channel.Channel) error { return nil }),
		channel.On("say", func(r *room, _ context.Context, c *channel.Channel, b body) (push.Reply, error) {
			return push.OK(b), c.Broadcast("said", b)
		}),
		channel.On("quiet", func(_ *room, _ context.Context, c *channel.Channel, b body) (push.Reply, error) {
			return push.NoReply, c.Broadcast("said", b)
		}),
		channel.On("deny", func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, push.Reject(map[string]any{"reason": "be kind", "left": 2})
		}),
		channel.On("other", func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.Reply{Status: "later", Payload: map[string]int{"in": 5}}, nil
		}),
		channel.On("stop", func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK(nil), channel.ErrStop
		}))
}

// start serves rooms, recorded rooms, and shared objects, in memory.
func start(t *testing.T) *channeltest.Server {
	t.Helper()
	rules := history.Rules{"log:*": {Events: []string{"said"}, Count: 300}}
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	who := presence.New(ps, presence.Config{})
	t.Cleanup(func() {
		if err := who.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	allow := func(_ context.Context, _ *channel.Channel, a state.Access) error {
		if a.Op.Key == "secret" {
			return state.ErrForbidden
		}
		return nil
	}
	rooms := newRoom(who)
	plain := channel.Define(func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
		return nil, nil
	})
	return channeltest.Start(t, socket.Config{PubSub: ps, Channels: channel.Routes{
		"room:*": rooms, "log:*": rooms, "plain:*": plain,
		"cart:*":  objects.Documents(state.Config{Allow: allow}),
		"board:*": objects.Maps(state.Config{Allow: allow}),
		"todo:*":  objects.Lists(state.Config{Allow: allow}),
		"game:*":  objects.Trees(state.Config{Allow: allow}),
	}})
}

// stamps are the parts of the output that are different each time: times, and the refs of presences
// and positions.
var stamps = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d |"at":"2\d{3}-[^"]*",|(phx_ref(?:_prev)?":")[^"]*`)

func newOutput() *output.Recorder {
	return output.New(func(text string) string { return stamps.ReplaceAllString(text, "$1") })
}

// command is a running command.
type command struct {
	out, notes *output.Recorder
	in         *io.PipeWriter
	interrupt  context.CancelFunc
	done       chan struct{}
	code       int
}

// wait waits for the end and returns the exit code.
func (c *command) wait() int {
	<-c.done
	return c.code
}

// launch runs a command. Its words are args, in which URL is the address of the server.
func launch(t *testing.T, s *channeltest.Server, terminal bool, args ...string) *command {
	t.Helper()
	for i := range args {
		if args[i] == "URL" {
			args[i] = s.URL
		}
	}
	c := &command{out: newOutput(), notes: newOutput(), done: make(chan struct{})}
	in, w := io.Pipe()
	c.in = w
	ctx, cancel := context.WithCancel(t.Context())
	c.interrupt = cancel
	a := &app{stdin: in, stdout: c.out, stderr: c.notes, terminal: terminal, http: s.Network.HTTPClient()}
	go func() {
		defer close(c.done)
		c.code = a.run(ctx, args)
	}()
	t.Cleanup(func() {
		cancel()
		_ = w.Close()
		<-c.done
	})
	return c
}

// expect runs a command to its end and compares what it prints.
func expect(t *testing.T, s *channeltest.Server, terminal bool, code int, out, notes string, args ...string) {
	t.Helper()
	c := launch(t, s, terminal, args...)
	_ = c.in.Close()
	if got := c.wait(); got != code {
		t.Errorf("%q: exit code %d, want %d", args, got, code)
	}
	if got := c.out.String(); got != out {
		t.Errorf("%q prints\n%s\nwant\n%s", args, got, out)
	}
	if got := c.notes.String(); got != notes {
		t.Errorf("%q prints as errors\n%s\nwant\n%s", args, got, notes)
	}
}

func TestPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		const ann = `{"user":"ann"}`
		expect(t, s, false, exitOK,
			`{"type":"reply","topic":"room:a","event":"say","status":"ok","response":{"body":"<hi>"}}`+"\n", "",
			"push", "URL", "room:a", "say", `{"body":"<hi>"}`, "-p", ann)
		expect(t, s, true, exitOK, "say: ok {\"body\":\"hi\"}\n", "",
			"push", "URL", "room:a", "say", `{"body":"hi"}`, "-p", ann)
		expect(t, s, true, exitRefused, "deny: error {\"left\":2,\"reason\":\"be kind\"}\n", "",
			"push", "URL", "room:a", "deny", "-p", ann)
		expect(t, s, true, exitRefused, "other: later {\"in\":5}\n", "",
			"push", "URL", "room:a", "other", "-p", ann, "--transport", "longpoll", "--vsn", "3")
		expect(t, s, true, exitRefused, "", "bennu: join room:a: the name is missing\n",
			"push", "URL", "room:a", "say")
		expect(t, s, true, exitRefused, "", "bennu: join nowhere: the server has no channel for this topic\n",
			"push", "URL", "nowhere", "say")
		expect(t, s, true, exitConnection, "", "bennu: push quiet: no reply in time (see --timeout and --no-reply)\n",
			"push", "URL", "room:a", "quiet", "-p", ann, "--timeout", "3s")
		expect(t, s, true, exitUsage, "", "bennu: the payload [1] is not a JSON object, such as {\"body\":\"hello\"}\n",
			"push", "URL", "room:a", "say", "[1]")
	})
}

// TestPushWithoutReply checks that the command ends when the server has handled the event.
func TestPushWithoutReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		inbox := s.Subscribe(t, "room:a")
		before := time.Now()
		expect(t, s, true, exitOK, "", "",
			"push", "URL", "room:a", "quiet", `{"body":"hi"}`, "-p", `{"user":"ann"}`, "--no-reply")
		inbox.Expect(t, "said", body{"hi"})
		if d := time.Since(before); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

func TestPushPayloadFromInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := launch(t, start(t), true, "push", "URL", "room:a", "say", "-", "-p", `{"user":"ann"}`)
		_, _ = io.WriteString(c.in, "{\"body\":\n\"hi\"}\n")
		_ = c.in.Close()
		if code, out := c.wait(), c.out.String(); code != exitOK || out != "say: ok {\"body\":\"hi\"}\n" {
			t.Errorf("exit code %d, output %q, %s", code, out, c.notes)
		}
	})
}

// TestLongInput has inputs beyond their bound. The reply to what was sent before is printed.
func TestLongInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		long := strings.Repeat("x", maxLine)
		c := launch(t, s, true, "push", "URL", "room:a", "say", "-", "-p", `{"user":"ann"}`)
		go func() { _, _ = io.WriteString(c.in, long+long) }() // ends with the command
		if code, notes := c.wait(), c.notes.String(); code != exitUsage || !strings.Contains(notes, "more than") {
			t.Errorf("push: exit code %d, %.300s", code, notes)
		}
		expect(t, s, true, exitUsage, "",
			"bennu: the payload "+long[:200]+"… is not a JSON object, such as {\"body\":\"hello\"}\n",
			"push", "URL", "room:a", "say", long)
		c = launch(t, s, true, "join", "URL", "room:a", "-p", `{"user":"ann"}`, "--event", "none")
		c.out.Await(t, "joined")
		go func() { _, _ = io.WriteString(c.in, "say {\"body\":\"hi\"}\n"+long+long) }()
		if code, out := c.wait(), c.out.String(); code != exitUsage || !strings.Contains(out, "say: ok") {
			t.Errorf("join: exit code %d, %s %.300s", code, out, c.notes)
		}
	})
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		c := launch(t, s, false, "join", "URL", "room:a", "--params", `{"user":"ann"}`)
		c.out.Await(t, `{"type":"joined","topic":"room:a","response":{"welcome":"ann"}}`+"\n")
		c.out.Await(t, `{"type":"event","topic":"room:a","event":"presence_state","payload":{"ann":`)
		_, _ = io.WriteString(c.in, "say {\"body\":\"hi\"}\n\n {\"event\":\"say\", \"payload\":{\"body\":\"ho\"}}\nsay\n")
		for _, text := range []string{"hi", "ho", ""} {
			c.out.Await(t, `{"type":"event","topic":"room:a","event":"said","payload":{"body":"`+text+`"}}`+"\n")
			c.out.Await(t, `{"type":"reply","topic":"room:a","event":"say","status":"ok","response":{"body":"`+text+`"}}`+"\n")
		}
		_ = c.in.Close()
		if code := c.wait(); code != exitOK || c.notes.String() != "" {
			t.Errorf("exit code %d, notes %s", code, c.notes)
		}
	})
}

// TestJoinExitCodes checks that the exit code is that of the first push that failed.
func TestJoinExitCodes(t *testing.T) {
	for _, c := range []struct {
		in    string
		flag  string
		code  int
		notes string
	}{
		{"say {}\ndeny\nsay {}\n", "--stay=false", exitRefused, ""},
		{
			"say {\n", "--stay=false", exitUsage,
			"bennu: not sent: the payload { is not a JSON object, such as {\"body\":\"hello\"}\n",
		},
		{"quiet\n", "--stay=false", exitConnection, "bennu: quiet: no reply in time (see --timeout and --no-reply)\n"},
		{"quiet\nquiet\n", "--no-reply", exitOK, ""},
		{
			"stop\n", "--stay", exitRefused,
			"bennu: room:a: the server has closed the channel: channel: server sent phx_close\n",
		},
		{"", "--stay=false", exitOK, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			run := launch(t, start(t), true, "join", "URL", "room:a", "-p", `{"user":"ann"}`, "-e", "none", c.flag)
			_, _ = io.WriteString(run.in, c.in)
			_ = run.in.Close()
			if code := run.wait(); code != c.code || run.notes.String() != c.notes {
				t.Errorf("%q: exit code %d, want %d; notes\n%swant\n%s", c.in, code, c.code, run.notes, c.notes)
			}
		})
	}
}

// TestInterrupt checks that Ctrl-C is the normal end of a command that stays, and that of another
// one without a result is an error.
func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		c := launch(t, s, true, "watch", "URL", "room:a", "-p", `{"user":"ann"}`)
		c.out.Await(t, "presence_state")
		c.interrupt()
		if code := c.wait(); code != exitOK || c.notes.String() != "" {
			t.Errorf("watch: exit code %d, notes %s", code, c.notes)
		}
		c = launch(t, s, true, "push", "URL", "room:a", "quiet", "-p", `{"user":"ann"}`)
		synctest.Wait()
		c.interrupt()
		if code := c.wait(); code != exitInterrupted || c.notes.String() != "" {
			t.Errorf("push: exit code %d, notes %s", code, c.notes)
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		c := launch(t, s, true,
			"watch", "URL", "room:a", "room:b", "-p", `{"user":"ann"}`, "-e", "said", "-e", "raw", "-n", "3")
		c.out.Await(t, `* joined room:b {"welcome":"ann"}`)
		s.Broadcast(t, "room:a", "said", body{"eins\u202e\u009b"})
		c.out.Await(t, `room:a said {"body":"eins\u202e\u009b"}`+"\n")
		s.Broadcast(t, "room:b", "raw", serializer.Binary([]byte("\x00\xffabc")))
		c.out.Await(t, "room:b raw 5 bytes: 00ff616263\n")
		s.Broadcast(t, "room:b", "unwanted", body{})
		s.Broadcast(t, "room:b", "said", body{"drei"})
		if code := c.wait(); code != exitOK || strings.Contains(c.out.String(), "unwanted") {
			t.Errorf("exit code %d, output\n%s%s", code, c.out, c.notes)
		}
	})
}

// TestWatchReconnects checks that the command says when the connection is lost, and that what was
// recorded meanwhile follows.
func TestWatchReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		s.Broadcast(t, "log:a", "said", body{"0"})
		c := launch(t, s, false, "watch", "URL", "log:a", "-p", `{"user":"ann"}`, "-e", "said", "-n", "3", "--last", "1")
		c.out.Await(t, `"payload":{"body":"0"}`)
		s.Network.Refuse()
		s.Network.Cut()
		c.notes.Await(t, "bennu: no connection (")
		s.Broadcast(t, "log:a", "said", body{"1"})
		s.Network.Restore()
		c.out.Await(t, `"payload":{"body":"1"}`)
		c.notes.Await(t, "bennu: connected again\n")
		s.Broadcast(t, "log:a", "said", body{"2"})
		if code := c.wait(); code != exitOK || strings.Count(c.out.String(), `"type":"event"`) != 3 {
			t.Errorf("exit code %d, output\n%s%s", code, c.out, c.notes)
		}
	})
}
