package transport_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

func TestHandshakeErrorRetryAfter(t *testing.T) {
	t.Parallel()
	const date = "Fri, 27 Nov 2026 10:00:00 GMT"
	for _, tt := range []struct {
		status           int
		retryAfter, date string
		want             time.Duration
	}{
		{503, "3", "", 3 * time.Second},
		{429, "0120", "", 2 * time.Minute},
		{503, "Fri, 27 Nov 2026 10:01:30 GMT", date, 90 * time.Second}, // the local clock does not matter
		{429, "Friday, 27-Nov-26 10:00:05 GMT", date, 5 * time.Second},
		{429, "Fri Nov 27 10:00:06 2026", date, 6 * time.Second},
		{503, "Fri, 27 Nov 2026 09:59:59 GMT", date, 0},
		{503, "99999999999999999999999", "", 2147483647 * time.Second},
		{503, "", "", 0},
		{503, "-1", "", 0},
		{503, "1.5", "", 0},
		{503, "soon", date, 0},
		{500, "3", "", 0},
		{302, "3", "", 0},
		{403, "3", "", 0},
	} {
		h := http.Header{}
		h.Set("Retry-After", tt.retryAfter)
		h.Set("Date", tt.date)
		if got := (&transport.HandshakeError{StatusCode: tt.status, Header: h}).RetryAfter(); got != tt.want {
			t.Errorf("%d, %q at %q: %v, want %v", tt.status, tt.retryAfter, tt.date, got, tt.want)
		}
	}
	if got := (&transport.HandshakeError{StatusCode: 503}).RetryAfter(); got != 0 {
		t.Errorf("without a header: %v", got)
	}
}

// TestClientRefusedWithAdvice checks that Retry-After is returned for every request that is
// refused: the handshake, a poll, or a POST.
func TestClientRefusedWithAdvice(t *testing.T) {
	t.Parallel()
	refuse := func(w http.ResponseWriter) bool {
		w.Header().Set("Retry-After", "17")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	advised := func(t *testing.T, err error) {
		t.Helper()
		var refused *transport.HandshakeError
		if !errors.As(err, &refused) || refused.RetryAfter() != 17*time.Second {
			t.Errorf("no advice in %v", err)
		}
	}
	for name, dial := range map[string]transporttest.Dialer{"ws": websocket.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w) }))
			_, err := dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
			advised(t, err)
		})
	}
	t.Run("poll", func(t *testing.T) {
		t.Parallel()
		s := transporttest.NewLongPollServer()
		s.Get = func(i int, w http.ResponseWriter, _ *http.Request) bool { return i == 1 && refuse(w) }
		longPollTest(t, s, func(t *testing.T, c transport.ClientConn) {
			advised(t, transporttest.WantsEnd(t, c))
		})
	})
	t.Run("post", func(t *testing.T) {
		t.Parallel()
		s := transporttest.NewLongPollServer()
		s.Post = func(_ int, w http.ResponseWriter, _ *http.Request) bool { return refuse(w) }
		longPollTest(t, s, func(t *testing.T, c transport.ClientConn) {
			advised(t, c.Write(transporttest.Text("[]")))
			advised(t, transporttest.WantsEnd(t, c))
		})
	})
}

// longPollTest runs f in a bubble with a connection to s.
func longPollTest(t *testing.T, s *transporttest.LongPollServer, f func(t *testing.T, c transport.ClientConn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.Out = make(chan string, 1000)
		n := transporttest.NewNet(t, s)
		f(t, transporttest.Dial(t, longpoll.Dial, transport.ClientConfig{HTTPClient: n.Client}))
	})
}
