package channel

import (
	"context"
	"errors"
	"fmt"

	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Before returns a page of the topic's history: at most max records before a position, such as that
// of the oldest record that the program has, oldest first. Zero means 50; the server bounds a page
// to 100 records and 256 KiB. The records have Position, Event and Payload only. If more is true,
// there are older ones.
//
// It requires Resume, and a server whose handler has Pages. It waits for the first join. The error
// wraps history.ErrPosition if the position is zero, ErrTrimmed if the log no longer has it,
// ErrUnavailable if the log does not answer, and ErrNoRule if the server does not record the topic.
// Otherwise it wraps an error of [push.Push.Wait], such as a push.Error with the reason "forbidden"
// or "rate".
func (c *Client) Before(
	ctx context.Context, before history.Position, max int,
) (records []history.Record, more bool, err error) {
	from := before
	for more = true; more && len(records) == 0; {
		if records, more, err = c.page(ctx, from, max); err != nil {
			return nil, false, fmt.Errorf("channel: read %s before %q: %w", c.topic, before, err)
		}
		if len(records) == 1 && records[0].Event == eventHistory { // the handler intercepts all of this page
			from, records = records[0].Position, nil
		}
	}
	return records, more, nil
}

func (c *Client) page(
	ctx context.Context, before history.Position, max int,
) (records []history.Record, more bool, err error) {
	if before.IsZero() {
		return nil, false, history.ErrPosition
	}
	h := c.resume.Load()
	if h == nil {
		return nil, false, errNoResume
	}
	ask := map[string]any{"before": before}
	if max > 0 {
		ask["max"] = max
	}
	reply, err := c.pushHistory(ctx, h, ask)
	if err != nil {
		return nil, false, historyError(err)
	}
	var page historyPage
	if err := reply.Decode(&page); err != nil {
		return nil, false, err
	}
	records = make([]history.Record, len(page.Items))
	for i, it := range page.Items {
		pos, rest, _ := it.Payload.Cut(memberPosition)
		if err := pos.Decode(&records[i].Position); err != nil {
			return nil, false, fmt.Errorf("malformed page: %w", err)
		}
		if it.Data != nil {
			rest = serializer.Binary(it.Data)
		}
		records[i].Event, records[i].Payload = it.Event, rest
	}
	return records, page.More, nil
}

// historyError adds the error of package history that an error reply reports.
func historyError(err error) error {
	refused, ok := errors.AsType[*push.Error](err)
	if !ok {
		return err
	}
	switch refused.Reason() {
	case reasonTrimmed:
		return fmt.Errorf("%w: %w", history.ErrTrimmed, err)
	case historyUnavailable:
		return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	case invalidPosition:
		return fmt.Errorf("%w: %w", history.ErrPosition, err)
	case whyOff:
		return fmt.Errorf("%w: %w", history.ErrNoRule, err)
	}
	return err
}
