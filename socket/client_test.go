package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// These tests cover the client's sections of testdata/checklist.md, together with those of channel,
// push and transport. Deviations from phoenix.js on purpose, with tests:
//
//   - Close code 1000 is handled like other codes unless configured otherwise.
//   - Disconnecting does not wait; messages that were not sent are kept.
//   - A leave is answered by the server, and is not sent late.
//   - Of two channels with one topic, the second is refused instead of the first being left.
//   - Pushes of a lost connection fail immediately.

// clientBubble runs f in virtual time with a peer and its client, and then closes the client.
func clientBubble(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c := p.client(cfg)
		defer closeClient(t, c)
		f(t, p, c)
	})
}

func connected(t *testing.T, c *Client) {
	t.Helper()
	c.Connect()
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func joined(t *testing.T, c *Client, topic string) *channel.Client {
	t.Helper()
	ch := c.Channel(topic, nil)
	mustReply(t, ch.Join())
	return ch
}

func mustReply(t *testing.T, p *push.Push) serializer.Payload {
	t.Helper()
	got, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustFail(t *testing.T, p *push.Push, is error) {
	t.Helper()
	if _, err := p.Wait(t.Context()); !errors.Is(err, is) {
		t.Fatalf("got %v, want %v", err, is)
	}
}

func jsonOf(p serializer.Payload) string {
	text, err := p.JSON()
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func wantFrames(t *testing.T, p *peer, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := p.got("heartbeat"); !slices.Equal(got, want) {
		t.Fatalf("frames\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func denied(status int) error {
	return fmt.Errorf("dial: %w", &transport.HandshakeError{StatusCode: status, Body: []byte("no")})
}

func TestClientDefaults(t *testing.T) {
	t.Parallel()
	c := (*ClientConfig)(nil).withDefaults()
	if c.Timeout != 10*time.Second || c.HeartbeatInterval != 30*time.Second || c.HeartbeatTimeout != 30*time.Second ||
		c.Serializer != serializer.V2() || c.Transport != TransportWebSocket || c.MaxBuffer != 1<<20 ||
		c.MaxBacklog != 1<<20 {
		t.Fatalf("%+v", c)
	}
	for _, test := range []struct {
		name   string
		f      func(int) time.Duration
		spread time.Duration
		want   []int
	}{
		{"reconnect", func(n int) time.Duration { return c.ReconnectDelay(Retry{Tries: n}) }, time.Second,
			[]int{10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000, 5000}},
		{"rejoin", c.RejoinAfter, 0, []int{1000, 2000, 5000, 10000, 10000}},
		{"denied", c.DeniedAfter, 0, []int{10000, 20000, 40000, 60000, 60000}},
	} {
		for i, ms := range test.want {
			want := time.Duration(ms) * time.Millisecond
			spread := max(want, test.spread)
			least, most := want/2+spread, time.Duration(0)
			for range 200 {
				d := test.f(i + 1)
				if d < want/2 || d > want/2+spread {
					t.Fatalf("%s %d: %v", test.name, i+1, d)
				}
				least, most = min(least, d), max(most, d)
			}
			if got := most - least; got < spread*8/10 {
				t.Errorf("%s %d: spread over %v, want about %v", test.name, i+1, got, spread)
			}
		}
	}
	short := (&ClientConfig{HeartbeatInterval: time.Second}).withDefaults()
	if short.HeartbeatTimeout != time.Second {
		t.Fatalf("HeartbeatTimeout is %v, want the interval", short.HeartbeatTimeout)
	}
}

func TestClientEcho(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", map[string]int{"a": 1})
		mustReply(t, ch.Join())
		if got := jsonOf(mustReply(t, ch.Push("echo", map[string]int{"n": 7}))); got != `{"n":7}` {
			t.Fatal(got)
		}
		_, err := ch.Push("fail", map[string]string{"reason": "no"}).Wait(t.Context())
		var refused *push.Error
		if !errors.As(err, &refused) || refused.Status != "error" || refused.Reason() != "no" {
			t.Fatal(err)
		}
		if _, err = ch.Push("maybe", nil).Wait(t.Context()); !errors.As(err, &refused) || refused.Status != "maybe" {
			t.Fatal(err)
		}
		if got := jsonOf(mustReply(t, ch.Push("twice", nil))); got != `{"n":1}` {
			t.Fatal(got)
		}
		p.last().change(func() { clear(p.last().joined) })
		if _, err = ch.Push("echo", nil).Wait(t.Context()); !errors.As(err, &refused) ||
			refused.Reason() != "unmatched topic" {
			t.Fatal(err)
		}
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {"a":1}`,
			`"1" "2" room:1 echo {"n":7}`,
			`"1" "3" room:1 fail {"reason":"no"}`,
			`"1" "4" room:1 maybe {}`,
			`"1" "5" room:1 twice {}`,
			`"1" "6" room:1 echo {}`,
		)
	})
}

func TestClientTimeouts(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{Timeout: 4 * time.Second}, func(t *testing.T, p *peer, c *Client) {
		took := func(f func() *push.Push, want time.Duration) {
			t.Helper()
			start := time.Now()
			mustFail(t, f(), push.ErrTimeout)
			if got := time.Since(start); got != want {
				t.Fatalf("timed out after %v, want %v", got, want)
			}
		}
		connected(t, c)
		ch := joined(t, c, "room:1")
		took(func() *push.Push { return ch.Push("noreply", nil) }, 4*time.Second)
		took(func() *push.Push { return ch.PushWithTimeout("noreply", nil, time.Second) }, time.Second)
		took(func() *push.Push { return ch.Push("late", nil) }, 4*time.Second)
		time.Sleep(time.Minute) // its reply arrives and is ignored
		p.set(func() { p.refuse = func(context.Context, ClientTransport, int) error { return errReset } })
		p.last().cut(errReset)
		synctest.Wait()
		took(func() *push.Push { return ch.Push("echo", 1) }, 4*time.Second)
		late := ch.PushWithTimeout("noreply", 2, 30*time.Second)
		start := time.Now()
		time.Sleep(20 * time.Second)
		p.set(func() { p.refuse = nil })
		mustFail(t, late, push.ErrTimeout)
		// The push waits for 20 s and up to 5 s of a reconnect. Its timeout starts when it is sent.
		if d := time.Since(start); d < 50*time.Second || d > 56*time.Second {
			t.Fatalf("timed out after %v", d)
		}
		other := c.Channel("room:2", nil)
		p.set(func() {
			p.join = func(*peerConn, *serializer.Message) (string, any) { return "", nil }
		})
		took(func() *push.Push { return other.JoinWithTimeout(7 * time.Second) }, 7*time.Second)
		took(func() *push.Push { return other.Push("echo", nil) }, 7*time.Second) // the timeout continues
		synctest.Wait()
		if n := p.times("1"); n != 0 {
			t.Fatal("a push was sent after its timeout")
		}
	})
}

func TestClientConnectIsIdempotent(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		for range 3 {
			c.Connect()
			connected(t, c)
		}
		if n := p.dialCount(); n != 1 {
			t.Fatalf("%d dials", n)
		}
	})
}

func TestClientReconnectDelays(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
			if n <= 12 || n > 13 && n < 16 {
				return errReset
			}
			return nil
		}
		connected(t, c)
		time.Sleep(time.Minute) // so that the back-off starts again
		p.last().cut(errReset)
		synctest.Wait()
		if s := c.State(); s.Status != StatusWaiting || time.Until(s.Until) != 10*time.Millisecond ||
			!errors.Is(s.Cause, errReset) || s.Tries != 0 {
			t.Fatalf("%+v", s)
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000, 5000, 60_010, 50, 100}
		got := p.gaps()
		for i := range want {
			if want[i] *= time.Millisecond; i < len(got) && got[i] != want[i] {
				t.Errorf("attempt %d after %v, want %v", i+2, got[i], want[i])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d attempts, want %d", len(got), len(want))
		}
	})
}

// TestClientFlappingServer checks that the delays grow if the server drops each connection
// immediately.
func TestClientFlappingServer(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.end(&transport.CloseError{Code: transport.CodeInternal}) }
		c.Connect()
		time.Sleep(time.Minute)
		if n := p.dialCount(); n < 15 || n > 25 {
			t.Fatalf("%d connections in a minute", n)
		}
	})
}

func TestClientCloseCodes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		err  error
		stay bool
		want Status
	}{
		{"1000", &transport.CloseError{Code: 1000}, false, StatusConnected},
		{"1000, to stay", &transport.CloseError{Code: 1000}, true, StatusFailed},
		{"1001, to stay", &transport.CloseError{Code: 1001}, true, StatusConnected},
		{"1011", &transport.CloseError{Code: 1011}, false, StatusConnected},
		{"1012", &transport.CloseError{Code: 1012}, false, StatusConnected},
		{"3410", &transport.CloseError{Code: transport.CodeSessionGone}, false, StatusConnected},
		{"none", errReset, true, StatusConnected},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			clientBubble(t, ClientConfig{StayAfter1000: test.stay}, func(t *testing.T, p *peer, c *Client) {
				connected(t, c)
				ch := joined(t, c, "room:1")
				errs := make(chan error, 4)
				ch.OnError(func(err error) { errs <- err })
				p.last().end(test.err)
				if err := <-errs; !errors.Is(err, test.err) {
					t.Fatalf("the channel's cause is %v", err)
				}
				time.Sleep(time.Minute)
				if s := c.State(); s.Status != test.want {
					t.Fatalf("%+v", s)
				}
				if test.want == StatusFailed {
					if err := c.Ready(t.Context()); !errors.Is(err, test.err) {
						t.Fatal(err)
					}
					connected(t, c)
				}
				synctest.Wait()
				if s, _ := ch.State(); s != channel.StateJoined {
					t.Fatalf("channel is %v", s)
				}
			})
		})
	}
}

func TestClientPause(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		lost := ch.Push("noreply", 1)
		synctest.Wait()
		c.Pause()
		mustFail(t, lost, push.ErrLost)
		mustFail(t, lost, ErrPaused)
		if s := c.State(); s.Wanted != WantPaused || s.Status != StatusDisconnected {
			t.Fatalf("%+v", s)
		}
		if err := c.Ready(t.Context()); !errors.Is(err, ErrPaused) {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		kept := ch.Push("echo", 2)
		time.Sleep(time.Second)
		if n := p.dialCount(); n != 1 {
			t.Fatalf("%d dials while paused", n)
		}
		c.Connect()
		mustReply(t, kept)
		if got := p.closes(); len(got) != 1 || got[0].Code != 1000 {
			t.Fatalf("closed with %v", got)
		}
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 noreply 1`,
			`"3" "3" room:1 phx_join {}`, `"3" "4" room:1 echo 2`)
	})
}

func TestClientPauseWhileConnecting(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(ctx context.Context, _ ClientTransport, n int) error {
			if n == 1 {
				<-ctx.Done()
				time.Sleep(time.Second) // this attempt fails late
			}
			if n == 2 {
				time.Sleep(time.Second) // and this one succeeds late
			}
			return nil
		}
		for range 2 {
			c.Connect()
			time.Sleep(10 * time.Millisecond)
			c.Pause()
			time.Sleep(10 * time.Millisecond)
		}
		connected(t, c)
		time.Sleep(time.Minute)
		if n := p.dialCount(); n != 3 {
			t.Fatalf("%d dials", n)
		}
		if n := len(p.closes()); n != 2 {
			t.Fatalf("%d of 2 late connections were closed", n)
		}
		if s := c.State(); s.Status != StatusConnected {
			t.Fatalf("%+v", s)
		}
	})
}

