package socket_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func TestJoinRate(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{JoinRate: 1})
	p := s.dial("vsn=2.0.0")
	p.join("room:0")
	p.join("room:1") // a burst of two
	p.send(`["5","6","room:2","phx_join",{}]`)
	p.want(`["5","6","room:2","phx_reply",{"status":"error","response":{"reason":"too many joins"}}]`)
	p.heartbeat()
	s.dial("vsn=2.0.0").join("room:2") // another socket has its own rate
	if n := s.h.Stats().FastJoins; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestMessageRate(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MessageRate: 2})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	for i := range 4 {
		p.send(fmt.Sprintf(`["1","%d","room:1","echo",{}]`, i))
		p.want(fmt.Sprintf(`["1","%d","room:1","phx_reply",{"status":"ok","response":{}}]`, i))
	}
	p.send(`["1","9","room:1","echo",{}]`)
	p.want(`["1","9","room:1","phx_reply",{"status":"error","response":{"reason":"too many messages"}}]`)
	for range 10 {
		p.heartbeat() // heartbeats are not counted
	}
	if n := s.h.Stats().FastMessages; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestHandshakeRate(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{HandshakeRate: 1})
	s.dial("vsn=2.0.0")
	s.dial("vsn=2.0.0")
	_, resp, err := s.tryDial("vsn=2.0.0", nil)
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a third handshake: %v", err)
	}
	s.wantRetryAfter("", http.StatusServiceUnavailable)
	if n := s.h.Stats().TooFast; n != 2 {
		t.Errorf("counted %d", n)
	}
}

// wantRetryAfter checks that a long poll is refused with a Retry-After of 1 to 5 s.
func (s *server) wantRetryAfter(user string, status int) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.url+"/socket/longpoll?vsn=2.0.0", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != status || err != nil || after < 1 || after > 5 {
		s.t.Errorf("a long poll is answered with %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestLengths(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxTopic: 10})
	p := s.dial("vsn=2.0.0")
	p.join("room:12345")
	long := "room:" + strings.Repeat("x", 6)
	p.send(fmt.Sprintf(`["2","3","%s","phx_join",{}]`, long))
	p.want(fmt.Sprintf(`["2","3","%s","phx_reply",{"status":"error","response":{"reason":"topic too long"}}]`, long))
	p.send(`["1","4","room:12345","eleven bytes",{}]`)
	p.want(`["1","4","room:12345","phx_reply",{"status":"error","response":{"reason":"event too long"}}]`)
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxChannels: 2, Origins: []string{}, Channels: channel.Routes{"room:*": echoes(
		onEvent("panic", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) { panic("x") }))}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	p.join("room:2")
	p.send(`["1","2","room:3","phx_join",{}]`, `["1","3","nope","phx_join",{}]`, `["1","4","room:1","panic",{}]`)
	p.want(`["1","2","room:3","phx_reply",{"status":"error","response":{"reason":"too many channels joined"}}]`,
		`[null,"3","nope","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
		`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
	if _, _, err := s.tryDial("vsn=9.0.0", nil); err == nil {
		t.Error("version 9 was accepted")
	}
	got := s.h.Stats()
	if got.Sockets != 1 || got.TooMany != 1 || got.NoTopic != 1 || got.Crashes != 1 || got.Refused != 1 ||
		got.WebSocket.Connections != 1 {
		t.Errorf("got %+v", got)
	}
	p.send("not json")
	p.wantClose(1011)
	if got := s.h.Stats(); got.BadMessages != 1 {
		t.Errorf("got %+v", got)
	}
}

// TestLongRefs checks that the refs of all messages are bounded, because replies contain them.
func TestLongRefs(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxTopic: 10})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	long := strings.Repeat("7", 11)
	for _, m := range []string{
		`["1","%s","room:1","echo",{}]`, `["%s","2","room:1","echo",{}]`, `[null,"%s","phoenix","heartbeat",{}]`,
		`["%s","2","room:1","phx_leave",{}]`,
		`["2","%s","room:2","phx_join",{}]`, `["1","%s","elsewhere","echo",{}]`,
	} {
		p.send(fmt.Sprintf(m, long))
		if got, err := p.read(); err != nil || !strings.Contains(got, `{"reason":"ref too long"}`) {
			t.Errorf("%s: %s, %v", m, got, err)
		}
	}
	p.send(`["1","77777777","room:1","echo",{}]`)
	p.want(`["1","77777777","room:1","phx_reply",{"status":"ok","response":{}}]`)
	if n := s.h.Stats().TooLong; n != 6 {
		t.Errorf("counted %d", n)
	}
}

func TestLongRefsOverLongPoll(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	c := s.poll("")
	c.post(`[null,"` + strings.Repeat("7", 100_000) + `","phoenix","heartbeat",{}]`)
	if got := c.get(); !strings.Contains(got, "ref too long") {
		t.Errorf("got %.300s", got)
	}
}
