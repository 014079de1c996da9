// Command soak connects many clients to one server for a long time, disturbs everything around
// them, and checks the messages that each of them receives.
//
//	go run ./internal/soak                            one minute
//	go run ./internal/soak -duration 10m              the nightly run
//	go run ./internal/soak -duration 10m -seed 42     with the choices of an earlier run
//	go test ./internal/soak                           15 s, or the duration in BENNU_SOAK
//
// The server is a child process. Its clients are Bennu's, over WebSocket and long polling, with
// versions 2.0.0 and 3.0.0, and raw clients without Bennu, some of which read slowly. They join,
// leave, rejoin, push, broadcast, crash their channels and pause. Meanwhile connections are cut,
// reset and stalled, users are disconnected by ID, and the server is drained and restarted.
//
// Each round ends with a quiet phase and a roll call. All clients must be joined and receive a
// message from all others. Presence must list exactly the joined clients. The server's memory and
// goroutines must not have grown. The rules that are checked all the time are documented at
// [checker], [client] and [rawClient].
//
// The last line is the verdict, PASS or FAIL with totals. The exit code is 0 or 1.
//
// The seed determines the actions and their order, but not their timing, which depends on the
// clock, the network and the scheduler.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	role := flag.String("role", "", "server: role of a child process; internal")
	addr := flag.String("addr", "127.0.0.1:0", "address of the server; internal")
	duration := flag.Duration("duration", time.Minute, "duration of the test")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random choices")
	flag.Parse()
	var err error
	if *role == "server" {
		if err = serve(*addr); err != nil {
			fmt.Fprintln(os.Stderr, "soak: server:", err)
		}
	} else {
		err = soak(*duration, *seed, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	}
	if err != nil {
		os.Exit(1)
	}
}
