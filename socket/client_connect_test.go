package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

func TestClientDenied(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		clientBubble(t, ClientConfig{AuthToken: "x", Params: map[string]int{}}, func(t *testing.T, p *peer, c *Client) {
			p.refuse = func(context.Context, ClientTransport, int) error { return denied(status) }
			c.Connect()
			var refused *transport.HandshakeError
			if err := c.Ready(t.Context()); !errors.As(err, &refused) || refused.StatusCode != status ||
				string(refused.Body) != "no" {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if s := c.State(); s.Status != StatusDenied || !s.Until.IsZero() || !errors.As(s.Cause, &refused) {
				t.Fatalf("%+v", s)
			}
			if n := p.dialCount(); n != 1 {
				t.Fatalf("%d dials with refused params", n)
			}
			p.set(func() { p.refuse = nil })
			connected(t, c)
		})
		token := new(atomic.Int64)
		clientBubble(t,
			ClientConfig{AuthTokenFunc: func(context.Context) (string, error) { return fmt.Sprint(token.Add(1)), nil }},
			func(t *testing.T, p *peer, c *Client) {
				p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
					if n < 6 {
						return denied(status)
					}
					return nil
				}
				c.Connect()
				synctest.Wait()
				if s := c.State(); s.Status != StatusDenied || time.Until(s.Until) != 10*time.Second {
					t.Fatalf("%+v", s)
				}
				if err := c.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := p.gaps(); !slices.Equal(got, []time.Duration{10e9, 20e9, 40e9, 60e9, 60e9}) {
					t.Fatalf("token requested after %v", got)
				}
				if p.dialConfigs()[5].AuthToken != "6" {
					t.Fatalf("token %q at the sixth attempt", p.dialConfigs()[5].AuthToken)
				}
			})
	}
	clientBubble(t, ClientConfig{},
		func(t *testing.T, p *peer, c *Client) { // a proxy's 502 while the server restarts is not a refusal
			p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
				if n < 4 {
					return denied([]int{0, 502, 404, 200}[n])
				}
				return nil
			}
			connected(t, c)
			if n := p.dialCount(); n != 4 {
				t.Fatal(n)
			}
		})
}

func TestClientFailed(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(context.Context, ClientTransport, int) error { return fmt.Errorf("dial: %w", transport.ErrURL) }
		c.Connect()
		if err := c.Ready(t.Context()); !errors.Is(err, transport.ErrURL) {
			t.Fatal(err)
		}
		if s := c.State(); s.Status != StatusFailed {
			t.Fatalf("%+v", s)
		}
	})
	clientBubble(t, ClientConfig{Params: 5}, func(t *testing.T, p *peer, c *Client) {
		c.Connect()
		if err := c.Ready(t.Context()); !errors.Is(err, transport.ErrURL) {
			t.Fatal(err)
		}
	})
	retry := func(r Retry) time.Duration {
		if r.Tries > 3 {
			return -1
		}
		return time.Second
	}
	clientBubble(t, ClientConfig{ReconnectDelay: retry}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(context.Context, ClientTransport, int) error { return errReset }
		c.Connect()
		if err := c.Ready(t.Context()); !errors.Is(err, errReset) || c.State().Status != StatusFailed || p.dialCount() != 4 {
			t.Fatalf("%+v after %d dials", c.State(), p.dialCount())
		}
	})
	giveUp := func(tries int) time.Duration {
		if tries > 3 {
			return -1
		}
		return time.Second
	}
	clientBubble(t, ClientConfig{ReconnectDelay: retry, RejoinAfter: giveUp}, func(t *testing.T, p *peer, c *Client) {
		p.join = func(*peerConn, *serializer.Message) (string, any) { return "error", map[string]string{"reason": "no"} }
		connected(t, c)
		ch := c.Channel("room:1", nil)
		closed := make(chan error, 1)
		ch.OnClose(func(err error) { closed <- err })
		_, err := ch.Join().Wait(t.Context())
		waiting := ch.Push("echo", nil)
		var refused *push.Error
		if !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if err := <-closed; !errors.As(err, &refused) || refused.Reason() != "no" {
			t.Fatal(err)
		}
		_, err = waiting.Wait(t.Context())
		if !errors.Is(err, channel.ErrClosed) || errors.As(err, &refused) {
			t.Fatalf("got %v, want an error other than a refused push", err)
		}
		if n := len(p.got()); n != 4 {
			t.Fatalf("%d joins", n)
		}
		p.set(func() { p.refuse = func(context.Context, ClientTransport, int) error { return errReset } })
		p.last().cut(errReset)
		time.Sleep(time.Minute)
		if s := c.State(); s.Status != StatusFailed || p.dialCount() != 4 {
			t.Fatalf("%+v after %d dials", s, p.dialCount())
		}
	})
}

