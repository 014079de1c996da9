package socket

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/push"
	"bennu.example/serializer"
)

// exitAt returns a function that ends its goroutine when it is called the nth time.
func exitAt(nth int64) func() {
	calls := new(atomic.Int64)
	return func() {
		if calls.Add(1) == nth {
			runtime.Goexit()
		}
	}
}

// TestClientGoexitInConfig checks that a function that ends its goroutine fails its attempt, and
// that the client tries again.
func TestClientGoexitInConfig(t *testing.T) {
	t.Parallel()
	params, token := exitAt(1), exitAt(1)
	cfg := ClientConfig{
		Params:        func(context.Context) (any, error) { params(); return map[string]int{}, nil },
		AuthTokenFunc: func(context.Context) (string, error) { token(); return "x", nil },
	}
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		var failed []error
		off := c.OnState(func(s State) {
			if s.Status == StatusWaiting {
				failed = append(failed, s.Cause)
			}
		})
		connected(t, c)
		synctest.Wait()
		off()
		if len(failed) != 2 || !errors.Is(failed[0], clientlink.ErrExited) || !errors.Is(failed[1], clientlink.ErrExited) {
			t.Errorf("the attempts failed with %v", failed)
		}
		if n := p.dialCount(); n != 1 {
			t.Errorf("%d connections were opened", n)
		}
	})
}

// TestDialGoexitInConfig checks that Dial returns the error instead of waiting.
func TestDialGoexitInConfig(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		exit := exitAt(1)
		_, err := Dial(t.Context(), "ws://peer.test/socket", &ClientConfig{
			AuthTokenFunc: func(context.Context) (string, error) { exit(); return "", nil },
		})
		if !errors.Is(err, clientlink.ErrExited) {
			t.Errorf("Dial: %v", err)
		}
	})
}

// TestClientGoexitInProbe checks that the client continues to try WebSockets after an attempt whose
// goroutine ended.
func TestClientGoexitInProbe(t *testing.T) {
	t.Parallel()
	exit := exitAt(2)
	cfg := ClientConfig{
		Transport: TransportFallback,
		Params:    func(context.Context) (any, error) { exit(); return map[string]int{}, nil },
	}
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		p.refuse = refuseWebSockets(refusal(errReset), nil)
		connected(t, c)
		wantTransport(t, c, "longpoll")
		p.set(func() { p.refuse = nil })
		time.Sleep(clientProbeFirst + 2*clientProbeFirst + clientMoveWait)
		synctest.Wait()
		wantTransport(t, c, "websocket")
	})
}

// TestClientGoexitInChannelParams checks that channel params that end their goroutine fail that
// join and do not delay other channels.
func TestClientGoexitInChannelParams(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		exit := exitAt(1)
		first := c.Channel("room:1", func(context.Context) (any, error) { exit(); return map[string]int{}, nil })
		errs := make(chan error, 1)
		first.OnError(func(err error) { errs <- err })
		mustFail(t, first.Join(), clientlink.ErrExited)
		joined(t, c, "room:2")
		if err := <-errs; !errors.Is(err, clientlink.ErrExited) {
			t.Errorf("OnError was called with %v", err)
		}
		mustReply(t, first.Push("echo", 1)) // the channel has joined again
	})
}

// TestClientGoexitInCallbacks checks that callbacks run after one that ended its goroutine.
func TestClientGoexitInCallbacks(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		states := make(chan Status, 10)
		c.OnState(func(s State) {
			states <- s.Status
			runtime.Goexit()
		})
		connected(t, c)
		if got := []Status{<-states, <-states}; got[0] != StatusConnecting || got[1] != StatusConnected {
			t.Errorf("states %v", got)
		}
		ch := joined(t, c, "room:1")
		events := make(chan string, 10)
		ch.On("news", func(serializer.Payload) {
			events <- "news"
			runtime.Goexit()
		})
		p.broadcast("room:1", "news", 1)
		ch.Push("echo", 1).Receive(push.StatusOK, func(serializer.Payload) {
			events <- "reply"
			runtime.Goexit()
		})
		p.broadcast("room:1", "news", 2)
		count := map[string]int{}
		for range 3 {
			count[<-events]++
		}
		if count["news"] != 2 || count["reply"] != 1 {
			t.Errorf("callbacks %v", count)
		}
	})
}
