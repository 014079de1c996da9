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
	"bennu.example/transport/longpoll"
)

// lpServer is a LongPoll whose sessions are in the test's hands.
type lpServer struct {
	t *testing.T
	*longpoll.Server
	refuse error

	mu       sync.Mutex
	sessions []*lpSession
}

func newLPServer(t *testing.T, cfg longpoll.Config) *lpServer {
	return &lpServer{t: t, Server: longpoll.NewServer(cfg)}
}

// ServeHTTP makes it an http.Handler.
func (s *lpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, s.connect) }

func (s *lpServer) connect() (func(transport.Conn) transport.Session, error) {
	if s.refuse != nil {
		return nil, s.refuse
	}
	return func(c transport.Conn) transport.Session {
		session := &lpSession{Conn: c, closed: make(chan error, 2)}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions = append(s.sessions, session)
		return session
	}, nil
}

// end closes all sessions and waits for them.
func (s *lpServer) end() {
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

// lpSession is a Session that keeps what it gets.
type lpSession struct {
	transport.Conn
	receive func(op serializer.Op, data []byte) error
	closed  chan error

	mu  sync.Mutex
	got []string
}

func (s *lpSession) Receive(op serializer.Op, data []byte) error {
	var err error
	if s.receive != nil {
		err = s.receive(op, data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, fmt.Sprintf("%d:%s", op, data))
	return err
}

func (s *lpSession) Closed(err error) { s.closed <- err }

func (s *lpSession) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// send sends text frames.
func (s *lpSession) send(texts ...string) {
	for _, text := range texts {
		s.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte(text)}, transport.Delivery{})
	}
}

// lpAnswer is an answer as a client sees it.
type lpAnswer struct {
	http     int
	header   http.Header
	body     string
	Status   int
	Token    string
	Messages []string
}

func (a lpAnswer) is(t *testing.T, status int, messages ...string) {
	t.Helper()
	if a.http != 200 || a.Status != status || !slices.Equal(a.Messages, messages) {
		t.Errorf("got %d %.200q, want status %d and %.100q", a.http, a.body, status, messages)
	}
}

func (s *lpServer) answer(w *httptest.ResponseRecorder) lpAnswer {
	s.t.Helper()
	a := lpAnswer{http: w.Code, header: w.Result().Header, body: w.Body.String()}
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

func (s *lpServer) do(method, query string, header http.Header, body io.Reader) lpAnswer {
	s.t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, "/socket/longpoll?"+query, body)
	for k, v := range header {
		r.Header[k] = v
	}
	s.ServeHTTP(w, r)
	return s.answer(w)
}

func (s *lpServer) get(token string) lpAnswer {
	s.t.Helper()
	return s.do("GET", "vsn=2.0.0&token="+token, nil, nil)
}

// getWith is get with a context.
func (s *lpServer) getWith(ctx context.Context, token string) lpAnswer {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/socket/longpoll?token="+token, nil).WithContext(ctx))
	if ctx.Err() != nil && w.Body.Len() == 0 {
		return lpAnswer{}
	}
	return s.answer(w)
}

var lpBatch = http.Header{"Content-Type": {"application/x-ndjson"}}

func (s *lpServer) post(token, body string) lpAnswer {
	s.t.Helper()
	return s.do("POST", "vsn=2.0.0&token="+token, lpBatch, strings.NewReader(body))
}