func TestClientParams(t *testing.T) {
	t.Parallel()
	n := new(atomic.Int64)
	cfg := ClientConfig{
		Params: func(context.Context) (any, error) {
			if n.Add(1) == 2 {
				return nil, errors.New("no params today")
			}
			return map[string]int64{"n": n.Load()}, nil
		},
		AuthTokenFunc: func(ctx context.Context) (string, error) {
			if _, ok := ctx.Deadline(); !ok {
				return "", errors.New("no deadline")
			}
			time.Sleep(time.Second)
			return fmt.Sprint("token ", n.Load()), nil
		},
		Header: http.Header{"X-A": {"b"}},
	}
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		states := c.States(t.Context())
		connected(t, c)
		p.last().cut(errReset)
		for s := range states {
			if s.Status == StatusWaiting && s.Cause.Error() == "socket: params: no params today" {
				break
			}
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(p.dialConfigs()) != 2 || p.dialConfigs()[0].Params != "n=1" || p.dialConfigs()[1].Params != "n=3" ||
			p.dialConfigs()[1].AuthToken != "token 3" ||
			p.dialConfigs()[0].Vsn != "2.0.0" || p.dialConfigs()[0].Header.Get("X-A") != "b" || p.dialConfigs()[0].URL != "ws://peer.test/socket" {
			t.Fatalf("%+v", p.dialConfigs())
		}

		joins := 0
		ch := c.Channel("room:1", func(ctx context.Context) (any, error) {
			joins++
			switch joins {
			case 2:
				return nil, errors.New("no join today")
			case 4: // the connection is lost during the call
				<-ctx.Done()
				return nil, ctx.Err()
			case 6:
				return func() {}, nil
			}
			return map[string]int{"join": joins}, nil
		})
		errs := make(chan error, 9)
		ch.OnError(func(err error) { errs <- err })
		mustReply(t, ch.Join())
		crash := func() { mustFail(t, ch.Push("crash", nil), push.ErrLost) }
		crash()
		<-errs
		<-errs // the params failed
		mustReply(t, ch.Push("echo", nil))
		crash()
		time.Sleep(1500 * time.Millisecond)
		p.last().cut(errReset)
		synctest.Wait()
		mustReply(t, ch.Push("echo", nil))
		crash()
		mustReply(t, ch.Push("echo", nil))
		var got []string
		for _, f := range p.got("echo", "crash") {
			got = append(got, f[strings.Index(f, "{"):])
		}
		if want := []string{`{"join":1}`, `{"join":3}`, `{"join":5}`, `{"join":7}`}; !slices.Equal(got, want) {
			t.Fatalf("joins %q", got)
		}
	})
}

func TestClientInvalidParams(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for _, params := range []any{func() any { return nil }, make(chan int)} {
			ch := c.Channel("room:1", params)
			mustFail(t, ch.Join(), serializer.ErrPayload)
			mustReply(t, ch.Leave())
		}
		ch := joined(t, c, "room:1")
		mustFail(t, ch.Push("echo", make(chan int)), serializer.ErrPayload)
		mustReply(t, ch.Push("echo", serializer.Binary([]byte("ab")))) // version 2.0.0 has binary payloads
	})
}

