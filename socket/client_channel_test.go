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

func TestClientLeave(t *testing.T) { // K246, K247, K248
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		ch := joined(t, c, "room:1")
		closed := make(chan error, 1)
		ch.OnClose(func(err error) { closed <- err })
		inFlight := ch.Push("echo", 1)
		start := time.Now()
		leave := ch.Leave()
		if again := ch.Leave(); again != leave {
			t.Fatal("a second leave is another")
		}
		mustFail(t, ch.Push("echo", 2), channel.ErrClosed)
		mustReply(t, leave)
		if d := time.Since(start); d != time.Second {
			t.Fatalf("left after %v: not when the server said so", d)
		}
		mustReply(t, inFlight)
		if err := <-closed; !errors.Is(err, channel.ErrLeft) {
			t.Fatal(err)
		}
		<-ch.Done()
		if s, err := ch.State(); s != channel.StateClosed || !errors.Is(err, channel.ErrLeft) {
			t.Fatal(s, err)
		}
		mustFail(t, ch.Join(), channel.ErrClosed)
		mustReply(t, ch.Leave())
		mustReply(t, joined(t, c, "room:1").Leave())
		mustReply(t, c.Channel("room:2", nil).Leave())
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 echo 1`, `"1" "3" room:1 phx_leave {}`,
			`"4" "4" room:1 phx_join {}`, `"4" "5" room:1 phx_leave {}`)
	})
}

func TestClientLeaveOffline(t *testing.T) { // K248
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		c.Pause()
		waiting := ch.Push("echo", nil)
		mustReply(t, ch.Leave())
		mustFail(t, waiting, channel.ErrClosed)
		connected(t, c)
		time.Sleep(time.Minute)
		wantFrames(t, p, `"1" "1" room:1 phx_join {}`)
	})
}

func TestClientDuplicates(t *testing.T) { // K249
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		first := c.Channel("room:1", nil)
		join := first.Join()
		second := c.Channel("room:1", nil)
		mustFail(t, second.Join(), channel.ErrDuplicate) // while it is joining
		mustFail(t, first.Join(), channel.ErrDuplicate)
		mustReply(t, join)
		mustFail(t, second.Join(), channel.ErrDuplicate)
		crash := first.Push("crash", nil)
		mustFail(t, crash, push.ErrLost)
		mustFail(t, second.Join(), channel.ErrDuplicate) // while it is errored
		mustReply(t, first.Push("echo", 1))

		events := second.Events("shout")
		leave := first.Leave()
		mustReply(t, second.Join()) // while it is leaving
		mustReply(t, leave)
		mustReply(t, second.Push("echo", 2))
		second.Push("shout", 3)
		for m := range events {
			if jsonOf(m.Payload) != "3" {
				t.Fatal(jsonOf(m.Payload))
			}
			break
		}
		if s, _ := second.State(); s != channel.StateJoined {
			t.Fatal(s)
		}
	})
}

// A join that replaces an old one of another connection: its late end is not the new one's.
func TestClientReorderedClose(t *testing.T) { // K250
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		mustFail(t, ch.Push("crash", nil), push.ErrLost)
		mustReply(t, ch.Push("echo", nil))
		k := p.last()
		for _, event := range []string{serializer.EventClose, serializer.EventError} {
			k.lifecycle("room:1", event, `"1"`, nil)
			mustReply(t, ch.Push("echo", nil))
		}
		k.send(serializer.Message{Kind: serializer.KindReply, JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1", Status: "error"})
		mustReply(t, ch.Push("echo", nil))
		if s, _ := ch.State(); s != channel.StateJoined {
			t.Fatal(s)
		}
	})
}

func TestClientServerCloses(t *testing.T) { // K245, L263
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		events := ch.Events()
		closed, errored := make(chan error, 1), 0
		ch.OnClose(func(err error) { closed <- err })
		ch.OnError(func(error) { errored++ })
		ch.Push("push_me", 1)
		stop := ch.Push("stop", nil)
		var remote *channel.RemoteError
		if err := <-closed; !errors.As(err, &remote) || remote.Event != serializer.EventClose {
			t.Fatal(err)
		}
		mustFail(t, stop, push.ErrLost)
		mustFail(t, stop, channel.ErrClosed)
		start := time.Now()
		mustFail(t, ch.Push("echo", nil), channel.ErrClosed)
		if time.Since(start) != 0 {
			t.Fatal("a push on a closed channel takes its time")
		}
		n := 0
		for m := range events {
			n++
			if m.Event != "pushed" {
				t.Fatal(m.Event)
			}
		}
		for range ch.Events() { // ends at once
			n++
		}
		if n != 1 || errored != 0 {
			t.Fatalf("%d events, %d errors", n, errored)
		}
		p.last().cut(errReset)
		time.Sleep(time.Minute)
		joined(t, c, "room:1")
	})
}

func TestClientRejoins(t *testing.T) { // K238, K241, K242, K243
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		var at []time.Time
		n := 0
		p.join = func(*peerConn, *serializer.Message) (string, any) {
			at = append(at, time.Now())
			if n++; n <= 6 {
				return "error", map[string]any{"reason": "not yet", "n": n}
			}
			return "ok", map[string]int{"n": n}
		}
		connected(t, c)
		ch := c.Channel("room:1", nil)
		var causes []error
		ch.OnError(func(err error) { causes = append(causes, err) })
		replies := make(chan string, 1)
		ch.OnJoin(func(p serializer.Payload) { replies <- jsonOf(p) })
		var hooks []string
		join := ch.Join()
		join.Receive("error", func(p serializer.Payload) { hooks = append(hooks, "error") })
		join.Receive("ok", func(p serializer.Payload) { hooks = append(hooks, "ok") })
		var refused *push.Error
		if _, err := join.Wait(t.Context()); !errors.As(err, &refused) || refused.Reason() != "not yet" {
			t.Fatal(err)
		}
		if got := <-replies; got != `{"n":7}` {
			t.Fatal(got)
		}
		for i, want := range []time.Duration{1, 2, 5, 10, 10, 10} {
			if got := at[i+1].Sub(at[i]); got != want*time.Second {
				t.Errorf("join %d after %v, want %v s", i+2, got, want)
			}
		}
		if len(causes) != 6 || !errors.As(causes[5], &refused) {
			t.Fatal(causes)
		}
		if want := strings.Fields("error error error error error error ok"); !slices.Equal(hooks, want) {
			t.Fatal(hooks)
		}
		last := at[6]
		ch.Push("crash", nil)
		<-replies
		if d := at[7].Sub(last); d != time.Second {
			t.Fatalf("joined %v after the crash", d)
		}
		var remote *channel.RemoteError
		if len(causes) != 7 || !errors.As(causes[6], &remote) || remote.Error() != "channel: server sent phx_error: channel_crash" {
			t.Fatal(causes)
		}
		refs := map[string]bool{}
		for _, f := range p.got("crash", "heartbeat") {
			refs[strings.Fields(f)[0]] = true
		}
		if len(refs) != 8 {
			t.Fatalf("%d join_refs for 8 joins", len(refs))
		}
	})
}

func TestClientJoinTimesOut(t *testing.T) { // K239
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		n := 0
		p.join = func(k *peerConn, m *serializer.Message) (string, any) {
			if n++; n == 1 { // the server takes 10.5 s for it
				msg := *m
				time.AfterFunc(10500*time.Millisecond, func() { k.reply(&msg, msg.JoinRef, "ok", nil) })
				return "", nil
			}
			return "ok", nil
		}
		connected(t, c)
		ch := c.Channel("room:1", nil)
		timeouts := 0
		join := ch.Join().Receive(push.StatusTimeout, func(serializer.Payload) { timeouts++ })
		kept := ch.PushTimeout("echo", nil, time.Minute)
		mustFail(t, join, push.ErrTimeout)
		mustReply(t, kept)
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 phx_leave {}`, `"3" "3" room:1 phx_join {}`, `"3" "4" room:1 echo {}`)
		if timeouts != 1 {
			t.Fatal(timeouts)
		}
	})
}

