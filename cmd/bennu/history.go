package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/serializer"
)

// maxPage is the number of records that one request asks for. A server sends no more.
const maxPage = 100

func (a *app) historyCommand() *cobra.Command {
	var o options
	var params, since, before string
	var count int
	cmd := &cobra.Command{
		Use:   "history URL TOPIC",
		Short: "Print the recorded events of a topic",
		Long: "history prints the newest records of a topic, oldest first, or those after or before a position.\n" +
			"It needs a Bennu server that records the topic, and whose handler allows pages (channel.Pages) for\n" +
			"everything that a join does not bring.",
		Example: `  bennu history localhost:4000/socket room:lobby -p '{"user":"eve"}' --max 20
  bennu history localhost:4000/socket room:lobby -p '{"user":"eve"}' --since q7hx2c9k-129-0m0a`,
		Args: cobra.ExactArgs(2),
		RunE: action(func(ctx context.Context, args []string) error {
			h := historyQuery{max: count}
			for flag, p := range map[string]struct {
				text string
				to   *history.Position
			}{"--since": {since, &h.since}, "--before": {before, &h.before}} {
				if p.text == "" {
					continue
				}
				var err error
				if *p.to, err = history.ParsePosition(p.text); err != nil {
					return usage("%s %s: not a position, such as q7hx2c9k-129-0m0a", flag, p.text)
				}
			}
			switch {
			case since != "" && before != "":
				return usage("--since and --before exclude each other")
			case count < 0:
				return usage("--max must not be negative")
			}
			return a.history(ctx, args[0], args[1], &o, params, h)
		}),
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVarP(&params, "params", "p", "", "params of the join, a JSON object")
	cmd.Flags().StringVar(&since, "since", "", "print the records after this `position`")
	cmd.Flags().StringVar(&before, "before", "", "print the records before this `position`")
	cmd.Flags().IntVar(&count, "max", 50, "how many records; 0 means all that the server has")
	return cmd
}

// historyQuery says which records are printed: the newest, or those after or before a position.
type historyQuery struct {
	since, before history.Position
	max           int // zero means all
}

// history prints records, oldest first.
func (a *app) history(ctx context.Context, url, topic string, o *options, params string, q historyQuery) error {
	join, err := joinParams(params)
	if err != nil {
		return err
	}
	s, err := a.connect(ctx, url, o)
	if err != nil {
		return err
	}
	defer s.close()
	c := s.Channel(topic, join)
	r := &recordReader{}
	onReset := func(_ serializer.Payload, why string) { r.reset = why }
	c.Resume(channel.ResumeConfig{Since: q.since, Last: q.last(), OnReset: onReset})
	c.OnMessage(func(m serializer.Message) { r.add(m) })
	if _, err := s.join(c); err != nil {
		return err
	}
	catchUp, cancel := context.WithTimeout(s.ctx, o.timeout)
	defer cancel()
	if err := c.CatchUp(catchUp); err != nil {
		return s.historyError(topic, err)
	}
	records := r.records
	switch {
	case !q.since.IsZero():
		if r.reset != "" {
			return refused("%s: the records after this position are not complete (%s)", printable(topic), printable(r.reset))
		}
		if q.max > 0 {
			records = records[:min(q.max, len(records))]
		}
	case !q.before.IsZero():
		records, err = s.back(c, nil, q.before, q.max)
	case q.max == 0 || len(records) < q.max:
		if len(records) > 0 && records[0].Position.Offset() > 1 {
			var older error
			if records, older = s.back(c, records, records[0].Position, q.max); older != nil {
				s.p.note("there may be older records: %v", s.historyError(topic, older))
			}
		}
	default:
		records = records[len(records)-q.max:]
	}
	for _, record := range records {
		s.p.write(recordLine(topic, record))
	}
	return s.historyError(topic, err)
}

// last returns how many records the join asks for.
func (q historyQuery) last() int {
	switch {
	case !q.since.IsZero():
		return 0
	case !q.before.IsZero():
		return 1 // so that the reply says whether the topic is recorded
	case q.max == 0:
		return maxPage
	}
	return q.max
}

// back adds pages before a position to the records until there are max in total. Zero means all.
func (s *session) back(
	c *channel.Client, records []history.Record, before history.Position, max int,
) ([]history.Record, error) {
	for more := true; more && (max == 0 || len(records) < max); {
		n := maxPage
		if max > 0 {
			n = min(n, max-len(records))
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
		page, rest, err := c.Before(ctx, before, n)
		cancel()
		if err != nil {
			return records, err
		}
		if len(page) == 0 {
			break
		}
		records, before, more = slices.Concat(page, records), page[0].Position, rest
	}
	return records, nil
}

// historyError explains an error about the history of a topic.
func (s *session) historyError(topic string, err error) error {
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, history.ErrNoRule):
		return refused("%s: the server does not record this topic", printable(topic))
	case errors.Is(err, history.ErrTrimmed):
		return refused("%s: the server no longer has the records before this position", printable(topic))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: the records did not arrive in time (--timeout sets the time)", printable(topic))
	}
	return replyError("history of "+printable(topic), err)
}

// recordReader collects the records that follow a join. Its methods are called in turn.
type recordReader struct {
	records []history.Record
	reset   string // why the join did not continue
}

func (r *recordReader) add(m serializer.Message) {
	var record history.Record
	pos, rest, ok := m.Payload.Cut("$pos")
	if !ok || pos.Decode(&record.Position) != nil { // an event that is not recorded
		return
	}
	record.Event, record.Payload = m.Event, rest
	r.records = append(r.records, record)
}

// recordLine returns the line of a record.
func recordLine(topic string, r history.Record) line {
	return line{
		Type: "record", Topic: topic, Event: r.Event, Pos: r.Position.String(), Payload: payloadJSON(r.Payload),
		text: fmt.Sprintf("%s %s %s", r.Position, printable(r.Event), payloadText(r.Payload)),
	}
}
