package js_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/require"
	"bennu.example/js"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
)

// clients are those under test: npm packages, and modules of this directory.
var clients = []string{"phoenix", "socket.mjs"}

// TestBennu runs testdata/bennu.mjs, the tests of bennu.mjs, with the stock phoenix.js and with
// socket.mjs, in Node and in Chromium. internal/interop has tests of the guides' code under cuts.
func TestBennu(t *testing.T) {
	t.Parallel()
	for _, client := range clients {
		t.Run("node, "+client, func(t *testing.T) {
			t.Parallel()
			s := newAddOnServer(t, npm.Modules(t))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, require.Program(t, "node"), "testdata/bennu_node.mjs", npm.Modules(t), client, s.URL)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("node: %v", err)
			}
			s.report(t, strings.Split(strings.TrimSpace(string(out)), "\n"))
		})
	}
	t.Run("chromium", func(t *testing.T) {
		t.Parallel()
		b := chromium.Start(t)
		for _, client := range clients {
			s := newAddOnServer(t, npm.Modules(t))
			lines, end := make(chan string, 256), make(chan struct{})
			t.Cleanup(func() { close(end) })
			b.Open(s.URL+"/test/bennu.html?client="+client, func(line string) {
				select {
				case lines <- line:
				case <-end:
				}
			})
			t.Run(client, func(t *testing.T) {
				t.Parallel()
				var all []string
				late := time.After(time.Minute)
				for ended := false; !ended; {
					select {
					case line := <-lines:
						all = append(all, line)
						ended = line == `{"end":true}`
					case <-late:
						ended = true // report fails
					}
				}
				s.report(t, all)
			})
		}
	})
}

// addOnServer serves what bennu.mjs uses: shared objects, history and tokens. Its clients ask it
// by HTTP for faults.
type addOnServer struct {
	*httptest.Server
	handler *socket.Handler
	objects *state.Objects
	store   *state.Memory

	mu    sync.Mutex
	conns map[net.Conn]bool
	lost  map[string]bool // values whose first write lost its connection
}

// report runs a subtest for each line of a script.
func (s *addOnServer) report(t *testing.T, lines []string) {
	t.Helper()
	ended := false
	for _, line := range lines {
		var r struct {
			Name, Error string
			End         bool
		}
		switch err := json.Unmarshal([]byte(line), &r); {
		case err != nil:
			t.Logf("output: %s", line)
		case r.End:
			ended = true
		default:
			t.Run(r.Name, func(t *testing.T) {
				if r.Error != "" {
					t.Fatal(r.Error)
				}
			})
		}
	}
	if !ended {
		t.Error("the script did not end")
	}
}

// asking returns a handler that calls its client, and replies with the answer. It also sends events
// as long as the client gives credit.
func asking() *channel.Handler {
	type question struct {
		Event   string
		Payload map[string]any
	}
	return channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("ask", func(_ *struct{}, ctx context.Context, c *channel.Channel, q question) (push.Reply, error) {
			answer, err := c.Call(ctx, q.Event, q.Payload)
			switch {
			case errors.Is(err, channel.ErrNoHandler):
				return push.NoReply, push.Reject("no handler")
			case err != nil:
				return push.NoReply, err
			case answer.IsBinary():
				return push.OK(map[string]int{"bytes": len(answer.Bytes())}), nil
			}
			return push.OK(map[string]any{"answer": answer}), nil
		}),
		channel.On("stream", func(
			_ *struct{}, ctx context.Context, c *channel.Channel, q struct{ N int },
		) (push.Reply, error) {
			for n := range q.N {
				if err := c.Ready(ctx); err != nil {
					return push.NoReply, err
				}
				if err := c.Push("token", map[string]int{"n": n}); err != nil {
					return push.NoReply, err
				}
			}
			return push.NoReply, c.Finish(nil)
		}),
		channel.On("burst", func(
			_ *struct{}, _ context.Context, c *channel.Channel, _ serializer.Payload,
		) (push.Reply, error) {
			sent := 0
			for c.Push("token", map[string]int{"n": sent}) == nil {
				sent++
			}
			return push.OK(map[string]int{"sent": sent, "left": c.Credit()}), nil
		}))
}

