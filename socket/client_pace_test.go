package socket_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// lockedBuffer is a log that may be written concurrently.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestClientJoinPaceOnServer lets 1,500 channels join and, when the connection is lost, join again.
// The server has the default JoinRate and refuses none of them.
func TestClientJoinPaceOnServer(t *testing.T) {
	t.Parallel()
	const rooms = 1500 // more than the server takes at once
	type none struct{}
	var joins atomic.Int64
	room := channel.Define(func(*none, context.Context, *channel.Channel, struct{}) (any, error) {
		joins.Add(1)
		return nil, nil
	})
	var log lockedBuffer
	logger := zerolog.New(&log)
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": room}, MaxChannels: rooms, Logger: &logger,
	})
	server := httptest.NewUnstartedServer(handler)
	listener := &cutListener{Listener: server.Listener}
	server.Listener = listener
	server.Start()
	defer server.Close()
	defer func() { _ = handler.Shutdown(context.Background()) }()

	silent := zerolog.Nop()
	client := socket.NewClient(strings.Replace(server.URL, "http", "ws", 1), &socket.ClientConfig{
		Logger: &silent, Timeout: time.Minute, // no join is repeated because a busy machine is slow
	})
	defer func() { _ = client.Close(context.Background()) }()
	joined := make(chan struct{}, 10*rooms)
	for i := range rooms {
		c := client.Channel(fmt.Sprint("room:", i), nil)
		c.OnJoin(func(serializer.Payload) { joined <- struct{}{} })
		c.Join()
	}
	client.Connect()
	for round := range 2 {
		timeout := time.After(time.Minute)
		for i := range rooms {
			select {
			case <-joined:
			case <-timeout:
				t.Fatalf("round %d: %d channels have joined\n%s", round, i, log.String())
			}
		}
		if round == 0 {
			listener.cut()
		}
	}
	if n := joins.Load(); n != 2*rooms {
		t.Errorf("the server had %d joins, want %d", n, 2*rooms)
	}
	if text := log.String(); strings.Contains(text, "too many joins") {
		t.Errorf("the server refused joins: %s", text)
	}
}
