package socket_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/conformance/app"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// The suite runs the client against the conformance application over real sockets. The server is
// this project's, in this process, or the one of BENNU_TEST_URL (http://127.0.0.1:4000/socket),
// such as Phoenix. Tests of features that Phoenix does not have are skipped there.

// suite is one way to connect.
type suite struct {
	url     string
	own     bool // the server is this project's
	cfg     socket.ClientConfig
	version string
}

// startApp serves the application on addr until the test ends, or until stop is called.
func startApp(t testing.TB, addr string) (url string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a := app.New(app.Config{Serializers: serializer.Default(), Window: 5 * time.Second})
	srv := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = l.Close()
			if err := a.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			_ = srv.Close()
			<-done
		})
	}
	t.Cleanup(stop)
	return "http://" + l.Addr().String() + "/socket", stop
}

// dial connects with the suite's configuration after change was applied to it.
func (s suite) dial(t testing.TB, change func(*socket.ClientConfig)) *socket.Client {
	t.Helper()
	cfg := s.cfg
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{}}
	if change != nil {
		change(&cfg)
	}
	c, err := socket.Dial(within(t), s.url, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSocket(t, c) })
	return c
}

func closeSocket(t testing.TB, c *socket.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// within returns a context that bounds the time of a test.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func join(t testing.TB, c *socket.Client, topic string, params any) *channel.Client {
	t.Helper()
	ch := c.Channel(topic, params)
	reply(t, ch.Join())
	return ch
}

func reply(t testing.TB, p *push.Push) serializer.Payload {
	t.Helper()
	got, err := p.Wait(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func refusal(t testing.TB, p *push.Push) string {
	t.Helper()
	_, err := p.Wait(within(t))
	var refused *push.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, not an error reply", err)
	}
	return refused.Reason()
}

// same reports whether a payload equals this JSON, except for the order of keys.
func same(t testing.TB, p serializer.Payload, want string) bool {
	t.Helper()
	text, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

// expect reads the next events of an iterator and compares them with "event payload".
func expect(t testing.TB, next func() (serializer.Message, error, bool), want ...string) {
	t.Helper()
	for _, w := range want {
		m, err, ok := next()
		if !ok || err != nil {
			t.Fatalf("no event, want %s: %v", w, err)
		}
		event, body, _ := strings.Cut(w, " ")
		if m.Event != event || !same(t, m.Payload, body) {
			text, _ := m.Payload.JSON()
			t.Fatalf("got %s %s, want %s", m.Event, text, w)
		}
	}
}

// topic returns a topic that is unique, also among runs against the same server.
func topic(t testing.TB) string {
	return fmt.Sprintf("room:%s-%d", t.Name(), time.Now().UnixNano())
}

func TestClientSuite(t *testing.T) {
	t.Parallel()
	base := suite{url: os.Getenv("BENNU_TEST_URL")}
	if base.url == "" {
		base.own = true
		base.url, _ = startApp(t, "127.0.0.1:0")
	}
	for _, by := range []struct {
		name string
		by   socket.ClientTransport
	}{{"websocket", socket.TransportWebSocket}, {"longpoll", socket.TransportLongPoll},
		{"fallback", socket.TransportFallback}} {
		for _, version := range serializer.Default() {
			s := base
			s.cfg = socket.ClientConfig{Transport: by.by, Serializer: version}
			s.version = serializer.Vsn(version)
			t.Run(by.name+"/"+s.version, func(t *testing.T) {
				t.Parallel()
				switch {
				case !s.own && s.version == "3.0.0":
					t.Skip("only this server supports version 3.0.0")
				}
				s.run(t)
			})
		}
	}
}

func (s suite) run(t *testing.T) {
	for _, test := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"replies", s.replies}, {"refusals", s.refusals}, {"events", s.events}, {"order", s.order}, {"binary", s.binary},
		{"ends", s.ends}, {"leave", s.leave}, {"disconnected", s.disconnected}, {"denied", s.denied}, {"large", s.large},
		{"many", s.many}, {"close", s.closes}, {"room after answers", s.budget},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.f(t)
		})
	}
}

