package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/output"
	"bennu.example/offline"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/socket"
)

func TestMain(m *testing.M) { leak.Main(m) }

// room implements the part of examples/chat that the bot needs.
type room struct {
	user string
	who  *presence.Presence
}

type afterJoin struct{}

func newRoom(who *presence.Presence) *channel.Handler {
	return channel.Define(
		func(r *room, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
			r.user, r.who = p.User, who
			if p.User == "" {
				return nil, push.Reject("name is missing")
			}
			return map[string]any{"messages": []message{{ID: "1", User: "eve", Body: "before"}}}, c.Send(afterJoin{})
		},
		channel.Info(func(r *room, _ context.Context, c *channel.Channel, _ afterJoin) error {
			if _, err := r.who.Track(c, r.user, nil); err != nil {
				return err
			}
			return r.who.Push(c)
		}),
		channel.On("new_msg", func(r *room, _ context.Context, c *channel.Channel, m message) (push.Reply, error) {
			if m.Body == "rude" {
				return push.NoReply, push.Reject("be kind")
			}
			m.User = r.user
			return push.OK(nil), c.Broadcast("new_msg", m)
		}))
}

// serve serves the room in memory. If ps is nil, nothing is recorded.
func serve(t *testing.T, ps *pubsub.PubSub) *channeltest.Server {
	t.Helper()
	if ps == nil {
		ps = pubsub.New(nil)
	}
	who := presence.New(ps, presence.Config{})
	t.Cleanup(func() {
		if err := who.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return channeltest.Start(t, socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": newRoom(who)}})
}

// bot returns the options of a bot in the room tea.
func bot(s *channeltest.Server, user string) options {
	return options{
		url: s.URL, room: "tea", user: user, store: offline.NewMemory(),
		client: socket.ClientConfig{HTTPClient: s.Network.HTTPClient()},
	}
}

func TestTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t, nil)
		in, typing := io.Pipe()
		ann := output.New(nil)
		done := make(chan error)
		go func() { done <- run(t.Context(), bot(server, "ann"), in, ann) }()
		ann.Await(t, "eve: before")
		ann.Await(t, "* joined tea as ann")

		// At the end of a pipe, the bot waits for the replies and exits.
		pipe := strings.NewReader("hello\n\n  from a pipe  \n")
		if err := run(t.Context(), bot(server, "bob"), pipe, output.New(nil)); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"* bob is here", "bob: hello\n", "bob: from a pipe\n", "* bob has left"} {
			ann.Await(t, text)
		}
		if _, err := io.WriteString(typing, "rude\nnice\n"); err != nil {
			t.Fatal(err)
		}
		ann.Await(t, "* not sent: be kind")
		ann.Await(t, "ann: nice")

		// While the server is down, lines are queued. They are sent when it is back, and the history is
		// not printed twice.
		server.Network.Refuse()
		server.Restart(t)
		ann.Await(t, "* no connection")
		if _, err := io.WriteString(typing, "still there?\n"); err != nil {
			t.Fatal(err)
		}
		server.Network.Restore()
		ann.Await(t, "ann: still there?")
		if n := strings.Count(ann.String(), "eve: before"); n != 1 {
			t.Errorf("the history was printed %d times", n)
		}
		typing.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestMissedMessages checks that the bot prints what was sent while it had no connection, and
// nothing twice.
func TestMissedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
		server := serve(t, ps)
		in, typing := io.Pipe()
		ann := output.New(nil)
		done := make(chan error)
		go func() { done <- run(t.Context(), bot(server, "ann"), in, ann) }()
		ann.Await(t, "* joined tea as ann")
		say := func(id, body string) {
			server.Broadcast(t, "room:tea", "new_msg", message{ID: id, User: "bob", Body: body})
		}
		say("1", "also in the reply")
		say("2", "first")
		ann.Await(t, "bob: first")
		server.Network.Refuse()
		server.Network.Cut()
		ann.Await(t, "* no connection")
		say("3", "second")
		say("4", "third")
		server.Network.Restore()
		say("5", "fourth")
		ann.Await(t, "bob: fourth")
		for text, want := range map[string]int{
			"eve: before": 1, "also in the reply": 0, "bob: first": 1, "bob: second": 1, "bob: third": 1, "bob: fourth": 1,
		} {
			if n := strings.Count(ann.String(), text); n != want {
				t.Errorf("%q was printed %d times, want %d:\n%s", text, n, want, ann)
			}
		}
		typing.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestErrorsEndBot checks that a refused join and an unreadable input end the bot with an error.
func TestErrorsEndBot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t, nil)
		in, typing := io.Pipe()
		err := run(t.Context(), bot(server, ""), in, output.New(nil))
		if err == nil || !strings.Contains(err.Error(), "name is missing") {
			t.Errorf("refused join: %v", err)
		}
		typing.Close()
		long := strings.NewReader(strings.Repeat("a", 100_000))
		if err := run(t.Context(), bot(server, "ann"), long, output.New(nil)); !errors.Is(err, bufio.ErrTooLong) {
			t.Errorf("long line: %v", err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		in, typing := io.Pipe()
		out := output.New(nil)
		done := make(chan error)
		go func() { done <- run(ctx, bot(server, "ann"), in, out) }()
		out.Await(t, "* joined")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		typing.Close()
	})
}

