package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// grants returns options with the event "become", which replaces the grant of the connection by
// that of USER.SECONDS, or by none if the text is empty.
func grants(results chan<- error, more ...channel.Option[member]) []channel.Option[member] {
	return append(more, channel.On("become",
		func(_ *member, ctx context.Context, c *channel.Channel, in struct{ Who string }) (push.Reply, error) {
			before, _ := GrantFrom(ctx)
			var g Grant
			if user, seconds, _ := strings.Cut(in.Who, "."); user != "" {
				life, err := time.ParseDuration(seconds + "s")
				if err != nil {
					return push.NoReply, err
				}
				g = Grant{
					ID: user, Context: context.WithValue(context.Background(), grantValue{}, in.Who),
					Expires: time.Now().Add(life), Claims: map[string]string{"user": user}, Token: in.Who,
				}
			}
			results <- Authenticate(ctx, g)
			after, _ := GrantFrom(ctx)
			info, _ := InfoFrom(ctx)
			if now, _ := GrantFrom(c.Context()); before.ID != after.ID || info.Subject != before.ID || now.ID != before.ID {
				return push.NoReply, errors.New("the grant changed during a callback")
			}
			return push.OK(nil), nil
		}))
}

func become(ref, who string) string {
	return fmt.Sprintf(`["2","%s","room:1","become",{"who":%q}]`, ref, who)
}

func became(ref string) string {
	return fmt.Sprintf(`["2","%s","room:1","phx_reply",{"status":"ok","response":{}}]`, ref)
}

func authEvent(payload string) string { return `["1",null,"$socket","auth",` + payload + `]` }

// TestAuthenticate logs a client in, gives it another token and logs it out, all by the server.
func TestAuthenticate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, results := 0, make(chan error, 10)
		l := newAuthLine(t, Auth{Anonymous: true}, "", channel.Routes{
			"room:*": whoRoom(grants(results)...),
			"safe:*": whoRoom(channel.Reauthorize(func(*member, context.Context, *channel.Channel) error {
				asked++
				return nil
			})),
		})
		defer l.end()
		l.joinSocket()
		l.joinRoom("/<nil>/connect")
		l.send(join("3", "safe:1"))
		l.take()
		for i, who := range []string{"ann.60", "ann.90"} {
			l.send(become("4", who))
			state := `{"state":"authenticated","expires_in":` + fmt.Sprint(60+30*i) +
				`000,"claims":{"user":"ann"},"token":"` + who + `"}`
			l.want(authEvent(state), became("4"))
			if err := <-results; err != nil || asked != i+1 || l.s.subject() != "ann" {
				t.Errorf("%v, asked %d times, the subject is %q", err, asked, l.s.subject())
			}
			l.who("ann/" + who + "/connect")
		}
		l.send(become("5", "bob.60"))
		l.want(became("5"))
		if err := <-results; !errors.Is(err, push.Reason("identity changed")) {
			t.Errorf("another user: %v", err)
		}
		l.send(become("6", "ann.-1"))
		l.want(became("6"))
		if err := <-results; !errors.Is(err, errGrantExpired) {
			t.Errorf("a grant in the past: %v", err)
		}
		l.who("ann/ann.90/connect")

		l.send(become("7", ""))
		l.want(authEvent(`{"state":"anonymous"}`), became("7"), `["2","2","room:1","phx_close",{"reason":"deauthenticated"}]`)
		if err := <-results; err != nil || asked != 3 || l.s.subject() != "" {
			t.Errorf("%v, asked %d times, the subject is %q", err, asked, l.s.subject())
		}
		l.send(`["3","9","safe:1","who",{}]`)
		l.want(`["3","9","safe:1","phx_reply",{"status":"ok","response":{"who":"/<nil>/connect"}}]`)
		l.wantCloses()
	})
}

// TestAuthenticateOrder checks that messages before a change are handled with the old grant, in
// every channel, and those after the event with the new one.
func TestAuthenticateOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		hang := channel.On("hang", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			<-gate
			return push.NoReply, nil
		})
		l := newAuthLine(t, Auth{Anonymous: true}, "", channel.Routes{
			"room:*": whoRoom(grants(make(chan error, 1))...), "other": whoRoom(hang),
		})
		defer l.end()
		l.joinSocket()
		l.joinRoom("/<nil>/connect")
		l.send(join("3", "other"))
		l.take()
		l.send(`["3","4","other","hang",{}]`, `["3","5","other","who",{}]`, become("6", "ann.60"))
		if frames := l.take(); len(frames) != 2 || !strings.Contains(frames[0], `"auth"`) {
			t.Fatalf("got %q", frames)
		}
		l.send(`["3","7","other","who",{}]`)
		close(gate)
		const reply = `["3","%d","other","phx_reply",{"status":"ok","response":{"who":"%s/connect"}}]`
		l.want(fmt.Sprintf(reply, 5, "/<nil>"), fmt.Sprintf(reply, 7, "ann/ann.60"))
	})
}

// TestAuthenticateInJoin checks that a join callback keeps its grant, and that Reauthorize is its
// second check.
func TestAuthenticateInJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		l := newAuthLine(t, Auth{Anonymous: true}, "", channel.Routes{"room:*": channel.Define(
			func(_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				if err := Authenticate(ctx, Grant{ID: "ann"}); err != nil {
					return nil, err
				}
				_, ok := GrantFrom(ctx)
				return map[string]bool{"ok": ok}, nil
			},
			channel.Reauthorize(func(_ *member, ctx context.Context, _ *channel.Channel) error {
				g, _ := GrantFrom(ctx)
				asked = append(asked, g.ID)
				return nil
			}))})
		defer l.end()
		l.send(join("1", "room:1"))
		l.want(answer("1", "room:1", "ok", `{"ok":false}`))
		if fmt.Sprint(asked) != "[ann]" {
			t.Errorf("asked %q", asked)
		}
	})
}