// Callbacks run in order, one at a time, and may wait for replies of their own channel.
func TestClientCallbacks(t *testing.T) { // K252
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		var got []string // unguarded on purpose: the race detector finds two callbacks at once
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
			if err := c.Flush(t.Context()); err != nil {
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
			ch.Push("push_me", i).Receive("ok", func(serializer.Payload) { t.Error("nobody replies to that") })
		}
		ch.Push("echo", nil).Receive("ok", func(serializer.Payload) { got = append(got, "reply") })
		time.Sleep(time.Minute)
		p.broadcast("room:1", "late", 1)
		p.broadcast("room:1", "last", 1)
		<-done
		want := []string{
			"begin 0", "end 0", "second 0", "once", "begin 1", "end 1", "second 1", "begin 2", "end 2", "second 2", "reply", "late",
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q", got)
		}
	})
}

// A callback that blocks delays neither heartbeats, nor replies, nor the callbacks of other channels.
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
		if s := ch.Stats(); len(s.Iterators) != 3 || s.Iterators[1].Count != 6 || s.Iterators[1].Events[0] != "a" || s.Iterators[0].Count != 10 {
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
			break // ends the subscription
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
		if s.Callbacks.Count != 15 || s.Callbacks.Dropped != 25 || s.Iterators[0].Count != 16 || s.Iterators[0].Dropped != 25 || s.Callbacks.Bytes > 2000 {
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
		kept := []*push.Push{ch.Push("echo", big)} // any size fits when nothing waits
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
		other := c.Channel("room:2", nil) // has room of its own
		join = other.Join()
		kept = append(kept, other.Push("echo", nil))
		kept[0].Cancel()
		mustFail(t, kept[0], push.ErrCanceled)
		kept[0] = ch.Push("echo", 99)
		c.Resume()
		mustReply(t, join)
		for _, x := range kept {
			mustReply(t, x)
		}
		if s := c.Stats(); s.Queued != 0 || s.QueuedBytes != 0 || s.Unanswered != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// A network that takes nothing: what was not handed to it waits, bounded, and is sent by the next connection.
func TestClientStalledWriter(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBuffer: 4000, Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut = true })
		first := ch.Push("echo", "first")
		synctest.Wait() // in the hands of the network
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
			t.Fatal("an object is no int")
		}
		if got, err := channel.Call[serializer.Payload](t.Context(), ch, "echo", serializer.Binary([]byte("x"))); err != nil || string(got.Bytes()) != "x" {
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
			t.Fatal("nobody waited for it any more, and it was sent")
		}
	})
}

