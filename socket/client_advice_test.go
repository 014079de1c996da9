package socket

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// advise sends advice on a connection.
func (k *peerConn) advise(payload any) {
	k.mu.Lock()
	ref := k.joined[topicSocket]
	k.mu.Unlock()
	k.send(serializer.Message{
		Kind: serializer.KindPush, JoinRef: ref, Topic: topicSocket, Event: eventAdvice, Payload: serializer.Value(payload),
	})
}

var errRestart = &transport.CloseError{Code: transport.CodeRestart}

// TestClientAdvice checks how long a client that received advice waits after the end of its
// connection.
func TestClientAdvice(t *testing.T) {
	t.Parallel()
	after := func(ms any) any { return map[string]any{"after_ms": ms, "reason": "restart"} }
	for name, tt := range map[string]struct {
		advice []any
		wait   time.Duration // before the connection ends
		err    error
		want   time.Duration
	}{
		"advice":            {[]any{after(4000)}, time.Second, errRestart, 4 * time.Second},
		"a lost connection": {[]any{after(4000)}, time.Second, errReset, 4 * time.Second},
		"the last advice":   {[]any{after(9000), after(2500)}, 0, errRestart, 2500 * time.Millisecond},
		"a fraction":        {[]any{after(1.5)}, 0, errRestart, 1500 * time.Microsecond},
		"after a minute":    {[]any{after(4000)}, 61 * time.Second, errRestart, 0},
		"within a minute":   {[]any{after(4000)}, 59 * time.Second, errRestart, 4 * time.Second},
		"far too long":      {[]any{after(1e12)}, 0, errRestart, 5 * time.Minute},
		"beyond all bounds": {[]any{after(math.MaxFloat64)}, 0, errRestart, 5 * time.Minute},
		"negative":          {[]any{after(-4000)}, 0, errRestart, 0},
		"not a number":      {[]any{after("4000")}, 0, errRestart, 0},
		"no object":         {[]any{[]int{1}, "x", nil}, 0, errRestart, 0},
		"without a delay":   {[]any{map[string]string{"reason": "move"}}, 0, errRestart, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := ClientConfig{ReconnectDelay: func(r Retry) time.Duration { return 0 }}
			ownBubble(t, cfg, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
				connected(t, c)
				synctest.Wait()
				for _, a := range tt.advice {
					p.last().advise(a)
				}
				time.Sleep(tt.wait)
				end := time.Now()
				p.last().end(tt.err)
				synctest.Wait()
				if err := c.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := p.at[1].Sub(end); got != tt.want {
					t.Errorf("the client returns after %v, want %v", got, tt.want)
				}
				end = time.Now() // the advice does not count for the next connection
				p.last().end(tt.err)
				synctest.Wait()
				if err := c.Ready(t.Context()); err != nil || p.at[2].Sub(end) != 0 {
					t.Errorf("and then after %v: %v", p.at[2].Sub(end), err)
				}
			})
		})
	}
}

// TestClientAdviceForOneAttempt checks that the advice is for the first attempt, that it is passed
// to ReconnectDelay, and that the longer delay counts.
func TestClientAdviceForOneAttempt(t *testing.T) {
	t.Parallel()
	var got []Retry
	cfg := ClientConfig{ReconnectDelay: func(r Retry) time.Duration {
		got = append(got, r)
		return 3 * time.Second
	}}
	ownBubble(t, cfg, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		connected(t, c)
		for _, tt := range []struct{ advised, wait time.Duration }{
			{7 * time.Second, 7 * time.Second}, {time.Second, 3 * time.Second},
		} {
			synctest.Wait()
			p.last().advise(advicePayload{AfterMS: float64(tt.advised.Milliseconds())})
			time.Sleep(10 * time.Second)
			first, end := p.dialCount(), time.Now()
			p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
				if n == first+1 {
					return errReset
				}
				return nil
			}
			got = nil
			p.last().end(errRestart)
			synctest.Wait()
			if err := c.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			if a, b := p.at[first].Sub(end), p.at[first+1].Sub(p.at[first]); a != tt.wait || b != 3*time.Second {
				t.Errorf("attempts after %v and %v", a, b)
			}
			if len(got) != 2 || got[0].Advice != tt.advised || got[0].Code != transport.CodeRestart || got[1].Advice != 0 {
				t.Errorf("%+v", got)
			}
		}
	})
}

// TestClientRestartSpread checks that clients return evenly within a second after the server has
// ended their connections, unless it has given them advice.
func TestClientRestartSpread(t *testing.T) {
	t.Parallel()
	delay := (*ClientConfig)(nil).withDefaults().ReconnectDelay
	for _, code := range []int{transport.CodeGoingAway, transport.CodeRestart} {
		var tenths [10]int
		for range 2000 {
			d := delay(Retry{Tries: 1, Code: code, Cause: &transport.CloseError{Code: code}})
			if d < 0 || d >= time.Second {
				t.Fatalf("code %d: %v", code, d)
			}
			tenths[10*d/time.Second]++
		}
		for _, n := range tenths {
			if n < 100 {
				t.Errorf("code %d: %v", code, tenths)
			}
		}
		if d := delay(Retry{Tries: 1, Code: code, Advice: time.Second}); d != 0 {
			t.Errorf("code %d, with advice: %v", code, d)
		}
		if d := delay(Retry{Tries: 9, Code: code, Advice: time.Second}); d < time.Second || d >= 3*time.Second {
			t.Errorf("code %d, a later attempt: %v", code, d)
		}
	}
	if d := delay(Retry{Tries: 1, Code: 503, Advice: time.Second, Cause: errors.New("x")}); d < 5*time.Millisecond {
		t.Errorf("code 503: %v", d)
	}
}

// TestClientAdviceFlood sends much advice with extreme values. The client connects no more than
// once in 5 s, and waits at most 5 min.
func TestClientAdviceFlood(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]error{
		"open": nil, "refused": busy(403, ""), "unreachable": errReset, "busy": busy(503, "Thu, 01 Jan 2099 00:00:00 GMT"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ownBubble(t, ClientConfig{ReconnectDelay: clientReconnectDelay()}, func(
				t *testing.T, p *peer, c *Client, _ *atomic.Int64,
			) {
				connected(t, c)
				room := joined(t, c, "room")
				p.refuse = func(context.Context, ClientTransport, int) error { return refused }
				start, first := time.Now(), p.dialCount()
				for time.Since(start) < time.Minute {
					for i := range 20 {
						p.last().advise(map[string]any{
							"after_ms": 1e12, "within_ms": []any{1e12, 1, 0.001, -1, "x"}[i%5], "reason": fmt.Sprint(i),
						})
					}
					time.Sleep(50 * time.Millisecond)
					mustReply(t, room.Push("echo", 1))
				}
				most := 13
				if refused == errReset { // after the delays of a client that cannot connect
					most = 60
				}
				if n := p.dialCount() - first; n > most || n < 1 {
					t.Errorf("%d attempts in a minute", n)
				}
				p.refuse = nil
				k := p.last()
				k.end(errRestart)
				time.Sleep(5*time.Minute + time.Second)
				if s := c.State(); s.Status != StatusConnected || p.last() == k && refused != nil {
					t.Errorf("%v", s)
				}
			})
		})
	}
}
