package channeltest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"bennu.example/serializer"
)

// maxInbox bounds the bytes of the events that were received and not expected yet. Beyond it, the
// oldest are dropped.
const maxInbox = 64 << 20

// eventCost is what an event counts in addition to its payload.
const eventCost = 256

// Inbox has the events that arrived: those that a client received on a [Channel], or the broadcasts
// of a topic, from [Server.Subscribe]. Each event stays until a test expects it, so a test may
// expect events in another order than they arrive, as with Phoenix.ChannelTest.
type Inbox struct {
	signal
	server  *Server
	channel *Channel // nil if the events are broadcasts
	name    string   // for failure messages
	events  []event  // guarded by the signal
	size    int      // of events
	dropped int
}

// event is an event that was received.
type event struct {
	name    string
	payload serializer.Payload
}

func newInbox(s *Server, name string) *Inbox {
	return &Inbox{signal: newSignal(), server: s, name: name}
}

// add adds an event. It does not block.
func (in *Inbox) add(e event) {
	in.update(func() {
		in.events = append(in.events, e)
		in.size += eventCost + len(e.payload.Bytes())
		for in.size > maxInbox && len(in.events) > 1 {
			in.remove(0)
			in.dropped++
		}
	})
}

// remove removes an event. The caller holds the lock.
func (in *Inbox) remove(i int) {
	in.size -= eventCost + len(in.events[i].payload.Bytes())
	in.events = append(in.events[:i], in.events[i+1:]...)
}

// take removes the first event that matches and returns it. The caller holds the lock.
func (in *Inbox) take(name string, want pattern) (e event, ok bool) {
	for i, e := range in.events {
		if (name == "" || e.name == name) && want.mismatch(e.payload) == "" {
			in.remove(i)
			return e, true
		}
	}
	return event{}, false
}

// Expect waits for an event and returns it. The test fails if it does not arrive within
// [Server.Timeout].
//
// The payload must match a pattern, which is a Go value that is encoded as JSON. An object matches
// if it has all members of the pattern, with values that match; it may have more. Other values
// match if they are equal. So a struct matches in all of its members, unless they have omitzero,
// and a map in those that it has. A []byte or a serializer.Payload matches a binary payload that is
// equal. Nil matches every payload.
//
// Of several events that match, the first is returned. Earlier events that do not match stay in the
// Inbox. The name "" stands for any event.
func (in *Inbox) Expect(tb testing.TB, name string, want any) serializer.Message {
	tb.Helper()
	p := in.pattern(tb, want)
	ctx, cancel := in.server.within()
	defer cancel()
	var found event
	if in.await(ctx, func() (ok bool) { found, ok = in.take(name, p); return ok }) != nil {
		tb.Fatalf("channeltest: %s: no %s%s within %v\n%s", in.name, eventName(name), p, in.server.timeout(),
			in.report(name, p))
	}
	return serializer.Message{Topic: in.topic(), Event: found.name, Payload: found.payload}
}

// Refute fails the test if an event that matches has arrived, or arrives within [Server.Quiet]. It
// is like Expect otherwise.
func (in *Inbox) Refute(tb testing.TB, name string, want any) {
	tb.Helper()
	p := in.pattern(tb, want)
	ctx, cancel := context.WithTimeout(context.Background(), in.server.quiet())
	defer cancel()
	var found event
	taken := func() (ok bool) { found, ok = in.take(name, p); return ok }
	err := in.await(ctx, taken)
	if err != nil && in.channel != nil {
		in.channel.Client.roundTrip() // what the server has sent by now
		in.update(func() {
			if taken() {
				err = nil
			}
		})
	}
	if err == nil {
		tb.Fatalf("channeltest: %s: unexpected %q %s\n%s", in.name, found.name, textOf(found.payload), in.situation())
	}
}

// roundTrip waits until the client has received what the server has sent, or for a second.
func (c *Client) roundTrip() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = c.Socket.Ping(ctx) // without a connection, nothing arrives
}

func (in *Inbox) pattern(tb testing.TB, want any) pattern {
	tb.Helper()
	p, err := patternOf(want)
	if err != nil {
		tb.Fatalf("channeltest: %s: the wanted payload cannot be encoded: %v", in.name, err)
	}
	return p
}

func (in *Inbox) topic() string {
	if in.channel == nil {
		return ""
	}
	return in.channel.Channel.Topic()
}

func eventName(name string) string {
	if name == "" {
		return "event"
	}
	return fmt.Sprintf("event %q", name)
}

// maxListed bounds the events that a failure message lists.
const maxListed = 20

// report lists the events that arrived, with the reasons why they do not match.
func (in *Inbox) report(name string, want pattern) string {
	var b strings.Builder
	in.update(func() {
		switch n := len(in.events); {
		case n == 0:
			b.WriteString("\tno other event was received\n")
		default:
			b.WriteString("\treceived instead:\n")
			if in.dropped+n > maxListed {
				fmt.Fprintf(&b, "\t\t(%d earlier ones)\n", in.dropped+max(n-maxListed, 0))
			}
		}
		for _, e := range in.events[max(len(in.events)-maxListed, 0):] {
			fmt.Fprintf(&b, "\t\t%s %s", e.name, textOf(e.payload))
			if name == "" || e.name == name {
				fmt.Fprintf(&b, " (%s)", want.mismatch(e.payload))
			}
			b.WriteByte('\n')
		}
	})
	return b.String() + in.situation()
}

func (in *Inbox) situation() string {
	if in.channel == nil {
		return ""
	}
	return in.channel.situation()
}

// Receiver is an [Inbox], or a [Channel], which has one.
type Receiver interface {
	Expect(tb testing.TB, name string, want any) serializer.Message
}

// Receive waits for an event, whatever its payload is, and returns its decoded payload. The test
// fails if the event does not arrive within [Server.Timeout], or if the payload is not a T.
func Receive[T any](tb testing.TB, from Receiver, name string) (v T) {
	tb.Helper()
	m := from.Expect(tb, name, nil)
	if err := m.Payload.Decode(&v); err != nil {
		tb.Fatalf("channeltest: event %q: the payload is not a %T: %v\n\t%s", m.Event, v, err, textOf(m.Payload))
	}
	return v
}
