package socket_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/logging"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// withStderr calls f while standard error is a file. It returns a function that reads the file. The
// test must not be parallel.
func withStderr(t *testing.T, f func()) (read func() string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stderr")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	before := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = before }()
	f()
	return func() string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

// faults makes a callback panic, pushes an unknown event and joins a topic without a route.
func faults(t *testing.T, logger *zerolog.Logger) (read func() string) {
	rooms := echoes(onEvent("panic", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
		panic("on purpose")
	}))
	s := &server{t: t}
	read = withStderr(t, func() {
		s.h = socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}, Logger: logger})
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", s.h)
	server := httptest.NewServer(mux)
	defer server.Close()
	s.url = server.URL
	p := s.dial("vsn=2.0.0")
	for _, event := range []string{"panic", "unknown"} {
		p.join("room:1")
		p.send(`["1","2","room:1","` + event + `",{}]`)
		p.want(`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
	}
	p.send(`["1","1","nowhere","phx_join",{}]`)
	p.want(`[null,"1","nowhere","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`)
	if err := s.h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	return read
}

func TestFaultsAreLoggedByDefault(t *testing.T) {
	text := faults(t, nil)()
	for _, want := range []string{
		`ERR `, `panic: on purpose`, "log_default_test.go:", `event=unknown`, `topic=room:1`,
		`WRN join of an unmatched topic topic=nowhere`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if !strings.Contains(text, "\ngoroutine ") {
		t.Errorf("the stack is not readable:\n%s", text)
	}
}

func TestNopLoggerIsSilent(t *testing.T) {
	nop := zerolog.Nop()
	if text := faults(t, &nop)(); text != "" {
		t.Errorf("standard error has %s", text)
	}
}

func TestSlogLoggerReceivesFaults(t *testing.T) {
	out := &logged{}
	stderr := faults(t, logging.FromSlog(slog.New(slog.NewJSONHandler(out, nil))))
	if text := stderr(); text != "" {
		t.Errorf("standard error has %s", text)
	}
	for _, want := range []string{
		`"level":"WARN","msg":"join of an unmatched topic","topic":"nowhere"}`, `"level":"ERROR"`, `"event":"unknown"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing in\n%s", want, out.String())
		}
	}
}

// garbled is a serializer that rejects all messages to the client.
type garbled struct {
	serializer.Serializer
	first  *sync.Once
	parsed chan struct{} // closed by the first call
}

func (g garbled) ParseClient(serializer.Op, []byte) (serializer.Message, error) {
	g.first.Do(func() { close(g.parsed) })
	return serializer.Message{}, serializer.ErrMalformed
}

func TestClientFaultsAreLoggedByDefault(t *testing.T) {
	s := serve(t, socket.Config{})
	g := garbled{serializer.V2(), new(sync.Once), make(chan struct{})}
	var c *socket.Client
	stderr := withStderr(t, func() {
		url := "ws" + strings.TrimPrefix(s.url, "http") + "/socket"
		c = socket.NewClient(url, &socket.ClientConfig{Serializer: g})
	})
	c.Connect()
	c.Channel("room:1", nil).Join()
	<-g.parsed
	if err := c.Close(t.Context()); err != nil { // it waits for the goroutine that parses
		t.Fatal(err)
	}
	if text := stderr(); !strings.Contains(text, " WRN malformed frame ") {
		t.Errorf("standard error has %s", text)
	}
}
