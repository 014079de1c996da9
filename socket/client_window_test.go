package socket_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// TestClientLongPollWindow has servers that hold a poll for longer than the client's timeout. An
// idle client must stay connected and receive events.
func TestClientLongPollWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		window, timeout, heartbeat time.Duration
	}{
		{40 * time.Second, 0, 0},
		{time.Hour, 0, 0},
		{10 * time.Second, 4 * time.Second, 0},
		{5 * time.Minute, 20 * time.Second, 2 * time.Minute},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := socket.NewHandler(socket.Config{
					Channels: channel.Routes{"room:*": exampleRoom()},
					LongPoll: longpoll.Config{Window: tt.window},
				})
				l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
				server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
				served := make(chan struct{})
				go func() { defer close(served); _ = server.Serve(l) }()
				defer func() {
					_ = h.Shutdown(context.Background())
					_ = server.Shutdown(context.Background())
					<-served
				}()
				c, err := socket.Dial(t.Context(), "http://server", &socket.ClientConfig{
					Transport: socket.TransportLongPoll, LongPollTimeout: tt.timeout, HeartbeatInterval: tt.heartbeat,
					HTTPClient: &http.Client{Transport: &http.Transport{
						DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
					}},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer closeSocket(t, c)
				room := join(t, c, "room:lobby", map[string]string{"user": "ann"})
				time.Sleep(3 * time.Hour)
				if s := c.Stats(); s.Connections != 1 || s.State.Status != socket.StatusConnected {
					t.Fatalf("%v, %d connections", s.State, s.Connections)
				}
				reply(t, room.Push("say", map[string]string{"body": "hello"}))
			})
		})
	}
}

// TestClientLongPollTimeout checks that LongPollTimeout bounds the requests that the server must
// answer immediately.
func TestClientLongPollTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{ReadHeaderTimeout: time.Minute,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
			})}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(l) }()
		defer func() { _ = server.Close(); <-served }()
		began := time.Now()
		_, err := socket.Dial(t.Context(), "http://server", &socket.ClientConfig{
			Transport: socket.TransportLongPoll, LongPollTimeout: 4 * time.Second,
			HTTPClient: &http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
			}},
		})
		if err == nil || time.Since(began) != 4*time.Second {
			t.Errorf("dial: %v after %v", err, time.Since(began))
		}
	})
}
