package transport_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// freezer dials connections that can be frozen: they carry nothing any more, and neither end is
// notified.
type freezer struct {
	dials atomic.Int32
	mu    sync.Mutex
	live  []*frozenConn
}

type frozenConn struct {
	net.Conn
	once   sync.Once
	frozen chan struct{}
	closed chan struct{}
}

func (f *freezer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	f.dials.Add(1)
	c := &frozenConn{Conn: conn, frozen: make(chan struct{}), closed: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = append(f.live, c)
	return c, nil
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.live {
		close(c.frozen)
	}
	f.live = nil
}

func (c *frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.frozen:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *frozenConn) Write(p []byte) (int, error) {
	select {
	case <-c.frozen:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// TestClientDialsAnew checks that an attempt uses neither a connection of an earlier attempt nor
// one of the user, because their path may have died silently.
func TestClientDialsAnew(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		http2     bool
		transport func(*freezer, *tls.Config) *http.Transport
	}{
		{"HTTP/1.1", false, func(f *freezer, cfg *tls.Config) *http.Transport {
			return &http.Transport{DialContext: f.dial, TLSClientConfig: cfg}
		}},
		{"HTTP/2", true, func(f *freezer, cfg *tls.Config) *http.Transport {
			return &http.Transport{DialContext: f.dial, TLSClientConfig: cfg, ForceAttemptHTTP2: true}
		}},
		{"HTTP/2 with the old Dial", true, func(f *freezer, cfg *tls.Config) *http.Transport {
			//nolint:staticcheck // the test is about the deprecated field
			return &http.Transport{
				TLSClientConfig: cfg, ForceAttemptHTTP2: true,
				Dial: func(network, address string) (net.Conn, error) {
					return f.dial(context.Background(), network, address)
				},
			}
		}},
		{"HTTP/2 by protocols", true, func(f *freezer, cfg *tls.Config) *http.Transport {
			p := new(http.Protocols)
			p.SetHTTP2(true)
			p.SetHTTP1(true)
			return &http.Transport{DialContext: f.dial, TLSClientConfig: cfg, Protocols: p}
		}},
		{"the user's TLS", true, func(f *freezer, cfg *tls.Config) *http.Transport {
			cfg = cfg.Clone()
			cfg.NextProtos = []string{"h2", "http/1.1"}
			dialTLS := func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := f.dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				cfg := cfg.Clone()
				cfg.ServerName = "example.com"
				return tls.Client(conn, cfg), nil
			}
			return &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: dialTLS}
		}},
		{"a pool of golang.org/x/net/http2", true, func(f *freezer, cfg *tls.Config) *http.Transport {
			return &http.Transport{
				DialContext: f.dial, TLSClientConfig: cfg,
				TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{
					"h2": func(string, *tls.Conn) http.RoundTripper { panic("the pool was used") },
				},
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lp := transporttest.NewLongPollServer()
			ws := transporttest.WebSocketHandler(transporttest.Echo)
			var protocol atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/socket/websocket":
					ws.ServeHTTP(w, r)
				case r.Header.Get("X-Phoenix-Longpoll-Token") == "":
					protocol.Store(int32(r.ProtoMajor))
					transporttest.Answer(w, 410, "T")
				default:
					lp.ServeHTTP(w, r)
				}
			}))
			s.EnableHTTP2 = tt.http2
			s.StartTLS()
			t.Cleanup(s.Close)
			t.Cleanup(s.CloseClientConnections)
			f := &freezer{}
			tr := tt.transport(f, s.Client().Transport.(*http.Transport).TLSClientConfig)
			t.Cleanup(tr.CloseIdleConnections)
			cfg := transport.ClientConfig{
				URL: s.URL + "/socket", HTTPClient: &http.Client{Transport: tr}, CloseTimeout: 10 * time.Millisecond,
			}
			if tr.TLSNextProto == nil { // put a connection into the pool of the user
				resp, err := cfg.HTTPClient.Post(s.URL, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			for range 3 {
				for i, dial := range []transporttest.Dialer{longpoll.Dial, websocket.Dial} {
					if i == 1 && tr.DialTLSContext != nil {
						continue // it negotiates HTTP/2, which does not carry WebSockets here
					}
					before := f.dials.Load()
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					c, err := dial(ctx, &cfg)
					cancel()
					if err != nil {
						t.Fatal(err)
					}
					f.freeze()
					if f.dials.Load() == before {
						t.Error("no connection was made")
					}
					defer c.Close(0, "")
				}
			}
			if want := map[bool]int32{false: 1, true: 2}[tt.http2]; protocol.Load() != want {
				t.Errorf("HTTP/%d, want HTTP/%d", protocol.Load(), want)
			}
		})
	}
}

// closingTripper is a RoundTripper of the user, which cannot be cloned.
type closingTripper struct {
	http.RoundTripper
	closed atomic.Int32
}

func (c *closingTripper) CloseIdleConnections() { c.closed.Add(1) }

func TestClientForeignRoundTripper(t *testing.T) {
	t.Parallel()
	n := transporttest.NewNet(t, transporttest.Endpoint())
	foreign := &closingTripper{RoundTripper: n.Transport}
	c := transporttest.Dial(t, longpoll.Dial, transport.ClientConfig{HTTPClient: &http.Client{Transport: foreign}})
	if foreign.closed.Load() != 0 {
		t.Fatal("idle connections were closed before the end")
	}
	c.Close(1000, "")
	if foreign.closed.Load() == 0 {
		t.Error("idle connections were not closed after a session")
	}
}