// open begins a session.
func (s *lpServer) open() (token string, session *lpSession) {
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

func lpCode(err error) int {
	var closed *transport.CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	return 0
}

// The first GET begins a session.
func TestLongPollOpens(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	defer s.end()
	for _, query := range []string{"", "vsn=2.0.0&", "token=", "token=bad", "token[]=x", "token=%00%01", "token=" + strings.Repeat("A", 5000)} {
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

// What connect may ask for instead. No session is left.
func TestLongPollRefused(t *testing.T) {
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
		s := newLPServer(t, longpoll.Config{})
		s.refuse = test.err
		a := s.get("")
		if a.http != test.http || a.body != test.body || a.header.Get("Retry-After") != "" {
			t.Errorf("%v: got %d %q %v", test.err, a.http, a.body, a.header)
		}
		s.end()
	}
}

// A bad origin, whatever the method.
func TestLongPollRefusesAnOrigin(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	w := httptest.NewRecorder()
	s.Refuse(w, httptest.NewRequest("POST", "/", nil), nil)
	if a := s.answer(w); a.http != 200 || a.body != `{"status":403}` {
		t.Errorf("got %d %q", a.http, a.body)
	}
}

// A preflight.
func TestLongPollPreflight(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	for _, test := range []struct {
		ask  []string
		want string
	}{{nil, ""}, {[]string{"content-type, x-phoenix-longpoll-token"}, "content-type, x-phoenix-longpoll-token"}, {[]string{"a", "b"}, "a, b"}} {
		a := s.do("OPTIONS", "", http.Header{"Access-Control-Request-Headers": test.ask}, nil)
		if a.http != 200 || a.body != "" {
			t.Errorf("got %d %q", a.http, a.body)
		}
		for k, want := range map[string]string{"Access-Control-Allow-Headers": test.want, "Access-Control-Allow-Methods": "get, post, options", "Access-Control-Max-Age": "3600"} {
			if got, ok := a.header[k]; !ok || got[0] != want {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
	}
}

// Other methods.
func TestLongPollOtherMethods(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	for _, method := range []string{"HEAD", "PUT", "DELETE", "PATCH", "get", "CONNECT"} {
		if a := s.do(method, "", nil, nil); a.http != 400 || a.body != "" {
			t.Errorf("%s: got %d %q", method, a.http, a.body)
		}
	}
	s.end()
}

// A GET takes all that is queued, in order. Binary frames are base64 (a deliberate difference).
func TestLongPollDelivers(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
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

// An empty poll lasts for its window.
func TestLongPollEmpty(t *testing.T) {
	t.Parallel()
	for cfg, window := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newLPServer(t, longpoll.Config{Window: cfg})
			defer s.end()
			token, _ := s.open()
			for range 3 {
				start := time.Now()
				a := s.get(token)
				a.is(t, 204)
				if d := time.Since(start); d != window || a.Token != token || a.body != `{"status":204,"token":"`+token+`","messages":[]}` {
					t.Errorf("after %v: %s", d, a.body)
				}
			}
		})
	}
}

// A poll that waits returns with the first message.
func TestLongPollWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
		go func() {
			time.Sleep(3 * time.Second)
			session.send(`["1"]`)
		}()
		start := time.Now()
		s.get(token).is(t, 200, `["1"]`)
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// The token comes in the header, or in the query; the header wins, also if it is bad or empty.
func TestLongPollWhereTheTokenIs(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
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
	// The same for GET, where a bad token begins a new session.
	_, session := s.open()
	session.send("[1]")
	a := s.do("GET", "token="+token, http.Header{"X-Phoenix-Longpoll-Token": {"bad"}}, nil)
	a.is(t, 410)
	if a.Token == token {
		t.Error("the old token")
	}
}

// A token expires.
func TestLongPollTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{TokenMaxAge: time.Minute})
		defer s.end()
		token, _ := s.open()
		for range 6 {
			s.get(token).is(t, 204)
		}
		s.post(token, "[1]").is(t, 200)
		time.Sleep(time.Second + time.Millisecond)
		s.post(token, "[1]").is(t, 410)
		s.get(token).is(t, 410)
	})
}

// A client beyond MaxSessions is told to come back later; a place is free again once a session has ended.
func TestLongPollMaxSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{MaxSessions: 2})
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

// droppable returns how a frame is sent that may be dropped, or may not.
func droppable(drop bool) transport.Delivery {
	if drop {
		return transport.Delivery{}
	}
	return transport.Delivery{Policy: transport.Disconnect}
}

func wantAfter(t *testing.T, start time.Time, want time.Duration) {
	t.Helper()
	if d := time.Since(start); d != want {
		t.Errorf("after %v, want %v", d, want)
	}
}
