package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestClientCallbacks checks that callbacks run in order, one at a time, and may wait for replies
// of their own channel.
func TestClientCallbacks(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		var got []string // without a lock, so that the race detector reports concurrent callbacks
		done := make(chan struct{})
		ch.On("pushed", func(v serializer.Payload) {
			n := jsonOf(v)
			got = append(got, "begin "+n)
			if _, err := ch.Push("echo", n).Wait(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := channel.Call[string](t.Context(), ch, "echo", n); err != nil {
				t.Error(err)
			}
			if err := c.Flush(t.Context()); err != nil &&
				!errors.Is(err, push.ErrTimeout) { // the peer does not reply to push_me
				t.Error(err)
			}
			got = append(got, "end "+n)
		})
		ch.On("pushed", func(v serializer.Payload) { got = append(got, "second "+jsonOf(v)) })
		ch.On("last", func(serializer.Payload) { close(done) })
		var off func()
		off = ch.On("pushed", func(serializer.Payload) { // once
			got = append(got, "once")
			off()
			ch.On("late", func(serializer.Payload) { got = append(got, "late") })
		})
		for i := range 3 {
			ch.Push("push_me", i).Receive("ok", func(serializer.Payload) { t.Error("push_me has a reply") })
		}
		ch.Push("echo", nil).Receive("ok", func(serializer.Payload) { got = append(got, "reply") })
		time.Sleep(time.Minute)
		p.broadcast("room:1", "late", 1)
		p.broadcast("room:1", "last", 1)
		<-done
		want := []string{
			"begin 0", "end 0", "second 0", "once", "begin 1", "end 1", "second 1", "begin 2", "end 2", "second 2", "reply",
			"late",
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q", got)
		}
	})
}

// TestClientSlowCallback checks that a callback that blocks delays neither heartbeats, nor replies,
// nor the callbacks of other channels.
func TestClientSlowCallback(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		slow, quick := joined(t, c, "room:1"), joined(t, c, "room:2")
		slow.On("shout", func(serializer.Payload) { time.Sleep(time.Hour) })
		slow.Push("shout", nil)
		n := 0
		quick.On("shout", func(serializer.Payload) { n++ })
		for range 100 {
			quick.Push("shout", nil)
			mustReply(t, slow.Push("echo", nil))
			time.Sleep(30 * time.Second)
		}
		synctest.Wait()
		if n != 100 || p.dialCount() != 1 {
			t.Fatalf("%d events, %d dials", n, p.dialCount())
		}
		time.Sleep(time.Hour)
	})
}

func TestClientEventsContext(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := ch.EventsContext(ctx, "a")
		for i := range 3 {
			p.broadcast("room:1", "a", i)
		}
		synctest.Wait()
		n := 0
		for range events {
			n++
			cancel() // while two events wait
		}
		if n != 1 {
			t.Fatalf("%d events after the context ended", n-1)
		}
	})
}

func TestClientEvents(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", nil)
		all, some, late := ch.Events(), ch.Events("a", "b"), ch.Events("c")
		mustReply(t, ch.Join())
		for i := range 10 {
			p.broadcast("room:1", string(rune('a'+i%4)), i)
		}
		synctest.Wait()
		if s := ch.Stats(); len(s.Iterators) != 3 || s.Iterators[1].Count != 6 || s.Iterators[1].Events[0] != "a" ||
			s.Iterators[0].Count != 10 {
			t.Fatalf("%+v", s)
		}
		collect := func(seq func(func(serializer.Message, error) bool)) (list string) {
			for m, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				if m.JoinRef != `"1"` || m.Kind != serializer.KindBroadcast {
					t.Fatalf("%+v", m)
				}
				list += jsonOf(m.Payload)
			}
			return list
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := collect(all); got != "0123456789" {
				t.Errorf("all: %s", got)
			}
		})
		wg.Go(func() {
			if got := collect(some); got != "014589" {
				t.Errorf("some: %s", got)
			}
		})
		for m := range late {
			if jsonOf(m.Payload) != "2" {
				t.Fatal(jsonOf(m.Payload))
			}
			break // ends the iterator
		}
		if got := collect(late); got != "" {
			t.Fatal(got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if got := collect(ch.EventsContext(ctx, "z")); got != "" {
			t.Fatal(got)
		}
		mustReply(t, ch.Leave())
		wg.Wait()
		if s := ch.Stats(); len(s.Iterators) != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestClientOverflow(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBacklog: 2000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		events := ch.Events()
		gate := make(chan struct{})
		var called []string
		ch.On("e", func(v serializer.Payload) { <-gate; called = append(called, jsonOf(v)) })
		ch.OnError(func(err error) {
			var o *channel.OverflowError
			if errors.As(err, &o) {
				called = append(called, fmt.Sprint("gap ", o.Dropped))
			}
		})
		send := func(n int) {
			for i := range n {
				p.broadcast("room:1", "e", i)
			}
			synctest.Wait()
		}
		send(40)
		s := ch.Stats()
		if s.Callbacks.Count != 15 || s.Callbacks.Dropped != 25 || s.Iterators[0].Count != 16 ||
			s.Iterators[0].Dropped != 25 || s.Callbacks.Bytes > 2000 {
			t.Fatalf("%+v", s)
		}
		if s := c.Stats(); s.Dropped != 50 || s.Backlog != 30 {
			t.Fatalf("%+v", s)
		}
		for range 3 { // room for three
			gate <- struct{}{}
		}
		synctest.Wait()
		send(5)
		close(gate)
		synctest.Wait()
		send(1)
		synctest.Wait()
		want := strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 gap-25 0 1 2 gap-2 0")
		if got := strings.Fields(strings.ReplaceAll(strings.Join(called, " "), "gap ", "gap-")); !slices.Equal(got, want) {
			t.Errorf("callbacks %q", got)
		}
		var got []string
		for m, err := range events {
			var o *channel.OverflowError
			switch {
			case errors.As(err, &o):
				got = append(got, fmt.Sprint("gap-", o.Dropped))
			default:
				got = append(got, jsonOf(m.Payload))
			}
			if len(got) == 16 {
				break
			}
		}
		if want := strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 gap-31"); !slices.Equal(got, want) {
			t.Errorf("iterator %q", got)
		}
	})
}

