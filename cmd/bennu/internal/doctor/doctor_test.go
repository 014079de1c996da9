package doctor_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/cmd/bennu/internal/doctor"
	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/proxy"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/websocket"
)

func TestMain(m *testing.M) { leak.Main(m) }

// serve serves sockets at /socket. It returns the address.
func serve(t *testing.T, cfg socket.Config) (addr string) {
	t.Helper()
	room := channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
		return nil, nil
	})
	nop := zerolog.Nop()
	cfg.Channels, cfg.Logger = channel.Routes{"room:*": room}, &nop
	h := socket.NewHandler(cfg)
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	mux.Handle("/old/", http.RedirectHandler("/socket/websocket", http.StatusMovedPermanently))
	mux.HandleFunc("/wrapped/", func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) // a middleware without Unwrap
	})
	return serveHTTP(t, mux, func() { _ = h.Shutdown(context.Background()) })
}

// serveHTTP serves a handler on the loopback interface until the test ends.
func serveHTTP(t *testing.T, h http.Handler, shutdown func()) (addr string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		shutdown()
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// examine returns what the doctor finds, by check.
func examine(t *testing.T, cfg doctor.Config) map[string]doctor.Finding {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	found := map[string]doctor.Finding{}
	err := doctor.Run(t.Context(), cfg, func(f doctor.Finding) {
		if f.Fix == "" && f.Result == doctor.Problem {
			t.Errorf("no advice for: %s: %s", f.Check, f.Text)
		}
		found[f.Check] = f
		t.Logf("%s %s: %s → %s", f.Result, f.Check, f.Text, f.Fix)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// expect checks that the doctor finds one problem, whose text and advice contain these texts.
func expect(t *testing.T, cfg doctor.Config, check, text, fix string) {
	t.Helper()
	for name, f := range examine(t, cfg) {
		switch {
		case f.Result != doctor.Problem:
		case name != check:
			t.Errorf("it also finds a problem of %s: %s", name, f.Text)
		case !strings.Contains(f.Text, text) || !strings.Contains(f.Fix, fix):
			t.Errorf("it says %q and advises %q, want %q and %q", f.Text, f.Fix, text, fix)
		default:
			check = ""
		}
	}
	if check != "" {
		t.Errorf("it does not find a problem of %s", check)
	}
}

// healthy checks that the doctor finds no problem.
func healthy(t *testing.T, cfg doctor.Config) map[string]doctor.Finding {
	t.Helper()
	found := examine(t, cfg)
	for name, f := range found {
		if f.Result == doctor.Problem {
			t.Errorf("it finds a problem of %s: %s", name, f.Text)
		}
	}
	return found
}

// localURL returns the URL of a path at the port of addr, under the name of this machine.
func localURL(addr, path string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "ws://" + net.JoinHostPort("localhost", port) + path
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		found := healthy(t, doctor.Config{URL: "ws://" + serve(t, socket.Config{}) + "/socket", Idle: time.Millisecond})
		checks := []string{"address", "websocket", "origin", "long poll", "messages", "compression", "clock", "idle"}
		for _, check := range checks {
			if found[check].Result != doctor.OK {
				t.Errorf("%s: %q", check, found[check])
			}
		}
	})
	t.Run("compressed, long poll off, any origin", func(t *testing.T) {
		t.Parallel()
		cfg := socket.Config{WebSocket: websocket.Config{Compress: true}, InsecureAnyOrigin: true}
		cfg.LongPoll.Off = true
		found := healthy(t, doctor.Config{URL: "http://" + serve(t, cfg) + "/socket/"})
		if got := found["compression"].Text; !strings.Contains(got, "pass in both directions") {
			t.Error(got)
		}
		if found["long poll"].Result != doctor.Note || found["origin"].Result != doctor.Note {
			t.Errorf("long poll %q, origin %q", found["long poll"], found["origin"])
		}
	})
	t.Run("with a token and params", func(t *testing.T) {
		t.Parallel()
		connect := func(_ context.Context, r *socket.Request) (context.Context, error) {
			var p struct{ Locale string }
			if err := r.Params.Decode(&p); err != nil || p.Locale != "en" || r.Token != "secret" {
				return nil, fmt.Errorf("params %v, token %q, error %w", p, r.Token, err)
			}
			return nil, nil
		}
		at := "ws://" + serve(t, socket.Config{AuthToken: true, Connect: connect}) + "/socket"
		healthy(t, doctor.Config{URL: at, Token: "secret", Params: url.Values{"locale": {"en"}}})
		expect(t, doctor.Config{URL: at}, "websocket", "refuses the client with 403", "--token and --connect-params")
	})
}

// TestNginx examines set-ups behind one nginx: the one of the guide, and broken ones.
func TestNginx(t *testing.T) {
	t.Parallel()
	blocks := guide.Blocks(t, "../../../../docs/deployment.md", "nginx")
	addr, upstream := listen.FreeAddr(t), serve(t, socket.Config{})
	const upgrade = "proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\n" +
		"proxy_set_header Connection $connection_upgrade;\n"
	const host = "proxy_set_header Host $http_host;\n"
	location := func(path, to, lines string) string {
		return fmt.Sprintf("location /%s/ {\nproxy_pass http://%s/;\n%s}\n", path, to, lines)
	}
	proxy.Nginx(t, addr, "", fmt.Sprintf("%s\nserver {\nlisten %s;\n%s%s}\n", blocks[1], addr,
		strings.ReplaceAll(blocks[0], "127.0.0.1:4000", upstream),
		location("nohost", upstream, upgrade)+
			location("cut", upstream, upgrade+host+"proxy_read_timeout 1s;\n")+
			location("plain", upstream, host)+
			location("gone", listen.FreeAddr(t), upgrade+host)))

	t.Run("as in the guide", func(t *testing.T) {
		t.Parallel()
		healthy(t, doctor.Config{URL: "ws://" + addr + "/socket", Idle: time.Millisecond})
	})
	t.Run("wrong Host", func(t *testing.T) {
		t.Parallel()
		expect(t, doctor.Config{URL: localURL(addr, "/nohost/socket")}, "host",
			"the proxy replaces the Host: the server sees 127.0.0.1 instead of localhost",
			"proxy_set_header Host $http_host;")
	})
	t.Run("idle cut-off", func(t *testing.T) {
		t.Parallel()
		expect(t, doctor.Config{URL: "ws://" + addr + "/cut/socket", Idle: 20 * time.Second}, "idle",
			"a proxy cuts a silent connection after ", "proxy_read_timeout 75s;")
	})
	t.Run("missing Upgrade", func(t *testing.T) {
		t.Parallel()
		expect(t, doctor.Config{URL: "ws://" + addr + "/plain/socket"}, "websocket",
			"the handshake arrives without its Upgrade or Connection header", "proxy_set_header Upgrade $http_upgrade;")
	})
	t.Run("server away", func(t *testing.T) {
		t.Parallel()
		expect(t, doctor.Config{URL: "ws://" + addr + "/gone/socket"}, "websocket",
			"the proxy does not reach the server: 502", "Start the server")
	})
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	at := "ws://" + serve(t, socket.Config{Origins: []string{"https://example.com"}}) + "/socket"
	healthy(t, doctor.Config{URL: at, Origin: "https://example.com"})
	expect(t, doctor.Config{URL: at, Origin: "https://www.example.com"}, "origin",
		"pages of https://www.example.com are refused", "Add https://www.example.com to socket.Config.Origins")
	expect(t, doctor.Config{URL: at}, "origin", "are refused, programs are not", "to socket.Config.Origins")
	same := "ws://" + serve(t, socket.Config{}) + "/socket"
	expect(t, doctor.Config{URL: same, Origin: "https://example.com"}, "origin",
		"pages of https://example.com are refused, but those of http://127.0.0.1",
		"Add https://example.com to socket.Config.Origins")
}

func TestPath(t *testing.T) {
	t.Parallel()
	addr := serve(t, socket.Config{})
	for _, path := range []string{"", "/live", "/socket/room", "/api/v1"} {
		expect(t, doctor.Config{URL: "ws://" + addr + path}, "path",
			"there is no socket at", "Use ws://"+addr+"/socket.")
	}
	expect(t, doctor.Config{URL: "ws://" + addr + "/old"}, "path", "redirected to /socket/websocket (301)",
		"Use ws://"+addr+"/socket.")
	expect(t, doctor.Config{URL: "ws://" + addr + "/wrapped"}, "websocket",
		"a middleware wraps the response", "Unwrap")
	pages := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<!doctype html>") // a page for every path
	}), func() {})
	expect(t, doctor.Config{URL: "ws://" + pages + "/socket"}, "path", "there is no socket at /socket", "Use the path")
}

