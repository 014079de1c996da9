package interop_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/conformance/app"
	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/npm"
	"bennu.example/js"
	"bennu.example/socket"
)

// control is the HTTP API of the scripts. It starts and stops the servers under test, and serves
// the page and phoenix.js.
type control struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	next    int
	servers map[int]*server
}

func newControl(t *testing.T) *control {
	t.Helper()
	c := &control{t: t, servers: map[int]*server{}}
	phoenix := npm.Phoenix(t)
	mux := http.NewServeMux()
	mux.Handle("GET /client/", http.StripPrefix("/client/", http.FileServer(http.Dir("client"))))
	mux.HandleFunc("GET /phoenix.mjs", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, phoenix)
	})
	mux.Handle("GET /js/", js.Handler())
	mux.HandleFunc("GET /guide/advice", guideCode(t, "../../docs/connections.md", "reconnectAfterMs"))
	mux.HandleFunc("GET /guide/authentication", guideCode(t, "../../docs/authentication.md", "fetchToken"))
	mux.HandleFunc("GET /guide/wills", guideCode(t, "../../docs/presence.md", "$order"))
	mux.HandleFunc("GET /refresh", func(w http.ResponseWriter, _ *http.Request) {
		// The life of the tokens is in seconds. A page is watched for longer than the server holds the
		// connection of a client that was denied.
		life, duration, away := 2, 7*time.Second, 1500*time.Millisecond
		if nightly {
			life, duration, away = 20, 2*time.Minute, 35*time.Second
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"life": life, "duration": duration.Milliseconds(), "away": away.Milliseconds(),
		})
	})
	mux.HandleFunc("POST /servers", c.create)
	mux.HandleFunc("POST /servers/{id}/stop", c.with(func(s *server, q url.Values) error { return s.stop(q.Get("how")) }))
	mux.HandleFunc("POST /servers/{id}/start", c.with(func(s *server, _ url.Values) error { return s.start() }))
	mux.HandleFunc("POST /servers/{id}/ban", c.with(func(s *server, q url.Values) error { return s.ban(q) }))
	mux.HandleFunc("DELETE /servers/{id}", c.with(func(s *server, _ url.Values) error { return s.stop("kill") }))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.url = "http://" + l.Addr().String()
	done := make(chan struct{})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		for _, s := range c.servers {
			if err := s.stop("kill"); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	})
	return c
}

// guideCode serves the block of a guide that has a text.
func guideCode(t *testing.T, file, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		blocks := guide.Blocks(t, file, "js")
		i := slices.IndexFunc(blocks, func(code string) bool { return strings.Contains(code, text) })
		if i < 0 {
			t.Errorf("%s has no code with %s", file, text)
			return
		}
		_, _ = io.WriteString(w, blocks[i])
	}
}

func (c *control) create(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	ms := func(name string, def time.Duration) time.Duration {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			return time.Duration(n) * time.Millisecond
		}
		return def
	}
	code, _ := strconv.Atoi(q.Get("code"))
	s := &server{
		addr: "127.0.0.1:0",
		ws:   q.Get("ws"),
		code: code,
		// An idle poll takes this long, and so does the detection of a dead session.
		cfg: app.Config{
			Window: ms("window", 2*time.Second), IdleTimeout: ms("idle", 60*time.Second),
			Drain: socket.Drain{Notice: ms("notice", -1), Spread: ms("spread", 0)},
		},
	}
	if q.Get("auth") != "" {
		s.cfg.Auth = &socket.Auth{Notice: ms("auth_notice", 0), Grace: ms("auth_grace", 0)}
	}
	if q.Get("bounds") == "default" {
		s.cfg.MaxQueue, s.cfg.MaxMailbox = 1<<20, 1<<20
	}
	if err := s.start(); err != nil {
		c.fail(w, err)
		return
	}
	c.mu.Lock()
	c.next++
	id := c.next
	c.servers[id] = s
	c.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"id": id, "url": "ws://" + s.addr + "/socket"})
}

func (c *control) with(f func(*server, url.Values) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.Atoi(r.PathValue("id"))
		c.mu.Lock()
		s := c.servers[id]
		c.mu.Unlock()
		if s == nil {
			http.NotFound(w, r)
			return
		}
		if err := f(s, r.URL.Query()); err != nil {
			c.fail(w, err)
		}
	}
}

func (c *control) fail(w http.ResponseWriter, err error) {
	c.t.Errorf("control: %v", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// server runs the conformance application on one port. It can be restarted.
type server struct {
	ws    string // how to handle WebSocket connections: "" serves them; or "refuse", "hang" or "close"
	code  int    // with which "close" closes the first WebSocket; later ones are served
	isCut atomic.Bool
	cfg   app.Config

	mu    sync.Mutex
	addr  string
	app   *app.App
	http  *http.Server
	conns *listener
	done  chan struct{}
}

func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.app != nil {
		return errors.New("already started")
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	s.conns = &listener{Listener: l, open: map[net.Conn]struct{}{}}
	s.app = app.New(s.cfg)
	s.http = &http.Server{Handler: s.handler(s.app), ReadHeaderTimeout: time.Minute}
	s.done = make(chan struct{})
	go func(h *http.Server, l net.Listener, done chan struct{}) {
		defer close(done)
		_ = h.Serve(l)
	}(s.http, s.conns, s.done)
	return nil
}

// ban refuses a user from now on, and with "now" also ends the user's connections.
func (s *server) ban(q url.Values) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Get("now") == "" {
		s.app.Ban(q.Get("user"), q.Get("reason"))
		return nil
	}
	return s.app.Revoke(context.Background(), q.Get("user"), q.Get("reason"))
}

// closeWebSocket accepts a WebSocket and closes it with the server's code.
func (s *server) closeWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // the client has gone
	}
	_ = c.Close(websocket.StatusCode(s.code), "")
}

func (s *server) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/websocket") {
			switch s.ws {
			case "refuse":
				w.WriteHeader(http.StatusForbidden)
				return
			case "hang":
				<-r.Context().Done()
				return
			case "close":
				if s.isCut.CompareAndSwap(false, true) {
					s.closeWebSocket(w, r)
					return
				}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// stop stops the server. With "drain" it shuts down gracefully, as in a deployment; with "kill" it
// first resets its connections, as in a crash. In both cases all goroutines must end.
func (s *server) stop(how string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.app == nil {
		return nil
	}
	if how == "kill" {
		_ = s.conns.Close()
		s.conns.reset()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.app.Shutdown(ctx)
	_ = s.http.Close()
	<-s.done
	s.app = nil
	if err != nil {
		return fmt.Errorf("%s: shutdown: %w", how, err)
	}
	return nil
}

// listener keeps track of the open connections, including hijacked ones.
type listener struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &conn{TCPConn: c.(*net.TCPConn), l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[tracked] = struct{}{}
	return tracked, nil
}

// reset closes the open connections as a crash does: what was not sent is lost.
func (l *listener) reset() {
	for _, c := range l.conns() {
		_ = c.(*conn).SetLinger(0)
		_ = c.Close()
	}
}

// hangUp closes the open connections after what was written.
func (l *listener) hangUp() {
	for _, c := range l.conns() {
		_ = c.Close()
	}
}

func (l *listener) conns() []net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.open))
}

// conn is a TCP connection that notifies its listener when it is closed.
type conn struct {
	*net.TCPConn
	l *listener
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.TCPConn.Close()
}
