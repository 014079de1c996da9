package socket_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/socket"
)

// opaque is the http.ResponseWriter of a middleware without Unwrap.
type opaque struct{ w http.ResponseWriter }

func (w opaque) Header() http.Header         { return w.w.Header() }
func (w opaque) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w opaque) WriteHeader(status int)      { w.w.WriteHeader(status) }

func TestMiddlewareWithoutUnwrapIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		logger := zerolog.New(&log)
		h := socket.NewHandler(socket.Config{Logger: &logger})
		handshake := func() {
			r := httptest.NewRequest(http.MethodGet, "http://localhost/websocket?vsn=2.0.0", nil)
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Sec-WebSocket-Version", "13")
			r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
			w := httptest.NewRecorder()
			h.ServeHTTP(opaque{w}, r)
			if w.Code != http.StatusNotImplemented {
				t.Fatalf("status %d", w.Code)
			}
		}
		for range 100 {
			handshake()
		}
		time.Sleep(59 * time.Second)
		handshake()
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines within a minute: %s", n, log.String())
		}
		time.Sleep(2 * time.Second)
		handshake()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], `"suppressed":100`) {
			t.Fatalf("after a minute: %s", log.String())
		}
		for _, want := range []string{`"level":"error"`, "Unwrap", "docs/deployment.md", "Mount it behind middleware"} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("%q is missing in %s", want, lines[0])
			}
		}
	})
}
