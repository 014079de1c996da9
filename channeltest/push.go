package channeltest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"bennu.example/push"
	"bennu.example/serializer"
)

// Push is a push of a [Channel], and its reply.
type Push struct {
	*push.Push

	channel *Channel
	what    string // for failure messages
}

// ExpectOK waits for a reply with the status "ok" and returns its payload, which must match a
// pattern: see [Inbox.Expect].
func (p *Push) ExpectOK(tb testing.TB, want any) serializer.Payload {
	tb.Helper()
	return p.Expect(tb, push.StatusOK, want)
}

// ExpectError waits for a reply with the status "error" and returns it. Its payload must match a
// pattern: see [Inbox.Expect]. Here, a string means {"reason": string}, as for push.Reject.
func (p *Push) ExpectError(tb testing.TB, want any) *push.Error {
	tb.Helper()
	return p.expectError(tb, want)
}

func (p *Push) expectError(tb testing.TB, want any) *push.Error {
	tb.Helper()
	w, err := reasonPattern(want)
	if err != nil {
		tb.Fatalf("channeltest: %s: the wanted payload cannot be encoded: %v", p.name(), err)
	}
	return &push.Error{Status: push.StatusError, Payload: p.expect(tb, push.StatusError, w)}
}

// Expect waits for a reply with this status and returns its payload, which must match a pattern:
// see [Inbox.Expect].
func (p *Push) Expect(tb testing.TB, status string, want any) serializer.Payload {
	tb.Helper()
	w, err := patternOf(want)
	if err != nil {
		tb.Fatalf("channeltest: %s: the wanted payload cannot be encoded: %v", p.name(), err)
	}
	return p.expect(tb, status, w)
}

func (p *Push) expect(tb testing.TB, status string, want pattern) serializer.Payload {
	tb.Helper()
	ctx, cancel := p.channel.Client.server.within()
	defer cancel()
	payload, err := p.Wait(ctx)
	got := push.StatusOK
	var reply *push.Error
	switch {
	case errors.As(err, &reply):
		got, payload = reply.Status, reply.Payload
	case err != nil:
		tb.Fatalf("channeltest: %s: no reply: %v\n%s", p.name(), err, p.channel.situation())
	}
	if got != status {
		tb.Fatalf("channeltest: %s: reply %q %s, want %q%s\n%s", p.name(), got, textOf(payload), status, want,
			p.channel.situation())
	}
	if d := want.mismatch(payload); d != "" {
		tb.Fatalf("channeltest: %s: reply %q %s does not match %s: %s\n%s", p.name(), got, textOf(payload), want.text, d,
			p.channel.situation())
	}
	return payload
}

// Refute fails the test if there is a reply, or if one arrives within [Server.Quiet].
func (p *Push) Refute(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), p.channel.Client.server.quiet())
	defer cancel()
	payload, err := p.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		p.channel.Client.roundTrip()
		now, stop := context.WithCancel(context.Background())
		stop()
		payload, err = p.Wait(now)
	}
	var reply *push.Error
	switch {
	case err == nil:
		tb.Fatalf("channeltest: %s: unexpected reply %q %s\n%s", p.name(), push.StatusOK, textOf(payload),
			p.channel.situation())
	case errors.As(err, &reply):
		tb.Fatalf("channeltest: %s: unexpected reply %q %s\n%s", p.name(), reply.Status, textOf(reply.Payload),
			p.channel.situation())
	}
}

func (p *Push) name() string { return fmt.Sprintf("%s: %s", p.channel.name, p.what) }

// Reply waits for a reply with the status "ok" and returns its decoded payload. The test fails if
// there is another reply or none, or if the payload is not a T.
func Reply[T any](tb testing.TB, p *Push) (v T) {
	tb.Helper()
	payload := p.ExpectOK(tb, nil)
	if err := payload.Decode(&v); err != nil {
		tb.Fatalf("channeltest: %s: the reply is not a %T: %v\n\t%s", p.name(), v, err, textOf(payload))
	}
	return v
}
