package socket_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// The tests of this file run the Go client against the server with Config.Auth, in virtual time.

// TestClientRefreshesForHours checks that tokens are refreshed over the open connection, and that
// no message is lost.
func TestClientRefreshesForHours(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{20 * time.Second, 15 * time.Minute} {
		t.Run(fmt.Sprint(life), func(t *testing.T) {
			t.Parallel()
			authBubble(t, func(t *testing.T, by socket.ClientTransport) {
				w := newAuthWorld(t, life, nil)
				defer w.end()
				c := w.client(socket.ClientConfig{Transport: by, AuthTokenFunc: w.source("ann")})
				defer c.end()
				c.Connect()
				if err := c.WaitAuth(t.Context()); err != nil {
					t.Fatal(err)
				}
				var got [2][]int
				var rooms []*channel.Client
				for i, topic := range []string{"room:1", "plain:1"} {
					room := c.Channel(topic, nil).WaitForAuth()
					if i == 0 {
						room.Resume(channel.ResumeConfig{Since: history.Position{}})
					}
					room.On("n", func(p serializer.Payload) {
						var m struct{ N int }
						if err := p.Decode(&m); err != nil {
							t.Error(err)
						}
						got[i] = append(got[i], m.N)
					})
					room.Join()
					rooms = append(rooms, room)
				}
				synctest.Wait()
				start := time.Now()
				n := 0
				for time.Since(start) < 3*time.Hour {
					n++
					for _, topic := range []string{"room:1", "plain:1"} {
						if err := w.ps.Broadcast(t.Context(), topic, "n", map[string]int{"N": n}); err != nil {
							t.Fatal(err)
						}
					}
					c.who(rooms[n%2], "ann")
					time.Sleep(7300 * time.Millisecond)
				}
				synctest.Wait()
				for i, list := range got {
					if len(list) != n || !slices.IsSorted(list) || slices.Max(list) != n {
						t.Errorf("%s: %d messages of %d", rooms[i].Topic(), len(list), n)
					}
				}
				if conns := c.Stats().Connections; conns != 1 {
					t.Errorf("%d connections", conns)
				}
				refreshed := int(w.h.Stats().Refreshed)
				if least := int(3 * time.Hour / life); refreshed < least || refreshed > 3*least {
					t.Errorf("%d refreshes", refreshed)
				}
				for _, s := range c.statuses() {
					if s != socket.Authenticated && s != socket.Expiring {
						t.Errorf("was %v", s)
					}
				}
				var claims struct{ User, Number string }
				if s := c.Auth(); s.Claims.Decode(&claims) != nil || claims.User != "ann" || s.Err != nil ||
					time.Until(s.Expires) <= 0 || time.Until(s.Expires) > life {
					t.Errorf("%+v", s)
				}
				if want := fmt.Sprint("ann ", claims.Number, " "); c.Token()[:len(want)] != want {
					t.Errorf("token %q, claims %v", c.Token(), claims)
				}
			})
		})
	}
}

