package transport_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	ws "bennu.example/transport/websocket"
)

func TestClientRedirects(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32 // requests to a host that must not get any
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(elsewhere.Close)
	away := strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)

	for name, dial := range map[string]transporttest.Dialer{"ws": ws.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			last := map[string]string{"ws": "/websocket", "longpoll": "/longpoll"}[name]
			for _, tt := range []struct {
				name string
				to   func(r *http.Request) string
				code int
				want int // the status of the refusal; zero means a connection
			}{
				{"another path", func(r *http.Request) string { return "/real" + last + "?" + r.URL.RawQuery }, 302, 0},
				{"for good", func(r *http.Request) string { return "/real" + last + "?" + r.URL.RawQuery }, 301, 0},
				{"same method", func(r *http.Request) string { return "/real" + last + "?" + r.URL.RawQuery }, 308, 0},
				{"four steps", func(r *http.Request) string {
					if r.URL.Path == "/moved"+last+"111" {
						return "/real" + last + "?" + r.URL.RawQuery
					}
					return r.URL.Path + "1?" + r.URL.RawQuery
				}, 307, 0},
				{"circle", func(r *http.Request) string { return r.URL.String() }, 302, 302},
				{"endless", func(r *http.Request) string { return r.URL.Path + "x?" + r.URL.RawQuery }, 307, 307},
				{"another host", func(r *http.Request) string { return away + "/?" + r.URL.RawQuery }, 302, 302},
				{"without the query", func(r *http.Request) string { return "/real" + last }, 302, 302},
				{"other version", func(r *http.Request) string { return "/real" + last + "?vsn=1.0.0" }, 302, 302},
				{"nowhere", func(r *http.Request) string { return "" }, 302, 302},
			} {
				t.Run(tt.name, func(t *testing.T) {
					t.Parallel()
					endpoint := transporttest.Endpoint()
					var requests atomic.Int32
					n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						requests.Add(1)
						if strings.HasPrefix(r.URL.Path, "/real") {
							endpoint.ServeHTTP(w, r)
							return
						}
						if to := tt.to(r); to != "" {
							w.Header().Set("Location", to)
						}
						w.WriteHeader(tt.code)
						w.Write([]byte("moved"))
					}))
					c, err := dial(t.Context(), &transport.ClientConfig{URL: "ws://127.0.0.1/moved", AuthToken: "secret", HTTPClient: n.Client})
					if tt.want == 0 {
						if err != nil {
							t.Fatal(err)
						}
						// On long poll, all other requests go directly to where the session was opened.
						before := requests.Load()
						if err := c.Write(transporttest.Text("[]")); err != nil {
							t.Error(err)
						}
						if name == "ws" {
							transporttest.Wants(t, c, serializer.OpText, "[]")
						}
						if err := c.Close(1000, ""); err != nil {
							t.Errorf("Close: %v", err)
						}
						if more := requests.Load() - before; more > 2 {
							t.Errorf("%d requests for a poll and a post", more)
						}
						return
					}
					var refused *transport.HandshakeError
					if !errors.As(err, &refused) || refused.StatusCode != tt.want || string(refused.Body) != "moved" {
						t.Errorf("dial: %v", err)
					}
					if requests.Load() > 6 {
						t.Errorf("%d requests", requests.Load())
					}
				})
			}
		})
	}
	t.Cleanup(func() {
		if hits.Load() > 0 {
			t.Error("a redirect to another host was followed")
		}
	})
}

// TestClientRedirectsToAnotherServer checks that redirects to another port or scheme of the same
// host are not followed. They would send the token and the parameters to another server.
func TestClientRedirectsToAnotherServer(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]transporttest.Dialer{"ws": ws.Dial, "longpoll": longpoll.Dial} {
		for _, tt := range []struct{ from, to, want string }{
			{"http://server", "http://server:8080", ""},
			{"http://server:8080", "http://server", ""},
			{"http://server", "https://server", ""},
			{"http://server:443", "https://server", ""},
			{"https://server", "http://server", ""},
			{"https://server:8443", "https://server:9443", ""},
			{"http://[::1]:80", "http://[::1]:81", ""},
			{"http://server", "http://SERVER:80", "ok"},
			{"http://server:80", "http://server", "ok"},
			{"ws://server:4000", "http://server:4000", "ok"},
		} {
			t.Run(name+" "+tt.from+" to "+tt.to, func(t *testing.T) {
				t.Parallel()
				endpoint := transporttest.Endpoint()
				var followed atomic.Bool
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/a/longpoll" || r.URL.Path == "/a/websocket" {
						http.Redirect(w, r, tt.to+"/b/"+r.URL.Path[3:]+"?"+r.URL.RawQuery, http.StatusPermanentRedirect)
						return
					}
					followed.Store(true)
					if got := r.Header.Get("Referer"); got != "" {
						t.Errorf("Referer: %s", got)
					}
					endpoint.ServeHTTP(w, r)
				})
				n := transporttest.NewNet(t, h)
				tr := n.Transport.(*http.Transport)
				tr.DialTLSContext = tr.DialContext // without TLS, because only the redirect matters
				c, err := dial(t.Context(), &transport.ClientConfig{
					URL: tt.from + "/a", Params: "secret=1", AuthToken: "secret", HTTPClient: n.Client,
				})
				if tt.want == "ok" {
					if err != nil {
						t.Fatal(err)
					}
					c.Close(1000, "")
					return
				}
				var refused *transport.HandshakeError
				if !errors.As(err, &refused) || refused.StatusCode != http.StatusPermanentRedirect || followed.Load() {
					t.Errorf("dial: %v, followed: %v", err, followed.Load())
				}
			})
		}
	}
}

