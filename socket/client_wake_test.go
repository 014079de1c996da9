package socket

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// wakeBubble runs f with a client whose wall clock is ahead of the monotonic clock by jump.
func wakeBubble(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client, jump func(time.Duration))) {
	t.Helper()
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		var ahead atomic.Int64
		c.clock.wall = func() time.Time { return wallClock().Add(time.Duration(ahead.Load())) }
		f(t, p, c, func(d time.Duration) { ahead.Add(int64(d)) })
	})
}

// TestClientWakes checks that after a suspension a dead connection is detected within seconds
// instead of up to a minute, over each transport.
func TestClientWakes(t *testing.T) {
	t.Parallel()
	for _, by := range []ClientTransport{TransportWebSocket, TransportLongPoll} {
		for _, slept := range []time.Duration{3 * time.Second, 8 * time.Hour, -time.Hour} {
			t.Run(fmt.Sprint(by, " ", slept), func(t *testing.T) {
				t.Parallel()
				wakeBubble(t, ClientConfig{Transport: by}, func(t *testing.T, p *peer, c *Client, jump func(time.Duration)) {
					connected(t, c)
					time.Sleep(12 * time.Second)
					k := p.last()
					k.change(func() { k.stallIn, k.swallow = true, true })
					jump(slept)
					time.Sleep(clientClockCheck + clientWakeTimeout + 10*time.Millisecond)
					synctest.Wait()
					if s := c.State(); s.Status != StatusConnected || c.Stats().Connections != 2 {
						t.Fatalf("%v, %d connections", s, c.Stats().Connections)
					}
				})
			})
		}
	}
}

// TestClientWakesConnected checks that a connection that survived is kept, and that later
// heartbeats have their usual timeout.
func TestClientWakesConnected(t *testing.T) {
	t.Parallel()
	wakeBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, jump func(time.Duration)) {
		p.prepare = func(k *peerConn) { k.slow = 4 * time.Second }
		connected(t, c)
		time.Sleep(2 * time.Second)
		if n := len(p.got()); n != 0 {
			t.Fatalf("%d heartbeats", n)
		}
		jump(time.Hour)
		time.Sleep(4 * time.Second)
		if got := strings.Join(p.got(), "|"); got != ` "1" phoenix heartbeat {}` {
			t.Fatalf("sent %q", got)
		}
		p.last().change(func() { p.last().slow = 20 * time.Second })
		time.Sleep(time.Hour)
		if n := c.Stats().Connections; n != 1 {
			t.Fatalf("%d connections", n)
		}
	})
}

// TestClientWakesInHeartbeat checks that a heartbeat that was under way during the suspension has a
// shorter timeout.
func TestClientWakesInHeartbeat(t *testing.T) {
	t.Parallel()
	wakeBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, jump func(time.Duration)) {
		connected(t, c)
		time.Sleep(29 * time.Second)
		k := p.last()
		k.change(func() { k.stallIn, k.swallow = true, true })
		time.Sleep(2 * time.Second) // 1 s after the heartbeat
		jump(time.Minute)
		time.Sleep(clientClockCheck + clientWakeTimeout + 10*time.Millisecond)
		synctest.Wait()
		if n := c.Stats().Connections; n != 2 {
			t.Fatalf("%d connections", n)
		}
	})
}

// TestClientWakesWaiting checks that the next attempt is made after a suspension if it is due by
// the wall clock.
func TestClientWakesWaiting(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		slept time.Duration
		dials int
	}{{10 * time.Minute, 2}, {10 * time.Second, 1}, {-time.Hour, 1}, {0, 1}} {
		wakeBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, jump func(time.Duration)) {
			p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
				if n == 1 {
					return busy(503, "300")
				}
				return nil
			}
			c.Connect()
			time.Sleep(time.Second)
			jump(tt.slept)
			time.Sleep(2 * clientClockCheck)
			if n := p.dialCount(); n != tt.dials {
				t.Errorf("slept %v: %d dials, want %d", tt.slept, n, tt.dials)
			}
		})
	}
}

// TestClientFrozen checks that a frozen network is detected as fast over long poll as over a
// WebSocket.
func TestClientFrozen(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{0, 2 * time.Second} {
		var took []time.Duration
		for _, by := range []ClientTransport{TransportWebSocket, TransportLongPoll} {
			clientBubble(t, ClientConfig{Transport: by, HeartbeatInterval: interval}, func(t *testing.T, p *peer, c *Client) {
				connected(t, c)
				k := p.last()
				k.change(func() { k.stallIn, k.swallow = true, true })
				began := time.Now()
				for s := range c.States(t.Context()) {
					if s.Status == StatusWaiting {
						break
					}
				}
				took = append(took, time.Since(began))
			})
		}
		if took[0] != took[1] || interval > 0 && took[1] != 2*interval {
			t.Errorf("noticed after %v", took)
		}
	}
}