// TestClientRefreshWhileVerifyFails checks that the client tries again while the server cannot
// verify tokens or the program cannot fetch one, and that the connection survives if that ends in
// time.
func TestClientRefreshWhileVerifyFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("the database is down")
	for name, fault := range map[string]func(w *authWorld, fetch *atomic.Pointer[error], isOn bool){
		"Verify fails": func(w *authWorld, _ *atomic.Pointer[error], isOn bool) {
			w.set(func() {
				if w.verify = nil; isOn {
					w.verify = func(context.Context) error { return broken }
				}
			})
		},
		"Verify hangs": func(w *authWorld, _ *atomic.Pointer[error], isOn bool) {
			w.set(func() {
				if w.verify = nil; isOn {
					w.verify = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				}
			})
		},
		"fetching fails": func(_ *authWorld, fetch *atomic.Pointer[error], isOn bool) {
			if fetch.Store(nil); isOn {
				fetch.Store(&broken)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authBubble(t, func(t *testing.T, by socket.ClientTransport) {
				w := newAuthWorld(t, 15*time.Minute, nil)
				defer w.end()
				var failing atomic.Pointer[error]
				calls := 0
				c := w.client(socket.ClientConfig{Transport: by, AuthTokenFunc: func(context.Context) (string, error) {
					calls++
					if err := failing.Load(); err != nil {
						return "", *err
					}
					return w.issue("ann"), nil
				}})
				defer c.end()
				room := c.Channel("plain:1", nil).WaitForAuth()
				room.Join()
				c.Connect()
				if err := c.WaitAuth(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				fault(w, &failing, true)
				time.Sleep(5*time.Minute + 10*time.Second) // the token has expired
				c.wantStatuses(socket.Authenticated, socket.Expiring, socket.Expired)
				if s := c.Auth(); s.Err == nil || calls < 10 || calls > 40 {
					t.Errorf("%+v after %d calls", s, calls)
				}
				_, err := room.Push("who", nil).Wait(t.Context())
				var refused *push.Error
				if !errors.Is(err, socket.ErrTokenExpired) || !errors.As(err, &refused) {
					t.Errorf("push: %v", err)
				}
				late := c.Channel("plain:2", nil)
				if _, err := late.Join().Wait(t.Context()); !errors.Is(err, socket.ErrTokenExpired) {
					t.Errorf("join: %v", err)
				}
				members := c.Channel("members:1", nil).WaitForAuth()
				waiting := members.Join()
				fault(w, &failing, false)
				if err := c.WaitAuth(t.Context()); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if s, _ := late.State(); s != channel.StateJoined {
					t.Errorf("the join that was refused is not repeated: %v", s)
				}
				if _, err := waiting.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				c.who(room, "ann")
				c.wantStatuses(socket.Authenticated)
				if s := c.Auth(); s.Err != nil || c.Stats().Connections != 1 {
					t.Errorf("%+v, %+v", s, c.Stats())
				}

				fault(w, &failing, true)
				time.Sleep(20 * time.Minute)
				if name == "fetching fails" {
					if s := c.State(); s.Status != socket.StatusWaiting && s.Status != socket.StatusConnecting ||
						!errors.Is(s.Cause, broken) {
						t.Errorf("%v", s)
					}
				} else if s := c.State(); s.Status == socket.StatusConnected {
					t.Errorf("%v", s)
				}
				fault(w, &failing, false)
				if err := c.WaitAuth(t.Context()); err != nil {
					t.Error(err)
				}
				c.who(room, "ann")
			})
		})
	}
}

// TestClientStaticToken checks that a client with nothing but an expired token stays away, and that
// another token restores everything during the grace and later.
func TestClientStaticToken(t *testing.T) {
	t.Parallel()
	for name, isOwn := range map[string]bool{"with $socket": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authBubble(t, func(t *testing.T, by socket.ClientTransport) {
				w := newAuthWorld(t, 15*time.Minute, nil)
				defer w.end()
				c := w.client(socket.ClientConfig{Transport: by, AuthToken: w.issue("ann"), NoSocketChannel: !isOwn})
				defer c.end()
				room := c.Channel("plain:1", nil).WaitForAuth()
				room.Join()
				c.Connect()
				c.who(room, "ann")
				if isOwn {
					time.Sleep(15*time.Minute + 20*time.Second)
					c.wantStatuses(socket.Authenticated, socket.Expiring, socket.Expired)
					if err := c.Authenticate(t.Context(), w.issue("ann")); err != nil {
						t.Error(err)
					}
					c.who(room, "ann")
					c.wantStatuses(socket.Authenticated)
				}
				time.Sleep(16 * time.Minute)
				time.Sleep(time.Hour)
				s := c.State()
				byCode := isOwn || by == socket.TransportWebSocket // long poll has no codes
				if s.Status != socket.StatusDenied || !s.Until.IsZero() || !errors.Is(s.Cause, socket.ErrDenied) ||
					byCode && !errors.Is(s.Cause, socket.ErrTokenExpired) {
					t.Errorf("%v", s)
				}
				if byCode {
					if n := c.Stats().Connections; n != 1 {
						t.Errorf("%d connections, %+v", n, c.State())
					}
				}
				if a := c.Auth(); a.Status != socket.AuthDenied || !errors.Is(a.Err, socket.ErrDenied) {
					t.Errorf("%+v", a)
				}
				if err := c.WaitAuth(t.Context()); !errors.Is(err, socket.ErrDenied) {
					t.Error(err)
				}
				if isOwn {
					if err := c.Authenticate(t.Context(), w.issue("ann")); err != nil {
						t.Error(err)
					}
					c.who(room, "ann")
				}
			})
		})
	}
}

