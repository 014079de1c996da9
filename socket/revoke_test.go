package socket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// revocable returns routes whose event "hang" waits for the gate, and the results of its callbacks.
func revocable() (routes channel.Routes, gate chan struct{}, ends chan error) {
	gate, ends = make(chan struct{}), make(chan error, 10)
	return channel.Routes{"room:*": whoRoom(
		channel.On("hang", func(_ *member, ctx context.Context, _ *channel.Channel, _ struct{}) (push.Reply, error) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return push.OK(nil), nil
		}),
		channel.Terminate(func(_ *member, _ context.Context, _ *channel.Channel, reason error) { ends <- reason }),
	)}, gate, ends
}

// TestRevoke checks the order of the frames, that nothing is sent or accepted afterwards, and that
// no callback is called.
func TestRevoke(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		routes, _, ends := revocable()
		l := newAuthLine(t, Auth{}, "ann.100", routes)
		defer l.end()
		l.joinSocket()
		l.joinRoom("ann/ann.100/connect")
		l.send(`["2","3","room:1","hang",{}]`, `["2","4","room:1","who",{}]`)
		l.want()
		if err := l.h.Revoke(t.Context(), "ann", "account suspended"); err != nil {
			t.Fatal(err)
		}
		l.want(`["2","2","room:1","phx_close",{"reason":"account suspended"}]`,
			`["1",null,"$socket","denied",{"reason":"account suspended"}]`)
		l.wantCloses()
		if err := <-ends; !errors.Is(err, push.Reason("account suspended")) || !errors.Is(err, channel.ErrStop) {
			t.Errorf("ended with %v", err)
		}
		l.send(`["2","5","room:1","who",{}]`, join("6", "room:2"), `[null,"7","phoenix","heartbeat",{}]`)
		l.sendToken("8", `"ann.200"`)
		if err := l.h.PubSub().Broadcast(t.Context(), "room:1", "news", nil); err != nil {
			t.Error(err)
		}
		l.want()
		if err := l.h.Revoke(t.Context(), "ann", "again"); err != nil {
			t.Error(err)
		}
		time.Sleep(990 * time.Millisecond)
		l.wantCloses()
		time.Sleep(260 * time.Millisecond)
		l.wantCloses("4403 account suspended")
		l.want()
		if st := l.h.Stats(); st.Revoked != 1 || l.logged("socket revoked") != 1 {
			t.Errorf("%d revocations, log %s", st.Revoked, l.log)
		}
	})
}

// TestRevokeDuring checks that a connection ends whatever is under way when it is revoked.
func TestRevokeDuring(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(l *authLine){
		"a connection that did not join $socket": func(*authLine) {},
		"the notice":                             func(l *authLine) { l.joinSocket(); time.Sleep(60 * time.Second) },
		"the grace":                              func(l *authLine) { l.joinSocket(); time.Sleep(101 * time.Second) },
		"a refresh": func(l *authLine) {
			l.joinSocket()
			l.sendToken("2", `"slow"`)
			synctest.Wait()
		},
		"a join": func(l *authLine) {
			l.h.routes.exact["slow"] = channel.Define(
				func(_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				})
			l.send(join("2", "slow"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newAuthLine(t, Auth{}, "ann.100", nil)
				defer l.end()
				prepare(l)
				l.take()
				if err := l.h.Revoke(t.Context(), "ann", push.Reason(strings.Repeat("ü", 100))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(1250 * time.Millisecond)
				l.wantCloses("4403 " + strings.Repeat("ü", 61))
			})
		})
	}
}

// TestRevokeBeforeOpen checks that a session whose handshake is under way ends when it opens, and
// that a login during a revocation fails.
func TestRevokeBeforeOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{Anonymous: true}, "", nil)
		defer l.end()
		v, err := newVerified(Grant{ID: "ann"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		watch := l.h.watch("ann")
		if err := l.h.Revoke(t.Context(), "ann", "gone"); err != nil {
			t.Fatal(err)
		}
		late := l.h.open(l, serializer.V2(), identity{parent: context.Background(), id: watch, grant: v})
		defer late.Closed(nil)
		time.Sleep(1250 * time.Millisecond)
		l.wantCloses("4403 gone")

		l.joinSocket()
		l.s.revoke("now")
		if err := l.s.apply(context.Background(), v, 0, func() {}); !errors.Is(err, errGone) {
			t.Errorf("a grant after the revocation: %v", err)
		}
		l.take()
	})
}

// TestRevokeWithoutAuth checks that the connections end as by Disconnect.
func TestRevokeWithoutAuth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newKickRig(t, nil)
		l := r.session("ann", 0)
		l.send(join("1", "room:1"))
		l.want(accepted("1", "room:1"))
		if err := r.h.Revoke(t.Context(), "ann", "gone"); err != nil {
			t.Fatal(err)
		}
		l.want(kickedFrame("room:1", "gone"))
		if err := <-r.ends; !errors.Is(err, push.Reason("gone")) {
			t.Errorf("ended with %v", err)
		}
		r.end(l)
	})
}

// TestFinalRefusal checks that a final refusal of a token ends the connection.
func TestFinalRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.100", nil)
		defer l.end()
		l.joinSocket()
		l.joinRoom("ann/ann.100/connect")
		l.sendToken("3", `"final"`)
		l.want(socketReplied("1", "3", "error", `{"reason":"denied"}`),
			`["2","2","room:1","phx_close",{"reason":"account suspended"}]`,
			`["1",null,"$socket","denied",{"reason":"account suspended"}]`)
		time.Sleep(1250 * time.Millisecond)
		l.wantCloses("4403 account suspended")
	})
}

// TestReauthorizeByServer checks that the callbacks of the user's channels are called with the
// grant, and that other channels stay.
func TestReauthorizeByServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rights error
		var asked []string
		l := newAuthLine(t, Auth{}, "ann.100", channel.Routes{"room:*": whoRoom(), "safe:*": whoRoom(
			channel.Reauthorize(func(_ *member, ctx context.Context, _ *channel.Channel) error {
				g, _ := GrantFrom(ctx)
				asked = append(asked, g.ID)
				return rights
			}))})
		defer l.end()
		l.joinRoom("ann/ann.100/connect")
		l.send(join("3", "safe:1"))
		l.take()
		for _, id := range []string{"ann", "bob"} {
			if err := l.h.Reauthorize(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			l.want()
		}
		rights = push.Reason("no longer a moderator")
		if err := l.h.Reauthorize(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		l.want(`["3","3","safe:1","phx_close",{"reason":"no longer a moderator"}]`)
		if len(asked) != 2 || asked[0] != "ann" {
			t.Errorf("asked %q", asked)
		}
		l.who("ann/ann.100/connect")
	})
}

// TestRevokeAfterEnd checks that what a connection had received before it ended is not handled any
// more when its user is revoked.
func TestRevokeAfterEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls, gate := 0, make(chan struct{})
		l := newAuthLine(t, Auth{}, "ann.100", channel.Routes{"room:*": whoRoom(
			channel.On("do", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
				calls++
				<-gate
				return push.OK(nil), nil
			}))})
		l.joinRoom("ann/ann.100/connect")
		l.send(`["2","3","room:1","do",{}]`, `["2","4","room:1","do",{}]`)
		synctest.Wait()
		ended := make(chan struct{})
		go func() { defer close(ended); l.s.Closed(nil) }()
		synctest.Wait()
		if err := l.h.Revoke(t.Context(), "ann", "gone"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(gate)
		<-ended
		if calls != 1 {
			t.Errorf("%d messages were handled", calls)
		}
		if err := l.h.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
