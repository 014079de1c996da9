// Package listen helps tests that start servers in other processes.
package listen

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// first is a random number from which this process begins to try ports, since another process may
// do the same at the same time. tried is the number of tried ports.
var (
	first = rand.Uint32N(20_000)
	tried atomic.Uint32
)

// FreePort returns a port of the loopback address 127.0.0.1 on which no process listens at the
// moment, for a program that cannot choose one itself, or that is stopped and started again. Each
// call returns another one. The port is below those that operating systems assign to connections
// and to listeners that want any port, because otherwise one of these could take it before the
// program does.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + (first+tried.Add(1))%20_000
		ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			_ = ln.Close()
			return int(port)
		}
	}
	t.Fatal("there is no free port")
	return 0
}

// FreeAddr returns the loopback address with a port of FreePort.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", FreePort(t))
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
