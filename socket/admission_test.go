package socket_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/socket"
)

// poller is a long-poll client.
type poller struct {
	s     *server
	token string
}

func (s *server) pollRequest(method, token, header, body string) (status int, text string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/socket/longpoll?vsn=2.0.0&token="+token,
		strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-User", header)
	r.Header.Set("Content-Type", "application/x-ndjson")
	return s.do(r)
}

// poll opens a session of a user.
func (s *server) poll(user string) *poller {
	s.t.Helper()
	s.t.Cleanup(http.DefaultClient.CloseIdleConnections)
	status, text := s.pollRequest(http.MethodGet, "", user, "")
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != 200 || answer.Token == "" {
		s.t.Fatalf("long poll: %d %s %v", status, text, err)
	}
	return &poller{s, answer.Token}
}

func (p *poller) post(lines ...string) {
	p.s.t.Helper()
	if status, text := p.s.pollRequest(http.MethodPost, p.token, "", strings.Join(lines, "\n")); status != 200 ||
		!strings.Contains(text, "200") {
		p.s.t.Fatalf("post: %d %s", status, text)
	}
}

func (p *poller) get() string {
	p.s.t.Helper()
	_, text := p.s.pollRequest(http.MethodGet, p.token, "", "")
	return text
}

// as dials as the user.
func (s *server) as(user string) (*peer, *http.Response, error) {
	return s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: http.Header{"X-User": {user}}})
}

func (s *server) mustDialAs(user string) *peer {
	s.t.Helper()
	p, _, err := s.as(user)
	if err != nil {
		s.t.Fatal(err)
	}
	p.heartbeat() // returns when the server has counted the socket
	return p
}

func byUser(r *http.Request) string { return r.Header.Get("X-User") }

const (
	someMessage = `["9","9","room:9","x",{}]`
	tooMany     = `["9","9","room:9","phx_reply",{"status":"error","response":{"reason":"too many messages"}}]`
	unjoined    = `[null,"9","room:9","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`
)

// TestAdmissionRatesOutliveSockets checks that a client that reconnects, by any transport, still
// has the rates of its key.
func TestAdmissionRatesOutliveSockets(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Admission: socket.Admission{Key: byUser, MessageRate: 1, JoinRate: 1}})
	p := s.mustDialAs("ann")
	p.send(someMessage, someMessage)
	p.want(unjoined, unjoined)
	p.join("room:1")
	p.c.CloseNow()

	again := s.mustDialAs("ann")
	again.send(someMessage)
	again.want(tooMany)
	again.join("room:1")
	again.send(`["1","1","room:2","phx_join",{}]`)
	again.want(`["1","1","room:2","phx_reply",{"status":"error","response":{"reason":"too many joins"}}]`)
	again.heartbeat()

	polling := s.poll("ann")
	polling.post(someMessage)
	if got := polling.get(); !strings.Contains(got, "too many messages") {
		t.Errorf("by long poll: %s", got)
	}
	other := s.mustDialAs("bob")
	other.send(someMessage)
	other.want(unjoined)
	if stats := s.h.Stats(); stats.FastMessages != 2 || stats.FastJoins != 1 {
		t.Errorf("%+v", stats)
	}
}

func TestAdmissionMaxSockets(t *testing.T) {
	t.Parallel()
	refuse := errors.New("no")
	s := serve(t, socket.Config{
		Admission: socket.Admission{Key: byUser, MaxSockets: 2},
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			if r.HTTP.Header.Get("X-Refuse") != "" {
				return nil, refuse
			}
			return ctx, nil
		},
	})
	for range 5 { // failed handshakes are not counted
		_, resp, err := s.tryDial("vsn=2.0.0",
			&websocket.DialOptions{HTTPHeader: http.Header{"X-User": {"ann"}, "X-Refuse": {"1"}}})
		if err == nil || resp.StatusCode != http.StatusForbidden {
			t.Fatalf("%v", err)
		}
	}
	p := s.mustDialAs("ann")
	s.poll("ann")
	if _, resp, err := s.as("ann"); err == nil || resp.StatusCode != http.StatusTooManyRequests ||
		resp.Header.Get("Retry-After") == "" {
		t.Errorf("a third socket: %v", err)
	}
	if status, text := s.pollRequest(http.MethodGet, "", "ann", ""); status != http.StatusTooManyRequests {
		t.Errorf("a third session: %d %s", status, text)
	}
	s.wantRetryAfter("ann", http.StatusTooManyRequests)
	s.mustDialAs("bob")
	for range 5 { // clients without a key have no limit
		s.mustDialAs("")
	}
	if stats := s.h.Stats(); stats.TooManySockets != 3 || stats.Sockets != 8 {
		t.Errorf("%+v", stats)
	}
	p.c.CloseNow()
	for deadline := time.Now().Add(patience); s.h.Stats().Sockets > 7 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // until the server has noticed the end
	}
	s.mustDialAs("ann")
}

func TestAdmissionHandshakes(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Admission: socket.Admission{Key: byUser, HandshakeRate: 1, MaxKeys: 2}})
	s.mustDialAs("ann")
	s.mustDialAs("ann")
	if _, resp, err := s.as("ann"); err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a third at once: %v", err)
	}
	s.mustDialAs("bob")
	if _, resp, err := s.as("carl"); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third client: %v", err)
	}
	if stats := s.h.Stats(); stats.TooFast != 1 || stats.TooManySockets != 1 {
		t.Errorf("%+v", stats)
	}
}

func TestAdmissionKeyPanics(t *testing.T) {
	t.Parallel()
	s := serve(t,
		socket.Config{Admission: socket.Admission{Key: func(*http.Request) string { panic("secret") }, MaxSockets: 1}})
	if _, resp, err := s.as("ann"); err == nil || resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("%v", err)
	}
	if status, text := s.pollRequest(http.MethodGet, "", "ann", ""); status != http.StatusInternalServerError ||
		strings.Contains(text, "secret") {
		t.Errorf("by long poll: %d %s", status, text)
	}
	if log := s.log.String(); !strings.Contains(log, "admission_test.go") {
		t.Errorf("no stack: %s", log)
	}
}
