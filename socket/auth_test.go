package socket

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// authLine is a session whose client has authenticated, in virtual time.
type authLine struct {
	*line
	closes []string
	hang   chan struct{}
}

func (l *authLine) Close(code int, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closes = append(l.closes, fmt.Sprint(code, " ", reason))
}

func (l *authLine) wantCloses(want ...string) {
	l.t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if fmt.Sprint(l.closes) != fmt.Sprint(want) {
		l.t.Errorf("closed with %q, want %q", l.closes, want)
	}
	l.closes = nil
}

// take returns the frames so far.
func (l *authLine) take() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	frames := l.frames
	l.frames = nil
	return frames
}

type grantValue struct{}

// verifyText accepts USER.SECONDS, and some words.
func (l *authLine) verifyText(ctx context.Context, token string, r *Request) (Grant, error) {
	switch token {
	case "slow":
		<-ctx.Done()
		return Grant{}, ctx.Err()
	case "hang":
		<-l.hang
		return Grant{ID: "ann"}, nil
	case "panic":
		panic("secret")
	case "banned":
		return Grant{}, push.Reason("banned")
	case "rejected":
		return Grant{}, push.Reject(map[string]int{"code": 7})
	case "large":
		return Grant{ID: "ann", Claims: strings.Repeat("x", maxClaims)}, nil
	case "final":
		return Grant{}, &Refusal{Body: "account suspended", Final: true}
	case "nobody":
		return Grant{}, nil
	}
	user, seconds, _ := strings.Cut(token, ".")
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return Grant{}, errors.New("secret")
	}
	values, cancel := context.WithCancel(context.WithValue(context.Background(), grantValue{}, token))
	cancel() // without effect
	g := Grant{ID: user, Context: values, Claims: map[string]string{"user": user}}
	if n != 0 {
		g.Expires = time.Now().Add(time.Duration(n) * time.Second)
	}
	if r.ConnectionID != testConnection || r.ClientID != testClient || r.Version != "2.0.0" || r.Token != token {
		l.t.Errorf("request %+v", r)
	}
	return g, nil
}

// whoRoom is a channel that replies to "who" with the user, the grant's value and Connect's.
func whoRoom(more ...channel.Option[member]) *channel.Handler {
	who := func(ctx context.Context) string {
		g, _ := GrantFrom(ctx)
		return fmt.Sprint(g.ID, "/", ctx.Value(grantValue{}), "/", ctx.Value(memberKey{}))
	}
	return channel.Define(func(_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		return map[string]string{"who": who(ctx)}, nil
	}, append(more, channel.On("who",
		func(_ *member, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			if who(ctx) != who(c.Context()) || ctx.Err() != nil {
				return push.NoReply, errors.New("the contexts differ")
			}
			return push.OK(map[string]string{"who": who(ctx)}), nil
		}))...)
}

type memberKey struct{}

func newAuthLine(t *testing.T, auth Auth, token string, routes channel.Routes) *authLine {
	t.Helper()
	return newAuthLineOn(t, nil, auth, token, routes)
}

func newAuthLineOn(t *testing.T, ps *pubsub.PubSub, auth Auth, token string, routes channel.Routes) *authLine {
	t.Helper()
	l := &authLine{line: &line{t: t, log: new(strings.Builder)}, hang: make(chan struct{})}
	auth.Verify = l.verifyText
	logger := zerolog.New(l.line)
	if routes == nil {
		routes = channel.Routes{"room:*": whoRoom()}
	}
	l.h = NewHandler(Config{Channels: routes, Auth: &auth, Logger: &logger, PubSub: ps})
	r := &Request{Token: token, ConnectionID: testConnection, ClientID: testClient, Version: "2.0.0"}
	v, err := l.h.cfg.Auth.verify(t.Context(), token, r)
	if err != nil {
		t.Fatal(err)
	}
	l.s = l.h.open(l, serializer.V2(), identity{
		parent: context.WithValue(context.Background(), memberKey{}, "connect"), id: l.h.watch(v.grant.ID),
		connection: testConnection, client: testClient, grant: v,
	})
	return l
}

