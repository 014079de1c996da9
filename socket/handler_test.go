package socket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// patience bounds the time to wait for an expected event on a busy machine.
const patience = 20 * time.Second

// server is a handler on a real listener.
type server struct {
	t   testing.TB
	h   *socket.Handler
	url string
	log *logged

	logger *zerolog.Logger
}

// logged is a log that tests can read.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func serve(t testing.TB, cfg socket.Config) *server {
	s := &server{t: t, log: &logged{}}
	logger := zerolog.New(s.log)
	s.logger, cfg.Logger = &logger, &logger
	if cfg.Channels == nil {
		cfg.Channels = channel.Routes{"room:*": echoes()}
	}
	s.h = socket.NewHandler(cfg)
	mux := http.NewServeMux()
	mux.Handle("/socket/", s.h)
	http := httptest.NewUnstartedServer(mux)
	http.Listener = readPath(http.Listener)
	http.Start()
	s.url = http.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.h.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		http.Close()
	})
	return s
}

// do sends a request and reads the whole answer.
func (s *server) do(r *http.Request) (status int, body string) {
	s.t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

type nobody struct{}

func joinOK(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

func onEvent(name string,
	f func(ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error)) channel.Option[nobody] {
	return channel.On(name,
		func(_ *nobody, ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return f(ctx, c, p)
		})
}

// echoes returns a handler that replies to echo and broadcasts shout.
func echoes(more ...channel.Option[nobody]) *channel.Handler {
	return channel.Define(joinOK, append(more,
		onEvent("echo", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
		onEvent("shout", func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.Broadcast("shout", p)
		}),
	)...)
}

// peer is a raw client.
type peer struct {
	t testing.TB
	c *websocket.Conn
}

func (s *server) dial(query string) *peer {
	s.t.Helper()
	p, resp, err := s.tryDial(query, nil)
	if err != nil {
		s.t.Fatalf("dial: %v (%v)", err, resp)
	}
	return p
}

func (s *server) tryDial(query string, opts *websocket.DialOptions) (*peer, *http.Response, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, s.url+"/socket/websocket?"+query, opts)
	if err != nil {
		return nil, resp, err
	}
	c.SetReadLimit(1 << 24)
	s.t.Cleanup(func() { c.CloseNow() })
	return &peer{s.t, c}, resp, nil
}

func (p *peer) send(frames ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for _, f := range frames {
		if err := p.c.Write(ctx, websocket.MessageText, []byte(f)); err != nil {
			p.t.Fatalf("send %s: %v", f, err)
		}
	}
}

func (p *peer) read() (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	_, b, err := p.c.Read(ctx)
	return string(b), err
}

func (p *peer) want(frames ...string) {
	p.t.Helper()
	for _, f := range frames {
		got, err := p.read()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", f, err)
		}
		if got != f {
			p.t.Fatalf("got  %s\nwant %s", got, f)
		}
	}
}

func (p *peer) wantClose(code websocket.StatusCode) {
	p.t.Helper()
	got, err := p.read()
	if err == nil {
		p.t.Fatalf("got %s, want the close frame", got)
	}
	if c := websocket.CloseStatus(err); c != code {
		p.t.Fatalf("closed with %d (%v), want %d", c, err, code)
	}
}

// join joins a topic with join_ref "1".
func (p *peer) join(topic string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`["1","1","%s","phx_join",{}]`, topic))
	p.want(fmt.Sprintf(`["1","1","%s","phx_reply",{"status":"ok","response":{}}]`, topic))
}

func (p *peer) heartbeat() {
	p.t.Helper()
	p.send(`[null,"hb","phoenix","heartbeat",{}]`)
	p.want(`[null,"hb","phoenix","phx_reply",{"status":"ok","response":{}}]`)
}

type whoKey struct{}

