package socket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"bennu.example/channel"
	"bennu.example/socket"
)

// bans refuses everybody finally. Its tokens are the reasons.
func bans(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
	if user, found := strings.CutPrefix(token, "user-"); found {
		return socket.Grant{ID: user}, nil
	}
	return socket.Grant{}, fmt.Errorf("secret: %w", &socket.Refusal{Status: http.StatusTeapot, Body: token, Final: true})
}

const (
	deniedReply = `"auth":{"state":"denied","reason":"banned"}`
	deniedEvent = `["1",null,"$socket","denied",{"reason":"banned"}]`
)

// TestDeniedHandshake checks what a client that is refused finally can do on its connection.
func TestDeniedHandshake(t *testing.T) {
	t.Parallel()
	connects := false
	s := serve(t, socket.Config{
		Auth: &socket.Auth{Verify: bans},
		Connect: func(ctx context.Context, _ *socket.Request) (context.Context, error) {
			connects = true
			return ctx, nil
		},
		Channels: channel.Routes{"room:*": echoes()},
	})
	p := s.dial("vsn=2.0.0&token=banned")
	denied := func(joinRef, ref, topic string) string {
		return fmt.Sprintf(`[%s,%q,%q,"phx_reply",{"status":"error","response":{"reason":"denied"}}]`, joinRef, ref, topic)
	}
	for range 2 { // it may join again
		p.send(`["1","1","$socket","phx_join",{}]`)
		if got, err := p.read(); err != nil || !strings.Contains(got, deniedReply) {
			t.Fatalf("%s, %v", got, err)
		}
		p.send(`["1","2","$socket","token",{"token":"user-ann"}]`)
		p.want(deniedEvent)
		p.want(denied(`"1"`, "2", "$socket"))
		p.send(`["1","1","$socket","phx_leave",{}]`)
		p.want(`["1","1","$socket","phx_reply",{"status":"ok","response":{}}]`)
		p.want(`["1","1","$socket","phx_close",{}]`)
	}
	p.send(`["3","3","room:1","phx_join",{}]`)
	p.want(denied(`"3"`, "3", "room:1"))
	p.send(`["3","4","room:1","echo",{}]`)
	p.want(denied(`"3"`, "4", "room:1"))
	p.send(`["3","5","room:1","phx_leave",{}]`)
	p.want(denied(`"3"`, "5", "room:1"))
	p.heartbeat()
	if st := s.h.Stats(); st.Denied != 1 || st.Refused != 1 || st.Sockets != 1 || connects {
		t.Errorf("%+v, Connect was called: %v", st, connects)
	}
	if strings.Contains(s.log.String(), "user-ann") {
		t.Errorf("a token is in the log:\n%s", s.log)
	}
}

// TestDeniedLongPoll checks the same over long poll.
func TestDeniedLongPoll(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Auth: &socket.Auth{Verify: bans}})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	r := getRequest(t, s.url+"/socket/longpoll?vsn=2.0.0")
	r.Header.Set("X-Phoenix-AuthToken", "banned")
	var answer struct{ Token string }
	_, text := s.do(r)
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Token == "" {
		t.Fatalf("%s, %v", text, err)
	}
	poll := &poller{s, answer.Token}
	poll.post(`["1","1","$socket","phx_join",{}]`)
	got := poll.get()
	for range 3 { // the event may come with the reply or after it
		if !strings.Contains(got, `\"denied\",{\"reason\":\"banned\"}`) {
			got += poll.get()
		}
	}
	if !strings.Contains(got, strings.ReplaceAll(deniedReply, `"`, `\"`)) ||
		!strings.Contains(got, `\"denied\",{\"reason\":\"banned\"}`) {
		t.Errorf("got %s", got)
	}
}

// TestDeniedByConnect checks that a final refusal of Connect has the same effect as one of Verify.
func TestDeniedByConnect(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{
		Auth: &socket.Auth{Verify: bans},
		Connect: func(context.Context, *socket.Request) (context.Context, error) {
			return nil, &socket.Refusal{Body: strings.Repeat("ü", 100), Final: true}
		},
	})
	p := s.dial("vsn=2.0.0&token=user-ann")
	p.send(`["1","1","$socket","phx_join",{}]`)
	want := `"reason":"` + strings.Repeat("ü", 61) + `"`
	for range 2 {
		if got, err := p.read(); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s, %v", got, err)
		}
	}
	if err := s.h.Revoke(t.Context(), "ann", "gone"); err != nil {
		t.Error(err)
	}
	p.heartbeat() // it is not ann's
}

// TestDeniedIsRefused checks where a final refusal is answered as any other.
func TestDeniedIsRefused(t *testing.T) {
	t.Parallel()
	final := func(context.Context, *socket.Request) (context.Context, error) {
		return nil, &socket.Refusal{Status: http.StatusTeapot, Final: true}
	}
	for name, cfg := range map[string]socket.Config{
		"without $socket": {NoSocketChannel: true, Auth: &socket.Auth{Verify: bans}},
		"without Auth":    {Connect: final},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, cfg)
			_, resp, err := s.tryDial("vsn=2.0.0&token=banned", nil)
			if err == nil || resp == nil || resp.StatusCode != http.StatusTeapot {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}

// TestDeniedClientClosed checks the end of such a connection by the client and by Shutdown.
func TestDeniedClientClosed(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Auth: &socket.Auth{Verify: bans}})
	gone, left := s.dial("vsn=2.0.0&token=banned"), s.dial("vsn=2.0.0&token=banned")
	if err := gone.c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.h.Shutdown(ctx) }()
	left.wantClose(1012)
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if st := s.h.Stats(); st.Sockets != 0 || st.Denied != 2 {
		t.Errorf("%+v", st)
	}
}
