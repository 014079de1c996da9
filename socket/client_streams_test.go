package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// changeText returns a change as text, such as "room:1 joining-joined again".
func changeText(c channel.Change) string {
	text := fmt.Sprintf("%s %s-%s", c.Topic, c.Old, c.New)
	if c.Rejoin {
		text += " again"
	}
	if c.Cause != nil {
		text += "!"
	}
	return text
}

// collected reads a stream of changes until it waits or ends.
func collected(s *stream.Stream[channel.Change]) (list []string) {
	for s.Stats().Count > 0 {
		c, err := s.Next(context.Background())
		if err != nil {
			list = append(list, err.Error())
			continue
		}
		list = append(list, changeText(c))
	}
	return list
}

func TestClientChanges(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		all := c.Changes()
		ch, other := c.Channel("room:1", nil), c.Channel("room:2", nil)
		one := ch.Changes()
		var early atomic.Bool
		ch.OnJoin(func(serializer.Payload) {
			if one.Stats().Count < 2 {
				early.Store(true)
			}
		})
		ch.Join()
		synctest.Wait()
		connected(t, c)
		mustReply(t, other.Join())
		p.last().cut(errReset)
		time.Sleep(time.Minute)
		mustReply(t, ch.Push("echo", nil))
		mustReply(t, ch.Leave())
		synctest.Wait()
		want := []string{
			"room:1 closed-joining", "room:1 joining-joined", "room:1 joined-errored!", "room:1 errored-joining again",
			"room:1 joining-joined again", "room:1 joined-leaving", "room:1 leaving-closed!",
		}
		if got := collected(one); !slices.Equal(got, want) {
			t.Errorf("channel: %q", got)
		}
		if early.Load() {
			t.Error("a callback of the join came before its change")
		}
		if _, err := one.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if _, err := ch.Changes().Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("a stream of the closed channel: %v", err)
		}
		got := collected(all)
		for topic, n := range map[string]int{"room:1": 7, "room:2": 5} {
			var part []string
			for _, line := range got {
				if strings.HasPrefix(line, topic) {
					part = append(part, strings.Replace(line, topic, "room:1", 1))
				}
			}
			if !slices.Equal(part, want[:n]) {
				t.Errorf("socket, %s: %q", topic, part)
			}
		}
		closeClient(t, c)
		if got := collected(all); !slices.Equal(got, []string{"room:2 joined-closed!"}) {
			t.Errorf("after Close: %q", got)
		}
		if _, err := all.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// TestClientChangesReply checks the reply of a join, and that a slow reader gets a gap.
func TestClientChangesReply(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		all := c.Changes()
		ch := c.Channel("room:1", map[string]int{"n": 5})
		reply := mustReply(t, ch.Join())
		for _, want := range []string{"null", jsonOf(reply)} {
			change, err := all.Next(t.Context())
			if got := jsonOf(change.Reply); err != nil || want != "null" && got != want {
				t.Errorf("reply %s, %v, want %s", got, err, want)
			}
		}
		for range 100 {
			p.last().cut(errReset)
			time.Sleep(time.Minute)
			mustReply(t, ch.Push("echo", nil))
		}
		got := collected(all)
		if n := len(got); n != 257 || got[256] != "channel: 44 changes dropped: backlog is full" {
			t.Errorf("%d changes, then %s", n-1, got[n-1])
		}
	})
}

func TestClientStateStream(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		states := c.StateStream()
		connected(t, c)
		closeClient(t, c)
		var got []string
		for s, err := range states.All(t.Context()) {
			if err != nil {
				t.Error(err)
			}
			got = append(got, s.Status.String()+" "+s.Wanted.String())
		}
		if len(got) < 4 || got[0] != "disconnected paused" || !slices.Contains(got, "connected connected") ||
			got[len(got)-1] != "disconnected closed" {
			t.Errorf("%q", got)
		}
		late := c.StateStream()
		if s, err := late.Next(t.Context()); err != nil || s.Wanted != WantClosed {
			t.Error(s, err)
		}
		if _, err := late.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// TestClientConsumers checks the list of consumers, and that each can be ended by its number.
func TestClientConsumers(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		states, changes, events, own := c.StateStream(), c.Changes(), ch.Stream("e", "f"), ch.Changes()
		gate := make(chan struct{})
		ch.On("e", func(serializer.Payload) { <-gate })
		c.OnState(func(State) { <-gate })
		for i := range 3 {
			p.broadcast("room:1", "e", i)
		}
		synctest.Wait()
		c.Pause()
		time.Sleep(5 * time.Second)
		find := func(kind stream.Kind, topic string) (list []stream.Stats) {
			for _, s := range c.Consumers() {
				if s.Kind == kind && s.Topic == topic {
					list = append(list, s)
				}
			}
			return list
		}
		for _, want := range []struct {
			kind  stream.Kind
			topic string
			count int
			id    uint64
		}{
			{stream.Callbacks, "", 1, 0},
			{stream.States, "", 2, states.ID()},
			{stream.Changes, "", 1, changes.ID()},
			{stream.Callbacks, "room:1", 3, 0},
			{stream.Events, "room:1", 3, events.ID()},
			{stream.Changes, "room:1", 1, own.ID()},
		} {
			got := find(want.kind, want.topic)
			if len(got) != 1 || got[0].Count != want.count || got[0].ID != want.id || got[0].Waiting ||
				want.count > 0 && got[0].Oldest != 5*time.Second && want.kind != stream.States {
				t.Errorf("%s of %q: %+v, want %+v", want.kind, want.topic, got, want)
			}
		}
		if e := find(stream.Events, "room:1"); !slices.Equal(e[0].Events, []string{"e", "f"}) {
			t.Errorf("%+v", e)
		}
		close(gate)
		if c.Drain(0) || c.Discard(0) || c.Discard(12345) {
			t.Error("a stream that does not exist was ended")
		}
		if !c.Drain(events.ID()) || len(find(stream.Events, "room:1")) != 1 {
			t.Error("a drained stream is not listed although it holds events")
		}
		if !c.Discard(events.ID()) || c.Discard(events.ID()) || len(find(stream.Events, "room:1")) != 0 {
			t.Error("a stream is still there after Discard")
		}
		if _, err := events.Next(t.Context()); !errors.Is(err, stream.ErrDiscarded) {
			t.Error(err)
		}
		if !c.Discard(own.ID()) || !c.Drain(changes.ID()) || !c.Drain(states.ID()) {
			t.Error("a stream was not found")
		}
		connected(t, c) // Ready has a stream of its own
		mustReply(t, ch.Push("echo", nil))
		if got := collected(changes); len(got) != 1 {
			t.Errorf("%q in a drained stream", got)
		}
	})
}

