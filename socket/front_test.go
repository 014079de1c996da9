package socket_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/socket"
)

// upgrade returns a WebSocket handshake. Its response writer must be able to hijack.
func upgrade(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	return r
}

// hijackable is a recorder that implements http.Hijacker.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrHijacked }

func (s *server) ask(r *http.Request) *httptest.ResponseRecorder {
	w := hijackable{httptest.NewRecorder()}
	s.h.ServeHTTP(w, r)
	return w.ResponseRecorder
}

// TestReadsBeforeAnswering checks that the body of a request is read before every answer.
func TestReadsBeforeAnswering(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Origins: []string{"https://good.test"}, Connect: func(context.Context, *socket.Request) (context.Context, error) {
		return nil, fmt.Errorf("refused")
	}})
	for _, c := range []struct {
		name, method, path, origin string
		status                     int
	}{
		{"not found", "POST", "/socket/elsewhere", "", 404},
		{"websocket, another method", "POST", "/socket/websocket", "", 400},
		{"websocket, no handshake", "GET", "/socket/websocket", "", 400},
		{"long poll, refused origin", "POST", "/socket/longpoll", "https://evil.test", 200},
		{"long poll, long query", "POST", "/socket/longpoll?a=" + strings.Repeat("x", 20_000), "", 414},
		{"long poll, session gone", "POST", "/socket/longpoll?token=gone", "", 200},
		{"long poll, refused", "GET", "/socket/longpoll?vsn=2.0.0", "", 200},
	} {
		for _, size := range []int{1, 50_000, 1_000_000} {
			body := strings.NewReader(strings.Repeat("x", size))
			r := httptest.NewRequest(c.method, c.path, io.NopCloser(body))
			r.Pattern = "/socket/"
			r.ContentLength = int64(size)
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if w := s.ask(r); w.Code != c.status || body.Len() > 0 {
				t.Errorf("%s: answered %d, %d of %d bytes were not read", c.name, w.Code, body.Len(), size)
			}
		}
	}
}

// TestConnectComesLast checks that Connect runs only for handshakes that passed all cheaper checks.
func TestConnectComesLast(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := serve(t, socket.Config{
		Origins: []string{"https://good.test"}, HandshakeRate: 1,
		Connect: func(context.Context, *socket.Request) (context.Context, error) {
			calls.Add(1)
			return nil, &socket.Refusal{Status: 418}
		},
	})
	for name, c := range map[string]struct {
		change func(r *http.Request)
		status int
	}{
		"an image tag": {func(r *http.Request) {
			r.Header = http.Header{"Cookie": {"session=1"}, "Sec-Fetch-Site": {"cross-site"}}
		}, 400},
		"a method":        {func(r *http.Request) { r.Method = http.MethodPut }, 400},
		"no upgrade":      {func(r *http.Request) { r.Header.Del("Upgrade") }, 400},
		"another version": {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, 400},
		"a short key":     {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "c2hvcnQ=") }, 400},
		"a body": {func(r *http.Request) {
			r.ContentLength, r.Body = 5,
				io.NopCloser(strings.NewReader("12345"))
		}, 400},
		"a body of any size": {func(r *http.Request) {
			r.ContentLength, r.Body = -1,
				io.NopCloser(strings.NewReader("12345"))
		}, 400},
		"a long query": {func(r *http.Request) { r.URL.RawQuery = strings.Repeat("x", 16<<10+1) }, 414},
		"many pairs":   {func(r *http.Request) { r.URL.RawQuery = strings.Repeat("a=1&", 1000) }, 400},
	} {
		r := upgrade("/socket/websocket?vsn=2.0.0")
		c.change(r)
		if w := s.ask(r); w.Code != c.status {
			t.Errorf("%s: answered %d", name, w.Code)
		}
	}
	if n := s.h.Stats().TooFast; n != 0 {
		t.Errorf("%d invalid handshakes counted as too fast", n)
	}
	// The rate is one per second with a burst of two, and is checked before the origin.
	for _, want := range []int{403, 403, 503} {
		r := upgrade("/socket/websocket?vsn=2.0.0")
		r.Header.Set("Origin", "https://evil.test")
		if w := s.ask(r); w.Code != want {
			t.Errorf("another site: answered %d, want %d", w.Code, want)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("Connect was called %d times", n)
	}
}

