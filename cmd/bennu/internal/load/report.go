package load

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result of a run.
type Report struct {
	Connections int     `json:"connections"` // that were wanted
	Connected   int     `json:"connected"`   // that joined their topics
	Lost        int     `json:"lost"`        // how often a connection was lost
	Seconds     float64 `json:"seconds"`     // for which events were pushed

	Connect Latency `json:"connect"` // until the connection was open
	Join    Latency `json:"join"`    // until the reply to the join

	Pushes     uint64  `json:"pushes"`
	Replies    Latency `json:"replies"` // from the time at which the push was due
	Deliveries Latency `json:"deliveries"`
	FanOut     float64 `json:"fan_out"`               // deliveries for each push
	PushRate   float64 `json:"pushes_per_second"`     // that were sent
	Rate       float64 `json:"deliveries_per_second"` // that arrived

	Errors map[string]uint64 `json:"errors"` // how often, by text
}

// Failed returns how many errors there were.
func (r *Report) Failed() (n uint64) {
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// Write writes the report as text.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\tcount\tper second\tp50\tp95\tp99\tmax\t\n")
	row := func(name, rate string, l Latency) {
		if l.Count > 0 {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n",
				name, l.Count, rate, text(l.P50), text(l.P95), text(l.P99), text(l.Max))
		}
	}
	row("connect", "", r.Connect)
	row("join", "", r.Join)
	row("replies", perSecond(r.Replies.Count, r.Seconds), r.Replies)
	row("deliveries", perSecond(r.Deliveries.Count, r.Seconds), r.Deliveries)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%d of %d connections joined", r.Connected, r.Connections)
	if r.Lost > 0 {
		fmt.Fprintf(&b, ", %d were lost", r.Lost)
	}
	if r.Pushes > 0 {
		fmt.Fprintf(&b, "; %d pushes in %.1f s (%.0f per second), %.1f deliveries for each",
			r.Pushes, r.Seconds, r.PushRate, r.FanOut)
	}
	b.WriteString("\n")
	names := make([]string, 0, len(r.Errors))
	for name := range r.Errors {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return int(r.Errors[y]) - int(r.Errors[x]) })
	for _, name := range names {
		fmt.Fprintf(&b, "%d × %s\n", r.Errors[name], name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func perSecond(n uint64, seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(n)/seconds, 'f', 0, 64)
}

func text(m Millis) string { return string(appendMillis(nil, time.Duration(m))) + " ms" }

// appendMillis appends the milliseconds of a duration.
func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Round(time.Microsecond))/float64(time.Millisecond), 'f', -1, 64)
}
