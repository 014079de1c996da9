package longpoll_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
)

// testServer is a Server that keeps its sessions for the test.
type testServer struct {
	t *testing.T
	*longpoll.Server
	refuse error

	mu       sync.Mutex
	sessions []*testSession
}

func newTestServer(t *testing.T, cfg longpoll.Config) *testServer {
	return &testServer{t: t, Server: longpoll.NewServer(cfg)}
}

// withSession runs f in virtual time, with a server and one session on it.
func withSession(
	t *testing.T, cfg longpoll.Config, f func(t *testing.T, s *testServer, token string, session *testSession),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, cfg)
		defer s.end()
		token, session := s.open()
		f(t, s, token, session)
	})
}

// ServeHTTP implements http.Handler.
func (s *testServer) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, s.connect) }

// connect is the connect function of Serve.
func (s *testServer) connect() (func(transport.Conn) transport.Session, error) {
	if s.refuse != nil {
		return nil, s.refuse
	}
	return func(c transport.Conn) transport.Session {
		session := &testSession{Conn: c, closed: make(chan error, 2)}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions = append(s.sessions, session)
		return session
	}, nil
}

// end closes all sessions and waits for them.
func (s *testServer) end() {
	s.mu.Lock()
	for _, session := range s.sessions {
		session.Close(transport.CodeRestart, "")
	}
	s.mu.Unlock()
	s.Wait()
	if n := s.Stats().Sessions; n != 0 {
		s.t.Errorf("%d sessions after Wait", n)
	}
}

// testSession is a Session that records its messages.
type testSession struct {
	transport.Conn
	receive func(op serializer.Op, data []byte) error
	closed  chan error

	mu  sync.Mutex
	got []string
}

func (s *testSession) Receive(op serializer.Op, data []byte) error {
	var err error
	if s.receive != nil {
		err = s.receive(op, data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, fmt.Sprintf("%d:%s", op, data))
	return err
}

func (s *testSession) Closed(err error) { s.closed <- err }

func (s *testSession) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// send sends text frames, as a broadcast does.
func (s *testSession) send(texts ...string) {
	for _, text := range texts {
		s.Send(textFrame(text), transport.Delivery{})
	}
}

// wantReceived checks the messages that the session has received.
func (s *testSession) wantReceived(t *testing.T, want ...string) {
	t.Helper()
	if got := s.received(); !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}

// wantEnded checks that the session accepts no frames.
func (s *testSession) wantEnded(t *testing.T) {
	t.Helper()
	if err := s.Send(textFrame("[]"), transport.Delivery{}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("send: %v", err)
	}
}

// textFrame returns a text frame.
func textFrame(text string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpText, Data: []byte(text)}
}

// testAnswer is an answer to a client.
type testAnswer struct {
	http     int
	header   http.Header
	body     string
	Status   int
	Token    string
	Messages []string
}

// is checks that the answer has HTTP status 200, the given status and messages.
func (a testAnswer) is(t *testing.T, status int, messages ...string) {
	t.Helper()
	if a.http != 200 || a.Status != status || !slices.Equal(a.Messages, messages) {
		t.Errorf("got %d %.200q, want status %d and %.100q", a.http, a.body, status, messages)
	}
}

// answer parses an answer and checks the headers that all answers have.
func (s *testServer) answer(w *httptest.ResponseRecorder) testAnswer {
	s.t.Helper()
	a := testAnswer{http: w.Code, header: w.Result().Header, body: w.Body.String()}
	if a.body != "" {
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			s.t.Errorf("%q: %v", a.body, err)
		}
	}
	if got := a.header.Get("Access-Control-Allow-Origin"); got != "*" {
		s.t.Errorf("access-control-allow-origin is %q", got)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		s.t.Errorf("cache-control is %q", got)
	}
	if got := a.header.Get("X-Content-Type-Options"); got != "nosniff" {
		s.t.Errorf("x-content-type-options is %q", got)
	}
	if got := a.header.Get("Content-Type"); a.body != "" && got != "application/json; charset=utf-8" {
		s.t.Errorf("content-type is %q", got)
	}
	return a
}

// do makes a request.
func (s *testServer) do(method, query string, header http.Header, body io.Reader) testAnswer {
	s.t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, "/socket/longpoll?"+query, body)
	for k, v := range header {
		r.Header[k] = v
	}
	s.ServeHTTP(w, r)
	return s.answer(w)
}

