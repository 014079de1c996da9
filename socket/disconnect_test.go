package socket_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// hijacker calls a function when a WebSocket's handshake has been answered and its session is not
// open yet.
type hijacker struct {
	http.ResponseWriter
	then func() error
}

func (w *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.then(); err != nil {
		return nil, nil, err
	}
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// named accepts every client with the id "u".
func named(_ context.Context, r *socket.Request) (context.Context, error) {
	r.ID = "u"
	return nil, nil
}

// handshakes is a handler on a real listener, with a function that runs during its handshakes.
func handshakes(t *testing.T, cfg socket.Config, then func(h *socket.Handler) error) *server {
	s := &server{t: t, h: socket.NewHandler(cfg)}
	at := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.h.ServeHTTP(&hijacker{w, func() error { return then(s.h) }}, r)
	}))
	at.Listener = readPath(at.Listener)
	at.Config.ErrorLog = log.New(io.Discard, "", 0) // some of these handshakes are broken
	at.Start()
	s.url = at.URL
	t.Cleanup(func() {
		if err := s.h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		at.Close()
	})
	return s
}

// TestDisconnectDuringHandshake disconnects sockets before their clients have received the answer
// to the handshake.
func TestDisconnectDuringHandshake(t *testing.T) {
	t.Parallel()
	cfg := socket.Config{PubSub: pubsub.New(nil), Connect: named, Channels: channel.Routes{"room:*": echoes()}}
	s := handshakes(t, cfg, func(h *socket.Handler) error { return h.Disconnect(context.Background(), "u") })
	s.dial("vsn=2.0.0").wantClose(1001)
	if err := s.h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := cfg.PubSub.Control().Subscribers("bennu:disconnect:u"); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// hooked is a context that calls a function at the first call of Err after it was armed.
type hooked struct {
	context.Context
	armed bool
	then  func() error
}

func (c *hooked) Err() error {
	if !c.armed {
		return c.Context.Err()
	}
	c.armed = false
	return c.then()
}

// poll opens a long-poll session. The context of its request calls a function when Connect has
// returned.
func poll(t *testing.T, then func(h *socket.Handler) error) (answer *httptest.ResponseRecorder, left int) {
	var h *socket.Handler
	ctx := &hooked{Context: t.Context(), then: func() error { return then(h) }}
	ps := pubsub.New(nil)
	h = socket.NewHandler(socket.Config{PubSub: ps,
		Connect: func(c context.Context, r *socket.Request) (context.Context, error) {
			ctx.armed = true
			return named(c, r)
		}})
	answer = httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0", nil).WithContext(ctx))
	if ctx.armed {
		t.Error("the function was not called")
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	return answer, ps.Control().Subscribers("bennu:disconnect:u")
}

func TestDisconnectDuringLongPollHandshake(t *testing.T) {
	t.Parallel()
	answer, left := poll(t, func(h *socket.Handler) error { return h.Disconnect(context.Background(), "u") })
	if answer.Code != http.StatusServiceUnavailable || left != 0 {
		t.Errorf("answered %d, %d subscriptions are left", answer.Code, left)
	}
}

// TestFailedHandshakeLeavesNothing checks that a handshake that fails after Connect has returned
// leaves no subscription.
func TestFailedHandshakeLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func() error{
		"error": func() error { return errors.New("no connection to give") },
		"panic": func() error { panic(http.ErrAbortHandler) },
	} {
		cfg := socket.Config{PubSub: pubsub.New(nil), Connect: named}
		held := false
		s := handshakes(t, cfg, func(*socket.Handler) error {
			held = cfg.PubSub.Control().Subscribers("bennu:disconnect:u") == 1
			return fails()
		})
		_, _, _ = s.tryDial("vsn=2.0.0", nil)             // the answer is 101 and then the connection ends
		if err := s.h.Shutdown(t.Context()); err != nil { // it waits for the handshake
			t.Error(err)
		}
		if n := cfg.PubSub.Control().Subscribers("bennu:disconnect:u"); n != 0 || !held {
			t.Errorf("%s: %d subscriptions are left, subscribed before: %v", name, n, held)
		}
	}

	ps := pubsub.New(nil)
	h := socket.NewHandler(socket.Config{PubSub: ps, Connect: named})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/websocket?vsn=2.0.0", nil))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "upgrade") ||
		ps.Control().Subscribers("bennu:disconnect:u") != 0 {
		t.Errorf("not a handshake: %d %s, and %d subscriptions are left", w.Code, w.Body,
			ps.Control().Subscribers("bennu:disconnect:u"))
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}

	if _, left := poll(t, func(*socket.Handler) error { return context.Canceled }); left != 0 {
		t.Errorf("a client that disconnected: %d subscriptions are left", left)
	}
}