func TestClientFull(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBuffer: 1000}, func(t *testing.T, p *peer, c *Client) {
		ch := c.Channel("room:1", nil)
		join := ch.Join()
		big := strings.Repeat("x", 2000)
		kept := []*push.Push{ch.Push("echo", big)} // any size fits into an empty buffer
		mustFail(t, ch.Push("echo", 1), push.ErrFull)
		connected(t, c)
		mustReply(t, join)
		mustReply(t, kept[0])
		c.Pause()
		synctest.Wait()
		kept = nil
		for i := range 30 {
			x := ch.Push("echo", i)
			if i < 14 {
				kept = append(kept, x)
			} else {
				mustFail(t, x, push.ErrFull)
			}
		}
		if s := ch.Stats(); s.Queued != 14 || s.QueuedBytes > 1000 || s.Unanswered != 14 {
			t.Fatalf("%+v", s)
		}
		other := c.Channel("room:2", nil) // has a buffer of its own
		join = other.Join()
		kept = append(kept, other.Push("echo", nil))
		kept[0].Cancel()
		mustFail(t, kept[0], push.ErrCanceled)
		kept[0] = ch.Push("echo", 99)
		c.Connect()
		mustReply(t, join)
		for _, x := range kept {
			mustReply(t, x)
		}
		if s := c.Stats(); s.Queued != 0 || s.QueuedBytes != 0 || s.Unanswered != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestClientStalledWriter has a network that accepts nothing. Pushes that were not handed to it
// wait, up to the limit, and are sent by the next connection.
func TestClientStalledWriter(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBuffer: 4000, Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut = true })
		first := ch.Push("echo", "first")
		synctest.Wait() // handed to the network
		var rest []*push.Push
		for i := range 100 {
			rest = append(rest, ch.Push("echo", i))
		}
		synctest.Wait()
		s := c.Stats()
		if s.Queued < 50 || s.Queued > 60 || s.QueuedBytes > 4000 || s.Unanswered != s.Queued {
			t.Fatalf("%+v", s)
		}
		mustFail(t, first, push.ErrLost) // the write times out
		sent := 0
		for _, x := range rest {
			_, err := x.Wait(t.Context())
			switch {
			case err == nil:
				sent++
			case !errors.Is(err, push.ErrFull):
				t.Fatal(err)
			}
		}
		if sent != s.Queued-1 {
			t.Fatalf("%d of %d were sent", sent, s.Queued-1)
		}
		for body, n := range p.handled {
			if n > 1 || body == `"first"` {
				t.Fatalf("%s was handled %d times", body, n)
			}
		}
	})
}

func TestClientCall(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		type point struct{ X, Y int }
		connected(t, c)
		ch := joined(t, c, "room:1")
		if got, err := channel.Call[point](t.Context(), ch, "echo", point{1, 2}); err != nil || got != (point{1, 2}) {
			t.Fatal(got, err)
		}
		var refused *push.Error
		if _, err := channel.Call[point](t.Context(), ch, "fail", point{}); !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if _, err := channel.Call[int](t.Context(), ch, "echo", point{}); err == nil {
			t.Fatal("an object was decoded as an int")
		}
		if got, err := channel.Call[serializer.Payload](t.Context(), ch, "echo",
			serializer.Binary([]byte("x"))); err != nil || string(got.Bytes()) != "x" {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := channel.Call[point](ctx, ch, "noreply", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		c.Pause()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := channel.Call[point](ctx, ch, "echo", "withdrawn"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		connected(t, c)
		mustReply(t, ch.Push("echo", nil))
		if p.times(`"withdrawn"`) != 0 {
			t.Fatal("the push was sent although Call had returned")
		}
	})
}