func (s *testServer) get(token string) testAnswer {
	s.t.Helper()
	return s.do("GET", "vsn=2.0.0&token="+token, nil, nil)
}

// getWith is get with a context. It returns an empty answer if the context ended before.
func (s *testServer) getWith(ctx context.Context, token string) testAnswer {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/socket/longpoll?token="+token, nil).WithContext(ctx))
	if ctx.Err() != nil && w.Body.Len() == 0 {
		return testAnswer{}
	}
	return s.answer(w)
}

// getBroken makes a poll whose answer cannot be written.
func (s *testServer) getBroken(token string) {
	w := &brokenWriter{header: http.Header{}, err: errors.New("broken pipe")}
	s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil))
}

var batchHeader = http.Header{"Content-Type": {"application/x-ndjson"}}

func (s *testServer) post(token, body string) testAnswer {
	s.t.Helper()
	return s.do("POST", "vsn=2.0.0&token="+token, batchHeader, strings.NewReader(body))
}

// open begins a session.
func (s *testServer) open() (token string, session *testSession) {
	s.t.Helper()
	a := s.do("GET", "vsn=2.0.0&", nil, nil)
	a.is(s.t, 410)
	if a.Token == "" {
		s.t.Fatalf("no token in %q", a.body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.Token, s.sessions[len(s.sessions)-1]
}

// closeCode returns the code of a CloseError, or 0.
func closeCode(err error) int {
	var closed *transport.CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	return 0
}

// A GET without a valid token begins a session.
func TestFirstGetBeginsSession(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	for _, query := range []string{
		"", "vsn=2.0.0&", "token=", "token=bad", "token[]=x", "token=%00%01", "token=" + strings.Repeat("A", 5000),
	} {
		a := s.do("GET", query, nil, nil)
		a.is(t, 410)
		if want := `{"status":410,"token":"` + a.Token + `","messages":[]}`; a.Token == "" || a.body != want {
			t.Errorf("%q: got %s", query, a.body)
		}
		if strings.Trim(a.Token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("token %q is not one for URLs", a.Token)
		}
	}
	if n := s.Stats().Sessions; n != 7 {
		t.Errorf("%d sessions", n)
	}
}

// An error of connect determines the answer, and no session is left.
func TestRefusedConnect(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		http int
		body string
	}{
		{errors.New("no"), 200, `{"status":403}`},
		{fmt.Errorf("down: %w", longpoll.StatusError(503)), 503, ""},
		{longpoll.StatusError(500), 500, ""},
	} {
		s := newTestServer(t, longpoll.Config{})
		s.refuse = test.err
		a := s.get("")
		if a.http != test.http || a.body != test.body || a.header.Get("Retry-After") != "" {
			t.Errorf("%v: got %d %q %v", test.err, a.http, a.body, a.header)
		}
		s.end()
	}
}

// Refuse answers any method with the status 403 of the protocol.
func TestRefuse(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	w := httptest.NewRecorder()
	s.Refuse(w, httptest.NewRequest("POST", "/", nil), nil)
	if a := s.answer(w); a.http != 200 || a.body != `{"status":403}` {
		t.Errorf("got %d %q", a.http, a.body)
	}
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	for _, test := range []struct {
		ask  []string
		want string
	}{
		{nil, ""},
		{[]string{"content-type, x-phoenix-longpoll-token"}, "content-type, x-phoenix-longpoll-token"},
		{[]string{"a", "b"}, "a, b"},
	} {
		a := s.do("OPTIONS", "", http.Header{"Access-Control-Request-Headers": test.ask}, nil)
		if a.http != 200 || a.body != "" {
			t.Errorf("got %d %q", a.http, a.body)
		}
		for k, want := range map[string]string{
			"Access-Control-Allow-Headers": test.want,
			"Access-Control-Allow-Methods": "get, post, options",
			"Access-Control-Max-Age":       "3600",
		} {
			if got, ok := a.header[k]; !ok || got[0] != want {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
	}
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	for _, method := range []string{"HEAD", "PUT", "DELETE", "PATCH", "get", "CONNECT"} {
		if a := s.do(method, "", nil, nil); a.http != 400 || a.body != "" {
			t.Errorf("%s: got %d %q", method, a.http, a.body)
		}
	}
	s.end()
}

// A GET takes all queued frames, in order. Binary frames are base64, which differs from Phoenix.
func TestGetTakesAllFrames(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	session.send(`["1"]`, `["2"]`)
	session.Send(&serializer.Frame{Op: serializer.OpBinary, Data: []byte{1, 255}}, transport.Delivery{})
	a := s.get(token)
	a.is(t, 200, `["1"]`, `["2"]`, base64.StdEncoding.EncodeToString([]byte{1, 255}))
	if a.Token != token {
		t.Errorf("the token changed from %q to %q", token, a.Token)
	}
	session.send(`["3"]`)
	s.get(token).is(t, 200, `["3"]`)
}

func TestEmptyPollLastsWindow(t *testing.T) {
	t.Parallel()
	for cfg, window := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: time.Second} {
		withSession(t, longpoll.Config{Window: cfg}, func(t *testing.T, s *testServer, token string, _ *testSession) {
			for range 3 {
				start := time.Now()
				a := s.get(token)
				a.is(t, 204)
				wantAfter(t, start, window)
				if a.Token != token || a.body != `{"status":204,"token":"`+token+`","messages":[]}` {
					t.Error(a.body)
				}
			}
		})
	}
}

// A poll that waits returns with the first message.
func TestFrameEndsPoll(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		go func() {
			time.Sleep(3 * time.Second)
			session.send(`["1"]`)
		}()
		start := time.Now()
		s.get(token).is(t, 200, `["1"]`)
		wantAfter(t, start, 3*time.Second)
	})
}

