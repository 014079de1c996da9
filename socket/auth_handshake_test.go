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

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// authByName accepts the names of users as tokens.
func authByName(ctx context.Context, token string, r *socket.Request) (socket.Grant, error) {
	switch token {
	case "slow":
		<-ctx.Done()
		return socket.Grant{}, ctx.Err()
	case "teapot":
		return socket.Grant{}, &socket.Refusal{Status: http.StatusTeapot, Body: "no coffee"}
	case "panic":
		panic("secret")
	case "eve":
		return socket.Grant{}, errors.New("secret")
	case "old":
		return socket.Grant{ID: "old", Expires: time.Now().Add(-time.Second)}, nil
	case "short":
		return socket.Grant{ID: "short", Expires: time.Now().Add(50 * time.Millisecond)}, nil
	}
	return socket.Grant{ID: token}, nil
}

// TestAuthHandshake checks which tokens are accepted in the handshake, on both transports, and what
// Connect and the callbacks know.
func TestAuthHandshake(t *testing.T) {
	t.Parallel()
	type key struct{}
	s := serve(t, socket.Config{
		Auth: &socket.Auth{Verify: authByName, Timeout: 50 * time.Millisecond},
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			g, ok := socket.GrantFrom(ctx)
			if !ok || g.ID != r.ID {
				t.Errorf("Connect has the grant %+v, %v, and the ID %q", g, ok, r.ID)
			}
			if r.ID == "renamed" {
				r.ID = "another"
			} else {
				r.ID = "" // the grant's
			}
			return context.WithValue(ctx, key{}, "of "+g.ID), nil
		},
		Channels: channel.Routes{"room": echoes(
			onEvent("who", func(ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				g, ok := socket.GrantFrom(ctx)
				info, _ := socket.InfoFrom(ctx)
				return push.OK([]any{g.ID, ok, info.Subject, ctx.Value(key{})}), nil
			}))},
	})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for token, status := range map[string]int{
		"": 403, "eve": 403, "old": 403, "panic": 500, "slow": 503, "teapot": 418, "renamed": 500,
		strings.Repeat("a", 16<<10) + "b": 414, // the query is too long
	} {
		_, resp, err := s.tryDial("vsn=2.0.0&token="+token, nil)
		if err == nil || resp == nil || resp.StatusCode != status {
			t.Errorf("%.10q: %v, %v, want %d", token, resp, err, status)
			continue
		}
		if wait := resp.Header.Get("Retry-After"); (wait != "") != (status == 503) {
			t.Errorf("%.10q: Retry-After %q", token, wait)
		}
	}
	if strings.Contains(s.log.String(), "teapot") {
		t.Errorf("a token is in the log:\n%s", s.log)
	}
	p := s.dial("vsn=2.0.0&token=ann")
	p.join("room")
	p.send(`["1","2","room","who",{}]`)
	p.want(`["1","2","room","phx_reply",{"status":"ok","response":["ann",true,"ann","of ann"]}]`)
	if err := s.h.Disconnect(t.Context(), "ann"); err != nil {
		t.Error(err)
	}
	p.wantClose(1001)

	r := getRequest(t, s.url+"/socket/longpoll?vsn=2.0.0")
	if status, text := s.do(r); status != 200 || !strings.Contains(text, `"status":403`) {
		t.Errorf("long poll without a token: %d %s", status, text)
	}
	r = getRequest(t, s.url+"/socket/longpoll?vsn=2.0.0")
	r.Header.Set("X-Phoenix-AuthToken", "ann")
	var answer struct{ Token string }
	_, text := s.do(r)
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Token == "" {
		t.Fatalf("long poll: %s, %v", text, err)
	}
	poll := &poller{s, answer.Token}
	poll.post(`["1","1","$socket","phx_join",{}]`)
	if got := poll.get(); !strings.Contains(got, `\"auth\":{\"state\":\"authenticated\"}`) {
		t.Errorf("long poll: %s", got)
	}
}

// TestTokenExpiresOnTheWire checks the code of the close after the expiry.
func TestTokenExpiresOnTheWire(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Auth: &socket.Auth{Verify: authByName, Grace: -1}})
	p := s.dial("vsn=2.0.0&token=short")
	p.wantClose(websocket.StatusCode(socket.CodeTokenExpired))
}

// TestAnonymousHandshake checks that a client without a token is accepted if Anonymous is set.
func TestAnonymousHandshake(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Auth: &socket.Auth{Verify: authByName, Anonymous: true}})
	p := s.dial("vsn=2.0.0")
	p.send(`["1","1","$socket","phx_join",{}]`)
	if got, err := p.read(); err != nil || !strings.Contains(got, `"auth":{"state":"anonymous"}`) {
		t.Errorf("%s, %v", got, err)
	}
	p.send(`["1","2","$socket","token",{"token":"ann"}]`)
	p.want(`["1","2","$socket","phx_reply",{"status":"ok","response":{"state":"authenticated"}}]`)
}
