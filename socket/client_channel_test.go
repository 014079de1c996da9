package socket

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestClientLeave(t *testing.T) {
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
			t.Fatal("a second Leave returned another push")
		}
		mustFail(t, ch.Push("echo", 2), channel.ErrClosed)
		mustReply(t, leave)
		if d := time.Since(start); d != time.Second {
			t.Fatalf("left after %v, not when the server replied", d)
		}
		mustReply(t, inFlight)
		if err := <-closed; !errors.Is(err, channel.ErrLeft) {
			t.Fatal(err)
		}
		<-ch.Done()
		if s, err := ch.State(); s != channel.StateClosed || !errors.Is(err, channel.ErrLeft) {
			t.Fatal(s, err)
		}
		mustReply(t, ch.Leave())
		mustReply(t, joined(t, c, "room:1").Leave())
		mustReply(t, c.Channel("room:2", nil).Leave())
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 echo 1`, `"1" "3" room:1 phx_leave {}`,
			`"4" "4" room:1 phx_join {}`, `"4" "5" room:1 phx_leave {}`)
	})
}

func TestClientLeaveBeforeJoin(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", nil)
		mustReply(t, ch.Leave())
		mustReply(t, ch.Join())
		mustReply(t, ch.Leave())
		if s, err := ch.State(); s != channel.StateClosed || !errors.Is(err, channel.ErrLeft) {
			t.Fatal(s, err)
		}
		wantFrames(t, p, `"1" "1" room:1 phx_join {}`, `"1" "2" room:1 phx_leave {}`)
	})
}

func TestClientLeaveOffline(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		c.Pause()
		waiting := ch.Push("echo", nil)
		mustReply(t, ch.Leave())
		mustFail(t, waiting, channel.ErrClosed)
		connected(t, c)
		time.Sleep(time.Minute) // of virtual time
		wantFrames(t, p, `"1" "1" room:1 phx_join {}`)
	})
}

func TestClientDuplicateJoins(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		first := c.Channel("room:1", nil)
		join := first.Join()
		second := c.Channel("room:1", nil)
		mustFail(t, second.Join(), channel.ErrDuplicate) // while it is joining
		if again := first.Join(); again != join {
			t.Fatal("a second Join returned another push")
		}
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

// TestClientReorderedClose replaces a channel by a join on another connection. The late phx_close
// of the old channel must not close the new one.
func TestClientReorderedClose(t *testing.T) {
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

func TestClientServerCloses(t *testing.T) {
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
			t.Fatal("a push on a closed channel has no result yet")
		}
		n := 0
		for m := range events {
			n++
			if m.Event != "pushed" {
				t.Fatal(m.Event)
			}
		}
		for range ch.Events() { // ends immediately
			n++
		}
		if n != 1 || errored != 0 {
			t.Fatalf("%d events, %d errors", n, errored)
		}
		p.last().cut(errReset)
		time.Sleep(time.Minute) // of virtual time
		joined(t, c, "room:1")
	})
}

func TestClientRejoins(t *testing.T) {
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
		if len(causes) != 7 || !errors.As(causes[6], &remote) ||
			remote.Error() != "channel: server sent phx_error: channel_crash" {
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

func TestClientJoinTimesOut(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		n := 0
		p.join = func(k *peerConn, m *serializer.Message) (string, any) {
			if n++; n == 1 { // the server takes 10.5 s to reply
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
		kept := ch.PushWithTimeout("echo", nil, time.Minute)
		mustFail(t, join, push.ErrTimeout)
		mustReply(t, kept)
		wantFrames(t, p,
			`"1" "1" room:1 phx_join {}`, `"1" "2" room:1 phx_leave {}`, `"3" "3" room:1 phx_join {}`, `"3" "4" room:1 echo {}`)
		if timeouts != 1 {
			t.Fatal(timeouts)
		}
	})
}
