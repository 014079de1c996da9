package socket

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/transport"
)

// fallback runs f with a client with TransportFallback.
func fallback(t *testing.T, f func(t *testing.T, p *peer, c *Client)) {
	t.Helper()
	clientBubble(t, ClientConfig{Transport: TransportFallback}, f)
}

// refuseWebSockets returns a peer's refuse function that calls webSocket or longPoll, if they are
// not nil.
func refuseWebSockets(
	webSocket, longPoll func(context.Context) error,
) func(context.Context, ClientTransport, int) error {
	return func(ctx context.Context, by ClientTransport, _ int) error {
		f := webSocket
		if by == TransportLongPoll {
			f = longPoll
		}
		if f == nil {
			return nil
		}
		return f(ctx)
	}
}

func refusal(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func wantTransport(t *testing.T, c *Client, want string) {
	t.Helper()
	if s := c.State(); s.Status != StatusConnected || s.Transport != want {
		t.Fatalf("%+v, want %s", s, want)
	}
}

func TestClientFallbackUnused(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		wantTransport(t, c, "websocket")
		ch := joined(t, c, "room:1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := p.dialCount(); n != 1 {
			t.Fatalf("%d dials", n)
		}
		if f := p.got()[0]; f != ` "0" phoenix heartbeat {}` {
			t.Fatalf("the peer received %q", f)
		}
		mustReply(t, ch.Push("echo", nil))
	})
}

func TestClientFallback(t *testing.T) {
	t.Parallel()
	mute := func(k *peerConn) { // it opens and never replies
		if k.by == TransportWebSocket {
			k.stallIn = true
		}
	}
	stuck := func(k *peerConn) { // it opens and accepts nothing
		if k.by == TransportWebSocket {
			k.stallOut = true
		}
	}
	gone := func(k *peerConn) { // it opens and ends
		if k.by == TransportWebSocket {
			k.err = errReset
		}
	}
	for _, test := range []struct {
		name    string
		refuse  func(context.Context, ClientTransport, int) error
		prepare func(*peerConn)
		after   time.Duration
	}{
		{"cannot be opened", refuseWebSockets(refusal(errReset), nil), nil, 0},
		{"is forbidden by a proxy", refuseWebSockets(refusal(denied(403)), nil), nil, 0},
		{"hangs", refuseWebSockets(hang, nil), nil, 2500 * time.Millisecond},
		{"does not reply", nil, mute, 2500 * time.Millisecond},
		{"accepts nothing", nil, stuck, 2500 * time.Millisecond},
		{"ends immediately", nil, gone, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fallback(t, func(t *testing.T, p *peer, c *Client) {
				p.refuse, p.prepare = test.refuse, test.prepare
				start := time.Now()
				connected(t, c)
				if d := time.Since(start); d != test.after {
					t.Fatalf("connected after %v, want %v", d, test.after)
				}
				wantTransport(t, c, "longpoll")
				ch := joined(t, c, "room:1")
				mustReply(t, ch.Push("echo", 1))
				synctest.Wait()
				if n := len(p.closes()); test.refuse == nil && n != 1 {
					t.Fatalf("%d WebSockets were closed", n)
				}

				// A WebSocket is tried again after 30 s, then after 60 s.
				time.Sleep(40 * time.Second)
				if n := p.dialCount(); n != 3 {
					t.Fatalf("%d dials", n)
				}
				mustReply(t, ch.Push("echo", 2))
				wantTransport(t, c, "longpoll")
				if s, _ := ch.State(); s != channel.StateJoined {
					t.Fatal(s)
				}

				// It works again, and the client moves when no push would be lost.
				p.set(func() { p.refuse, p.prepare = nil, nil })
				var pending *push.Push
				time.AfterFunc(44*time.Second, func() { pending = ch.Push("noreply", nil) })
				time.Sleep(53 * time.Second)
				synctest.Wait()
				wantTransport(t, c, "longpoll")
				mustFail(t, pending, push.ErrTimeout)
				synctest.Wait()
				mustReply(t, ch.Push("echo", 3))
				wantTransport(t, c, "websocket")
				n := p.dialCount()
				time.Sleep(time.Hour)
				if p.dialCount() != n {
					t.Fatal("it still tries WebSockets")
				}
				for _, k := range p.live {
					if k.by == TransportLongPoll && !k.closed {
						t.Fatal("the long poll was not closed")
					}
				}
			})
		})
	}
}

