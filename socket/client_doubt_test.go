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

// cutWebSockets cuts each WebSocket of the peer after a time.
func cutWebSockets(p *peer, after time.Duration, err error) {
	p.set(func() {
		p.prepare = func(k *peerConn) {
			if k.by == TransportWebSocket {
				time.AfterFunc(after, func() { k.cut(err) })
			}
		}
	})
}

// usedConns counts the connections that the client used, without those that it only tried.
func usedConns(c *Client) uint64 { return c.Stats().Connections }

// A middlebox that kills WebSockets soon after they open: the client settles on long poll, and does not go back to a
// WebSocket that dies again.
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
				t.Errorf("lives of %v: %d moves to a WebSocket that dies", life, n-conns)
			}
			mustReply(t, ch.Push("echo", 1))

			// The middlebox goes, and the client moves back for good.
			p.set(func() { p.prepare = nil })
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			wantTransport(t, c, "websocket")
			n := usedConns(c)
			time.Sleep(24 * time.Hour)
			if usedConns(c) != n {
				t.Errorf("%d connections more", usedConns(c)-n)
			}
			// What was is forgotten: one loss is no evidence.
			p.last().cut(errReset)
			time.Sleep(time.Second)
			synctest.Wait()
			wantTransport(t, c, "websocket")
		})
	}
}

// WebSockets that pass the test and die only in use are tried less and less often.
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
		if n := usedConns(c) - before; n < 2 || n > 80 { // two for each move: there and back
			t.Errorf("%d connections in a day", n)
		}
	})
}

// Without large messages a WebSocket is fine; each large one ends it.
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
				time.Sleep(17 * time.Minute) // small ones get through meanwhile: heartbeats
				if _, err := ch.Push("echo", text).Wait(t.Context()); errors.Is(err, push.ErrLost) {
					lost++
				} else if err != nil {
					t.Fatal(err)
				}
			}
			wantTransport(t, c, "longpoll")
			if lost != clientBadConns {
				t.Errorf("%d bytes: %d pushes are lost, want %d", size, lost, clientBadConns)
			}
		})
	}
}

// A large message that does not get through to the client counts as well.
func TestClientFallbackLargeMessagesIn(t *testing.T) {
	t.Parallel()
	fallback(t, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for range clientBadConns {
			wantTransport(t, c, "websocket")
			time.Sleep(5 * time.Minute)
			k := p.last()
			k.bytesIn.Add(30_000) // of a frame
			k.cut(errReset)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		wantTransport(t, c, "longpoll")
	})
}

// What is no evidence against WebSockets.
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