func TestQueryWithinBounds(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxQuery: 30_000})
	s.dial("vsn=2.0.0&token=" + strings.Repeat("x", 29_000))
	s.dial("vsn=2.0.0" + strings.Repeat("&a=1", 999))
}

// TestLongPollOfAnotherSite sends requests such as those of an image on another site. They have no
// Origin, and would act for the visitor of that site.
func TestLongPollOfAnotherSite(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		var calls int
		s := serve(t,
			socket.Config{InsecureAnyOrigin: open,
				Connect: func(ctx context.Context, _ *socket.Request) (context.Context, error) {
					calls++
					return ctx, nil
				}})
		for site, ok := range map[string]bool{"": true, "none": true, "same-origin": true, "same-site": open,
			"cross-site": open} {
			r := httptest.NewRequest(http.MethodGet, "/socket/longpoll?vsn=2.0.0", nil)
			if site != "" {
				r.Header.Set("Sec-Fetch-Site", site)
			}
			before := calls
			w := s.ask(r)
			if (calls > before) != ok || strings.Contains(w.Body.String(), "403") == ok ||
				w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%q: answered %s, %d calls", site, w.Body, calls-before)
			}
		}
		r := httptest.NewRequest(http.MethodGet, "/socket/longpoll?vsn=2.0.0",
			nil) // a page of the same host on another port
		r.Host = "127.0.0.1:4000"
		r.Header.Set("Sec-Fetch-Site", "same-site")
		r.Header.Set("Origin", "http://127.0.0.1:3000")
		if w := s.ask(r); !strings.Contains(w.Body.String(), "410") {
			t.Errorf("an allowed page: %s", w.Body)
		}
	}
}

// TestEmptyPathSegments sends paths with empty segments, as proxies often do. They are served,
// except by http.ServeMux, which redirects them.
func TestEmptyPathSegments(t *testing.T) {
	t.Parallel()
	h := socket.NewHandler(socket.Config{})
	front := httptest.NewServer(h)
	defer front.Close()
	for _, path := range []string{"/socket/", "//socket/", "/socket//", "//", "/app//socket///"} {
		resp, err := http.Get(front.URL + path + "longpoll?vsn=2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), `"status":410`) {
			t.Errorf("long poll below %s: %d %s", path, resp.StatusCode, body)
		}
		nc, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		r := upgrade(path + "websocket?vsn=2.0.0")
		if err := r.Write(nc); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(nc).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 101 ") {
			t.Errorf("websocket below %s: %q, %v", path, line, err)
		}
		nc.Close()
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestShutdownCancelsConnect checks that Shutdown cancels the context of handshakes and counts them
// until they end.
func TestShutdownCancelsConnect(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 2)
	h := socket.NewHandler(socket.Config{Connect: func(ctx context.Context, _ *socket.Request) (context.Context, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, nil // too late to become a socket
	}})
	var asking sync.WaitGroup
	for _, r := range []*http.Request{upgrade("/websocket?vsn=2.0.0"),
		httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0", nil)} {
		asking.Go(func() {
			w := hijackable{httptest.NewRecorder()}
			if h.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable {
				t.Errorf("answered %d", w.Code)
			}
		})
		<-began
	}
	if n := h.Stats().Handshakes; n != 2 {
		t.Errorf("%d handshakes are in progress", n)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	asking.Wait()
	if n := h.Stats().Handshakes; n != 0 {
		t.Errorf("%d handshakes are left", n)
	}
}

// TestShutdownWithUnresponsiveClients checks that clients that do not answer the close frame do not
// delay Shutdown by CloseTimeout.
func TestShutdownWithUnresponsiveClients(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	addr := strings.TrimPrefix(s.url, "http://")
	for range 20 {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := upgrade("/socket/websocket?vsn=2.0.0").Write(nc); err != nil {
			t.Fatal(err)
		}
		if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if err := s.h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 4*time.Second { // 0.5 s, and time for a busy machine
		t.Errorf("took %v", d)
	}
}
