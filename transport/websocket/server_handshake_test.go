package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

func TestWebSocketHandshakeRefused(t *testing.T) {
	t.Parallel()
	const good = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n"
	for _, c := range []struct {
		name, from, to string
		status         int
		body           string
	}{
		{"good", "", "", 101, ""},
		{"no connection header", "Connection: keep-alive, Upgrade\r\n", "", 400,
			"'connection' header must contain 'upgrade', got []"},
		{"other connection header", "keep-alive, Upgrade", "close", 400,
			`'connection' header must contain 'upgrade', got ["close"]`},
		{"no upgrade header", "Upgrade: WebSocket\r\n", "", 400, "'upgrade' header must contain 'websocket', got []"},
		{"other upgrade header", "Upgrade: WebSocket", "Upgrade: h2c", 400,
			`'upgrade' header must contain 'websocket', got ["h2c"]`},
		{"no key", "Sec-WebSocket-Key: " + wsKey + "\r\n", "", 400, "'sec-websocket-key' header is absent"},
		{"bad key", wsKey, "short", 400, ""},
		{"no version", "Sec-WebSocket-Version: 13\r\n", "", 400, "'sec-websocket-version' header must equal '13', got []"},
		{"version 12", "Version: 13", "Version: 12", 400, `'sec-websocket-version' header must equal '13', got ["12"]`},
		{"HTTP/1.0", "HTTP/1.1", "HTTP/1.0", 400, "HTTP version HTTP/1.0 unsupported"},
		{"POST", "GET", "POST", 400, "HTTP method POST unsupported"},
		{"a key of 15 bytes", wsKey, "AAAAAAAAAAAAAAAAAAAA", 400, "'sec-websocket-key' header is invalid"},
		{"two keys", "Sec-WebSocket-Version", "Sec-WebSocket-Key: " + wsKey + "\r\nSec-WebSocket-Version", 400,
			"'sec-websocket-key' header is invalid"},
		{"a body that never comes", "Host: x", "Host: x\r\nContent-Length: 10", 400, "a handshake has no body"},
		{"a body in chunks that never come", "Host: x", "Host: x\r\nTransfer-Encoding: chunked", 400,
			"a handshake has no body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startWS(t, websocket.Config{}, wsPaths[0])
			nc := s.dial()
			request := strings.Replace(good, c.from, c.to, 1)
			if _, err := io.WriteString(nc, request+"\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status {
				t.Errorf("status %d, want %d", res.StatusCode, c.status)
			}
			if c.status == 101 {
				if accept := res.Header.Get("Sec-WebSocket-Accept"); accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
					t.Errorf("accept %q", accept)
				}
				if ext := res.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
					t.Errorf("extensions %q", ext)
				}
				nc.Close()
				(<-s.opened).end(t)
				return
			}
			if body, _ := io.ReadAll(res.Body); c.body != "" && string(body) != c.body {
				t.Errorf("body %q, want %q", body, c.body)
			}
		})
	}
}

func TestWebSocketProtocol(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{}, wsPaths[0])
	for _, c := range []struct{ uri, offer, answer string }{
		{"/", "phoenix", ""},
		{"/?protocol=phoenix", "base64url.bearer.phx.MTIzNA, phoenix", "phoenix"},
	} {
		p := handshake(t, s.dial(), c.uri, "Sec-WebSocket-Protocol: "+c.offer)
		if got := p.res.Header.Get("Sec-WebSocket-Protocol"); got != c.answer {
			t.Errorf("%s: answered %q, want %q", c.uri, got, c.answer)
		}
		p.finish(<-s.opened)
	}
}

// wrapped is the ResponseWriter of a middleware, with the Unwrap of http.ResponseController.
type wrapped struct{ w http.ResponseWriter }

func (w wrapped) Header() http.Header         { return w.w.Header() }
func (w wrapped) Write(b []byte) (int, error) { return w.w.Write(b) }
func (w wrapped) WriteHeader(code int)        { w.w.WriteHeader(code) }
func (w wrapped) Unwrap() http.ResponseWriter { return w.w }

