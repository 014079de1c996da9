//go:build steppedclock

package socket

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// These tests step the clock of this process: see TestSteppedClock. They are not parallel.

// step moves the clock, until the test ends.
func step(t *testing.T, by time.Duration) {
	t.Helper()
	before := time.Now()
	time.StepSeconds += int64(by / time.Second)
	t.Cleanup(func() { time.StepSeconds -= int64(by / time.Second) })
	after := time.Now()
	if after.Sub(before) > time.Minute || after.Round(0).Sub(before.Round(0)).Round(time.Minute) != by {
		t.Fatalf("the clock went from %v to %v", before, after)
	}
}

// timedConn notes when frames are sent, and when it is closed.
type timedConn struct {
	discardConn
	mu     sync.Mutex
	events map[string]time.Time
	closed chan struct{}
}

func (c *timedConn) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events[what].IsZero() {
		c.events[what] = time.Now()
	}
}

func (c *timedConn) Send(f *serializer.Frame, _ transport.Delivery) error {
	for _, event := range []string{eventExpiring, eventExpired} {
		if strings.Contains(string(f.Data), event) {
			c.note(event)
		}
	}
	return nil
}

func (c *timedConn) Close(code int, _ string) {
	c.note(fmt.Sprint("close ", code))
	close(c.closed)
}

// TestStepOfServer steps the server's clock while grants live. Nothing comes early or late.
func TestStepOfServer(t *testing.T) {
	const late = 3 * time.Second // of a busy machine; a step is much longer
	for _, by := range []time.Duration{time.Hour, -time.Hour, 1000 * time.Hour} {
		t.Run(fmt.Sprint(by), func(t *testing.T) {
			h := NewHandler(Config{
				Channels: nil,
				Auth: &Auth{
					Verify: func(context.Context, string, *Request) (Grant, error) { return Grant{}, errNoToken },
					Grace:  time.Second,
				},
			})
			defer shutDown(t, h)
			v, err := newVerified(Grant{ID: "ann", Expires: time.Now().Add(4 * time.Second)}, 0)
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			conn := &timedConn{events: map[string]time.Time{}, closed: make(chan struct{})}
			s := h.open(conn, serializer.V2(), identity{parent: context.Background(), grant: v})
			defer s.Closed(nil)
			if err := s.Receive(serializer.OpText, []byte(join("1", "$socket"))); err != nil {
				t.Fatal(err)
			}
			step(t, by)
			select {
			case <-conn.closed:
			case <-time.After(time.Minute):
				t.Fatal("not closed")
			}
			conn.mu.Lock()
			defer conn.mu.Unlock()
			for event, want := range map[string]time.Duration{
				eventExpiring: 1800 * time.Millisecond, eventExpired: 4 * time.Second,
				fmt.Sprint("close ", CodeTokenExpired): 5 * time.Second,
			} {
				if at := conn.events[event].Sub(begun); at < want || at > want+late {
					t.Errorf("%s came after %v, want %v", event, at, want)
				}
			}
		})
	}
}

// TestStepDuringVerify steps the clock while a token is verified: its life is counted by the clock
// that Verify has used.
func TestStepDuringVerify(t *testing.T) {
	a := (Auth{Verify: func(context.Context, string, *Request) (Grant, error) {
		step(t, -time.Hour)
		return Grant{ID: "ann", Expires: time.Now().Add(time.Minute)}, nil
	}}).withDefaults()
	v, err := a.verify(t.Context(), "x", new(Request))
	if err != nil || time.Until(v.expires).Round(time.Second) != time.Minute {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestStepOfClient steps the client's clock: Now does not follow, and neither do the times of its
// state.
func TestStepOfClient(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		c := NewClient("ws://peer.test/socket", nil)
		sent := time.Now()
		c.server.add(sent, time.Now(), 1_700_000_000_000)
		before := c.Now()
		s, _ := authStep(clientAuthState{phase: authOpened}, authInput{kind: authInTold, now: time.Now(), grant: &clientGrant{
			State: stateAuthenticated, ExpiresIn: func() *float64 { ms := 60_000.0; return &ms }(),
		}})
		c.advice = clientAdvice{time.Second, time.Now().Add(clientAdviceValid)}
		step(t, by)
		if after := c.Now(); after.Sub(before) > 5*time.Second || after.Before(before) || before.Unix() != 1_700_000_000 {
			t.Errorf("%v: Now was %v and is %v", by, before, after)
		}
		if left := time.Until(s.shown.Expires); left > time.Minute || left < 50*time.Second {
			t.Errorf("%v: the token expires in %v", by, left)
		}
		if c.takeAdvice() != time.Second {
			t.Errorf("%v: the advice does not count", by)
		}
		if key := c.NewKey(); key == "" {
			t.Errorf("%v: no key", by)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