// TestClientDeniedByServer checks that a client that was denied on an open connection or in the
// handshake makes no attempt before Connect or Authenticate is called.
func TestClientDeniedByServer(t *testing.T) {
	t.Parallel()
	const suspended = push.Reason("account suspended")
	for name, isLive := range map[string]bool{"live": true, "in the handshake": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authBubble(t, func(t *testing.T, by socket.ClientTransport) {
				w := newAuthWorld(t, 15*time.Minute, nil)
				defer w.end()
				var calls atomic.Int64
				c := w.client(socket.ClientConfig{Transport: by, AuthTokenFunc: func(context.Context) (string, error) {
					calls.Add(1)
					return w.issue("ann"), nil
				}})
				defer c.end()
				room := c.Channel("plain:1", nil).WaitForAuth()
				join := room.Join()
				if !isLive {
					w.set(func() { w.banned["ann"] = suspended })
				}
				c.Connect()
				if isLive {
					c.who(room, "ann")
					time.Sleep(time.Minute)
					w.set(func() { w.banned["ann"] = suspended })
					if err := w.h.Revoke(t.Context(), "ann", suspended); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Hour)
				check := func() {
					t.Helper()
					s, a := c.State(), c.Auth()
					if s.Status != socket.StatusDenied || !s.Until.IsZero() || !errors.Is(s.Cause, socket.ErrDenied) ||
						!errors.Is(s.Cause, suspended) {
						t.Errorf("%v", s)
					}
					if a.Status != socket.AuthDenied || !errors.Is(a.Err, suspended) || !errors.Is(a.Err, socket.ErrDenied) {
						t.Errorf("%+v", a)
					}
				}
				check()
				if n := calls.Load(); n != 1 || c.Stats().Connections != 1 {
					t.Errorf("%d calls, %d connections", n, c.Stats().Connections)
				}
				if s, _ := room.State(); isLive != (s == channel.StateClosed) {
					t.Errorf("channel %v", s)
				}
				if isLive {
					if _, err := room.Push("who", nil).Wait(t.Context()); !errors.Is(err, suspended) {
						t.Error(err)
					}
				}
				c.Connect() // still banned
				if err := c.WaitAuth(t.Context()); !errors.Is(err, suspended) {
					t.Error(err)
				}
				check()
				if n := calls.Load(); n != 2 {
					t.Errorf("%d calls", n)
				}
				w.set(func() { clear(w.banned) })
				if err := c.Authenticate(t.Context(), w.issue("bob")); err != nil {
					t.Fatal(err)
				}
				if !isLive {
					if _, err := join.Wait(t.Context()); err != nil {
						t.Error(err)
					}
					c.who(room, "bob")
				}
			})
		})
	}
}

