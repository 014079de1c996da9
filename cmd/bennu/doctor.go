package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"bennu.example/cmd/bennu/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var o options
	var origin string
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "doctor URL",
		Short: "Find out why a socket cannot be reached, and how to fix it",
		Long: "doctor examines the way to a socket: address, certificate, handshake, path, origin and Host, long\n" +
			"poll, proxies that buffer or cut silent connections, compression, and clocks. It says what is wrong\n" +
			"and how to fix it. The exit code is 1 if there is a problem.",
		Example: `  bennu doctor wss://example.com/socket
  bennu doctor wss://api.example.com/socket --origin https://www.example.com --idle 0`,
		Args: cobra.ExactArgs(1),
		RunE: action(func(ctx context.Context, args []string) error { return a.doctor(ctx, args[0], &o, origin, idle) }),
	}
	o.addHTTP(cmd.Flags())
	cmd.Flags().StringVar(&origin, "origin", "", "`origin` of the pages that connect; that of the URL if it is empty")
	cmd.Flags().DurationVar(&idle, "idle", 35*time.Second,
		"how long to leave a connection silent; clients send a heartbeat every 30s. 0 skips this")
	return cmd
}

// doctor examines a socket and prints the findings.
func (a *app) doctor(ctx context.Context, address string, o *options, origin string, idle time.Duration) error {
	cfg, err := o.config(a)
	if err != nil {
		return err
	}
	if idle < 0 {
		return usage("--idle must not be negative")
	}
	if origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			return usage("--origin %q: want a scheme and a host, such as https://example.com", origin)
		}
	}
	params, err := queryParams(o.connectParams)
	if err != nil {
		return err
	}
	p := a.printer()
	problems := 0
	err = doctor.Run(ctx, doctor.Config{
		URL: socketURL(address), Params: params, Token: cfg.AuthToken, Header: cfg.Header,
		Origin: origin, Idle: idle, Timeout: o.timeout,
	}, func(f doctor.Finding) {
		if f.Result == doctor.Problem {
			problems++
		}
		p.write(findingLine(f))
		if f.Check == "clock" && idle > 0 && a.terminal { // the last one before the silence
			p.note("waiting for %v of silence; --idle 0 leaves this out", idle)
		}
	})
	switch {
	case err != nil:
		return usage("%v", err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case problems > 0:
		return &exitError{exitRefused, errSilent}
	}
	return nil
}

// findingLine returns the line, or the lines of text, of a finding.
func findingLine(f doctor.Finding) line {
	mark := map[doctor.Result]string{doctor.OK: "ok     ", doctor.Note: "note   ", doctor.Problem: "PROBLEM"}[f.Result]
	lines := wrap(fmt.Sprintf("%s %s: %s", mark, f.Check, f.Text))
	if f.Fix != "" {
		lines = append(lines, wrap("→ "+f.Fix)...)
	}
	return line{
		Type: "finding", Check: f.Check, Result: string(f.Result), Text: f.Text, Fix: f.Fix,
		text: strings.Join(lines, "\n        "),
	}
}

// wrap splits a text into lines of at most 90 characters. Lines that are indented, which are parts
// of a configuration, stay as they are.
func wrap(text string) (lines []string) {
	const width = 90
	for l := range strings.SplitSeq(text, "\n") {
		l = printable(l)
		for !strings.HasPrefix(l, " ") && utf8.RuneCountInString(l) > width {
			end := len(string([]rune(l)[:width+1]))
			if space := strings.LastIndexByte(l[:end], ' '); space > 0 {
				end = space
			}
			lines, l = append(lines, l[:end]), strings.TrimLeft(l[end:], " ")
		}
		lines = append(lines, l)
	}
	return lines
}

// queryParams returns connect params as they stand in a query. A value that is not a text is JSON.
func queryParams(text string) (url.Values, error) {
	m, err := object("--connect-params", text)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for name, value := range m {
		var s string
		if json.Unmarshal(value, &s) != nil {
			s = string(value)
		}
		q.Set(name, s)
	}
	return q, nil
}