// TestClientFallbackMovesInTheEnd checks that the client moves to a WebSocket that works again even
// if pushes stay pending.
func TestClientFallbackMovesInTheEnd(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		p.refuse = refuseWebSockets(refusal(errReset), nil)
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.set(func() { p.refuse = nil })
		pending := ch.PushWithTimeout("noreply", nil, time.Hour)
		start := time.Now()
		mustFail(t, pending, push.ErrLost)
		if d := time.Since(start); d != 50*time.Second {
			t.Fatalf("moved after %v", d)
		}
		mustReply(t, ch.Push("echo", nil))
		wantTransport(t, c, "websocket")
	})
}

// TestClientFallbackMovesAfterLoss loses the long poll while a WebSocket waits. The client must
// move immediately.
func TestClientFallbackMovesAfterLoss(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		p.refuse = refuseWebSockets(refusal(errReset), nil)
		connected(t, c)
		ch := joined(t, c, "room:1")
		old := p.last()
		p.set(func() { p.refuse = nil })
		pending := ch.PushWithTimeout("noreply", nil, time.Hour)
		time.Sleep(35 * time.Second)
		wantTransport(t, c, "longpoll")
		n := p.dialCount()
		old.cut(errReset)
		mustFail(t, pending, push.ErrLost)
		mustReply(t, ch.Push("echo", nil))
		wantTransport(t, c, "websocket")
		if p.dialCount() != n {
			t.Fatal("the client dialed again")
		}
	})
}

// TestClientFallbackNeedsEvidence checks that the client prefers long poll only if it worked where
// a WebSocket did not.
func TestClientFallbackNeedsEvidence(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		p.refuse = refuseWebSockets(refusal(errReset), refusal(errReset)) // the server is down
		c.Connect()
		time.Sleep(time.Minute)
		p.set(func() { p.refuse = nil })
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTransport(t, c, "websocket")
	})
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		p.refuse = refuseWebSockets(refusal(errReset), nil)
		connected(t, c)
		wantTransport(t, c, "longpoll")
		dials := p.dialCount()
		// After the loss of a long poll, long poll is tried first, and then a WebSocket.
		p.last().cut(errReset)
		synctest.Wait()
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTransport(t, c, "longpoll")
		if n := p.dialCount(); n != dials+1 {
			t.Fatalf("%d dials", n-dials)
		}
		p.set(func() { p.refuse = refuseWebSockets(nil, refusal(errReset)) })
		p.last().cut(errReset)
		synctest.Wait()
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTransport(t, c, "websocket")
	})
}

func TestClientFallbackDenied(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                string
		webSocket, longPoll error
		want                Status
	}{
		{"both", denied(403), denied(403), StatusDenied},
		{"the server has no long poll", denied(403), denied(404), StatusDenied},
		{"a proxy lets through long poll only", errReset, denied(401), StatusDenied},
		{"neither", errReset, denied(404), StatusWaiting},
		{"invalid URL", transport.ErrURL, nil, StatusFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fallback(t, func(t *testing.T, p *peer, c *Client) {
				p.refuse = refuseWebSockets(refusal(test.webSocket), refusal(test.longPoll))
				c.Connect()
				synctest.Wait()
				if s := c.State(); s.Status != test.want {
					t.Fatalf("%+v", s)
				}
			})
		})
	}
}

// TestClientFallbackStops checks that an attempt that is under way when the client is paused or
// closed leaves no connection.
func TestClientFallbackStops(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Duration{29, 31, 36, 45} {
		fallback(t, func(t *testing.T, p *peer, c *Client) {
			p.refuse = refuseWebSockets(refusal(errReset), nil)
			connected(t, c)
			ch := joined(t, c, "room:1")
			p.set(func() {
				p.refuse = refuseWebSockets(func(ctx context.Context) error { time.Sleep(2 * time.Second); return ctx.Err() }, nil)
			})
			pending := ch.PushWithTimeout("noreply", nil, time.Hour)
			time.Sleep(at * time.Second)
			c.Pause()
			mustFail(t, pending, push.ErrLost)
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, k := range p.live {
				if !k.closed {
					t.Fatalf("%v: a connection is left", at)
				}
			}
			connected(t, c)
			mustReply(t, ch.Push("echo", nil))
		})
	}
}

func TestClientLongPoll(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{Transport: TransportLongPoll}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		wantTransport(t, c, "longpoll")
		ch := joined(t, c, "room:1")
		var causes []error
		ch.OnError(func(err error) { causes = append(causes, err) })
		for _, code := range []int{transport.CodeSessionGone, 1008, 1011, 1005} {
			p.last().end(&transport.CloseError{Code: code})
			synctest.Wait()
			mustReply(t, ch.Push("echo", nil))
		}
		var codes []int
		for _, err := range causes {
			var closed *transport.CloseError
			if errors.As(err, &closed) {
				codes = append(codes, closed.Code)
			}
		}
		if !slices.Equal(codes, []int{3410, 1008, 1011, 1005}) {
			t.Fatal(causes)
		}
	})
}