// TestClientLogin checks logins and logouts on one connection.
func TestClientLogin(t *testing.T) {
	t.Parallel()
	authBubble(t, func(t *testing.T, by socket.ClientTransport) {
		w := newAuthWorld(t, time.Hour, func(cfg *socket.Config) { cfg.Auth.Anonymous = true })
		defer w.end()
		c := w.client(socket.ClientConfig{Transport: by})
		defer c.end()
		plain, members := c.Channel("plain:1", nil), c.Channel("members:1", nil).WaitForAuth()
		plain.Join()
		var joins int
		members.OnJoin(func(serializer.Payload) { joins++ })
		first := members.Join()
		c.Connect()
		c.who(plain, "")
		time.Sleep(time.Hour)
		c.wantStatuses(socket.Anonymous)
		if s, _ := members.State(); s != channel.StateJoining {
			t.Errorf("%v", s)
		}
		for i, user := range []string{"ann", "bob", "ann"} {
			token := w.issue(user)
			if err := c.Authenticate(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			if got := c.Token(); got != token {
				t.Errorf("token %q", got)
			}
			c.who(members, user)
			if i == 0 {
				if _, err := first.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := c.Authenticate(t.Context(), w.issue("eve")); !errors.Is(err, push.Reason("identity changed")) ||
				errors.Is(err, socket.ErrDenied) {
				t.Error(err)
			}
			if err := c.Authenticate(t.Context(), "garbage"); !errors.Is(err, socket.ErrDenied) {
				t.Error(err)
			}
			if got := c.Token(); got != token || c.Auth().Status != socket.Authenticated || c.Auth().Err == nil {
				t.Errorf("token %q, %+v", got, c.Auth())
			}
			time.Sleep(5 * time.Second) // the server takes three tokens at once, and then one per second
			if err := c.Deauthenticate(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if s, cause := members.State(); s != channel.StateJoining {
				t.Errorf("%v %v", s, cause)
			}
			if s := c.Auth(); s.Status != socket.Anonymous || c.Token() != "" {
				t.Errorf("%+v", s)
			}
		}
		synctest.Wait()
		if n := c.Stats().Connections; n != 1 || joins != 3 {
			t.Errorf("%d connections, %d joins", n, joins)
		}
		plain2 := c.Channel("plain:2", nil) // plain:1 was ended by the first logout
		plain2.Join()
		c.who(plain2, "")
		w.cut()
		time.Sleep(time.Minute)
		c.who(plain2, "")
		if n := c.Stats().Connections; by == socket.TransportWebSocket && n != 2 {
			t.Errorf("%d connections", n)
		}
		if err := c.Authenticate(t.Context(), w.issue("ann")); err != nil {
			t.Fatal(err)
		}
		w.cut()
		time.Sleep(time.Minute)
		c.who(members, "ann")
	})
}

// TestClientLoginByServer checks that the client uses the token that the server's code gives it.
func TestClientLoginByServer(t *testing.T) {
	t.Parallel()
	authBubble(t, func(t *testing.T, by socket.ClientTransport) {
		w := newAuthWorld(t, 15*time.Minute, func(cfg *socket.Config) { cfg.Auth.Anonymous = true })
		defer w.end()
		c := w.client(socket.ClientConfig{Transport: by})
		defer c.end()
		plain, members := c.Channel("plain:1", nil), c.Channel("members:1", nil).WaitForAuth()
		plain.Join()
		members.Join()
		c.Connect()
		c.who(plain, "")
		if _, err := plain.Push("login", "ann").Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.who(members, "ann")
		c.wantStatuses(socket.Anonymous, socket.Authenticated)
		if got := c.Token(); got[:4] != "ann " {
			t.Errorf("token %q", got)
		}
		w.cut()
		time.Sleep(time.Minute)
		c.who(members, "ann")
		c.who(plain, "ann")
		if _, err := plain.Push("login", "").Wait(t.Context()); err != nil && !errors.Is(err, push.ErrLost) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if s := c.Auth(); s.Status != socket.Anonymous {
			t.Errorf("%+v", s)
		}
	})
}

// TestClientLogoutWithoutAnonymous checks that a client that has logged out stays away from a
// server that does not accept anonymous clients.
func TestClientLogoutWithoutAnonymous(t *testing.T) {
	t.Parallel()
	authBubble(t, func(t *testing.T, by socket.ClientTransport) {
		w := newAuthWorld(t, time.Hour, nil)
		defer w.end()
		c := w.client(socket.ClientConfig{Transport: by, AuthTokenFunc: w.source("ann")})
		defer c.end()
		members := c.Channel("members:1", nil).WaitForAuth()
		members.Join()
		c.Connect()
		c.who(members, "ann")
		if err := c.Deauthenticate(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := c.State(); s.Status != socket.StatusDenied || !s.Until.IsZero() || !errors.Is(s.Cause, socket.ErrDenied) {
			t.Errorf("%v", s)
		}
		if err := c.Authenticate(t.Context(), w.issue("bob")); err != nil {
			t.Fatal(err)
		}
		c.who(members, "bob")
		if n := c.Stats().Connections; by == socket.TransportWebSocket && n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestClientAuthUnknown checks that nothing waits if the server does not authenticate by tokens
// that expire.
func TestClientAuthUnknown(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*socket.Config){
		"no $socket": func(cfg *socket.Config) { cfg.NoSocketChannel = true },
		"no Auth":    func(cfg *socket.Config) { cfg.Auth, cfg.AuthToken = nil, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authBubble(t, func(t *testing.T, by socket.ClientTransport) {
				w := newAuthWorld(t, time.Hour, change)
				defer w.end()
				token := w.issue("ann")
				c := w.client(socket.ClientConfig{Transport: by, AuthToken: token})
				defer c.end()
				room := c.Channel("plain:1", nil).WaitForAuth()
				join := room.Join()
				c.Connect()
				start := time.Now()
				if err := c.WaitAuth(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := join.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("waited %v", d)
				}
				if s := c.Auth(); s.Status != socket.AuthUnknown || s.Err != nil {
					t.Errorf("%+v", s)
				}
				other := w.issue("ann")
				if err := c.Authenticate(t.Context(), other); err == nil || errors.Is(err, socket.ErrDenied) {
					t.Error(err)
				}
				if got := c.Token(); got != other { // it is used for the next connection
					t.Errorf("token %q", got)
				}
			})
		})
	}
}

// TestClientAuthenticateOffline checks calls of Authenticate and Deauthenticate without a
// connection.
func TestClientAuthenticateOffline(t *testing.T) {
	t.Parallel()
	authBubble(t, func(t *testing.T, by socket.ClientTransport) {
		w := newAuthWorld(t, time.Hour, func(cfg *socket.Config) { cfg.Auth.Anonymous = true })
		defer w.end()
		c := w.client(socket.ClientConfig{Transport: by})
		defer c.end()
		plain := c.Channel("plain:1", nil)
		plain.Join()
		if err := c.Authenticate(t.Context(), ""); err == nil {
			t.Error("an empty token was accepted")
		}
		if err := c.Authenticate(t.Context(), w.issue("ann")); !errors.Is(err, socket.ErrPaused) {
			t.Error(err)
		}
		if err := c.WaitAuth(t.Context()); !errors.Is(err, socket.ErrPaused) {
			t.Error(err)
		}
		c.Connect()
		c.who(plain, "ann") // the token was kept
		c.Pause()
		if err := c.Deauthenticate(t.Context()); err != nil {
			t.Error(err)
		}
		c.Connect()
		c.who(plain, "")
		c.Pause()
		c.Connect()
		bad := make(chan error, 1)
		go func() { bad <- c.Authenticate(t.Context(), "garbage") }()
		if err := <-bad; !errors.Is(err, socket.ErrDenied) {
			t.Error(err)
		}
		if err := c.Authenticate(t.Context(), w.issue("bob")); err != nil {
			t.Error(err)
		}
		c.who(plain, "bob")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.WaitAuth(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		states := 0
		for s := range c.AuthStates(t.Context()) {
			states++
			if s.Status != socket.Authenticated {
				t.Errorf("%+v", s)
			}
			break
		}
		if states != 1 {
			t.Errorf("%d states", states)
		}
	})
}