// TestClientConnectDuringTeardown checks that the slow close of the old connection neither delays
// the new one nor counts as its end.
func TestClientConnectDuringTeardown(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.closing = 1500 * time.Millisecond }
		connected(t, c)
		ch := joined(t, c, "room:1")
		start := time.Now()
		c.Pause()
		connected(t, c)
		mustReply(t, ch.Push("echo", nil))
		if d := time.Since(start); d != 0 {
			t.Fatalf("connected again after %v", d)
		}
		time.Sleep(time.Minute)
		if n := p.dialCount(); n != 2 {
			t.Fatalf("%d dials", n)
		}
	})
}

func TestClientPushesOffline(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
			if n < 3 {
				return errReset
			}
			return nil
		}
		ch := c.Channel("room:1", nil)
		mustFail(t, ch.Push("echo", 0), channel.ErrNotJoined)
		join := ch.Join()
		var pushes []*push.Push
		for i := range 3 {
			pushes = append(pushes, ch.Push("echo", i))
		}
		c.Connect()
		mustReply(t, join)
		for _, x := range pushes {
			mustReply(t, x)
		}
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 echo 0`, `"1" "3" room:1 echo 1`, `"1" "4" room:1 echo 2`)
	})
}

func TestClientHeartbeats(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		time.Sleep(time.Hour + time.Second)
		frames := p.got()
		if len(frames) != 116 { // every 31 s: an interval after each reply
			t.Fatalf("%d heartbeats in an hour", len(frames))
		}
		for i, f := range frames {
			if want := fmt.Sprintf(` "%d" phoenix heartbeat {}`, i+1); f != want {
				t.Fatalf("%q, want %q", f, want)
			}
		}
		s := c.Stats()
		if s.RTT != time.Second || time.Since(s.LastFrame) > 30*time.Second || s.Connections != 1 || s.FramesOut != 116 ||
			s.FramesIn != 116 || s.BytesOut == 0 {
			t.Fatalf("%+v", s)
		}
		c.Pause()
		time.Sleep(time.Hour)
		if n := len(p.got()); n != 116 {
			t.Fatal("heartbeats while paused")
		}
	})
	clientBubble(t, ClientConfig{Transport: TransportLongPoll}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		time.Sleep(time.Hour + time.Second)
		if n := len(p.got()); n != 120 { // replies arrive immediately
			t.Fatalf("%d heartbeats over long poll", n)
		}
	})
}

func TestClientHeartbeatTimeout(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		errs := make(chan error, 1)
		ch.OnError(func(err error) { errs <- err })
		first := p.last()
		first.change(func() { first.stallIn, first.swallow = true, true })
		start := time.Now()
		if err := <-errs; !errors.Is(err, ErrHeartbeat) || time.Since(start) != time.Minute {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != time.Minute+10*time.Millisecond {
			t.Fatalf("connected again after %v", d)
		}
		mustReply(t, ch.Push("echo", nil))
		if got := p.closes(); len(got) != 1 || got[0] != (transport.CloseError{Code: 1000, Reason: "heartbeat timeout"}) {
			t.Fatalf("closed with %v", got)
		}
	})
}

// TestClientHeartbeatPatience checks that a large, slow frame before a heartbeat's reply does not
// end the connection for some time.
func TestClientHeartbeatPatience(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		k := p.last()
		trickle := func(d time.Duration) {
			for range d / (10 * time.Second) {
				time.Sleep(10 * time.Second)
				k.bytesIn.Add(1000)
			}
		}
		k.change(func() { k.stallIn = true })
		trickle(140 * time.Second) // the heartbeat was sent at 30 s
		if s := c.State(); s.Status != StatusConnected {
			t.Fatalf("%+v", s)
		}
		k.change(func() { k.stallIn = false })
		trickle(5 * time.Minute)
		if n := p.dialCount(); n != 1 {
			t.Fatalf("%d dials", n)
		}
		k.change(func() { k.stallIn = true })
		trickle(3 * time.Minute)
		if n := p.dialCount(); n != 2 {
			t.Fatalf("%d dials, want a reconnect after four timeouts", n)
		}
	})
}

func TestClientVersions(t *testing.T) {
	t.Parallel()
	for _, s := range []serializer.Serializer{serializer.V1(), serializer.V2(), serializer.V3()} {
		t.Run(s.Version(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPeer()
				p.ser = s
				c := p.client(ClientConfig{})
				defer closeClient(t, c)
				connected(t, c)
				if p.dialConfigs()[0].Vsn != serializer.Vsn(s) {
					t.Fatalf("vsn %q", p.dialConfigs()[0].Vsn)
				}
				ch := joined(t, c, "room:1")
				type body struct {
					Text string `json:"text"`
				}
				if got, err := channel.Call[body](t.Context(), ch, "echo", body{"hé"}); err != nil || got.Text != "hé" {
					t.Fatal(got, err)
				}
				events := ch.Events("shout", "pushed")
				ch.Push("shout", body{"1"})
				ch.Push("push_me", body{"2"})
				n := 0
				for m, err := range events {
					n++
					var b body
					if err != nil || m.Payload.Decode(&b) != nil || b.Text != fmt.Sprint(n) {
						t.Fatal(b, err)
					}
					if n == 2 {
						break
					}
				}
				blob := ch.Push("echo", serializer.Binary([]byte{0xde, 0xad}))
				if s == serializer.V1() {
					mustFail(t, blob, serializer.ErrPayload)
				} else if got := mustReply(t, blob); !got.IsBinary() || string(got.Bytes()) != "\xde\xad" {
					t.Fatalf("%x", got.Bytes())
				}
				mustFail(t, ch.Push("crash", nil), push.ErrLost)
				mustReply(t, ch.Push("echo", nil))
				time.Sleep(time.Hour) // heartbeats
				if n := p.dialCount(); n != 1 {
					t.Fatalf("%d dials", n)
				}
				mustReply(t, ch.Leave())
			})
		})
	}
}
