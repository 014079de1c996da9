package brokertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// first and tried are where this process begins to try ports, since another one may at the same time, and how many it tried.
var (
	first = rand.Uint32N(20_000)
	tried atomic.Uint32
)

// Port is one for an engine that is stopped and started again, another one at each call. It is below those that systems give to the near ends
// of connections, or else one of these could take it meanwhile, even a node's that tries to connect to it.
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
