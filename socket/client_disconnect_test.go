package socket

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/transport"
)

// TestClientDisconnect checks that Disconnect and Reconnect send the code and the reason, and that
// Close sends CloseReason.
func TestClientDisconnect(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{CloseReason: "bye"}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		if err := c.Disconnect(4000, "idle"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := c.State(); s.Status != StatusDisconnected || s.Wanted != WantPaused || c.Stats().Connections != 1 {
			t.Fatalf("%v, wanted %v, %d connections", s, s.Wanted, c.Stats().Connections)
		}
		if state, cause := ch.State(); state != channel.StateErrored || !errors.Is(cause, ErrPaused) {
			t.Errorf("the channel is %v: %v", state, cause)
		}
		if err := c.Reconnect(1000, "back"); err != nil { // it ends the pause
			t.Fatal(err)
		}
		mustReply(t, ch.Push("echo", 1))
		if err := c.Reconnect(3001, "again"); err != nil {
			t.Fatal(err)
		}
		mustReply(t, ch.Push("echo", 2))
		if n := c.Stats().Connections; n != 3 {
			t.Errorf("%d connections", n)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		want := []transport.CloseError{
			{Code: 4000, Reason: "idle"}, {Code: 3001, Reason: "again"}, {Code: 1000, Reason: "bye"},
		}
		if got := p.closes(); !slices.Equal(got, want) {
			t.Errorf("closed with %v, want %v", got, want)
		}
		for _, f := range []func(int, string) error{c.Disconnect, c.Reconnect} {
			if err := f(1000, ""); !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
}

// TestClientDisconnectCodes checks that codes that a client must not send are refused.
func TestClientDisconnectCodes(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for _, code := range []int{-1, 0, 999, 1001, 1005, 1006, 1011, 2999, 5000} {
			for _, f := range []func(int, string) error{c.Disconnect, c.Reconnect} {
				if err := f(code, "x"); err == nil || !strings.Contains(err.Error(), "close code") {
					t.Errorf("%d: %v", code, err)
				}
			}
		}
		synctest.Wait()
		if s := c.State(); s.Status != StatusConnected || len(p.closes()) != 0 {
			t.Errorf("%v, closed %v", s, p.closes())
		}
	})
}

// TestClientReconnect checks that Reconnect does not wait for the back-off, counts no failed
// attempts, is no pause for those that wait for the connection, and loses the pushes that were
// sent.
func TestClientReconnect(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		lost := ch.Push("never", nil)
		synctest.Wait()
		states := c.States(t.Context())
		if err := c.Reconnect(4000, ""); err != nil {
			t.Fatal(err)
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustFail(t, lost, push.ErrLost)
		mustFail(t, lost, errReconnect)
		if gaps := p.gaps(); gaps[0] != 0 {
			t.Errorf("the attempt came after %v", gaps[0])
		}
		for s := range states {
			if s.Wanted != WantConnected {
				t.Errorf("state %v, wanted %v", s, s.Wanted)
			}
			if s.Status == StatusConnecting {
				break
			}
		}
		var up atomic.Bool
		p.set(func() {
			p.refuse = func(context.Context, ClientTransport, int) error {
				if up.Load() {
					return nil
				}
				return errReset
			}
		})
		p.last().cut(errReset)
		time.Sleep(20 * time.Second)
		if s := c.State(); s.Tries < 5 {
			t.Fatalf("%v", s)
		}
		up.Store(true)
		if err := c.Reconnect(4000, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := c.State(); s.Status != StatusConnected || s.Tries != 0 {
			t.Errorf("%v, %d tries", s, s.Tries)
		}
	})
}
