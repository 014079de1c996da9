package socket

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
)

// body is a payload of about n bytes.
func body(n int) map[string]string { return map[string]string{"b": strings.Repeat("x", n)} }

// transports runs f once for each transport.
func transports(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client)) {
	for _, by := range []ClientTransport{TransportWebSocket, TransportLongPoll} {
		t.Run(fmt.Sprintf("transport %d", by), func(t *testing.T) {
			t.Parallel()
			cfg := cfg
			cfg.Transport = by
			clientBubble(t, cfg, f)
		})
	}
}

func queued(t *testing.T, c *Client, ch *channel.Client, pushes int) {
	t.Helper()
	if s, cs := c.Stats(), ch.Stats(); s.Queued != pushes || cs.Queued != pushes || s.QueuedBytes != cs.QueuedBytes ||
		(pushes == 0) != (s.QueuedBytes == 0) {
		t.Fatalf("socket: %d pushes of %d bytes queued, channel: %d of %d, want %d",
			s.Queued, s.QueuedBytes, cs.Queued, cs.QueuedBytes, pushes)
	}
}

// TestClientBudgetFreeWhenAnswered checks that a push with a reply does not count, even if Write
// has not returned.
func TestClientBudgetFreeWhenAnswered(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{MaxBuffer: 1000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.last().change(func() { p.last().linger = 300 * time.Millisecond })
		for i := range 20 {
			for _, size := range []int{10, 900, 5000} {
				if _, err := ch.Push("echo", body(size)).Wait(t.Context()); err != nil {
					t.Fatalf("round %d, %d bytes: %v", i, size, err)
				}
				queued(t, c, ch, 0)
			}
		}
	})
}

// TestClientBudgetFreeWhenLost gives up a connection whose writer is blocked in Write. The lost
// pushes must not count although Write has not returned.
func TestClientBudgetFreeWhenLost(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{MaxBuffer: 1000, HeartbeatInterval: time.Second}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut, k.closing = true, 1500*time.Millisecond })
		for _, size := range []int{7000, 900} {
			lost := ch.Push("echo", body(size))
			synctest.Wait()
			queued(t, c, ch, 1)
			if k.by == TransportLongPoll {
				k.end(errReset)
			}
			mustFail(t, lost, push.ErrLost)
			queued(t, c, ch, 0)
			next := ch.Push("echo", body(size))
			mustReply(t, next)
			queued(t, c, ch, 0)
			k = p.last()
			k.change(func() { k.stallOut, k.closing = true, 1500*time.Millisecond })
		}
		k.change(func() { k.stallOut = false })
	})
}

// TestClientWithdrawnPushes cancels pushes and lets pushes time out while the writer is blocked.
// They must release their budget and must not be sent, and their entries in the queue are bounded.
func TestClientWithdrawnPushes(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{MaxBuffer: 4000, HeartbeatInterval: time.Hour}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut = true })
		first := ch.PushWithTimeout("echo", map[string]int{"first": 1}, time.Minute)
		synctest.Wait()
		kept := ch.PushWithTimeout("echo", map[string]int{"kept": 2}, time.Minute)
		for i := range 1000 {
			gone := ch.PushWithTimeout("echo", body(3000), time.Millisecond)
			if i%2 == 0 {
				gone.Cancel()
				mustFail(t, gone, push.ErrCanceled)
			} else {
				mustFail(t, gone, push.ErrTimeout)
			}
		}
		queued(t, c, ch, 2)
		conn := c.current.Load()
		conn.mu.Lock()
		places := len(conn.queue)
		conn.mu.Unlock()
		if places > 2 {
			t.Errorf("%d entries in the queue for one message", places)
		}
		k.change(func() { k.stallOut = false })
		mustReply(t, first)
		mustReply(t, kept)
		mustReply(t, ch.Push("echo", map[string]int{"last": 3}))
		var got []string
		for _, f := range p.got("phx_join", "heartbeat") {
			got = append(got, f[strings.Index(f, "echo"):])
		}
		want := []string{`echo {"first":1}`, `echo {"kept":2}`, `echo {"last":3}`}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("sent %q, want %q", got, want)
		}
		queued(t, c, ch, 0)
	})
}

// TestClientWithdrawSomeOfMany cancels every third of many queued pushes. The others must be sent
// in order.
func TestClientWithdrawSomeOfMany(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{HeartbeatInterval: time.Hour}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut = true })
		var all []*push.Push
		for i := range 3000 {
			all = append(all, ch.Push("echo", map[string]int{"n": i}))
			if i == 0 {
				synctest.Wait() // the writer has taken this push
			}
		}
		for i := 1; i < len(all); i += 3 {
			all[i].Cancel()
		}
		synctest.Wait()
		k.change(func() { k.stallOut = false })
		for i, one := range all {
			_, err := one.Wait(t.Context())
			if canceled := errors.Is(err, push.ErrCanceled); canceled != (i%3 == 1) || !canceled && err != nil {
				t.Fatalf("push %d: %v", i, err)
			}
		}
		last := -1
		for _, f := range p.got("phx_join", "heartbeat") {
			var n int
			if _, err := fmt.Sscanf(f[strings.Index(f, "echo"):], `echo {"n":%d}`, &n); err != nil {
				t.Fatal(f, err)
			}
			if n <= last || n%3 == 1 {
				t.Fatalf("push %d was sent after %d", n, last)
			}
			last = n
		}
		queued(t, c, ch, 0)
	})
}