// joinSocket joins $socket and returns the member auth of the reply.
func (l *authLine) joinSocket() string {
	l.t.Helper()
	l.send(join("1", "$socket"))
	frames := l.take()
	if len(frames) != 1 {
		l.t.Fatalf("got %q", frames)
	}
	_, auth, _ := strings.Cut(frames[0], `"auth":`)
	return strings.TrimSuffix(auth, "}}]")
}

func (l *authLine) sendToken(ref, token string) {
	l.t.Helper()
	l.send(fmt.Sprintf(`["1","%s","$socket","token",{"token":%s}]`, ref, token))
}

func (l *authLine) who(want string) {
	l.t.Helper()
	l.send(`["2","9","room:1","who",{}]`)
	l.want(fmt.Sprintf(`["2","9","room:1","phx_reply",{"status":"ok","response":{"who":%q}}]`, want))
}

func (l *authLine) joinRoom(want string) {
	l.t.Helper()
	l.send(join("2", "room:1"))
	l.want(answer("2", "room:1", "ok", fmt.Sprintf(`{"who":%q}`, want)))
}

const closedExpired = "4401 token expired"

// TestTokenRefresh refreshes tokens of 20 s for two minutes, without the end of a channel.
func TestTokenRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.20", nil)
		defer l.end()
		if got := l.joinSocket(); got != `{"state":"authenticated","expires_in":20000,"claims":{"user":"ann"}}` {
			t.Errorf("auth %s", got)
		}
		l.joinRoom("ann/ann.20/connect")
		for begun, n := time.Now(), 1; time.Since(begun) < 2*time.Minute; n++ {
			verified := time.Now()
			var frames []string
			for len(frames) == 0 {
				time.Sleep(50 * time.Millisecond) // in virtual time
				frames = l.take()
			}
			in := (20*time.Second - time.Since(verified)).Round(50 * time.Millisecond)
			const expiring = `["1",null,"$socket","expiring",{"in":`
			if in < 8*time.Second || in > 11*time.Second || !strings.HasPrefix(frames[0], expiring) {
				t.Fatalf("%v before the expiry: %q", in, frames)
			}
			token := fmt.Sprintf("ann.%d", 20)
			l.sendToken("7", strconv.Quote(token))
			l.want(socketReplied("1", "7", "ok", `{"state":"authenticated","expires_in":20000,"claims":{"user":"ann"}}`))
			l.who("ann/" + token + "/connect")
		}
		l.wantCloses()
		if st := l.h.Stats(); st.Refreshed < 10 || st.Expired != 0 {
			t.Errorf("%d refreshes, %d expiries", st.Refreshed, st.Expired)
		}
	})
}

// TestTokenExpires checks the events and the close of a client that does not refresh its token.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	for _, refreshes := range []bool{false, true} {
		t.Run(fmt.Sprint("refreshes in the grace: ", refreshes), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newAuthLine(t, Auth{Grace: 10 * time.Second}, "ann.20", nil)
				defer l.end()
				l.joinSocket()
				l.joinRoom("ann/ann.20/connect")
				time.Sleep(19900 * time.Millisecond)
				l.take() // expiring
				l.who("ann/ann.20/connect")
				time.Sleep(350 * time.Millisecond)
				l.want(`["1",null,"$socket","expired",{"grace":10000}]`)
				l.send(`["2","3","room:1","who",{}]`, join("4", "room:2"), `[null,"5","phoenix","heartbeat",{}]`,
					`["1","6","$socket","time",{}]`)
				const expired = `{"status":"error","response":{"reason":"token expired"}}`
				l.want(`["2","3","room:1","phx_reply",`+expired+`]`, `["4","4","room:2","phx_reply",`+expired+`]`,
					`[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]`,
					socketReplied("1", "6", "ok", fmt.Sprintf(`{"now":%d}`, beginning+20250)))
				if err := l.h.PubSub().Broadcast(t.Context(), "room:1", "news", nil); err != nil {
					t.Error(err)
				}
				l.want(`[null,null,"room:1","news",{}]`)
				time.Sleep(5 * time.Second)
				if refreshes {
					l.sendToken("8", `"ann.60"`)
					l.take()
					l.who("ann/ann.60/connect")
					time.Sleep(20 * time.Second)
					l.wantCloses()
					return
				}
				l.send(`["2","9","room:1","phx_leave",{}]`)
				l.want(`["2","9","room:1","phx_reply",{"status":"ok","response":{}}]`, `["2","2","room:1","phx_close",{}]`)
				l.wantCloses()
				time.Sleep(5250 * time.Millisecond)
				l.wantCloses(closedExpired)
				if st := l.h.Stats(); st.Expired != 1 {
					t.Errorf("%d expiries", st.Expired)
				}
			})
		})
	}
}

