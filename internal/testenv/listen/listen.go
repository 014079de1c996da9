// Package listen helps tests that start servers in other processes.
package listen

import (
	"context"
	"net"
	"testing"
	"time"
)

// FreeAddr returns a loopback address on which no process listens at the moment. Use it only for
// programs that cannot choose a port themselves, because another process may take the port.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// Await waits until another process listens on addr. It fails the test after timeout, or when
// exited is closed, which means that the process has ended. A nil exited is never closed.
func Await(t testing.TB, addr string, timeout time.Duration, exited <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("the process that should listen on %s has ended", addr)
		case <-ctx.Done():
			t.Fatalf("no process listens on %s: %v", addr, err)
		case <-time.After(10 * time.Millisecond): // nothing signals that another process listens
		}
	}
}