func TestWebSocketThroughMiddleware(t *testing.T) {
	t.Parallel()
	s := newWSServer(t, websocket.Config{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(wrapped{wrapped{w}}, r)
	}))
	defer hs.Close()
	s.addr = hs.Listener.Addr().String()
	p, session := s.connect()
	session.text(t, "hello")
	p.want(fin|opText, "hello")
	p.finish(session)
	s.ws.Wait()
}

// lazy is a ResponseWriter like Gin's, which delays the status.
type lazy struct {
	http.ResponseWriter
	code int
}

func (w *lazy) WriteHeader(code int) { w.code = code }
func (w *lazy) WriteHeaderNow()      { w.ResponseWriter.WriteHeader(w.code) }
func (w *lazy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func TestWebSocketThroughGin(t *testing.T) {
	t.Parallel()
	s := newWSServer(t, websocket.Config{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(&lazy{ResponseWriter: w}, r)
	}))
	defer hs.Close()
	s.addr = hs.Listener.Addr().String()
	p, session := s.connect()
	p.finish(session)
	s.ws.Wait()
}

// TestWebSocketWithoutHijacker checks that the error names the remedy.
func TestWebSocketWithoutHijacker(t *testing.T) {
	t.Parallel()
	s := websocket.NewServer(websocket.Config{})
	r := httptest.NewRequest("GET", "/", nil)
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": wsKey,
	} {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	err := s.Serve(w, r, "", func(transport.Conn) transport.Session { panic("open was called") })
	if w.Code != http.StatusNotImplemented || !errors.Is(err, websocket.ErrNoHijacker) {
		t.Errorf("status %d, %v", w.Code, err)
	}
	if !strings.Contains(err.Error(), "Unwrap()") {
		t.Errorf("no remedy in %q", err)
	}
}

// TestWebSocketEarlyFrames sends frames before the answer to the handshake. net/http has read them
// by then.
func TestWebSocketEarlyFrames(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		nc := s.dial()
		big := strings.Repeat("b", 1500)
		request := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n\r\n"
		early := string(maskedFrame(fin|opText, "early")) + string(maskedFrame(fin|opText, big)) +
			string(maskedFrame(opText, "half"))
		if _, err := io.WriteString(nc, request+early); err != nil {
			t.Fatal(err)
		}
		session := <-s.opened
		p := &wsPeer{Conn: nc, t: t, br: bufio.NewReader(nc)}
		if _, err := http.ReadResponse(p.br, nil); err != nil {
			t.Fatal(err)
		}
		p.send(fin|opCont, " and half")
		for _, want := range []string{"early", big, "half and half"} {
			if m := session.next(t); m.data != want {
				t.Errorf("got %.20q, want %.20q", m.data, want)
			}
		}
		p.finish(session)
	})
}

// TestWebSocketServerTimeouts checks that the timeouts of net/http's server do not apply to a
// WebSocket.
func TestWebSocketServerTimeouts(t *testing.T) {
	t.Parallel()
	s := newWSServer(t, websocket.Config{})
	hs := httptest.NewUnstartedServer(s)
	hs.Config.ReadTimeout, hs.Config.WriteTimeout, hs.Config.IdleTimeout = 20*time.Millisecond, 20*time.Millisecond,
		20*time.Millisecond
	hs.Start()
	defer hs.Close()
	s.addr = hs.Listener.Addr().String()
	p, session := s.connect()
	time.Sleep(100 * time.Millisecond) // longer than any of these
	session.text(t, "still there")
	p.want(fin|opText, "still there")
	p.finish(session)
	s.ws.Wait()
}

// TestWebSocketForgetsRequest checks that the request, and net/http's buffers with it, can be
// collected after the handshake.
func TestWebSocketForgetsRequest(t *testing.T) {
	t.Parallel()
	type key struct{}
	var collected atomic.Bool
	s := newWSServer(t, websocket.Config{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mark := new([1000]int)
		runtime.AddCleanup(mark, func(int) { collected.Store(true) }, 0)
		s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, mark)))
	}))
	defer hs.Close()
	s.addr = hs.Listener.Addr().String()
	p, session := s.connect()
	p.sendText("x")
	session.next(t)
	eventually(t, "collecting the request", func() bool {
		runtime.GC()
		return collected.Load()
	})
	p.finish(session)
	s.ws.Wait()
}
