package brokertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// first is a random number from which this process begins to try ports, since another process may
// do the same at the same time. tried is the number of tried ports.
var (
	first = rand.Uint32N(20_000)
	tried atomic.Uint32
)

// Port returns a free port for an engine that is stopped and started again. Each call returns
// another one. The port is below those that operating systems assign to outgoing connections,
// because otherwise such a connection could take it while the engine is stopped.
func Port(t testing.TB) int {
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