// TestClientStopAll checks DrainAll and DiscardAll of a client and of one channel, and that Ready,
// callbacks and later streams are not affected.
func TestClientStopAll(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		ready := make(chan error, 1)
		connected(t, c)
		one, two := joined(t, c, "room:1"), joined(t, c, "room:2")
		called := 0
		one.On("e", func(serializer.Payload) { called++ })
		for round, stop := range []func(){one.DrainAll, c.DrainAll, one.DiscardAll, c.DiscardAll} {
			a, b := one.Stream(), two.Stream()
			changes, states := one.Changes(), c.StateStream()
			c.Pause()
			synctest.Wait()
			go func() { ready <- c.Ready(t.Context()) }()
			c.Connect()
			mustReply(t, one.Push("echo", nil))
			mustReply(t, two.Push("echo", nil))
			p.broadcast("room:1", "e", 1)
			p.broadcast("room:2", "e", 1)
			synctest.Wait()
			stop()
			p.broadcast("room:1", "e", 2)
			p.broadcast("room:2", "e", 2)
			synctest.Wait()
			if err := <-ready; err != nil && !errors.Is(err, ErrPaused) {
				t.Error(err)
			}
			ofAll, discarded := round%2 == 1, round >= 2
			check := func(s stream.Stats, live int, stopped bool) {
				t.Helper()
				want := live
				if stopped && discarded {
					want = 0
				} else if stopped {
					want--
				}
				if s.Count != want {
					t.Errorf("round %d: %d items of %s of %q, want %d", round, s.Count, s.Kind, s.Topic, want)
				}
			}
			check(a.Stats(), 2, true)
			check(b.Stats(), 2, ofAll)
			if n := changes.Stats().Count; (n == 0) != discarded {
				t.Errorf("round %d: %d changes", round, n)
			}
			if n := states.Stats().Count; (n == 0) != (discarded && ofAll) {
				t.Errorf("round %d: %d states", round, n)
			}
			c.DiscardAll()
		}
		if called != 8 {
			t.Errorf("%d callbacks", called)
		}
	})
}

// TestClientStreamLimit checks that a client has at most 1,000 streams, of which those that have
// ended do not count, and neither do those of channels that were never joined.
func TestClientStreamLimit(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for range 1500 {
			c.Channel("room:0", nil).Events()
		}
		ch := joined(t, c, "room:1")
		refused := func(s interface{ Stats() stream.Stats }) bool {
			return !slices.ContainsFunc(c.Consumers(), func(x stream.Stats) bool { return x.ID == s.Stats().ID })
		}
		for range 333 {
			ch.Stream()
			ch.Changes()
			c.Changes()
		}
		last := c.StateStream()
		if n := len(c.Consumers()); n != 1002 || refused(last) { // and two queues of callbacks
			t.Fatalf("%d consumers of 1,002", n)
		}
		for _, s := range []interface{ Stats() stream.Stats }{ch.Stream(), ch.Changes(), c.Changes(), c.StateStream()} {
			if !refused(s) {
				t.Errorf("more than 1,000 streams: %+v", s.Stats())
			}
		}
		if _, err := ch.Stream().Next(t.Context()); !errors.Is(err, stream.ErrDiscarded) {
			t.Error(err)
		}
		connected(t, c) // its own stream does not count
		last.Drain()
		if !refused(ch.Stream()) {
			t.Error("a drained stream that holds a state does not count")
		}
		last.Discard()
		if refused(ch.Stream()) {
			t.Error("a discarded stream counts")
		}
		mustReply(t, ch.Leave())
		if refused(c.StateStream()) {
			t.Error("the streams of a closed channel count")
		}
		c.DiscardAll()
		synctest.Wait() // the closed channel's own may still be ending
		if n := c.totals.Streams.Load(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}

// TestClientStreamOfClosed checks that the end of a channel drains its streams.
func TestClientStreamOfClosed(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		events := ch.Stream("e")
		for i := range 3 {
			p.broadcast("room:1", "e", i)
		}
		synctest.Wait()
		mustReply(t, ch.Leave())
		n := 0
		for _, err := range events.All(t.Context()) {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%d events after the end of the channel", n)
		}
		if _, err := ch.Stream("e").Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}