// TestTokenExpiresWithoutSocketChannel checks that a client that cannot refresh is closed at once.
func TestTokenExpiresWithoutSocketChannel(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		auth    Auth
		prepare func(l *authLine)
	}{
		"not joined": {prepare: func(*authLine) {}},
		"left": {prepare: func(l *authLine) {
			l.joinSocket()
			l.send(`["1","2","$socket","phx_leave",{}]`)
			l.take()
		}},
		"no grace": {Auth{Grace: -1}, func(l *authLine) { l.joinSocket() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newAuthLine(t, test.auth, "ann.20", nil)
				defer l.end()
				test.prepare(l)
				time.Sleep(19990 * time.Millisecond)
				l.wantCloses()
				time.Sleep(260 * time.Millisecond)
				l.wantCloses(closedExpired)
			})
		})
	}
}

// TestLeavingSocketChannelInGrace checks that a client that leaves $socket in the grace is closed,
// and that one that joins it again is not.
func TestLeavingSocketChannelInGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.20", nil)
		defer l.end()
		l.joinSocket()
		time.Sleep(21 * time.Second)
		l.send(join("3", "$socket"))
		l.wantCloses()
		l.send(`["3","4","$socket","phx_leave",{}]`)
		l.wantCloses(closedExpired)
	})
}

// TestLoginAndLogout changes the subject of a connection, with channels that have Reauthorize and
// channels that do not.
func TestLoginAndLogout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		routes := channel.Routes{"room:*": whoRoom(), "safe:*": whoRoom(
			channel.Reauthorize(func(_ *member, ctx context.Context, c *channel.Channel) error {
				asked.Add(1)
				g, ok := GrantFrom(ctx)
				switch {
				case c.Topic() == "safe:members" && !ok:
					return push.Reason("members only")
				case g.ID == "mallory":
					return channel.Stop("go away")
				}
				return nil
			}))}
		l := newAuthLine(t, Auth{Anonymous: true}, "", routes)
		defer l.end()
		if got := l.joinSocket(); got != `{"state":"anonymous"}` {
			t.Errorf("auth %s", got)
		}
		l.joinRoom("/<nil>/connect")
		for i, topic := range []string{"safe:members", "safe:all"} {
			l.send(join(strconv.Itoa(3+i), topic))
			l.want(answer(strconv.Itoa(3+i), topic, "ok", `{"who":"/<nil>/connect"}`))
		}
		l.sendToken("5", `"ann.0"`)
		l.want(socketReplied("1", "5", "ok", `{"state":"authenticated","claims":{"user":"ann"}}`))
		l.who("ann/ann.0/connect")
		if asked.Load() != 2 || l.s.info().Subject != "ann" {
			t.Errorf("Reauthorize was called %d times; %+v", asked.Load(), l.s.info())
		}
		l.sendToken("6", `"bob.0"`)
		l.want(socketReplied("1", "6", "error", `{"reason":"identity changed"}`))
		l.who("ann/ann.0/connect")
		time.Sleep(3 * time.Second)

		l.sendToken("7", `null`)
		frames := l.take()
		for _, want := range []string{
			socketReplied("1", "7", "ok", `{"state":"anonymous"}`),
			`["2","2","room:1","phx_close",{"reason":"deauthenticated"}]`,
			`["3","3","safe:members","phx_close",{"reason":"members only"}]`,
		} {
			if countWith(frames, want) != 1 {
				t.Errorf("%q lacks %s", frames, want)
			}
		}
		if len(frames) != 3 || asked.Load() != 4 || l.s.info().Subject != "" {
			t.Errorf("got %q, Reauthorize was called %d times; %+v", frames, asked.Load(), l.s.info())
		}
		if err := l.h.Disconnect(t.Context(), "ann"); err != nil {
			t.Error(err)
		}
		l.wantCloses()
		l.send(`["4","9","safe:all","who",{}]`)
		l.want(`["4","9","safe:all","phx_reply",{"status":"ok","response":{"who":"/<nil>/connect"}}]`)

		l.sendToken("8", `"mallory.0"`)
		frames = l.take()
		if countWith(frames, `["4","4","safe:all","phx_close",{"reason":"go away"}]`) != 1 {
			t.Errorf("got %q", frames)
		}
		if err := l.h.Disconnect(t.Context(), "mallory"); err != nil {
			t.Error(err)
		}
		l.wantCloses("1001 ")
	})
}

