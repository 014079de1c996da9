package socket_test

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// cutListener notes the connections, so that the test can cut them.
type cutListener struct {
	net.Listener
	mu       sync.Mutex
	accepted int
	last     net.Conn
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.accepted++
		l.last = c
	}
	return c, err
}

func (l *cutListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.last.Close()
}

func (l *cutListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// TestOutboxIsFasterThanOnce has an outbox with more pushes than Once keeps of a client and topic.
// None is refused, and each has one effect, although connections are lost.
func TestOutboxIsFasterThanOnce(t *testing.T) {
	t.Parallel()
	const pushes, cuts = 5000, 4
	type none struct{}
	type message struct {
		N int `json:"n"`
	}
	var mu sync.Mutex
	effects := make(map[int]int)
	room := channel.Define(func(*none, context.Context, *channel.Channel, struct{}) (any, error) {
		return nil, nil
	}, channel.On("msg", func(_ *none, _ context.Context, _ *channel.Channel, m message) (push.Reply, error) {
		mu.Lock()
		defer mu.Unlock()
		effects[m.N]++
		return push.OK(nil), nil
	}), channel.Once[none](push.OnceConfig{}))
	silent := zerolog.Nop()
	handler := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": room}, Logger: &silent})
	server := httptest.NewUnstartedServer(handler)
	listener := &cutListener{Listener: server.Listener}
	server.Listener = listener
	server.Start()
	defer server.Close()
	defer func() { _ = handler.Shutdown(t.Context()) }()

	var refused []error
	delivered := 0
	all, part := make(chan struct{}), make(chan struct{}, cuts)
	store := offline.NewMemory()
	client := socket.NewClient(strings.Replace(server.URL, "http", "ws", 1), &socket.ClientConfig{
		Logger:         &silent,
		ReconnectDelay: func(socket.Retry) time.Duration { return time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return time.Millisecond },
		Offline: &offline.Config{Store: store, OnDelivered: func(_ offline.Entry, _ serializer.Payload, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused = append(refused, err)
			}
			if delivered++; delivered == pushes {
				close(all)
			} else if delivered%(pushes/(cuts+1)) == 0 {
				part <- struct{}{}
			}
		}},
	})
	client.Connect()
	c := client.Channel("room:1", nil)
	for n := range pushes {
		if _, err := c.PushDurable(t.Context(), "msg", message{n}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	c.Join()
	for waiting := true; waiting; {
		select {
		case <-part:
			listener.cut()
		case <-all:
			waiting = false
		}
	}
	t.Logf("%d pushes in %v over %d connections", pushes, time.Since(begun), listener.count())
	if err := client.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := listener.count(); n <= cuts {
		t.Errorf("%d connections, want more than %d", n, cuts)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(refused) > 0 || len(effects) != pushes {
		t.Errorf("%d pushes had an effect, refused: %v", len(effects), refused)
	}
	for n, times := range effects {
		if times != 1 {
			t.Errorf("push %d had %d effects", n, times)
		}
	}
}