func TestClientFlush(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		a, b := joined(t, c, "room:a"), joined(t, c, "room:b")
		took := func(want time.Duration) {
			t.Helper()
			start := time.Now()
			if err := c.Flush(t.Context()); err != nil || time.Since(start) != want {
				t.Fatalf("%v after %v, want %v", err, time.Since(start), want)
			}
		}
		took(0)
		a.Push("echo", 1)
		b.Push("echo", 1)
		go func() { time.Sleep(500 * time.Millisecond); a.Push("noreply", "later") }()
		took(time.Second)
		took(9500 * time.Millisecond)
		b.Push("noreply", nil)
		took(10 * time.Second)
		leave := b.Leave()
		took(time.Second)
		mustReply(t, leave)
		a.Push("noreply", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		c.Pause() // answers them all, in its way
		took(0)
	})
}

func TestClientProgress(t *testing.T) {
	t.Parallel()
	var calls []ClientStats
	cfg := ClientConfig{ProgressOver: 10_000, OnProgress: func(s ClientStats) { calls = append(calls, s) }}
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		ch.Push("echo", nil)
		synctest.Wait()
		if len(calls) != 0 {
			t.Fatal("small is no backlog")
		}
		c.Pause()
		synctest.Wait()
		for i := range 200 {
			ch.Push("noreply", i)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		k := len(calls)
		if k == 0 || k > 3 || calls[0].Queued == 0 {
			t.Fatalf("%d calls while nothing moves", k)
		}
		c.Resume()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if last := calls[len(calls)-1]; last.Queued != 0 || last.QueuedBytes != 0 || len(calls) == k {
			t.Fatalf("the last of %d: %+v", len(calls), last)
		}
		// The other direction.
		calls = nil
		ch.On("e", func(serializer.Payload) { time.Sleep(20 * time.Millisecond) })
		for i := range 100 {
			p.broadcast("room:1", "e", i)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(calls); n < 15 || n > 25 {
			t.Fatalf("%d calls in two seconds", n)
		}
		for i := 1; i < len(calls); i++ {
			if calls[i].Backlog > calls[i-1].Backlog {
				t.Fatalf("%d events, then %d", calls[i-1].Backlog, calls[i].Backlog)
			}
		}
		if last := calls[len(calls)-1]; last.Backlog != 0 {
			t.Fatalf("%+v", last)
		}
		k = len(calls)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(calls) != k {
			t.Fatal("calls without a backlog")
		}
	})
}

