package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// printTable prints a line for each scenario: the costs, their ratio and its target.
func printTable(w io.Writer, all []measured) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "scenario\tunit\tepoll\tpool\tBennu\tcentrifuge\tratio\tat most\tmsg/s\t\tp50\t\tp99\t\t")
	fmt.Fprintln(t, "\t\t\t\t\t\t\t\tBennu\tcentrifuge\tBennu\tcentrifuge\tBennu\tcentrifuge\t")
	for _, m := range all {
		b, c := m.by["bennu"], m.by["centrifuge"]
		unit := "CPU µs"
		if m.scenario.Kind == "idle" {
			unit = "RSS kB"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t\n",
			m.scenario.Name, unit, m.floor("epoll"), m.floor("pool"), b.figure(m.scenario), c.figure(m.scenario),
			m.ratio(), m.scenario.Target, rate(b), rate(c), short(b.P50), short(c.P50), short(b.P99), short(c.P99))
	}
	t.Flush()
}

// floor returns the cost of a floor, or - if it was not measured.
func (m measured) floor(kind string) string {
	r, ok := m.by[kind]
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f", r.figure(m.scenario))
}

func rate(r result) string {
	if r.Elapsed == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", float64(r.Messages)/r.Elapsed.Seconds())
}

func short(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(10 * time.Microsecond).String()
}
