package socket

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
)

// TestClientRefreshFlood has a server that sends events about the token all the time. The client
// does not call AuthTokenFunc more often than once per second, and its channels go on.
func TestClientRefreshFlood(t *testing.T) {
	t.Parallel()
	grant := map[string]any{"state": "authenticated", "expires_in": 1}
	for name, test := range map[string]struct {
		events []string
		err    error // of AuthTokenFunc
	}{
		"expiring":            {[]string{eventExpiring}, nil},
		"expired":             {[]string{eventExpired}, nil},
		"expiring and auth":   {[]string{eventExpiring, eventAuth}, nil},
		"expired and auth":    {[]string{eventExpired, eventAuth}, nil},
		"all":                 {[]string{eventExpiring, eventExpired, eventAuth}, nil},
		"all, without tokens": {[]string{eventExpiring, eventExpired, eventAuth}, errors.New("no token")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			cfg := ClientConfig{AuthTokenFunc: func(context.Context) (string, error) {
				return fmt.Sprint("token", calls.Add(1)), test.err
			}}
			ownBubble(t, cfg, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
				p.join = func(_ *peerConn, m *serializer.Message) (string, any) {
					if m.Topic != topicSocket {
						return "ok", nil
					}
					return "ok", map[string]any{"id": testConnection, "client": testClient, "auth": grant}
				}
				fail := test.err
				test.err = nil
				connected(t, c)
				test.err = fail
				room := joined(t, c, "room")
				k := p.last()
				k.mu.Lock()
				ref := k.joined[topicSocket]
				k.mu.Unlock()
				begun, before := time.Now(), calls.Load()
				for n := 0; time.Since(begun) < time.Minute; n++ {
					for range 3 {
						event := test.events[n%len(test.events)]
						m := serializer.Message{Kind: serializer.KindPush, JoinRef: ref, Topic: topicSocket, Event: event}
						if event == eventAuth {
							m.Payload = serializer.Value(grant)
						}
						k.send(m)
					}
					time.Sleep(20 * time.Millisecond)
					if n%50 == 0 {
						mustReply(t, room.Push("echo", 1))
					}
				}
				synctest.Wait()
				if n := calls.Load() - before; n < 1 || n > 62 {
					t.Errorf("AuthTokenFunc was called %d times in a minute", n)
				}
				if n := len(p.conns()); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}
