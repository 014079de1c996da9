package socket

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
)

// leaves returns the join_refs of the phx_leave messages that the peer received.
func (p *peer) leaves() (list []string) {
	for _, e := range p.events() {
		if ref, ok := strings.CutSuffix(e, " "+serializer.EventLeave); ok {
			list = append(list, ref)
		}
	}
	return list
}

func TestClientLeavesLongPollChannels(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(t *testing.T, c *Client)
	}{
		{"Pause", func(_ *testing.T, c *Client) { c.Pause() }},
		{"Close", func(t *testing.T, c *Client) {
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}},
		{"Close without time", func(t *testing.T, c *Client) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = c.Close(ctx)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
				connected(t, c)
				joined(t, c, "room:a")
				left := joined(t, c, "room:b")
				joined(t, c, "room:c")
				mustReply(t, left.Leave())
				p.set(func() { p.frames = nil })
				test.end(t, c)
				synctest.Wait()
				var want []string
				if p.last().by == TransportLongPoll {
					want = []string{"1", "3"}
				}
				if got := p.leaves(); !slices.Equal(got, want) {
					t.Errorf("left %q, want %q", got, want)
				}
				if n := len(p.closes()); n != 1 {
					t.Errorf("closed %d times", n)
				}
			})
		})
	}
}

// TestClientPauseAndConnect checks that the channels are left by Pause, and joined again after
// Connect.
func TestClientPauseAndConnect(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		for range 3 {
			c.Pause()
			c.Connect()
			mustReply(t, ch.Push("echo", nil))
		}
		if got, isLongPoll := p.leaves(), p.last().by == TransportLongPoll; isLongPoll && len(got) != 3 ||
			!isLongPoll && len(got) != 0 {
			t.Errorf("left %q", got)
		}
	})
}

// TestClientLeavesAfterPushes pauses during a write. The messages that the writer has taken must be
// sent before the leave.
func TestClientLeavesAfterPushes(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{Transport: TransportLongPoll}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.last().change(func() { p.last().stallOut = true })
		first := p.last()
		ch.Push("echo", 1)
		synctest.Wait()
		c.Pause()
		time.Sleep(100 * time.Millisecond)
		first.change(func() { first.stallOut = false })
		synctest.Wait()
		if got, want := p.events(), []string{"1 phx_join", "1 echo", "1 phx_leave"}; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

// TestClientLeaveIsBounded closes and pauses a client whose POSTs hang.
func TestClientLeaveIsBounded(t *testing.T) {
	t.Parallel()
	for _, pause := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer()
			c := p.client(ClientConfig{Transport: TransportLongPoll})
			connected(t, c)
			joined(t, c, "room:1")
			k := p.last()
			k.change(func() { k.stallOut, k.closing = true, 1500*time.Millisecond })
			start := time.Now()
			if pause {
				c.Pause()
				for len(p.closes()) == 0 {
					time.Sleep(50 * time.Millisecond)
				}
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("paused after %v", d)
				}
				start = time.Now()
			}
			if err := c.Close(t.Context()); err != nil || time.Since(start) > 2*time.Second {
				t.Errorf("closed after %v: %v", time.Since(start), err)
			}
		})
	}
}

// TestClientLeavesBeforeItMoves checks that a client that moves from long poll to a WebSocket
// leaves the channels of the session.
func TestClientLeavesBeforeItMoves(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{Transport: TransportFallback}, func(t *testing.T, p *peer, c *Client) {
		bad := true
		p.refuse = func(_ context.Context, by ClientTransport, _ int) error {
			if by == TransportWebSocket && bad {
				return errReset
			}
			return nil
		}
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.set(func() { bad = false })
		for c.State().Transport != "websocket" {
			time.Sleep(time.Second)
		}
		mustReply(t, ch.Push("echo", nil))
		if got := p.leaves(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("left %q", got)
		}
	})
}
