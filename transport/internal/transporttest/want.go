package transporttest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// Dialer is the Dial function of a transport.
type Dialer func(context.Context, *transport.ClientConfig) (transport.ClientConn, error)

// Dial dials the server, and fails the test if that fails. The connection is closed when the test
// ends.
func Dial(t testing.TB, dial Dialer, cfg transport.ClientConfig) transport.ClientConn {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "ws://server/socket"
	}
	c, err := dial(context.Background(), &cfg)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close(1000, "") })
	return c
}

// IsWebSocket reports whether a connection was made by websocket.Dial.
func IsWebSocket(c transport.ClientConn) bool { return fmt.Sprintf("%T", c) == "*websocket.clientConn" }

// Text returns a text frame.
func Text(s string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpText, Data: []byte(s)}
}

// Binary returns a binary frame.
func Binary(s string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpBinary, Data: []byte(s)}
}

// DeliveryOf returns the Delivery of a frame that the policy of its connection may drop, or of one
// that is never dropped.
func DeliveryOf(droppable bool) transport.Delivery {
	if droppable {
		return transport.Delivery{}
	}
	return transport.Delivery{Policy: transport.Disconnect}
}

// Wants reads a frame and compares it.
func Wants(t testing.TB, c transport.ClientConn, op serializer.Op, data string) {
	t.Helper()
	gotOp, got, err := c.Read()
	if err != nil {
		t.Fatalf("Read: %v, want %q", err, data)
	}
	if gotOp != op || string(got) != data {
		t.Fatalf("Read: %d %.100q, want %d %.100q", gotOp, got, op, data)
	}
}

// WantsEnd reads until the connection has ended, and returns the error. Read must return it again.
func WantsEnd(t testing.TB, c transport.ClientConn) error {
	t.Helper()
	never := time.AfterFunc(10*time.Minute, func() { c.Close(1000, "") })
	defer never.Stop()
	for range 1000 {
		_, _, err := c.Read()
		if err == nil {
			continue
		}
		if _, _, again := c.Read(); again == nil || again.Error() != err.Error() {
			t.Errorf("Read: first %v, then %v", err, again)
		}
		return err
	}
	t.Fatal("Read: no end of messages")
	return nil
}

// WantsCode reads until the connection has ended, and compares the close code.
func WantsCode(t testing.TB, c transport.ClientConn, code int) *transport.CloseError {
	t.Helper()
	err := WantsEnd(t, c)
	var closed *transport.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		t.Fatalf("Read: %v, want the code %d", err, code)
	}
	return closed
}

// Within fails the test if f takes longer than d. It is exact under synctest.
func Within(t testing.TB, d time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("took %v, want at most %v", took, d)
	}
}

// WantElapsed fails the test unless exactly want has passed since start. It is for synctest.
func WantElapsed(t testing.TB, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("after %v, want %v", got, want)
	}
}
