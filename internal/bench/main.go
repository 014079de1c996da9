// Command bench compares Bennu's costs with those of centrifuge, on the same machine and in the
// same run. It measures the two alternately, in several rounds, and reports the medians.
//
//	go run ./internal/bench                  all scenarios, three rounds, a table on standard output
//	go run ./internal/bench -svg bench.svg   also write a chart
//	go run ./internal/bench -growth          also vary connections, rooms and payload size
//	go run ./internal/bench -run return      only the scenarios whose names match
//
// Each measurement runs a server process and a load process. The main result is the server's CPU
// time per delivered message, which other load on the machine affects little. Every subscriber
// checks that it receives every message once and in order.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	role := flag.String("role", "", "role of a child process, server or load; internal")
	kind := flag.String("kind", "", "bennu or centrifuge; internal")
	job := flag.String("job", "", "a scenario as JSON; internal")
	addr := flag.String("server", "", "address of the server; internal")
	rounds := flag.Int("rounds", 3, "number of measurements of each scenario, of which the median is reported")
	duration := flag.Duration("duration", 2*time.Second, "duration of a measurement")
	growth := flag.Bool("growth", false, "also measure how the costs grow")
	svg := flag.String("svg", "", "write a chart to this file")
	match := flag.String("run", "", "measure only the scenarios whose names match this regular expression")
	flag.Parse()

	var err error
	switch *role {
	case "server":
		err = serve(*kind)
	case "load":
		var s scenario
		if err = json.Unmarshal([]byte(*job), &s); err == nil {
			err = runLoad(dialects[*kind], *addr, s)
		}
	default:
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
	// Kind is "fanout", "echo", "idle", "join" or "return".
	Kind     string
	Clients  int
	Topics   int  // the clients are distributed over them
	InFlight int  // concurrent broadcasts of a topic
	Payload  int  // in bytes
	Missed   int  // messages that a client missed that returns
	Stay     bool // its connection was not lost
	Duration time.Duration
	// Target is the maximum ratio of Bennu's cost to centrifuge's.
	Target float64
}

var columns = []scenario{
	{
		Name: "fan-out to 1,000, 16 in flight", Target: 0.57,
		Kind: "fanout", Clients: 1000, Topics: 1, InFlight: 16, Payload: 128,
	},
	{
		Name: "fan-out to 1,000, one at a time", Target: 0.68,
		Kind: "fanout", Clients: 1000, Topics: 1, InFlight: 1, Payload: 128,
	},
	{
		Name: "100 topics x 50, 4 in flight", Target: 0.88,
		Kind: "fanout", Clients: 5000, Topics: 100, InFlight: 4, Payload: 128,
	},
	{
		Name: "echo, 200 connections", Target: 0.95,
		Kind: "echo", Clients: 200, Topics: 200, InFlight: 1, Payload: 128,
	},
	{Name: "idle connection with one topic", Target: 0.37, Kind: "idle", Clients: 2000, Topics: 20},
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

// growing returns the scenarios in which one parameter varies.
func growing() map[string][]scenario {
	fan := func(clients, topics, payload int) scenario {
		return scenario{Kind: "fanout", Clients: clients, Topics: topics, InFlight: 4, Payload: payload}
	}
	g := make(map[string][]scenario)
	for _, n := range []int{100, 300, 1000, 3000} {
		s := fan(n, 1, 128)
		s.Name = fmt.Sprint(n)
		g["connections"] = append(g["connections"], s)
	}
	for _, n := range []int{1, 10, 100} {
		s := fan(1000, n, 128)
		s.Name = fmt.Sprint(n)
		g["rooms (1,000 connections)"] = append(g["rooms (1,000 connections)"], s)
	}
	for _, n := range []int{64, 512, 4096, 32768} {
		s := fan(200, 1, n)
		s.Name = fmt.Sprint(n)
		g["payload in bytes (200 connections)"] = append(g["payload in bytes (200 connections)"], s)
	}
	return g
}
