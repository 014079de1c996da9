//go:build !race

package interop_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/proxy"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// The configurations of docs/deployment.md are tested as they stand there, with other addresses.

const proxyGuide = "../../docs/deployment.md"

// echoHandler has a room that echoes, for pages of the host that the request names.
func echoHandler(t *testing.T) *socket.Handler {
	t.Helper()
	type room struct{}
	rooms := channel.Define(
		func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("echo", func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}))
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
	t.Cleanup(func() { _ = h.Shutdown(context.Background()) })
	return h
}

// echoServer serves an echoHandler.
func echoServer(t *testing.T) (addr string) {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	mux.Handle("/socket/", echoHandler(t)) // shuts down before the server closes
	return s.Listener.Addr().String()
}

// useProxy lets clients on both transports talk through the proxy at addr, as a page of that host
// does.
func useProxy(t *testing.T, addr string) {
	t.Helper()
	transports := map[string]socket.ClientTransport{
		"websocket": socket.TransportWebSocket, "longpoll": socket.TransportLongPoll,
	}
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := socket.Dial(ctx, "http://"+addr+"/socket", &socket.ClientConfig{
				Transport: transport,
				Header:    http.Header{"Origin": {"http://" + addr}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close(ctx) }()
			room := s.Channel("room:proxy", nil)
			if _, err := room.Join().Wait(ctx); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{10, 200_000} {
				text := strings.Repeat("x", size)
				got, err := channel.Call[map[string]string](ctx, room, "echo", map[string]string{"text": text})
				if err != nil || got["text"] != text {
					t.Errorf("%d bytes: %d came back, error %v", size, len(got["text"]), err)
				}
			}
		})
	}
}

func TestProxyNginx(t *testing.T) {
	t.Parallel()
	blocks := guide.Blocks(t, proxyGuide, "nginx") // the location, and what belongs beside the server
	addr := listen.FreeAddr(t)
	location := strings.ReplaceAll(blocks[0], "127.0.0.1:4000", echoServer(t))
	proxy.Nginx(t, addr, "", fmt.Sprintf("%s\nserver {\nlisten %s;\n%s}\n", blocks[1], addr, location))
	useProxy(t, addr)
}

func TestProxyCaddy(t *testing.T) {
	t.Parallel()
	addr := listen.FreeAddr(t)
	config := strings.ReplaceAll(guide.Blocks(t, proxyGuide, "caddy")[0], "127.0.0.1:4000", echoServer(t))
	proxy.Caddy(t, addr, strings.Replace(config, ":8080", "http://"+addr, 1))
	useProxy(t, addr)
}

// twoServers starts two servers with the readiness probe of the guide. The first one has shut down.
// The channel checked is closed when it was probed for the second time, so that a proxy knows.
func twoServers(t *testing.T) (away, ready string, checked <-chan struct{}) {
	t.Helper()
	second := make(chan struct{})
	var probes atomic.Int32
	handlers := [2]*socket.Handler{}
	addrs := [2]string{}
	for i := range handlers {
		mux := http.NewServeMux()
		handlers[i] = echoHandler(t)
		mux.Handle("/socket/", handlers[i])
		mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
			if handlers[i].Stats().Draining {
				http.Error(w, "shutting down", http.StatusServiceUnavailable)
				if probes.Add(1) == 2 {
					close(second)
				}
			}
		})
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		addrs[i] = s.Listener.Addr().String()
	}
	if err := handlers[0].Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	return addrs[0], addrs[1], second
}

// replaceServers replaces the addresses of the guide by those of twoServers.
func replaceServers(t *testing.T, config string) (replaced string, checked <-chan struct{}) {
	t.Helper()
	away, ready, checked := twoServers(t)
	return strings.NewReplacer("10.0.0.1:4000", away, "10.0.0.2:4000", ready).Replace(config), checked
}

// TestProxyNginxServers checks that nginx passes clients to the server that is ready.
func TestProxyNginxServers(t *testing.T) {
	t.Parallel()
	blocks := guide.Blocks(t, proxyGuide, "nginx")
	addr := listen.FreeAddr(t)
	servers, _ := replaceServers(t, strings.Replace(blocks[2], "listen 8080", "listen "+addr, 1))
	proxy.Nginx(t, addr, blocks[3], blocks[1]+servers)
	useProxy(t, addr)
}

// TestProxyCaddyServers checks that Caddy passes clients to the server that is ready.
func TestProxyCaddyServers(t *testing.T) {
	t.Parallel()
	addr := listen.FreeAddr(t)
	config, checked := replaceServers(t, guide.Blocks(t, proxyGuide, "caddy")[1])
	proxy.Caddy(t, addr, strings.Replace(config, ":8080", "http://"+addr, 1))
	<-checked // Caddy sends requests to both servers until then
	useProxy(t, addr)
}

func TestProxyGo(t *testing.T) {
	t.Parallel()
	var program string
	for _, b := range guide.Blocks(t, proxyGuide, "go") {
		if strings.Contains(b, "package main") {
			program = b
		}
	}
	addr, dir := listen.FreeAddr(t), t.TempDir()
	program = strings.NewReplacer("127.0.0.1:4000", echoServer(t), `":8080"`, fmt.Sprintf("%q", addr)).Replace(program)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "proxy")
	cmd := exec.Command("go", "build", "-o", bin, "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the guide's proxy does not build: %v\n%s", err, out)
	}
	proxy.Run(t, addr, exec.Command(bin))
	useProxy(t, addr)
}