// TestClientFunctionsThatBlock checks that Close cancels the context of blocked functions, and that
// it does not wait forever for one that ignores it.
func TestClientFunctionsThatBlock(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	clientBubble(t, ClientConfig{AuthTokenFunc: func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}, func(t *testing.T, p *peer, c *Client) {
		c.Connect()
		time.Sleep(25 * time.Second)
		if s := c.State(); !errors.Is(s.Cause, context.DeadlineExceeded) {
			t.Fatalf("%+v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		stuck = make(chan struct{})
		p := newPeer()
		c := p.client(ClientConfig{Params: func(context.Context) (any, error) { <-stuck; return nil, nil }})
		c.Connect()
		time.Sleep(time.Minute)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Close(ctx); !errors.Is(err, errBusy) || time.Since(start) != 3*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		close(stuck)
	})
}

func TestClientStates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
			if n == 1 {
				return errReset
			}
			return nil
		}
		c := p.client(ClientConfig{})
		var called, seen []string
		text := func(s State) string {
			return fmt.Sprint(s.Wanted, " ", s.Status, " ", s.Transport, " ", s.Cause != nil)
		}
		off := c.OnState(func(s State) { called = append(called, text(s)) })
		done := make(chan struct{})
		states := c.States(context.Background())
		go func() {
			defer close(done)
			for s := range states {
				seen = append(seen, text(s))
			}
		}()
		connected(t, c)
		c.Pause()
		synctest.Wait()
		off()
		off()
		closeClient(t, c)
		<-done
		want := []string{
			"paused disconnected  false",
			"connected connecting  false",
			"connected waiting  true",
			"connected connecting  true",
			"connected connected websocket false",
			"paused disconnected  false",
			"closed disconnected  false",
			"closed disconnected  false",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("iterator\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
		}
		if !slices.Equal(called, want[1:6]) {
			t.Errorf("callbacks\n%s\nwant\n%s", strings.Join(called, "\n"), strings.Join(want[1:6], "\n"))
		}
		for s := range c.States(context.Background()) { // after Close there is only the last state
			if s.Wanted != WantClosed {
				t.Fatalf("%+v", s)
			}
		}
		if err := c.Ready(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
		for _, s := range []fmt.Stringer{Wanted(9), Status(9)} {
			if s.String() != "9" {
				t.Error(s)
			}
		}
	})
}

func TestClientSlowStatesIterator(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(context.Context, ClientTransport, int) error { return errReset }
		states := c.States(t.Context())
		c.Connect()
		time.Sleep(time.Hour)
		n := 0
		var last State
		for s := range states {
			last = s
			if n++; n == statesKept {
				break
			}
		}
		if now := c.State(); last.Since != now.Since || last.Status != now.Status {
			t.Fatalf("%+v, now %+v", last, now)
		}
		for range states {
			t.Fatal("the sequence continues after break")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range c.States(ctx) {
			n++
		}
		if n != statesKept+1 {
			t.Fatal(n)
		}
	})
}

func TestClientDial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c, err := dialNew(t.Context(), p.client(ClientConfig{}))
		if err != nil {
			t.Fatal(err)
		}
		closeClient(t, c)

		p.refuse = func(context.Context, ClientTransport, int) error { return errReset }
		if c, err := dialNew(t.Context(), p.client(ClientConfig{})); c != nil || !errors.Is(err, errReset) {
			t.Fatal(c, err)
		}
		p.refuse = func(context.Context, ClientTransport, int) error { return denied(403) }
		var refused *transport.HandshakeError
		if _, err := dialNew(t.Context(), p.client(ClientConfig{})); !errors.As(err, &refused) {
			t.Fatal(err)
		}
		p.refuse = func(ctx context.Context, _ ClientTransport, _ int) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := dialNew(ctx, p.client(ClientConfig{})); !errors.Is(err, context.DeadlineExceeded) ||
			time.Since(start) != time.Second {
			t.Fatal(err, time.Since(start))
		}
		if _, err := Dial(t.Context(), "://", nil); !errors.Is(err, transport.ErrURL) {
			t.Fatal(err)
		}
	})
}

// TestClientConnectWhileConnecting checks that Connect changes nothing while an attempt is under
// way.
func TestClientConnectWhileConnecting(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(ctx context.Context, _ ClientTransport, n int) error {
			if n > 1 {
				<-ctx.Done()
			}
			return errReset
		}
		c.Connect()
		time.Sleep(time.Second)
		n := 0
		c.OnState(func(State) { n++ })
		for range 3 {
			c.Connect()
		}
		synctest.Wait()
		if s := c.State(); n != 0 || s.Status != StatusConnecting || s.Wanted != WantConnected || p.dialCount() != 2 {
			t.Fatalf("%d changes, %+v, %d dials", n, s, p.dialCount())
		}
	})
}