func (s suite) replies(t *testing.T) {
	c := s.dial(t, nil)
	ch := join(t, c, topic(t), nil)
	echo := reply(t, ch.Push("echo", map[string]any{"a": 1, "é": []string{"ü", "\u2028", "😀"}}))
	if !same(t, echo, `{"a":1,"é":["ü","\u2028","😀"]}`) {
		t.Fatal(string(echo.Bytes()))
	}
	if got := reply(t, ch.Push("reply_ok", nil)); !same(t, got, `{}`) {
		t.Fatal(string(got.Bytes()))
	}
	if got, err := channel.Call[map[string]int](within(t), ch, "async", map[string]int{"n": 7}); err != nil ||
		got["n"] != 7 {
		t.Fatal(got, err)
	}
	if reason := refusal(t, ch.Push("fail", map[string]string{"reason": "so"})); reason != "so" {
		t.Fatal(reason)
	}
	unanswered := ch.PushWithTimeout("noreply", nil, 50*time.Millisecond)
	if _, err := unanswered.Wait(within(t)); !errors.Is(err, push.ErrTimeout) {
		t.Fatal(err)
	}
	// A slow reply and a fast one on different channels arrive when they are ready.
	other := join(t, c, topic(t)+"-2", nil)
	slow, quick := ch.Push("async", nil), other.Push("echo", nil)
	reply(t, quick)
	reply(t, slow)
	if stats := c.Stats(); stats.Unanswered != 0 || stats.FramesIn < 8 || stats.BytesIn == 0 || stats.BytesOut == 0 ||
		len(stats.Channels) != 2 {
		t.Fatalf("%+v", stats)
	}
}

// budget makes each push after the reply to the previous one. None may fail with ErrFull.
func (s suite) budget(t *testing.T) {
	c := s.dial(t, func(cfg *socket.ClientConfig) { cfg.MaxBuffer = 100_000 })
	ch := join(t, c, topic(t), nil)
	for i := range 20 {
		for _, size := range []int{10, 99_000, 400_000} {
			reply(t, ch.Push("echo", map[string]string{"b": strings.Repeat("x", size)}))
			if n, all := ch.Stats().Queued, c.Stats().Queued; n != 0 || all != 0 {
				t.Fatalf("round %d: %d and %d pushes count as queued", i, n, all)
			}
		}
	}
}

func (s suite) refusals(t *testing.T) {
	c := s.dial(t, nil)
	for topic, want := range map[string]string{
		"room:forbidden": "forbidden", "room:crash_join": "join crashed", "nowhere": "unmatched topic",
	} {
		ch := c.Channel(topic, nil)
		if got := refusal(t, ch.Join()); got != want {
			t.Fatalf("%s: %q", topic, got)
		}
		if state, err := ch.State(); state != channel.StateErrored && state != channel.StateJoining ||
			err == nil && state == channel.StateErrored {
			t.Fatal(state, err)
		}
		reply(t, ch.Leave())
	}
	if got := reply(t, c.Channel("room:echo_join", map[string]int{"x": 1}).Join()); !same(t, got, `{"x":1}`) {
		t.Fatal(string(got.Bytes()))
	}
}

func (s suite) events(t *testing.T) {
	name := topic(t)
	a, b := join(t, s.dial(t, nil), name, nil), join(t, s.dial(t, nil), name, nil)
	nextA, stopA := iter.Pull2(a.EventsContext(within(t)))
	defer stopA()
	nextB, stopB := iter.Pull2(b.EventsContext(within(t)))
	defer stopB()
	a.Push("shout", map[string]int{"n": 1})
	a.Push("shout_from", map[string]int{"n": 2})
	a.Push("push_me", map[string]int{"n": 3})
	a.Push("filtered", map[string]any{"n": 4})
	expect(t, nextB, `shout {"n":1}`, `shout_from {"n":2}`, `filtered {"n":4,"seen":true}`)
	expect(t, nextA, `shout {"n":1}`, `pushed {"n":3}`, `filtered {"n":4,"seen":true}`)
	a.Push("filtered", map[string]any{"drop": true}) // intercepted events and others may overtake each other
	a.Push("shout", map[string]int{"n": 5})
	expect(t, nextB, `shout {"n":5}`)
	expect(t, nextA, `shout {"n":5}`)
}

