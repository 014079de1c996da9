package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// result is the result of one measurement.
type result struct {
	Messages   int           // deliveries, or joins
	CPU        time.Duration // of the server, for all messages
	Elapsed    time.Duration
	P50, P99   time.Duration // from publication to delivery, or of a round trip
	Bytes      int           // server memory per connection
	Duplicates int
	Missing    int
	Disorder   int
}

func (r result) cpuPerMessage() float64 {
	return float64(r.CPU.Nanoseconds()) / 1000 / float64(r.Messages)
}

// figure returns the cost that scenarios are compared by: µs of CPU, or kB of memory.
func (r result) figure(s scenario) float64 {
	if s.Kind == "idle" {
		return float64(r.Bytes) / 1000
	}
	return r.cpuPerMessage()
}

// kinds are the servers that are compared.
var kinds = []string{"bennu", "centrifuge"}

// kinds returns the servers to measure.
func (s scenario) kinds() []string {
	switch {
	case !s.Floors:
		return kinds
	case runtime.GOOS != "linux":
		return slices.Concat(kinds, []string{"pool"})
	}
	return slices.Concat(kinds, floors)
}

// measured holds the median results of a scenario, by kind of server.
type measured struct {
	scenario scenario
	by       map[string]result
}

func (m measured) ratio() float64 {
	return m.by["bennu"].figure(m.scenario) / m.by["centrifuge"].figure(m.scenario)
}

func run(match *regexp.Regexp, rounds int, duration time.Duration, grow bool, svg string) error {
	selected := slices.DeleteFunc(slices.Clone(columns), func(s scenario) bool { return !match.MatchString(s.Name) })
	main, err := medians(selected, rounds, duration)
	if err != nil {
		return err
	}
	printTable(os.Stdout, main)
	curves := make(map[string][]measured)
	if grow {
		for _, c := range growth(maxFiles()) {
			if !match.MatchString(c.name) {
				continue
			}
			if curves[c.name], err = medians(c.scenarios, max(1, rounds/2), duration/2); err != nil {
				return err
			}
			printCurve(os.Stdout, c, curves[c.name])
		}
	}
	if svg == "" {
		return nil
	}
	return os.WriteFile(svg, drawSVG(main, curves), 0o644)
}

// medians measures the scenarios, alternating between the kinds of servers.
func medians(scenarios []scenario, rounds int, duration time.Duration) ([]measured, error) {
	var all []measured
	for _, s := range scenarios {
		s.Duration = duration
		got := make(map[string][]result)
		for range rounds {
			for _, kind := range s.kinds() {
				r, err := measure(kind, s)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", s.Name, kind, err)
				}
				if r.Duplicates+r.Missing+r.Disorder > 0 {
					return nil, fmt.Errorf("%s, %s: %d duplicates, %d missing, %d out of order",
						s.Name, kind, r.Duplicates, r.Missing, r.Disorder)
				}
				got[kind] = append(got[kind], r)
				fmt.Fprintf(os.Stderr, "%-34s %-11s %8.2f\n", s.Name, kind, r.figure(s))
			}
		}
		m := measured{scenario: s, by: make(map[string]result)}
		for kind, rs := range got {
			slices.SortFunc(rs, func(a, b result) int {
				return int(1e6 * (a.figure(s) - b.figure(s)))
			})
			m.by[kind] = rs[len(rs)/2]
		}
		all = append(all, m)
	}
	return all, nil
}

// measure starts a server and a load process and returns the result.
func measure(kind string, s scenario) (r result, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	server := exec.Command(self, "-role", "server", "-kind", kind)
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := server.Start(); err != nil {
		return r, err
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("server: %w", err)
	}
	job, err := json.Marshal(s)
	if err != nil {
		return r, err
	}
	load := exec.Command(self, "-role", "load", "-kind", kind, "-server", strings.TrimSpace(addr), "-job", string(job))
	var stdout, stderr bytes.Buffer
	load.Stdout, load.Stderr = &stdout, &stderr
	if err := load.Run(); err != nil {
		return r, errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return r, json.Unmarshal(stdout.Bytes(), &r)
}