func TestAddress(t *testing.T) {
	t.Parallel()
	expect(t, doctor.Config{URL: "ws://" + listen.FreeAddr(t) + "/socket"}, "address",
		"nothing listens there", "Start the server")
	expect(t, doctor.Config{URL: "wss://" + serve(t, socket.Config{}) + "/socket"}, "certificate",
		"TLS fails", "speaks HTTP at this port")
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	expect(t, doctor.Config{URL: secure.URL + "/socket"}, "certificate", "certificate", "Install a valid certificate")
	for _, bad := range []string{"", "/socket", "ftp://example.com/socket", "ws://"} {
		if err := doctor.Run(t.Context(), doctor.Config{URL: bad}, func(f doctor.Finding) { t.Error(f) }); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestBuffering examines a proxy that forwards what the server sends over a WebSocket when it has
// this many bytes of it.
func TestBuffering(t *testing.T) {
	t.Parallel()
	upstream := serve(t, socket.Config{})
	for name, size := range map[string]int{"until full": 16 << 10, "everything": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "no message of the server arrives"
			if name == "until full" {
				text = "answered only after"
			}
			at := "ws://" + bufferingProxy(t, upstream, size) + "/socket"
			expect(t, doctor.Config{URL: at, Timeout: time.Second}, "buffering", text, "Turn off buffering in the proxy")
		})
	}
}

