package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/require"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// The configurations of docs/deployment.md are tested as they stand there, with other addresses.

const proxyGuide = "../../docs/deployment.md"

// guideBlocks returns the code blocks of a guide in one language.
func guideBlocks(t *testing.T, guide, lang string) []string {
	t.Helper()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+lang+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("%s has no block in %s", guide, lang)
	}
	return all
}

// echoServer serves a room that echoes, to pages of the host that the request names.
func echoServer(t *testing.T) (addr string) {
	t.Helper()
	type room struct{}
	rooms := channel.Define(
		func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("echo", func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}))
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		_ = h.Shutdown(context.Background())
		s.Close()
	})
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

// runProxy runs a command until the test ends, and waits until somebody listens on addr.
func runProxy(t *testing.T, addr string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { defer close(exited); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(cmd.Path), out.String())
		}
	})
	listen.Await(t, addr, time.Minute, exited)
}

func TestProxyNginx(t *testing.T) {
	t.Parallel()
	nginx := require.Program(t, "nginx")
	blocks := guideBlocks(t, proxyGuide, "nginx") // the location, and what belongs beside the server
	addr, dir := listen.FreeAddr(t), t.TempDir()
	location := strings.ReplaceAll(blocks[0], "127.0.0.1:4000", echoServer(t))
	var paths strings.Builder
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&paths, "%s_temp_path %s;\n", name, filepath.Join(dir, name))
	}
	config := fmt.Sprintf("daemon off;\nmaster_process off;\npid %s;\nevents {}\n"+
		"http {\naccess_log off;\n%s%s\nserver {\nlisten %s;\n%s}\n}\n",
		filepath.Join(dir, "pid"), paths.String(), blocks[1], addr, location)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	runProxy(t, addr, exec.Command(nginx, "-c", file, "-p", dir, "-e", "stderr"))
	useProxy(t, addr)
}

func TestProxyCaddy(t *testing.T) {
	t.Parallel()
	caddy := require.Program(t, "caddy")
	addr, dir := listen.FreeAddr(t), t.TempDir()
	config := strings.ReplaceAll(guideBlocks(t, proxyGuide, "caddy")[0], "127.0.0.1:4000", echoServer(t))
	config = strings.Replace(config, ":8080", "http://"+addr, 1)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\nadmin off\n}\n"+config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(caddy, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	runProxy(t, addr, cmd)
	useProxy(t, addr)
}

func TestProxyGo(t *testing.T) {
	t.Parallel()
	var program string
	for _, b := range guideBlocks(t, proxyGuide, "go") {
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
	runProxy(t, addr, exec.Command(bin))
	useProxy(t, addr)
}
