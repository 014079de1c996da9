package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bennu.example/cmd/bennu/internal/load"
	"bennu.example/serializer"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	options
	params      string
	connections int
	topics      int
	connectRate int
	event       string
	payload     string
	rate        float64
	duration    time.Duration
}

func (a *app) benchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench URL TOPIC",
		Short: "Put load on a server, and report latencies, errors and throughput",
		Long: "bench opens connections, each of which joins the topic, pushes events at a fixed rate, and reports\n" +
			"how long connections, joins, replies and broadcasts took. Without --event it only holds the\n" +
			"connections.\n\n" +
			"In the topic and the params, {n} stands for a number: of the topic, with --topics, and of the\n" +
			"connection. In the payload, {n} is the number of the connection and {id} a text that is different for\n" +
			"each push. A broadcast is measured if it contains {id}.\n\n" +
			"Only put load on servers that are yours. The exit code is 1 if anything failed.",
		Example: `  bennu bench localhost:4000/socket room:{n} --topics 10 -p '{"user":"user {n}"}' \
    --event new_msg --payload '{"body":"{id}"}' --connections 200 --rate 100 --duration 10s
  bennu bench wss://example.com/socket room:lobby --connections 5000 --connect-rate 500 --duration 1m`,
		Args: cobra.ExactArgs(2),
		RunE: action(func(ctx context.Context, args []string) error { return a.bench(ctx, args[0], args[1], &o) }),
	}
	o.add(cmd.Flags())
	f := cmd.Flags()
	f.StringVarP(&o.params, "params", "p", "", "params of the joins, a JSON object")
	f.IntVarP(&o.connections, "connections", "c", 100, "how many connections to open")
	f.IntVar(&o.topics, "topics", 1, "over how many topics to spread them; TOPIC contains {n}")
	f.IntVar(&o.connectRate, "connect-rate", 200, "how many connections to open in a second")
	f.StringVarP(&o.event, "event", "e", "", "the `name` of the event to push; none if it is empty")
	f.StringVar(&o.payload, "payload", `{"id":"{id}"}`, "its payload, a JSON object")
	f.Float64VarP(&o.rate, "rate", "r", 100, "pushes per second, of all connections together")
	f.DurationVarP(&o.duration, "duration", "d", 10*time.Second, "how long to push")
	return cmd
}

// bench puts load on a server and prints the report.
func (a *app) bench(ctx context.Context, url, topic string, o *benchOptions) error {
	client, err := o.config(a)
	if err != nil {
		return err
	}
	switch {
	case o.connections < 1 || o.topics < 1 || o.connectRate < 1:
		return usage("--connections, --topics and --connect-rate must be positive")
	case o.rate <= 0 || o.duration <= 0:
		return usage("--rate and --duration must be positive")
	case o.topics > 1 && !strings.Contains(topic, "{n}"):
		return usage("--topics %d: the topic must contain {n}, such as room:{n}", o.topics)
	}
	if _, err := object("--params", numbered(o.params, 0)); err != nil {
		return err
	}
	if _, err := object("--payload", identified(o.payload, 0, "id")); err != nil {
		return err
	}
	client.MaxBacklog = 0 // the default: nothing is printed, so nothing waits for long
	client.NoSocketChannel = true
	p := a.printer()
	progress := func(g load.Progress) {
		p.note("%d connected, %d lost, %d pushes, %d deliveries, %d errors",
			g.Connected, g.Lost, g.Pushes, g.Deliveries, g.Errors)
	}
	if !a.terminal {
		progress = nil
	}
	report := load.Run(ctx, load.Config{
		URL: socketURL(url), Client: *client, Connections: o.connections, ConnectRate: o.connectRate,
		Topic: func(n int) string { return numbered(topic, n%o.topics) },
		Params: func(n int) any {
			if o.params == "" {
				return nil
			}
			return json.RawMessage(numbered(o.params, n))
		},
		Event: o.event, Rate: o.rate, Duration: o.duration,
		Payload: func(n int, id string) serializer.Payload {
			return serializer.Value(json.RawMessage(identified(o.payload, n, id)))
		},
	}, progress)
	if err := a.printReport(report); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case report.Connected == 0:
		return &exitError{exitConnection, errSilent}
	case report.Failed() > 0 || report.Lost > 0:
		return &exitError{exitRefused, errSilent}
	}
	return nil
}

func (a *app) printReport(r *load.Report) error {
	if !a.terminal {
		b, err := marshal(r)
		if err == nil {
			_, err = fmt.Fprintf(a.stdout, "%s\n", b)
		}
		return err
	}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		return err
	}
	for l := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.stdout, printable(strings.TrimSuffix(l, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

// numbered replaces {n}.
func numbered(text string, n int) string { return strings.ReplaceAll(text, "{n}", strconv.Itoa(n)) }

// identified replaces {n} and {id}.
func identified(text string, n int, id string) string {
	return strings.ReplaceAll(numbered(text, n), "{id}", id)
}
