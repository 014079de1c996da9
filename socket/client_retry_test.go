package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/transport"
)

// busy returns the error of an answer with Retry-After.
func busy(status int, retryAfter string) error {
	h := http.Header{}
	h.Set("Retry-After", retryAfter)
	return fmt.Errorf("dial: %w", &transport.HandshakeError{StatusCode: status, Header: h})
}

func TestClientRetryAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		err      func() error
		min, max time.Duration
	}{
		{"429 with seconds", func() error { return busy(429, "7") }, 7 * time.Second, 8750 * time.Millisecond},
		{"503 with seconds", func() error { return busy(503, "120") }, 2 * time.Minute, 150 * time.Second},
		{"a date", func() error { return busy(503, time.Now().Add(20*time.Second).UTC().Format(http.TimeFormat)) },
			19 * time.Second, 25 * time.Second},
		{"a date in 73 years", func() error { return busy(503, "Thu, 01 Jan 2099 00:00:00 GMT") }, 5 * time.Minute,
			375 * time.Second},
		{"more than there is", func() error { return busy(429, "99999999999999999999") }, 5 * time.Minute, 375 * time.Second},
		{"a date in the past", func() error { return busy(503, "Thu, 01 Jan 1998 00:00:00 GMT") }, 10 * time.Millisecond,
			10 * time.Millisecond},
		{"nothing", func() error { return busy(503, "") }, 10 * time.Millisecond, 10 * time.Millisecond},
		{"zero", func() error { return busy(503, "0") }, 10 * time.Millisecond, 10 * time.Millisecond},
		{"garbage", func() error { return busy(429, "-5") }, 10 * time.Millisecond, 10 * time.Millisecond},
		{"another status", func() error { return busy(500, "60") }, 10 * time.Millisecond, 10 * time.Millisecond},
	} {
		for _, by := range []ClientTransport{TransportWebSocket, TransportLongPoll, TransportFallback} {
			t.Run(fmt.Sprint(tt.name, " ", by), func(t *testing.T) {
				t.Parallel()
				clientBubble(t, ClientConfig{Transport: by}, func(t *testing.T, p *peer, c *Client) {
					p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
						if n < 3 {
							return tt.err()
						}
						return nil
					}
					connected(t, c)
					gaps := p.gaps()
					if by == TransportFallback && tt.min < time.Second { // long poll is tried immediately
						return
					}
					if gaps[0] < tt.min || gaps[0] > tt.max {
						t.Errorf("next attempt after %v, want %v to %v", gaps[0], tt.min, tt.max)
					}
				})
			})
		}
	}
}

// TestClientRetryAfterJitter checks that clients that were refused together do not return together.
func TestClientRetryAfterJitter(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 20 {
		clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
			p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
				if n == 1 {
					return busy(503, "100")
				}
				return nil
			}
			connected(t, c)
			seen[p.gaps()[0].Round(time.Second)] = true
		})
	}
	if len(seen) < 5 {
		t.Errorf("20 clients return after %v", seen)
	}
}

// TestClientReconnectDelay checks the arguments of ReconnectDelay, and that the longer of its
// result and the advice counts.
func TestClientReconnectDelay(t *testing.T) {
	t.Parallel()
	var got []Retry
	delay := func(r Retry) time.Duration {
		got = append(got, r)
		return 40 * time.Second
	}
	clientBubble(t, ClientConfig{ReconnectDelay: delay}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
			return map[int]error{2: busy(429, "200"), 3: busy(503, "4"), 4: errReset}[n]
		}
		connected(t, c)
		time.Sleep(time.Minute)
		p.last().end(&transport.CloseError{Code: transport.CodeRestart})
		synctest.Wait()
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			code   int
			advice time.Duration
			min    time.Duration
			max    time.Duration
		}{
			{transport.CodeRestart, 0, 100 * time.Second, 100 * time.Second}, // the connection held for 60 s of these
			{429, 200 * time.Second, 200 * time.Second, 250 * time.Second},
			{503, 4 * time.Second, 40 * time.Second, 50 * time.Second},
			{0, 0, 40 * time.Second, 40 * time.Second},
		} {
			if r := got[i]; r.Code != want.code || r.Advice != want.advice || r.Tries != i+1 || r.Cause == nil {
				t.Errorf("retry %d: %+v", i, r)
			}
			if gap := p.gaps()[i]; gap < want.min || gap > want.max {
				t.Errorf("attempt %d after %v, want %v to %v", i+1, gap, want.min, want.max)
			}
		}
		if !errors.Is(got[3].Cause, errReset) {
			t.Errorf("cause %v", got[3].Cause)
		}
	})
}
