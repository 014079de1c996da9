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
	fmt.Fprintln(t, "scenario\tunit\tBennu\tcentrifuge\tratio\tat most\tmsg/s\t\tp50\t\tp99\t\t")
	fmt.Fprintln(t, "\t\t\t\t\t\tBennu\tcentrifuge\tBennu\tcentrifuge\tBennu\tcentrifuge\t")
	for _, m := range all {
		b, c := m.by["bennu"], m.by["centrifuge"]
		unit := "CPU µs"
		if m.scenario.Kind == "idle" {
			unit = "RSS kB"
		}
		fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t\n",
			m.scenario.Name, unit, b.figure(m.scenario), c.figure(m.scenario), m.ratio(), m.scenario.Target,
			rate(b), rate(c), short(b.P50), short(c.P50), short(b.P99), short(c.P99))
	}
	t.Flush()
}

func printGrowth(w io.Writer, name string, all []measured) {
	fmt.Fprintf(w, "\nCPU µs per delivered message by %s, 4 in flight\n", name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tBennu\tcentrifuge\tratio\t")
	for _, m := range all {
		b, c := m.by["bennu"].figure(m.scenario), m.by["centrifuge"].figure(m.scenario)
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t\n", m.scenario.Name, b, c, m.ratio())
	}
	t.Flush()
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
