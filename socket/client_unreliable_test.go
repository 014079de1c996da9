package socket

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// cutWebSockets makes the peer cut each WebSocket after a time.
func cutWebSockets(p *peer, after time.Duration, err error) {
	p.set(func() {
		p.prepare = func(k *peerConn) {
			if k.by == TransportWebSocket {
				time.AfterFunc(after, func() { k.cut(err) })
			}
		}
	})
}

// usedConns returns the number of connections that the client used, without those that it only
// checked.
func usedConns(c *Client) uint64 { return c.Stats().Connections }

// TestClientFallbackShortLives has a middlebox that cuts WebSockets soon after they open. The
// client must stay on long poll, and not return to a WebSocket that would be cut again.
func TestClientFallbackShortLives(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{0, 200 * time.Millisecond, 3 * time.Second, 9 * time.Second} {
		fallback(t, func(t *testing.T, p *peer, c *Client) {
			cutWebSockets(p, life, errReset)
			c.Connect()
			ch := c.Channel("room:1", nil)
			ch.Join()
			time.Sleep(time.Minute)
			synctest.Wait()
			wantTransport(t, c, "longpoll")
			conns := usedConns(c)
			if conns > 4 {
				t.Errorf("lives of %v: %d connections before long poll", life, conns)
			}
			time.Sleep(6 * time.Hour)
			wantTransport(t, c, "longpoll")
			if n := usedConns(c); n != conns {
				t.Errorf("lives of %v: %d moves to a WebSocket that is cut", life, n-conns)
			}
			mustReply(t, ch.Push("echo", 1))

			// Without the middlebox, the client moves back permanently.
			p.set(func() { p.prepare = nil })
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			wantTransport(t, c, "websocket")
			n := usedConns(c)
			time.Sleep(24 * time.Hour)
			if usedConns(c) != n {
				t.Errorf("%d further connections", usedConns(c)-n)
			}
			// The history is forgotten: one loss does not count.
			p.last().cut(errReset)
			time.Sleep(time.Second)
			synctest.Wait()
			wantTransport(t, c, "websocket")
		})
	}
}

// TestClientFallbackDiesInUse checks that WebSockets that pass the check and are cut only in use
// are tried less and less often.
func TestClientFallbackDiesInUse(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		p.join = func(k *peerConn, _ *serializer.Message) (string, any) {
			if k.by == TransportWebSocket {
				time.AfterFunc(time.Second, func() { k.cut(errReset) })
			}
			return "ok", nil
		}
		c.Connect()
		c.Channel("room:1", nil).Join()
		time.Sleep(30 * time.Second)
		wantTransport(t, c, "longpoll")
		before := usedConns(c)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		wantTransport(t, c, "longpoll")
		if n := usedConns(c) - before; n < 2 || n > 80 { // each move and return are two
			t.Errorf("%d connections in a day", n)
		}
	})
}

// TestClientFallbackLargeMessages has WebSockets that are cut by each large message.
func TestClientFallbackLargeMessages(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10_000, 60_000, 900_000} {
		fallback(t, func(t *testing.T, p *peer, c *Client) {
			p.prepare = func(k *peerConn) {
				if k.by == TransportWebSocket {
					k.limit = size * 9 / 10
				}
			}
			connected(t, c)
			ch := joined(t, c, "room:1")
			text := strings.Repeat("x", size)
			lost := 0
			for range 20 {
				time.Sleep(17 * time.Minute) // heartbeats are small and get through
				if _, err := ch.Push("echo", text).Wait(t.Context()); errors.Is(err, push.ErrLost) {
					lost++
				} else if err != nil {
					t.Fatal(err)
				}
			}
			wantTransport(t, c, "longpoll")
			if lost != clientBadConns {
				t.Errorf("%d bytes: %d pushes lost, want %d", size, lost, clientBadConns)
			}
		})
	}
}

// TestClientFallbackLargeMessagesIn checks that received large messages that are cut count as well.
func TestClientFallbackLargeMessagesIn(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for range clientBadConns {
			wantTransport(t, c, "websocket")
			time.Sleep(5 * time.Minute)
			k := p.last()
			k.bytesIn.Add(30_000) // a part of a frame
			k.cut(errReset)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		wantTransport(t, c, "longpoll")
	})
}

// TestClientFallbackNoEvidence has losses that do not count against WebSockets.
func TestClientFallbackNoEvidence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		life time.Duration
		err  error
	}{
		{"the server restarts again and again", time.Second, &transport.CloseError{Code: transport.CodeRestart}},
		{"the server closes with 1000", 0, &transport.CloseError{Code: 1000}},
		{"a proxy cuts after half a minute", 31 * time.Second, errReset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fallback(t, func(t *testing.T, p *peer, c *Client) {
				cutWebSockets(p, tt.life, tt.err)
				c.Connect()
				for range 30 {
					time.Sleep(20 * time.Second)
					if s := c.State(); s.Transport == "longpoll" {
						t.Fatalf("%v", s)
					}
				}
			})
		})
	}
	t.Run("short lives between long ones", func(t *testing.T) {
		t.Parallel()
		fallback(t, func(t *testing.T, p *peer, c *Client) {
			connected(t, c)
			for i := range 30 {
				time.Sleep([]time.Duration{time.Second, 2 * time.Second, time.Minute}[i%3])
				wantTransport(t, c, "websocket")
				p.last().cut(errReset)
				if err := c.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
			}
		})
	})
}