func newAddOnServer(t *testing.T, modules string) *addOnServer {
	t.Helper()
	s := &addOnServer{store: state.NewMemory(state.MemoryConfig{}), conns: map[net.Conn]bool{}, lost: map[string]bool{}}
	s.objects = state.New(s.store)
	objects := state.Config{
		Allow:   s.allow,
		Limits:  state.Limits{Value: 1000},
		Queries: []state.QueryDef{state.Query("least", func(least int, _ string, n int) bool { return n >= least })},
	}
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}),
		history.Rules{"room:*": {Events: []string{"new_msg", "blob"}}})
	nop := zerolog.Nop()
	bare := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"plain:*": roomOf(ps, false)}, PubSub: ps, AuthToken: true,
		NoSocketChannel: true, InsecureAnyOrigin: true, Logger: &nop,
	})
	s.handler = socket.NewHandler(socket.Config{
		Channels: channel.Routes{
			"doc:*": s.objects.Documents(objects), "map:*": s.objects.Maps(objects), "list:*": s.objects.Lists(objects),
			"ask:*":  asking(),
			"room:*": roomOf(ps, true), "plain:*": roomOf(ps, false),
		},
		PubSub:            ps,
		AuthToken:         true,
		Auth:              &socket.Auth{Verify: verify, Anonymous: true, Grace: 300 * time.Millisecond},
		Drain:             socket.Drain{Notice: 50 * time.Millisecond, Spread: 300 * time.Millisecond},
		InsecureAnyOrigin: true,
		Logger:            &nop,
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", s.handler)
	mux.Handle("/bare/", bare)
	mux.Handle("GET /js/", js.Handler())
	mux.Handle("GET /test/", http.StripPrefix("/test/", http.FileServer(http.Dir("testdata"))))
	mux.HandleFunc("GET /phoenix.mjs", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(modules, "node_modules", "phoenix", "priv", "static", "phoenix.mjs"))
	})
	mux.HandleFunc("POST /control", func(w http.ResponseWriter, r *http.Request) {
		if err := s.control(r.Context(), r.URL.Query()); err != nil {
			t.Errorf("control: %v", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateHijacked {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns[c] = true
		}
	}
	s.Start()
	t.Cleanup(func() {
		s.cut()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, h := range []*socket.Handler{s.handler, bare} {
			if err := h.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		s.Close()
	})
	return s
}

// cut resets all connections to clients.
func (s *addOnServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
	clear(s.conns)
}

// control does what a test requests.
func (s *addOnServer) control(ctx context.Context, q url.Values) error {
	topic := q.Get("topic")
	switch q.Get("do") {
	case "cut":
		s.cut()
		return nil
	case "replace": // removes an object while nobody is connected, and makes it again
		s.cut()
		if err := s.store.Remove(ctx, topic, ""); err != nil {
			return err
		}
		_, err := s.objects.Apply(ctx, topic, []state.Op{{Key: q.Get("key"), Value: []byte(`"new"`)}}, state.Tx{})
		return err
	case "advise":
		return s.handler.Advise(ctx, "move", 1)
	case "revoke":
		return s.handler.Revoke(ctx, q.Get("user"), push.Reason(q.Get("reason")))
	}
	return errors.New("unknown request")
}

// allow permits everything but writes to the key "locked". The first write of a value with "cut"
// loses its connection, and with it the reply.
func (s *addOnServer) allow(_ context.Context, _ *channel.Channel, a state.Access) error {
	switch {
	case a.Action == state.Write && a.Op.Key == "locked", a.Action == state.Read && strings.HasSuffix(a.Topic, ":secret"):
		return state.ErrForbidden
	case a.Action == state.Write && strings.Contains(string(a.Op.Value), "cut"):
		s.mu.Lock()
		again := s.lost[string(a.Op.Value)]
		s.lost[string(a.Op.Value)] = true
		s.mu.Unlock()
		if !again {
			s.cut()
		}
	}
	return nil
}

// verify accepts tokens such as "ann.500": a user, and milliseconds.
func verify(_ context.Context, text string, _ *socket.Request) (socket.Grant, error) {
	user, life, _ := strings.Cut(text, ".")
	ms, err := strconv.Atoi(life)
	if err != nil {
		return socket.Grant{}, push.Reason("bad token")
	}
	return socket.Grant{
		ID: user, Claims: map[string]string{"user": user}, Expires: time.Now().Add(time.Duration(ms) * time.Millisecond),
	}, nil
}

// roomOf returns a room whose joins reply with a list. On recorded topics it has history.
func roomOf(ps *pubsub.PubSub, pages bool) *channel.Handler {
	type room struct{}
	join := func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		if c.Resume().OK {
			return nil, nil
		}
		return map[string]any{"messages": []string{}}, nil
	}
	say := func(_ *room, ctx context.Context, c *channel.Channel, p struct{ Text, Also string }) (push.Reply, error) {
		for _, text := range []string{p.Text, p.Also} {
			if text == "" {
				continue
			}
			if err := ps.Broadcast(ctx, c.Topic(), "new_msg", map[string]string{"text": text}); err != nil {
				return push.NoReply, err
			}
		}
		return push.OK(nil), nil
	}
	options := []channel.Option[room]{
		channel.On("say", say),
		channel.On("blob", func(_ *room, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			return push.OK(nil), ps.Broadcast(ctx, c.Topic(), "blob", serializer.Binary([]byte{1, 2}))
		}),
		channel.On("fail", func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, push.Reject("no")
		}),
		channel.AllowWill(func(
			_ *room, _ context.Context, _ *channel.Channel, _ string, p serializer.Payload,
		) (serializer.Payload, error) {
			return p, nil
		}),
	}
	if pages {
		options = append(options, channel.Pages(func(*room, context.Context, *channel.Channel) error { return nil }))
	}
	return channel.Define(join, options...)
}

// TestTypes type-checks testdata/types.mts, which uses each function of bennu.d.mts,
// testdata/socket_types.mts, and the declarations themselves.
func TestTypes(t *testing.T) {
	t.Parallel()
	tsc := filepath.Join(npm.Modules(t), "node_modules", "typescript", "bin", "tsc")
	if _, err := os.Stat(tsc); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(require.Program(t, "node"), tsc, "--noEmit", "--strict", "--skipDefaultLibCheck",
		"--target", "es2022", "--module", "nodenext", "testdata/types.mts", "testdata/socket_types.mts")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tsc: %v\n%s", err, out)
	}
}

// TestBennuExports checks that bennu.d.mts declares what bennu.mjs exports.
func TestBennuExports(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile("bennu.mjs")
	if err != nil {
		t.Fatal(err)
	}
	types, err := os.ReadFile("bennu.d.mts")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(module)) {
		names, ok := strings.CutPrefix(line, "export { ")
		if !ok {
			continue
		}
		names, _, _ = strings.Cut(names, " }")
		for name := range strings.SplitSeq(names, ", ") {
			n++
			if !strings.Contains(string(types), "export function "+name) &&
				!strings.Contains(string(types), "export class "+name) {
				t.Errorf("bennu.d.mts does not declare %s", name)
			}
		}
	}
	if n < 7 {
		t.Errorf("bennu.mjs exports %d names", n)
	}
}