func TestConnect(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var p struct {
				User string
				Deep struct{ List []string }
			}
			if err := r.Params.Decode(&p); err != nil {
				return nil, err
			}
			switch p.User {
			case "panics":
				panic("secret")
			case "busy":
				return nil, &socket.Refusal{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}},
					Body: "later"}
			case "":
				return nil, errors.New("secret")
			case "request": // its context ends with the handshake, but the channels must not
				return context.WithValue(r.HTTP.Context(), whoKey{}, r.Transport+" "+r.Version), nil
			}
			return context.WithValue(ctx, whoKey{},
				p.User+"/"+strings.Join(p.Deep.List, ",")+"/"+r.HTTP.Header.Get("X-Test")), nil
		},
		Channels: channel.Routes{"room:*": echoes(onEvent("who",
			func(ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				return push.OK(ctx.Value(whoKey{})), ctx.Err()
			}))},
	})
	for query, status := range map[string]int{
		"": 403, "user=panics": 500, "user=busy": 429, "user=a&vsn=9.0.0": 403, "user=%ff": 400,
	} {
		_, resp, err := s.tryDial(query, nil)
		if err == nil || resp == nil || resp.StatusCode != status {
			t.Errorf("%q: %v", query, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if strings.Contains(string(body), "secret") {
			t.Errorf("%q: answered %q", query, body)
		}
		if status == 429 && (string(body) != "later" || resp.Header.Get("Retry-After") != "7") {
			t.Errorf("refusal: %q %v", body, resp.Header)
		}
	}
	for query, status := range map[string]int{"user=panics": 500, "user=busy": 200, "user=%ff": 400} {
		resp, err := http.Get(s.url + "/socket/longpoll?" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status || status == 200 && string(body) != `{"status":403}` ||
			strings.Contains(string(body), "secret") {
			t.Errorf("%q over long poll: %d %s", query, resp.StatusCode, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	p, _, err := s.tryDial("vsn=2.0.0&user=ann&deep[list][]=x&deep[list][]=y",
		&websocket.DialOptions{HTTPHeader: http.Header{"X-Test": {"h"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.join("room:1")
	p.send(`["1","2","room:1","who",{}]`)
	p.want(`["1","2","room:1","phx_reply",{"status":"ok","response":"ann/x,y/h"}]`)
	q := s.dial("vsn=2.0.0&user=request")
	q.join("room:1")
	q.send(`["1","2","room:1","who",{}]`)
	q.want(`["1","2","room:1","phx_reply",{"status":"ok","response":"websocket 2.0.0"}]`)
	if log := s.log.String(); !strings.Contains(log, "handler_test.go") {
		t.Errorf("the panic's stack is not in the log: %s", log)
	}
}

func TestAuthToken(t *testing.T) {
	t.Parallel()
	tokens := make(chan string, 10)
	s := serve(t,
		socket.Config{AuthToken: true, Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			tokens <- r.Transport + ":" + r.Token
			return ctx, nil
		}})
	p, resp, err := s.tryDial("vsn=2.0.0",
		&websocket.DialOptions{Subprotocols: []string{"phoenix", "base64url.bearer.phx.c2VjcmV0"}})
	if err != nil || resp.Header.Get("Sec-WebSocket-Protocol") != "phoenix" {
		t.Fatalf("%v, answered %v", err, resp)
	}
	p.heartbeat()
	if got := <-tokens; got != "websocket:secret" {
		t.Errorf("got %q", got)
	}
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/socket/longpoll?vsn=2.0.0", nil)
	r.Header.Set("X-Phoenix-AuthToken", "raw")
	lp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	lp.Body.Close()
	if got := <-tokens; got != "longpoll:raw" {
		t.Errorf("got %q", got)
	}
	http.DefaultClient.CloseIdleConnections()
	if strings.Contains(s.log.String(), "secret") {
		t.Error("the token is in the log")
	}
}

func TestOriginOnBothTransports(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Origins: []string{"https://good.test"}})
	for origin, ok := range map[string]bool{"https://good.test": true, "https://evil.test": false, "null": false} {
		_, resp, err := s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if (err == nil) != ok || !ok && resp.StatusCode != http.StatusForbidden {
			t.Errorf("websocket from %s: %v", origin, err)
		}
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			r, _ := http.NewRequestWithContext(t.Context(), method, s.url+"/socket/longpoll?vsn=2.0.0", nil)
			r.Header.Set("Origin", origin)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if refused := string(body) == `{"status":403}`; resp.StatusCode != 200 || refused == ok {
				t.Errorf("%s over long poll from %s: %d %s", method, origin, resp.StatusCode, body)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestRefusedHandshakeLogsAreClipped checks that values of the client, such as its origin and its
// path, are clipped in the log.
func TestRefusedHandshakeLogsAreClipped(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	s := serve(t,
		socket.Config{Connect: func(context.Context, *socket.Request) (context.Context, error) {
			return nil,
				errors.New("no")
		}})
	for path, origin := range map[string]string{"/socket/websocket": "https://" + long, "/" + long + "/websocket": ""} {
		r := upgrade(path + "?vsn=2.0.0")
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := s.ask(r)
		if w.Code != http.StatusForbidden {
			t.Errorf("answered %d", w.Code)
		}
	}
	if log := s.log.String(); strings.Count(log, "refused") != 2 || len(log) > 1500 {
		t.Errorf("log of %d bytes: %s", len(log), log)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{http.MethodPost, "/socket/websocket", 400},
		{http.MethodHead, "/socket/websocket", 400},
		{http.MethodOptions, "/socket/websocket", 400},
		{http.MethodGet, "/socket/websocket", 400}, // without an upgrade
		{http.MethodGet, "/socket/nothing", 404},
		{http.MethodGet, "/socket/x/longpoll", 404},
		{http.MethodPut, "/socket/longpoll", 400},
	} {
		r, _ := http.NewRequestWithContext(t.Context(), test.method, s.url+test.path+"?vsn=2.0.0", nil)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("%s %s: %d %q", test.method, test.path, resp.StatusCode, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// incomparable is a serializer that cannot be compared, and so cannot be the key of a broadcast's
// frames.
type incomparable struct {
	serializer.Serializer
	_ []byte
}

// TestNilRefusal checks that a nil *Refusal in a non-nil error refuses like any other error.
func TestNilRefusal(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Connect: func(context.Context, *socket.Request) (context.Context, error) {
		var none *socket.Refusal
		return nil, none
	}})
	_, resp, err := s.tryDial("vsn=2.0.0", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("answered %v, %v", resp, err)
	}
}

func TestNewHandlerPanicsOnMistakes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]socket.Config{
		"route":  {Channels: channel.Routes{"a*b": echoes()}},
		"nil":    {Channels: channel.Routes{"a": nil}},
		"origin": {Origins: []string{"example.com"}},

		"nil serializer":          {Serializers: []serializer.Serializer{nil}},
		"incomparable serializer": {Serializers: []serializer.Serializer{incomparable{serializer.V2(), nil}}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", name)
				}
			}()
			socket.NewHandler(cfg)
		}()
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	v1 := s.dial("")
	v1.send(`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}`)
	got, err := v1.read()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(got), &m); err != nil || m["event"] != "phx_reply" {
		t.Errorf("1.0.0: %s", got)
	}
	s.dial("vsn=2.0.0").heartbeat()

	v3 := s.dial("vsn=3.0.0")
	ser := serializer.V3()
	_, frame, err := ser.Append(nil,
		&serializer.Message{Kind: serializer.KindRequest, Ref: `"1"`, Topic: "phoenix", Event: "heartbeat"})
	if err != nil {
		t.Fatal(err)
	}
	if err := v3.c.Write(t.Context(), websocket.MessageBinary, frame); err != nil {
		t.Fatal(err)
	}
	got, err = v3.read()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := ser.ParseClient(serializer.OpBinary, []byte(got))
	if err != nil || reply.Status != "ok" || reply.Ref != `"1"` {
		t.Errorf("3.0.0: %+v, %v", reply, err)
	}
}