func TestLogoutWithoutAnonymous(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.0", nil)
		defer l.end()
		l.joinSocket()
		l.joinRoom("ann/ann.0/connect")
		l.sendToken("2", `null`)
		l.want(socketReplied("1", "2", "ok", `{"state":"anonymous"}`))
		l.send(`["2","9","room:1","who",{}]`) // before the client has received the close
		l.want(`["2","9","room:1","phx_reply",{"status":"error","response":{"reason":"token expired"}}]`)
		l.wantCloses("4401 logged out")
	})
}

// TestTokenErrors checks the error replies, and that the grant stays.
func TestTokenErrors(t *testing.T) {
	t.Parallel()
	for token, reason := range map[string]string{
		`"x"`: "denied", `"panic"`: "denied", `"large"`: "denied", `"ann.-5"`: "denied", `"nobody"`: "denied",
		`"banned"`: "banned",
		`"slow"`:   "unavailable", `"hang"`: "unavailable", `""`: "invalid token", `5`: "invalid token",
		`["ann.5"]`: "invalid token", `"` + strings.Repeat("a", maxToken+1) + `"`: "invalid token",
	} {
		t.Run(token[:min(len(token), 10)], func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newAuthLine(t, Auth{Timeout: 5 * time.Second}, "ann.100", nil)
				defer l.end()
				l.joinSocket()
				l.joinRoom("ann/ann.100/connect")
				l.sendToken("3", token)
				if reason == "unavailable" { // nothing blocks other channels
					l.who("ann/ann.100/connect")
					time.Sleep(5 * time.Second)
				}
				l.want(socketReplied("1", "3", "error", fmt.Sprintf(`{"reason":%q}`, reason)))
				l.who("ann/ann.100/connect")
				if token == `"hang"` {
					l.sendToken("4", `"ann.100"`)
					l.want(socketReplied("1", "4", "error", `{"reason":"unavailable"}`))
					close(l.hang)
					synctest.Wait()
				}
				l.sendToken("5", `"ann.200"`)
				if frames := l.take(); countWith(frames, `"ok"`) != 1 {
					t.Errorf("got %q", frames)
				}
				l.who("ann/ann.200/connect")
				if n := l.logged("secret"); token != `"panic"` && token != `"x"` && n != 0 {
					t.Errorf("logged %s", l.log)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.100", nil)
		defer l.end()
		l.joinSocket()
		l.send(`["1","2","$socket","token",{}]`, `["1","3","$socket","token",{"token":"rejected"}]`)
		l.want(socketReplied("1", "2", "error", `{"reason":"invalid token"}`), socketReplied("1", "3", "error", `{"code":7}`))
		l.sendToken("4", `"ann.1"`)
		l.take()
		l.sendToken("5", `"ann.1"`)
		l.want(socketReplied("1", "5", "error", `{"reason":"rate"}`))
	})
	synctest.Test(t, func(t *testing.T) { // without Auth
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 1))})
		defer l.end()
		l.send(join("1", "$socket"), `["1","2","$socket","token",{"token":"x"}]`)
		l.want(socketJoined("1", beginning), socketReplied("1", "2", "error", `{"reason":"unknown event"}`))
	})
}

