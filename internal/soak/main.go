// Command soak has many clients talk through one server for a long time while everything around them breaks, and checks what each of them heard.
//
//	go run ./internal/soak                            a minute
//	go run ./internal/soak -duration 10m              as every night
//	go run ./internal/soak -duration 10m -seed 42     with the choices of a run before
//	go test ./internal/soak                           a quarter of a minute; as long as BENNU_SOAK says: a minute in .ci/run
//
// The server is a process of its own. Its clients are Bennu's, by WebSocket and by long poll, in versions 2.0.0 and 3.0.0, and clients without Bennu,
// some of which read slowly. They join, leave and join again, push, broadcast, crash their channels, pause. Meanwhile connections are cut, reset and
// stalled, users are disconnected by their ids, and the server is drained and started again.
//
// After every round of this there is quiet, and a roll call: all must be joined and hear all others, presence must list who is there and nobody else, and
// the server's memory and goroutines must be what they were. What is checked all the time is told by [witness], and in guest.go and stranger.go.
//
// The last line is the verdict, PASS or FAIL with what was seen, and the exit code is 0 or 1.
//
// The seed decides what is done and in which order, not when: the clock, the network and the scheduler have their own will.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	role := flag.String("role", "", "server: what a child process is to be; for the program's own use")
	addr := flag.String("addr", "127.0.0.1:0", "where the server is to listen; for the program's own use")
	duration := flag.Duration("duration", time.Minute, "how long to go on")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the choices are made from")
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
