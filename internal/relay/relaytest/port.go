package relaytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Port is one for an engine that is stopped and started again. It is below those that systems give to the near ends of connections, or
// else one of these could take it meanwhile, even a node's that tries to connect to it.
func Port(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("there is no free port")
	return 0
}