// TestGrantsInOrder checks that messages before a token are handled with the old grant, and those
// after its reply with the new one.
func TestGrantsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := newAuthLine(t, Auth{}, "ann.100", channel.Routes{"room:*": whoRoom(
			channel.On("hang", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
				<-gate
				return push.NoReply, nil
			}))})
		defer l.end()
		l.joinSocket()
		l.joinRoom("ann/ann.100/connect")
		l.send(`["2","3","room:1","hang",{}]`, `["2","4","room:1","who",{}]`)
		l.sendToken("5", `"ann.200"`)
		if frames := l.take(); countWith(frames, `"ok"`) != 1 {
			t.Fatalf("got %q", frames)
		}
		l.send(`["2","6","room:1","who",{}]`)
		close(gate)
		const reply = `["2","%d","room:1","phx_reply",{"status":"ok","response":{"who":"ann/ann.%d/connect"}}]`
		l.want(fmt.Sprintf(reply, 4, 100), fmt.Sprintf(reply, 6, 200))
	})
}

// TestManyExpiries checks that at most 1,000 sessions are closed in 100 ms, and that nothing is
// left.
func TestManyExpiries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 3500
		l := newAuthLine(t, Auth{}, "ann.20", nil)
		sessions := []*session{l.s}
		for range n - 1 {
			v, err := newVerified(Grant{ID: "ann", Expires: time.Now().Add(20 * time.Second)}, 0)
			if err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, l.h.open(l, serializer.V2(), identity{parent: context.Background(), grant: v}))
		}
		time.Sleep(20 * time.Second) // in virtual time; the notices were due before
		synctest.Wait()
		for i, s := range sessions {
			if s.phase() != phaseExpired {
				t.Fatalf("session %d is in phase %d after the expiry", i, s.phase())
			}
		}
		closed := 0
		for range 4 {
			synctest.Wait()
			l.mu.Lock()
			now := len(l.closes)
			l.mu.Unlock()
			if now-closed > 1000 {
				t.Errorf("%d sessions were closed at once", now-closed)
			}
			closed = now
			time.Sleep(100 * time.Millisecond)
		}
		if closed != n {
			t.Errorf("%d of %d sessions were closed", closed, n)
		}
		for _, s := range sessions[1:] {
			s.Closed(nil)
		}
		l.end()
		if n, m := len(l.h.expiry.heap), len(l.h.expiry.due); n+m != 0 {
			t.Errorf("%d and %d entries are left", n, m)
		}
	})
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ life, most, want time.Duration }{
		{0, 0, 0}, {0, time.Minute, time.Minute}, {time.Hour, time.Minute, time.Minute},
		{time.Second, time.Minute, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := Grant{ID: "ann"}
			if test.life > 0 {
				g.Expires = time.Now().Add(test.life)
			}
			v, err := newVerified(g, test.most)
			if err != nil || v.expires.IsZero() != (test.want == 0) || test.want > 0 && time.Until(v.expires) != test.want {
				t.Errorf("%+v: %v, %v", test, v.expires, err)
			}
		})
	}
}

func TestAuthNeedsVerify(t *testing.T) {
	t.Parallel()
	defer func() {
		if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "Verify") {
			t.Errorf("%v", v)
		}
	}()
	NewHandler(Config{Auth: &Auth{Anonymous: true}})
}
