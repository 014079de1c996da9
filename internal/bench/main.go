// Command bench compares Bennu's costs with those of centrifuge, on the same machine and in the
// same run. It measures the two alternately, in several rounds, and reports the medians.
//
//	go run ./internal/bench                  all scenarios, three rounds, a table on standard output
//	go run ./internal/bench -svg bench.svg   also write a chart
//	go run ./internal/bench -growth          also vary connections, topics, channels and payload size
//	go run ./internal/bench -sessions 1000000 only that many sessions without a network
//	go run ./internal/bench -run return      only the scenarios and curves whose names match
//
// Each measurement runs a server process and a load process. The main result is the server's CPU
// time per delivered message, which other load on the machine affects little. Every subscriber
// checks that it receives every message once and in order.
//
// Two more servers show what is below every protocol: see floors.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	role := flag.String("role", "", "role of a child process, server or load; internal")
	kind := flag.String("kind", "", "bennu or centrifuge; internal")
	job := flag.String("job", "", "a scenario as JSON; internal")
	addr := flag.String("server", "", "addresses of the server and of its state; internal")
	rounds := flag.Int("rounds", 3, "number of measurements of each scenario, of which the median is reported")
	duration := flag.Duration("duration", 2*time.Second, "duration of a measurement")
	growth := flag.Bool("growth", false, "also measure how the costs grow")
	sessions := flag.Int("sessions", 0, "measure memory and broadcasts with up to this many sessions without a network")
	svg := flag.String("svg", "", "write a chart to this file")
	match := flag.String("run", "", "measure only the scenarios and curves whose names match this regular expression")
	flag.Parse()

	var err error
	switch *role {
	case "server":
		err = serve(*kind)
	case "load":
		var s scenario
		if err = json.Unmarshal([]byte(*job), &s); err == nil {
			of, about, _ := strings.Cut(*addr, " ")
			err = runLoad(dialects[*kind], of, about, s)
		}
	case "":
		if *sessions > 0 {
			err = runSessions(os.Stdout, *sessions)
			break
		}
		var re *regexp.Regexp
		if re, err = regexp.Compile(*match); err == nil {
			err = run(re, *rounds, *duration, *growth, *svg)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// scenario is one measurement.
type scenario struct {
	Name string
	// Kind is "fanout", "echo", "idle", "join", "open", "return" or "topics".
	Kind     string
	Clients  int
	Topics   int  // the clients are distributed over them
	Channels int  // of each client; zero means one
	InFlight int  // concurrent broadcasts of a topic
	Payload  int  // in bytes
	Missed   int  // messages that a client missed that returns
	Stay     bool // its connection was not lost
	Duration time.Duration
	Floors   bool // measure the floors as well
	// Target is the maximum ratio of Bennu's cost to centrifuge's.
	Target float64
}

var columns = []scenario{
	{
		Name: "fan-out to 1,000, 16 in flight", Target: 0.57, Floors: true,
		Kind: "fanout", Clients: 1000, Topics: 1, InFlight: 16, Payload: 128,
	},
	{
		Name: "fan-out to 1,000, one at a time", Target: 0.68, Floors: true,
		Kind: "fanout", Clients: 1000, Topics: 1, InFlight: 1, Payload: 128,
	},
	{
		Name: "100 topics x 50, 4 in flight", Target: 0.88, Floors: true,
		Kind: "fanout", Clients: 5000, Topics: 100, InFlight: 4, Payload: 128,
	},
	{
		Name: "echo, 200 connections", Target: 0.82, Floors: true,
		Kind: "echo", Clients: 200, Topics: 200, InFlight: 1, Payload: 128,
	},
	{
		Name: "idle connection with one topic", Target: 0.15, Floors: true,
		Kind: "idle", Clients: 2000, Topics: 20,
	},
	{
		Name: "open, handshake and join, 50 at a time", Target: 1.1, Floors: true,
		Kind: "open", Clients: 50, Topics: 50, InFlight: 1,
	},
	{Name: "leave and join, 50 connections", Target: 0.95, Kind: "join", Clients: 50, Topics: 50, InFlight: 1},
	{
		Name: "join again, 100 messages missed", Target: 0.85,
		Kind: "return", Clients: 50, Topics: 10, Payload: 128, Missed: 100, Stay: true,
	},
	{ // half of the cost is that of the connection
		Name: "connect again, 100 messages missed", Target: 1.1,
		Kind: "return", Clients: 50, Topics: 10, Payload: 128, Missed: 100,
	},
}
