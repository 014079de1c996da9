package socket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"bennu.example/transport"
)

// TestClientTriesCountFailuresOnly has connections that end immediately between attempts that fail.
// The delays continue to grow because no connection lasts, but State.Tries counts only failed
// attempts in a row.
func TestClientTriesCountFailuresOnly(t *testing.T) {
	t.Parallel()
	fails := map[int]bool{3: true, 4: true, 6: true}
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(_ context.Context, _ ClientTransport, n int) error {
			if fails[n] {
				return errReset
			}
			return nil
		}
		p.prepare = func(k *peerConn) { k.end(&transport.CloseError{Code: transport.CodeInternal}) }
		want := []int{0, 0, 1, 2, 0, 1, 0}
		var got []int
		c.Connect()
		for s := range c.States(t.Context()) {
			if s.Status == StatusConnected && s.Tries != 0 {
				t.Errorf("connected with %d tries", s.Tries)
			}
			if s.Status != StatusWaiting {
				continue
			}
			if got = append(got, s.Tries); len(got) == len(want) {
				break
			}
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("tries %v, want %v", got, want)
			}
		}
		gaps := p.gaps()
		for i, ms := range []int{10, 50, 100, 150, 200, 250} {
			if i < len(gaps) && gaps[i] != time.Duration(ms)*time.Millisecond {
				t.Errorf("attempt %d after %v, want %d ms: the back-off must continue", i+2, gaps[i], ms)
			}
		}
	})
}

func TestStateString(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 15, 4, 5, 250e6, time.UTC)
	for _, test := range []struct {
		state State
		want  string
	}{
		{State{}, "disconnected, paused"},
		{State{Wanted: WantClosed, Cause: errReset}, "disconnected, closed: " + errReset.Error()},
		{State{Wanted: WantConnected, Status: StatusConnecting}, "connecting"},
		{State{Wanted: WantConnected, Status: StatusConnecting, Tries: 2, Cause: errReset},
			"connecting, attempt 3: " + errReset.Error()},
		{State{Wanted: WantConnected, Status: StatusConnected, Transport: "longpoll"}, "connected by longpoll"},
		{State{Wanted: WantConnected, Status: StatusWaiting, Tries: 2, Until: at, Cause: errReset},
			"waiting, attempt 3 at 15:04:05.250: " + errReset.Error()},
		{State{Status: StatusDenied, Cause: errors.Join(errReset, errors.New("b\tc\r\n"))},
			"denied: " + errReset.Error() + "; b; c"},
		{State{Status: StatusFailed, Cause: errors.New("x" + strings.Repeat("ü", 150))},
			"failed: x" + strings.Repeat("ü", 99) + "…"},
		{State{Status: StatusFailed, Cause: errors.New("a\xffb")}, "failed: a\uFFFDb"},
	} {
		if got := test.state.String(); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}