// TestKeptLines types lines while there is no connection, ends the bot, and starts it again with
// the same file.
func TestKeptLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serve(t, nil)
		file := filepath.Join(t.TempDir(), "ann.db")
		with := func(user string) options {
			o := bot(server, user)
			store, err := boltengine.OpenClient(file)
			if err != nil {
				t.Fatal(err)
			}
			o.store, o.isKept = store, true
			return o
		}
		in, typing := io.Pipe()
		eve, done := output.New(nil), make(chan error)
		go func() { done <- run(t.Context(), bot(server, "eve"), in, eve) }()
		eve.Await(t, "* joined tea as eve")

		server.Network.Refuse()
		out, o := output.New(nil), with("ann")
		if err := run(t.Context(), o, strings.NewReader("first\nsecond\nthird\n"), out); err != nil {
			t.Fatal(err)
		}
		if err := o.store.Close(); err != nil {
			t.Fatal(err)
		}
		out.Await(t, "* lines kept for the next start: 3")
		server.Network.Restore()

		o = with("bob") // another user of the file sends nothing of ann's
		if err := run(t.Context(), o, strings.NewReader("hi\n"), output.New(nil)); err != nil {
			t.Fatal(err)
		}
		if err := o.store.Close(); err != nil {
			t.Fatal(err)
		}
		eve.Await(t, "bob: hi")
		if strings.Contains(eve.String(), "ann:") {
			t.Errorf("ann's lines were sent by bob:\n%s", eve)
		}

		out, o = output.New(nil), with("ann")
		waiting, end := io.Pipe()
		started := make(chan error)
		go func() { started <- run(t.Context(), o, waiting, out) }()
		out.Await(t, "* not sent yet, to tea: second")
		eve.Await(t, "ann: third")
		end.Close()
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		if err := o.store.Close(); err != nil {
			t.Fatal(err)
		}
		text := eve.String()
		var at []int
		for _, line := range []string{"first", "second", "third"} {
			at = append(at, strings.Index(text, "ann: "+line))
		}
		if at[0] < 0 || !slices.IsSorted(at) || strings.Count(text, "ann: ") != 3 {
			t.Errorf("eve has seen\n%s", text)
		}
		typing.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestKeptPosition ends the bot and starts it again: it prints what others have written meanwhile,
// and nothing else.
func TestKeptPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
		server := serve(t, ps)
		file := filepath.Join(t.TempDir(), "ann.db")
		say := func(user, line string, store offline.Store) string {
			o, out := bot(server, user), output.New(nil)
			if store != nil {
				o.store, o.isKept = store, true
			}
			if err := run(t.Context(), o, strings.NewReader(line), out); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		for n, want := range []string{"", "eve: line 0", "eve: line 1"} {
			store, err := boltengine.OpenClient(file)
			if err != nil {
				t.Fatal(err)
			}
			text := say("ann", "it is me\n", store)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, want) || strings.Count(text, "eve: line") != min(n, 1) {
				t.Errorf("start %d printed\n%s", n, text)
			}
			say("eve", fmt.Sprintf("line %d\n", n), nil)
		}
	})
}