// TestClientRedirectKeepsOwnReferer checks that a Referer of the user is sent unchanged.
func TestClientRedirectKeepsOwnReferer(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]transporttest.Dialer{"ws": ws.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint := transporttest.Endpoint()
			n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Referer"); got != "https://mine.example/" {
					t.Errorf("%s: Referer %q", r.URL.Path, got)
				}
				if !strings.HasPrefix(r.URL.Path, "/real") {
					http.Redirect(w, r, "/real"+r.URL.String(), http.StatusFound)
					return
				}
				endpoint.ServeHTTP(w, r)
			}))
			transporttest.Dial(t, dial, transport.ClientConfig{
				URL: "ws://server/socket", Header: http.Header{"Referer": {"https://mine.example/"}}, HTTPClient: n.Client,
			})
		})
	}
}

// TestClientRedirectsChecked checks that the user's CheckRedirect is called and may refuse.
func TestClientRedirectsChecked(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]transporttest.Dialer{"ws": ws.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, http.RedirectHandler("/real?vsn=2.0.0", http.StatusFound))
			no := errors.New("no redirects here")
			n.CheckRedirect = func(*http.Request, []*http.Request) error { return no }
			if _, err := dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client}); !errors.Is(err, no) {
				t.Errorf("dial: %v", err)
			}
		})
	}
}

// TestClientOverSockets dials over TCP, TLS and HTTP/2. Without an HTTPClient the connections
// belong to the ClientConn, and TestMain checks that none is left.
func TestClientOverSockets(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*httptest.Server){
		"http":  (*httptest.Server).Start,
		"https": (*httptest.Server).StartTLS,
		"http2": func(s *httptest.Server) {
			s.EnableHTTP2 = true
			s.StartTLS()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(transporttest.Endpoint())
			start(s)
			t.Cleanup(s.Close)
			cfg := transport.ClientConfig{URL: s.URL + "/socket"}
			if name != "http" {
				cfg.HTTPClient = s.Client()
			}
			c := transporttest.Dial(t, ws.Dial, cfg)
			if err := c.Write(transporttest.Text("hello"), transporttest.Binary(strings.Repeat("x", 1<<20))); err != nil {
				t.Error(err)
			}
			transporttest.Wants(t, c, serializer.OpText, "hello")
			transporttest.Wants(t, c, serializer.OpBinary, strings.Repeat("x", 1<<20))
			if err := c.Close(1000, "bye"); err != nil {
				t.Error(err)
			}

			lp := transporttest.Dial(t, longpoll.Dial, cfg)
			if err := lp.Write(transporttest.Text("[]")); err != nil {
				t.Error(err)
			}
			if err := lp.Close(1000, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestClientWSCloseStuckTLS closes a TLS connection whose peer reads nothing. The closing alert of
// TLS would wait for it.
func TestClientWSCloseStuckTLS(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := httptest.NewTLSServer(transporttest.WebSocketHandler(func(*websocket.Conn, *http.Request) { <-release }))
	t.Cleanup(s.Close)
	defer close(release)
	c := transporttest.Dial(t, ws.Dial,
		transport.ClientConfig{URL: s.URL, HTTPClient: s.Client(), CloseTimeout: 100 * time.Millisecond})
	stuck := make(chan error, 1)
	go func() {
		for {
			if err := c.Write(transporttest.Binary(strings.Repeat("x", 1<<20))); err != nil {
				stuck <- err
				return
			}
		}
	}()
	for before := uint64(1); ; { // until nothing is written any more
		_, out := c.Bytes()
		if out == before {
			break
		}
		before = out
		<-time.After(100 * time.Millisecond)
	}
	transporttest.Within(t, 3*time.Second, func() {
		if err := c.Close(1000, ""); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
	})
	if err := <-stuck; err != transport.ErrClosed {
		t.Errorf("Write: %v", err)
	}
}