func (s suite) order(t *testing.T) {
	const n = 300
	c := s.dial(t, nil)
	ch := join(t, c, topic(t), nil)
	next, stop := iter.Pull2(ch.EventsContext(within(t), "shout"))
	defer stop()
	var replies []int
	var pushes []*push.Push
	for i := range n {
		ch.Push("shout", map[string]int{"n": i})
		pushes = append(pushes, ch.Push("echo", map[string]int{"n": i}).Receive("ok", func(p serializer.Payload) {
			var v struct{ N int }
			if err := p.Decode(&v); err != nil {
				t.Error(err)
			}
			replies = append(replies, v.N)
		}))
	}
	for i := range n {
		expect(t, next, fmt.Sprintf(`shout {"n":%d}`, i))
	}
	for _, p := range pushes {
		reply(t, p)
	}
	last := make(chan struct{})
	pushes[0].Receive("ok", func(serializer.Payload) { close(last) })
	<-last
	for i, got := range replies {
		if got != i || len(replies) != n {
			t.Fatalf("reply %d of %d is the reply to %d", i, len(replies), got)
		}
	}
}

func (s suite) binary(t *testing.T) {
	c := s.dial(t, nil)
	ch := join(t, c, topic(t), nil)
	blob := []byte{0, 1, 2, 0xff, '[', '"'}
	echo := ch.Push("binary_echo", serializer.Binary(blob))
	switch {
	case s.version == "1.0.0":
		if _, err := echo.Wait(within(t)); !errors.Is(err, serializer.ErrPayload) {
			t.Fatal(err)
		}
		return
	case c.State().Transport == "longpoll" && !s.own:
		t.Skip("Phoenix sends binary payloads over long poll in a form that no client can read")
	}
	if got := reply(t, echo); !got.IsBinary() || !bytes.Equal(got.Bytes(), blob) {
		t.Fatalf("%q", got.Bytes())
	}
	next, stop := iter.Pull2(ch.EventsContext(within(t)))
	defer stop()
	ch.Push("binary_shout", serializer.Binary(blob))
	if m, err, ok := next(); !ok || err != nil || m.Event != "binary_shout" || !bytes.Equal(m.Payload.Bytes(), blob) {
		t.Fatal(m, err)
	}
}

func (s suite) ends(t *testing.T) {
	c := s.dial(t, func(cfg *socket.ClientConfig) {
		cfg.RejoinAfter = func(int) time.Duration { return 10 * time.Millisecond }
	})
	ch := c.Channel(topic(t), nil)
	joins, errs, closed := make(chan struct{}, 9), make(chan error, 9), make(chan error, 9)
	ch.OnJoin(func(serializer.Payload) { joins <- struct{}{} })
	ch.OnError(func(err error) { errs <- err })
	ch.OnClose(func(err error) { closed <- err })
	reply(t, ch.Join())
	<-joins
	for _, event := range []string{"crash", "no such event"} {
		crashed := ch.Push(event, nil)
		var remote *channel.RemoteError
		if err := <-errs; !errors.As(err, &remote) || remote.Event != serializer.EventError {
			t.Fatal(err)
		}
		if _, err := crashed.Wait(within(t)); !errors.Is(err, push.ErrLost) {
			t.Fatal(err)
		}
		<-joins
		reply(t, ch.Push("echo", nil))
	}
	if got := reply(t, ch.Push("stop_reply", map[string]int{"n": 1})); !same(t, got, `{"n":1}`) {
		t.Fatal(string(got.Bytes()))
	}
	var remote *channel.RemoteError
	if err := <-closed; !errors.As(err, &remote) || remote.Event != serializer.EventClose {
		t.Fatal(err)
	}
	if _, err := ch.Push("echo", nil).Wait(within(t)); !errors.Is(err, channel.ErrClosed) {
		t.Fatal(err)
	}
	again := join(t, c, ch.Topic(), nil)
	again.Push("stop", nil)
	<-again.Done()
}

func (s suite) leave(t *testing.T) {
	c := s.dial(t, nil)
	name := topic(t)
	for range 10 {
		ch := join(t, c, name, nil)
		echo := ch.Push("echo", map[string]int{"n": 1})
		leave := ch.Leave()
		next := c.Channel(name, nil)
		nextJoin := next.Join() // waits for the leave
		reply(t, echo)
		reply(t, leave)
		reply(t, nextJoin)
		reply(t, next.Push("echo", nil))
		reply(t, next.Leave())
	}
}

