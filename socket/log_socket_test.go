package socket_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"bennu.example/channel"
	"bennu.example/socket"
)

func TestDuplicateJoinIsLogged(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
		r.ID = r.HTTP.URL.Query().Get("id")
		return ctx, nil
	}})
	for id, want := range map[string]string{"user:\n7": `"socket_id":"user:\\n7",`, "": ""} {
		p := s.dial("vsn=2.0.0&id=" + strings.ReplaceAll(id, "\n", "%0a"))
		p.join("room:1")
		if strings.Contains(s.log.String(), "joined the topic again") {
			t.Errorf("after the first join: %s", s.log.String())
		}
		p.send(`["2","2","room:1","phx_join",{}]`)
		p.want(`["2","2","room:1","phx_reply",{"status":"ok","response":{}}]`, `["1","1","room:1","phx_close",{}]`)
		const message = `"channel replaced: its client joined the topic again"`
		line := `{"level":"info",` + want + `"topic":"room:1","message":` + message + "}\n"
		if got := s.log.String(); got != line {
			t.Errorf("%q: %s, want %s", id, got, line)
		}
		s.log.reset()
	}
}

func TestLogLinesOfASocketHaveItsID(t *testing.T) {
	t.Parallel()
	s := serve(t,
		socket.Config{Channels: crashing(), Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			r.ID = "user:7"
			return ctx, nil
		}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	p.send(`["1","2","room:1","crash",{}]`)
	p.want(`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
	p.send(`["1","1","nowhere","phx_join",{}]`)
	p.want(`[null,"1","nowhere","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`)
	p.send("[")
	p.wantClose(1011)
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
	if len(lines) != 3 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	for _, line := range lines {
		if !strings.Contains(line, `"socket_id":"user:7"`) {
			t.Errorf("no socket id: %s", line)
		}
	}
}

// TestHandshakeChecksAreInOrder sends handshakes that several checks would refuse.
func TestHandshakeChecksAreInOrder(t *testing.T) {
	t.Parallel()
	var connected atomic.Bool
	s := serve(t, socket.Config{
		Channels:  channel.Routes{},
		Origins:   []string{"https://example.com"},
		Admission: socket.Admission{Key: byUser, HandshakeRate: 1},
		Connect: func(ctx context.Context, _ *socket.Request) (context.Context, error) {
			connected.Store(true)
			return ctx, nil
		},
	})
	status := func(user, origin string) int {
		header := http.Header{"X-User": {user}, "Origin": {origin}}
		_, resp, err := s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: header})
		if err == nil {
			return http.StatusSwitchingProtocols
		}
		return resp.StatusCode
	}
	for range 2 { // the burst of the rate
		if got := status("ann", "https://evil.test"); got != http.StatusForbidden {
			t.Errorf("another site: %d", got)
		}
	}
	for range 3 {
		if got := status("ann", "https://evil.test"); got != http.StatusTooManyRequests {
			t.Errorf("another site, too fast: %d", got)
		}
	}
	if got := status("bob", "https://example.com"); got != http.StatusSwitchingProtocols || !connected.Load() {
		t.Errorf("the site itself: %d", got)
	}
	if got := s.h.Stats(); got.Refused != 2 || got.TooFast != 3 {
		t.Errorf("%+v", got)
	}
}

// TestOriginsRefusedHoldNoSocket checks that a handshake that is refused after Admission does not
// count as a socket.
func TestOriginsRefusedHoldNoSocket(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{
		Origins:      []string{"https://example.com"},
		Subprotocols: []string{"phoenix"},
		Admission:    socket.Admission{Key: byUser, MaxSockets: 1},
	})
	for range 3 {
		for _, header := range []http.Header{
			{"X-User": {"ann"}, "Origin": {"https://evil.test"}},
			{"X-User": {"ann"}, "Sec-Websocket-Protocol": {"other"}},
		} {
			_, resp, err := s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: header})
			if err == nil || resp.StatusCode != http.StatusForbidden {
				t.Fatalf("%v: %v", header, err)
			}
		}
	}
	s.mustDialAs("ann")
}
