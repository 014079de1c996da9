//go:build unix

package redisengine_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
	"bennu.example/engine/redisengine"
)

// slowWriter is a connection on which a large write blocks until release is closed.
type slowWriter struct {
	net.Conn
	blocked func()
	release <-chan struct{}
}

func (c *slowWriter) Write(p []byte) (int, error) {
	if len(p) < 32<<10 {
		return c.Conn.Write(p)
	}
	c.blocked()
	<-c.release
	return len(p), nil
}

// The server hangs up while the client is writing a batch. Send then returns before the client has
// read all commands of the batch, which must not change until then.
func TestHangUpDuringWrite(t *testing.T) {
	t.Parallel()
	blocked, release := make(chan struct{}), make(chan struct{})
	var servers sync.WaitGroup
	var mu sync.Mutex
	var ends []net.Conn
	b := redisengine.NewBackend(rueidis.ClientOption{
		InitAddress: []string{"pipe"},
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			ours, theirs := net.Pipe()
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, theirs)
			servers.Go(func() { serve(theirs, nil, false) })
			return &slowWriter{ours, sync.OnceFunc(func() { close(blocked) }), release}, nil
		},
	})
	ignore := func(error) {}
	r := broker.Receiver{Message: func([]byte) {}, Gap: ignore, PathChanged: ignore}
	c, err := b.Dial(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	batch := new(broker.Batch)
	for range 5 {
		m := broker.Message{Channel: "bennu:t:x", Data: make([]byte, 40<<10)}
		batch.Messages = append(batch.Messages, m)
	}
	sent := make(chan error, 1)
	go func() { sent <- c.Send(t.Context(), batch) }()
	<-blocked
	mu.Lock()
	for _, end := range ends {
		_ = end.Close()
	}
	mu.Unlock()
	if err := <-sent; err == nil {
		t.Error("no error although the server hung up")
	}
	close(release)
	c.Close()
	servers.Wait()
}