func (s suite) disconnected(t *testing.T) {
	id := fmt.Sprint(time.Now().UnixNano(), s.version, s.cfg.Transport)
	c := s.dial(t, func(cfg *socket.ClientConfig) { cfg.Params = map[string]string{"user_id": id} })
	ch := join(t, c, topic(t), nil)
	joins := make(chan struct{}, 9)
	ch.OnJoin(func(serializer.Payload) { joins <- struct{}{} })
	errs := make(chan error, 9)
	ch.OnError(func(err error) { errs <- err })
	admin := join(t, s.dial(t, nil), "admin", nil)
	want := 1001
	if c.State().Transport == "longpoll" {
		want = transport.CodeSessionGone
	}
	reply(t, admin.Push("disconnect", map[string]string{"id": "users_socket:" + id}))
	var closed *transport.CloseError
	if err := <-errs; !errors.As(err, &closed) || closed.Code != want {
		t.Fatal(err)
	}
	<-joins
	reply(t, ch.Push("echo", nil))
}

func (s suite) denied(t *testing.T) {
	cfg := s.cfg
	cfg.Params = map[string]string{"reject": "1"}
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{}}
	_, err := socket.Dial(within(t), s.url, &cfg)
	var refused *transport.HandshakeError
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Fatal(err)
	}
	c := socket.NewClient(s.url, &cfg)
	defer closeSocket(t, c)
	c.Connect()
	if err := c.Ready(within(t)); !errors.As(err, &refused) {
		t.Fatal(err)
	}
	if state := c.State(); state.Status != socket.StatusDenied || !state.Until.IsZero() {
		t.Fatalf("%+v", state)
	}
}

func (s suite) large(t *testing.T) {
	ch := join(t, s.dial(t, nil), topic(t), nil)
	for _, size := range []int{125, 126, 65_535, 65_536, 900_000} {
		body := strings.Repeat("x", size)
		if got, err := channel.Call[map[string]string](within(t), ch, "echo", map[string]string{"b": body}); err != nil ||
			got["b"] != body {
			t.Fatal(size, err)
		}
	}
}

// many pushes from many goroutines on many channels of one socket.
func (s suite) many(t *testing.T) {
	c := s.dial(t, nil)
	name := topic(t)
	var wg sync.WaitGroup
	for i := range 20 {
		ch := c.Channel(fmt.Sprint(name, "-", i), nil)
		ch.Join()
		for j := range 3 {
			wg.Go(func() {
				for k := range 10 {
					n := i*1000 + j*100 + k
					if got, err := channel.Call[map[string]int](within(t), ch, "echo", map[string]int{"n": n}); err != nil ||
						got["n"] != n {
						t.Errorf("%d: %v %v", n, got, err)
					}
				}
			})
		}
	}
	wg.Wait()
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

func (s suite) closes(t *testing.T) {
	c := s.dial(t, nil)
	ch := c.Channel(topic(t), nil)
	ch.Join()
	var pushes []*push.Push
	for range 50 {
		pushes = append(pushes, ch.Push("echo", nil))
	}
	if err := c.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	for _, p := range pushes {
		reply(t, p)
	}
}

// TestClientSurvivesRestart stops the server and starts it again at the same address.
func TestClientSurvivesRestart(t *testing.T) {
	t.Parallel()
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll,
		socket.TransportFallback} {
		t.Run(fmt.Sprint(by), func(t *testing.T) {
			t.Parallel()
			url, stop := startApp(t, "127.0.0.1:0")
			c := suite{url: url, cfg: socket.ClientConfig{
				Transport: by, ReconnectDelay: func(socket.Retry) time.Duration { return 20 * time.Millisecond },
			}}.dial(t, nil)
			ch := join(t, c, topic(t), nil)
			for range 3 {
				stop()
				for s := range c.States(within(t)) {
					if s.Status == socket.StatusWaiting {
						break
					}
				}
				kept := ch.PushWithTimeout("echo", nil, patience)
				_, stop = startApp(t, strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/socket"))
				reply(t, kept)
			}
		})
	}
}