func TestClientClose(t *testing.T) { // I204
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		p.prepare = func(k *peerConn) { k.slow, k.closing = time.Second, time.Second }
		c := p.client(ClientConfig{})
		connected(t, c)
		ch := joined(t, c, "room:1")
		var closedWith error
		ch.OnClose(func(err error) { time.Sleep(time.Second); closedWith = err })
		events := ch.Events()
		answered := ch.Push("echo", nil)
		start := time.Now()
		late := make(chan error, 1)
		go func() {
			time.Sleep(time.Millisecond)
			_, err := ch.Push("echo", nil).Wait(context.Background())
			late <- err
		}()
		second := make(chan error, 1)
		go func() { time.Sleep(time.Millisecond); second <- c.Close(context.Background()) }()
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 2*time.Second { // a second for the reply, another for the callback, and the goodbye
			t.Fatalf("closed after %v", d)
		}
		mustReply(t, answered)
		if err := <-late; !errors.Is(err, channel.ErrClosed) || !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		if !errors.Is(closedWith, ErrClosed) {
			t.Fatal(closedWith)
		}
		for range events {
			t.Fatal("an event")
		}
		if got := p.closes(); len(got) != 1 || got[0].Code != 1000 {
			t.Fatal(got)
		}
		// After the end.
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.Connect()
		c.Pause()
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustFail(t, ch.Push("echo", nil), channel.ErrClosed)
		mustFail(t, c.Channel("room:2", nil).Join(), ErrClosed)
		mustReply(t, c.Channel("room:2", nil).Leave())
		if s := c.Stats(); s.State.Wanted != WantClosed || len(s.Channels) != 0 || s.FramesIn == 0 || s.BytesIn == 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestClientCloseDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c := p.client(ClientConfig{})
		connected(t, c)
		ch := joined(t, c, "room:1")
		lost := ch.Push("noreply", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		mustFail(t, lost, push.ErrLost)
		mustFail(t, lost, ErrClosed)

		// A callback that does not end.
		c = p.client(ClientConfig{})
		connected(t, c)
		ch = joined(t, c, "room:1")
		gate := make(chan struct{})
		ch.On("shout", func(serializer.Payload) { <-gate })
		ch.Push("shout", nil)
		synctest.Wait()
		c.Pause()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := c.Close(ctx); !errors.Is(err, errBusy) || time.Since(start) != 3*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		close(gate)
	})
}

// While Close waits for answers the connection is made again if it must be; and it does not wait for what cannot come.
func TestClientCloseFlushes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c := p.client(ClientConfig{})
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.last().cut(errReset)
		synctest.Wait()
		kept := ch.Push("echo", nil)
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustReply(t, kept)

		c = p.client(ClientConfig{})
		ch = c.Channel("room:1", nil)
		join, never := ch.Join(), ch.Push("echo", nil)
		start := time.Now()
		if err := c.Close(t.Context()); err != nil || time.Since(start) != 0 {
			t.Fatal(err, time.Since(start))
		}
		mustFail(t, join, ErrClosed)
		mustFail(t, never, channel.ErrClosed)

		c = p.client(ClientConfig{})
		connected(t, c)
		ch = joined(t, c, "room:1")
		p.set(func() { p.refuse = func(context.Context, ClientTransport, int) error { return denied(403) } })
		p.last().cut(errReset)
		synctest.Wait()
		never = ch.Push("echo", nil)
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustFail(t, never, ErrClosed)
		if d := time.Since(start); d > time.Second {
			t.Fatalf("waited %v for a client that was denied", d)
		}
		if err := p.client(ClientConfig{}).Close(t.Context()); err != nil { // never used
			t.Fatal(err)
		}
	})
}

func TestClientCloseFromCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c := p.client(ClientConfig{})
		closed := make(chan error, 2)
		c.OnState(func(s State) {
			if s.Status == Connected {
				closed <- c.Close(t.Context())
			}
		})
		c.Connect()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		c2 := p.client(ClientConfig{})
		connected(t, c2)
		ch := joined(t, c2, "room:1")
		ch.On("shout", func(serializer.Payload) {
			_, err := ch.Push("echo", nil).Wait(t.Context())
			closed <- errors.Join(err, c2.Close(t.Context()), c2.Close(t.Context()))
		})
		ch.Push("shout", nil)
		if err := c2.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() { closed <- c2.Close(t.Context()) }()
		for range 2 {
			if err := <-closed; err != nil {
				t.Fatal(err)
			}
		}
	})
}