// TestLogoutByServer checks that the connection ends if anonymous clients are not accepted, and
// that the client receives the reply of the callback before.
func TestLogoutByServer(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprint("the client sends a new token: ", back), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				results := make(chan error, 2)
				l := newAuthLine(t, Auth{}, "ann.60", channel.Routes{"room:*": whoRoom(grants(results)...)})
				defer l.end()
				l.joinSocket()
				l.joinRoom("ann/ann.60/connect")
				time.Sleep(time.Millisecond)
				l.send(become("3", ""))
				l.want(authEvent(`{"state":"anonymous"}`), became("3"))
				if err := <-results; err != nil {
					t.Error(err)
				}
				l.send(become("4", "ann.60"))
				l.want(`["2","4","room:1","phx_reply",{"status":"error","response":{"reason":"token expired"}}]`)
				if back {
					l.sendToken("5", `"ann.30"`)
					l.take()
					l.who("ann/ann.30/connect")
					time.Sleep(time.Second)
					l.wantCloses()
					l.send(`["1","6","$socket","phx_leave",{}]`)
					time.Sleep(30 * time.Second)
					l.wantCloses(closedExpired)
					return
				}
				time.Sleep(250 * time.Millisecond)
				l.wantCloses("4401 logged out")
			})
		})
	}
}

// TestAuthenticateErrors checks the contexts and connections that have no grant to replace.
func TestAuthenticateErrors(t *testing.T) {
	t.Parallel()
	if err := Authenticate(t.Context(), Grant{ID: "ann"}); !errors.Is(err, errNoAuth) {
		t.Errorf("of no callback: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 1))})
		defer l.end()
		if err := Authenticate(&l.s.ctx, Grant{ID: "ann"}); !errors.Is(err, errNoAuth) {
			t.Errorf("without Auth: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.60", nil)
		defer l.end()
		l.s.revoke("gone")
		for _, g := range []Grant{{ID: "ann"}, {}} {
			if err := Authenticate(&l.s.ctx, g); !errors.Is(err, errGone) {
				t.Errorf("after a revocation: %v", err)
			}
		}
	})
}

// TestEventsBeforeTheReply checks that what changes while $socket is being joined is sent after the
// reply.
func TestEventsBeforeTheReply(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do   func(s *session) error
		want []string
	}{
		"another grant": {
			func(s *session) error { return Authenticate(&s.ctx, Grant{ID: "ann", Token: "new"}) },
			[]string{authEvent(`{"state":"authenticated","token":"new"}`)},
		},
		"expiry": {
			func(s *session) error {
				time.Sleep(20*time.Second + 250*time.Millisecond)
				return nil
			},
			[]string{
				authEvent(`{"state":"authenticated","expires_in":0,"claims":{"user":"ann"}}`),
				`["1",null,"$socket","expired",{"grace":29750}]`,
			},
		},
		"notice": {
			func(s *session) error {
				time.Sleep(19 * time.Second)
				return nil
			},
			[]string{
				authEvent(`{"state":"authenticated","expires_in":1000,"claims":{"user":"ann"}}`),
				`["1",null,"$socket","expiring",{"in":1000}]`,
			},
		},
		"revocation": {
			func(s *session) error {
				s.revoke("gone")
				return nil
			},
			[]string{`["1",null,"$socket","denied",{"reason":"gone"}]`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newAuthLine(t, Auth{}, "ann.20", nil)
				defer l.end()
				hook := &joinHook{Writer: l.line, do: func() {
					if err := test.do(l.s); err != nil {
						t.Error(err)
					}
				}}
				logger := zerolog.New(hook)
				l.h.cfg.Logger = &logger
				l.send(join("1", "$socket"))
				synctest.Wait()
				for !hook.done.Load() {
					time.Sleep(time.Second)
				}
				frames := l.take()
				if len(frames) == 0 || fmt.Sprint(frames[1:]) != fmt.Sprint(test.want) {
					t.Errorf("after the reply, got %q, want %q", frames, test.want)
				}
			})
		})
	}
}

// joinHook calls do when the join callback of $socket logs its line, before the reply is sent.
type joinHook struct {
	io.Writer
	do   func()
	done atomic.Bool
}

func (h *joinHook) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "client information") {
		h.do()
		h.done.Store(true)
	}
	return h.Writer.Write(p)
}

// TestOwnSubjectIsNoTopic checks that patterns do not match the topic that equals the client's own
// subject.
func TestOwnSubjectIsNoTopic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{Anonymous: true}, "", channel.Routes{"*": whoRoom(), "a*": whoRoom(), "bob": whoRoom()})
		defer l.end()
		l.joinSocket()
		for _, step := range []struct{ token, topic, want string }{
			{"", "anna", answer("2", "anna", "ok", `{"who":"/<nil>/connect"}`)},
			{`"ann.60"`, "ann", `[null,"2","ann","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`},
			{"", "bob", answer("2", "bob", "ok", `{"who":"ann/ann.60/connect"}`)},
			{`null`, "ann", answer("2", "ann", "ok", `{"who":"/<nil>/connect"}`)},
			{`"bob.60"`, "bob", answer("2", "bob", "ok", `{"who":"bob/bob.60/connect"}`)},
		} {
			if step.token != "" {
				time.Sleep(time.Second)
				l.sendToken("9", step.token)
				l.take()
			}
			l.send(join("2", step.topic))
			frames := l.take()
			if len(frames) == 0 || frames[0] != step.want {
				t.Errorf("%+v: got %q", step, frames)
			}
		}
	})
}