// The token is in the header or in the query. The header takes precedence, even if it is invalid or
// empty.
func TestTokenInHeaderOrQuery(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	token, _ := s.open()
	for _, test := range []struct {
		name   string
		header []string
		query  string
		status int
	}{
		{"header", []string{token}, "", 200},
		{"query", nil, "token=" + token, 200},
		{"query, twice: the last counts", nil, "token=bad&token=" + token, 200},
		{"query, twice: the last is bad", nil, "token=" + token + "&token=bad", 410},
		{"query, with what does not parse", nil, "%zz=1&&token=" + token + "&", 200},
		{"header and bad query", []string{token}, "token=bad", 200},
		{"bad header and query", []string{"bad"}, "token=" + token, 410},
		{"empty header and query", []string{""}, "token=" + token, 410},
		{"two headers: the first counts", []string{token, "bad"}, "", 200},
	} {
		h := http.Header{"Content-Type": {"application/x-ndjson"}}
		if test.header != nil {
			h["X-Phoenix-Longpoll-Token"] = test.header
		}
		if a := s.do("POST", test.query, h, strings.NewReader("[1]")); a.Status != test.status {
			t.Errorf("POST, %s: got %q", test.name, a.body)
		}
	}
	// With a GET, an invalid token begins a new session.
	_, session := s.open()
	session.send("[1]")
	a := s.do("GET", "token="+token, http.Header{"X-Phoenix-Longpoll-Token": {"bad"}}, nil)
	a.is(t, 410)
	if a.Token == token {
		t.Error("the old token")
	}
}

func TestSessionTokenExpires(t *testing.T) {
	t.Parallel()
	cfg := longpoll.Config{TokenMaxAge: time.Minute}
	withSession(t, cfg, func(t *testing.T, s *testServer, token string, _ *testSession) {
		for range 6 {
			s.get(token).is(t, 204)
		}
		s.post(token, "[1]").is(t, 200)
		time.Sleep(time.Second + time.Millisecond)
		s.post(token, "[1]").is(t, 410)
		s.get(token).is(t, 410)
	})
}

// A session beyond MaxSessions is refused with Retry-After. A place is free again when a session
// has ended.
func TestMaxSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{MaxSessions: 2})
		defer s.end()
		_, first := s.open()
		token, _ := s.open()
		a := s.get("")
		if a.http != 503 || a.body != "" || a.header.Get("Retry-After") != "10" {
			t.Errorf("got %d %q %v", a.http, a.body, a.header)
		}
		s.post(token, "[1]").is(t, 200)
		first.Close(transport.CodeGoingAway, "")
		synctest.Wait()
		s.open()
	})
}

// Short names for helpers that the transports share.
var (
	droppable = transporttest.DeliveryOf
	wantAfter = transporttest.WantElapsed
)
