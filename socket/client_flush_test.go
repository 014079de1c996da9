package socket

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestClientFlushReports checks that the next Flush reports each failed push once, for all kinds of
// failures.
func TestClientFlushReports(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{MaxBuffer: 1000}, func(t *testing.T, p *peer, c *Client) {
		flush := func(want ...error) {
			t.Helper()
			err := c.Flush(t.Context())
			if len(want) == 0 && err != nil {
				t.Fatalf("got %v, want nil", err)
			}
			for _, w := range want {
				if reply, ok := w.(*push.Error); ok {
					failed, ok := errors.AsType[*FlushError](err)
					if !ok || failed.Failed != len(want) || !slices.ContainsFunc(failed.Errors, func(err error) bool {
						e, ok := errors.AsType[*push.Error](err)
						return ok && e.Status == reply.Status
					}) {
						t.Fatalf("got %v, want a reply %s in it", err, reply.Status)
					}
				} else if !errors.Is(err, w) {
					t.Fatalf("got %v, want %v in it", err, w)
				}
			}
		}
		early := c.Channel("room:1", nil)
		early.Push("echo", 1)
		flush(channel.ErrNotJoined)
		connected(t, c)
		ch := joined(t, c, "room:1")
		ch.Push("fail", 1)
		ch.Push("maybe", 1)
		flush(&push.Error{Status: push.StatusError}, &push.Error{Status: "maybe"})
		canceled := ch.Push("noreply", 1)
		canceled.Cancel()
		flush()
		ch.PushWithTimeout("noreply", 1, time.Second)
		ch.Push("unencodable", func() {})
		flush(push.ErrTimeout, serializer.ErrPayload)
		ch.Push("noreply", 1)
		synctest.Wait()
		c.Pause()
		synctest.Wait()
		ch.Push("echo", body(900))
		ch.Push("echo", body(900))
		c.Connect()
		flush(push.ErrLost, push.ErrFull)
		flush()
		p.set(func() { p.ignore = serializer.EventLeave })
		ch.Leave()
		flush(push.ErrTimeout)
	})
}

// TestClientFlushIsBounded checks that Flush keeps 16 errors of many failed pushes, and the
// number of the others.
func TestClientFlushIsBounded(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		for range 1000 {
			ch.Push("noreply", 1).Done()
		}
		err := c.Flush(t.Context())
		if n := strings.Count(err.Error(), push.ErrTimeout.Error()); n != 16 ||
			!strings.Contains(err.Error(), "and 984 more pushes failed") {
			t.Errorf("%d errors: %v", n, err)
		}
	})
}

// TestClientFlushesTogether checks that two concurrent calls of Flush both report a failed push.
func TestClientFlushesTogether(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		joined(t, c, "room:1").Push("noreply", 1).Done()
		errs := make(chan error)
		for range 2 {
			go func() { errs <- c.Flush(context.Background()) }()
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, push.ErrTimeout) {
				t.Error(err)
			}
		}
	})
}

// TestClientRejoinOrder joins channels whose params take different times, and loses the connection
// several times. The channels must always rejoin in the order of their first joins, except for one
// whose params take more than a second.
func TestClientRejoinOrder(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		slow := 0 * time.Second
		topics := []string{"room:a", "room:b", "room:c", "room:d", "room:e"}
		params := map[string]time.Duration{"room:a": 700 * time.Millisecond, "room:b": time.Millisecond,
			"room:d": 300 * time.Millisecond, "room:e": 0}
		connected(t, c)
		var all []*channel.Client
		for _, topic := range topics {
			var v any // room:c has a value
			if d, ok := params[topic]; ok {
				v = func(context.Context) (any, error) {
					if topic == "room:b" {
						d += slow
					}
					time.Sleep(d) // in the virtual time of the test
					return map[string]string{}, nil
				}
			}
			ch := c.Channel(topic, v)
			all = append(all, ch)
			ch.Join()
		}
		joins := func() (list []string) {
			for _, ch := range all {
				mustReply(t, ch.Push("echo", nil))
			}
			for _, f := range p.got("heartbeat") {
				if parts := strings.Fields(f); parts[3] == serializer.EventJoin {
					list = append(list, parts[2])
				}
			}
			p.set(func() { p.frames = nil })
			return list
		}
		for round := range 4 {
			want := topics
			if round == 3 { // from now on the second function takes too long
				slow = 3 * time.Second
				want = []string{"room:a", "room:c", "room:d", "room:e", "room:b"}
			}
			if round > 0 {
				start := time.Now()
				p.last().cut(errReset)
				synctest.Wait()
				mustReply(t, all[4].Push("echo", nil))
				if d := time.Since(start); d > 1200*time.Millisecond {
					t.Errorf("the last channel joined after %v", d)
				}
			}
			if got := joins(); !slices.Equal(got, want) {
				t.Fatalf("round %d: joined %q, want %q", round, got, want)
			}
		}
	})
}
