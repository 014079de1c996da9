package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// curve is a series of scenarios in which one parameter varies.
type curve struct {
	name      string
	scenarios []scenario
	stop      string // why it ends before the largest value; empty if it does not
}

// growth returns the curves of a machine on which a process may have that many open files.
func growth(files int) []curve {
	connections := curve{name: "connections"}
	for _, n := range []int{100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000} {
		const others = 100 // files that are not connections
		if n > files-others {
			connections.stop = fmt.Sprintf("stopped before %d connections: a process may have %d files open (ulimit -n)",
				n, files)
			break
		}
		connections.add(n, scenario{Kind: "fanout", Clients: n, Topics: 1, InFlight: 4, Payload: 128})
	}
	rooms := curve{name: "rooms (1,000 connections)"}
	for _, n := range []int{1, 10, 100} {
		rooms.add(n, scenario{Kind: "fanout", Clients: 1000, Topics: n, InFlight: 4, Payload: 128})
	}
	payload := curve{name: "payload in bytes (200 connections)"}
	for _, n := range []int{64, 512, 4096, 32_768, 262_144} {
		payload.add(n, scenario{Kind: "fanout", Clients: 200, Topics: 1, InFlight: 4, Payload: n})
	}
	topics := curve{name: "topics (ten members each)"}
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		topics.add(n, scenario{Kind: "topics", Clients: 1000, Topics: n, Channels: n / 100, Payload: 128})
	}
	channels := curve{name: "channels per connection (100 connections, ten members each)"}
	for _, n := range []int{1, 10, 100, 1000} {
		channels.add(n, scenario{Kind: "topics", Clients: 100, Topics: 10 * n, Channels: n, Payload: 128})
	}
	return []curve{connections, rooms, payload, topics, channels}
}

// add adds a scenario with a value of the parameter.
func (c *curve) add(value int, s scenario) {
	s.Name = fmt.Sprint(value)
	c.scenarios = append(c.scenarios, s)
}

// printCurve prints the results of a curve.
func printCurve(w io.Writer, c curve, all []measured) {
	fmt.Fprintf(w, "\nCPU µs per delivered message by %s, 4 in flight\n", c.name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	memory := len(all) > 0 && all[0].scenario.Kind == "topics"
	fmt.Fprint(t, "\tBennu\tcentrifuge\tratio\t")
	if memory {
		fmt.Fprint(t, "bytes per channel: Bennu\tcentrifuge\t")
	}
	fmt.Fprintln(t)
	for _, m := range all {
		b, c := m.by["bennu"], m.by["centrifuge"]
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t", m.scenario.Name, b.figure(m.scenario), c.figure(m.scenario), m.ratio())
		if memory {
			fmt.Fprintf(t, "%d\t%d\t", b.Bytes, c.Bytes)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	if c.stop != "" {
		fmt.Fprintln(w, c.stop)
	}
}