// reverseProxy returns a proxy that logs nothing: the doctor cuts connections.
func reverseProxy(upstream string) *httputil.ReverseProxy {
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream})
	p.ErrorLog = log.New(io.Discard, "", 0)
	return p
}

// bufferingProxy forwards connections, and buffers what comes back over WebSockets.
func bufferingProxy(t *testing.T, upstream string, size int) (addr string) {
	t.Helper()
	forward := reverseProxy(upstream)
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			forward.ServeHTTP(w, r)
			return
		}
		server, err := new(net.Dialer).DialContext(r.Context(), "tcp", upstream)
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		client, rest, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		_ = r.Write(server)
		answer := bufio.NewReader(server)
		resp, err := http.ReadResponse(answer, r)
		if err != nil {
			return
		}
		_ = resp.Write(client) // the handshake is forwarded at once
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(server, rest)
			_ = server.Close()
		}()
		// The end of the connection does not flush: nothing of what is left reaches the client.
		_, _ = io.Copy(struct{ io.Writer }{bufio.NewWriterSize(client, size)}, answer)
		_ = client.Close()
		<-done
	}), func() {})
}

// TestIdle examines a server that ends silent connections itself, in an orderly way.
func TestIdle(t *testing.T) {
	t.Parallel()
	at := "ws://" + serve(t, socket.Config{IdleTimeout: 500 * time.Millisecond}) + "/socket"
	expect(t, doctor.Config{URL: at, Idle: 20 * time.Second}, "idle",
		"the server closes a silent connection after", "socket.Config.IdleTimeout")
}

// TestClock examines a server without $socket behind a proxy whose clock is wrong.
func TestClock(t *testing.T) {
	t.Parallel()
	upstream := serve(t, socket.Config{NoSocketChannel: true})
	for by, text := range map[time.Duration]string{time.Minute: "is 1m0s behind", -time.Hour: "is 1h0m0s ahead of"} {
		forward := reverseProxy(upstream)
		forward.ModifyResponse = func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
			return nil
		}
		expect(t, doctor.Config{URL: "ws://" + serveHTTP(t, forward, func() {}) + "/socket"}, "clock", text, "NTP")
	}
}
