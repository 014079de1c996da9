package socket

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestClientFlush(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		a, b := joined(t, c, "room:a"), joined(t, c, "room:b")
		took := func(want time.Duration, failure error) {
			t.Helper()
			start := time.Now()
			if err := c.Flush(t.Context()); !errors.Is(err, failure) || time.Since(start) != want {
				t.Fatalf("%v after %v, want %v after %v", err, time.Since(start), failure, want)
			}
		}
		took(0, nil)
		a.Push("echo", 1)
		b.Push("echo", 1)
		go func() { time.Sleep(500 * time.Millisecond); a.Push("noreply", "later") }()
		took(time.Second, nil)
		took(2*time.Second, nil) // nobody waits for the reply
		b.Push("noreply", nil).Done()
		took(10*time.Second, push.ErrTimeout)
		leave := b.Leave()
		took(time.Second, nil)
		mustReply(t, leave)
		a.Push("noreply", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		c.Pause() // all pushes get a result
		took(0, push.ErrLost)
		took(0, nil)
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
			t.Fatal("OnProgress was called for a small backlog")
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
			t.Fatalf("%d calls without progress", k)
		}
		c.Connect()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if last := calls[len(calls)-1]; last.Queued != 0 || last.QueuedBytes != 0 || len(calls) == k {
			t.Fatalf("the last of %d calls has %+v", len(calls), last)
		}
		// Received events.
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
			t.Fatal("OnProgress was called without a backlog")
		}
	})
}

func TestClientClose(t *testing.T) {
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
		if d := time.Since(start); d != 2*time.Second { // one for the reply, and one for the callback
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
			t.Fatal("an event after Close")
		}
		if got := p.closes(); len(got) != 1 || got[0].Code != 1000 {
			t.Fatal(got)
		}
		// After Close.
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.Connect()
		c.Pause()
		if err := c.Flush(t.Context()); !errors.Is(err, channel.ErrClosed) { // the earlier failures
			t.Fatal(err)
		}
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
		lost.Done()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		mustFail(t, lost, push.ErrLost)
		mustFail(t, lost, ErrClosed)

		// A callback that does not return.
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

// TestClientCloseFlushes checks that the client reconnects while Close waits for replies, and that
// Close does not wait for replies that cannot arrive.
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
			t.Fatalf("Close waited %v for a client that was denied", d)
		}
		if err := p.client(ClientConfig{}).Close(t.Context()); err != nil { // it was never connected
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
			if s.Status == StatusConnected {
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
		if err := c2.Flush(t.Context()); err != nil { // nobody waits for the reply to the shout
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

// TestClientCloseAfterCallback calls Close in a callback, and a second time in a test's defer. The
// second call must wait for that callback.
func TestClientCloseAfterCallback(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		closed, ended := make(chan error, 1), false
		ch.On("shout", func(serializer.Payload) {
			closed <- c.Close(t.Context())
			time.Sleep(time.Second)
			ended = true
		})
		ch.Push("shout", nil)
		if err := errors.Join(<-closed, c.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		if !ended {
			t.Fatal("Close returned while a callback runs")
		}
	})
}

func TestClientCloseFromFunction(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"socket", "channel"} {
		synctest.Test(t, func(t *testing.T) {
			var c *Client
			f := func(context.Context) (any, error) { return nil, c.Close(t.Context()) }
			cfg := ClientConfig{}
			if of == "socket" {
				cfg.Params = f
			}
			c = newPeer().client(cfg)
			join := c.Channel("room:1", f).Join()
			c.Connect()
			<-c.loop.Done()
			mustFail(t, join, ErrClosed)
			if err := c.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestClientCloseSettles checks that Close does not wait for replies that no caller waits for, but
// until the server has received the pushes.
func TestClientCloseSettles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		c := p.client(ClientConfig{})
		connected(t, c)
		ch := joined(t, c, "room:1")
		for i := range 100 {
			ch.Push("noreply", i)
		}
		start := time.Now()
		late := ch.Push("later", nil) // the server replies half a second after it received the push
		if err := c.Close(t.Context()); err != nil || time.Since(start) != 2*time.Second {
			t.Fatal(err, time.Since(start))
		}
		mustReply(t, late)
		for i := range 100 {
			if n := p.times(strconv.Itoa(i)); n != 1 {
				t.Fatalf("%d was handled %d times", i, n)
			}
		}

		// A caller begins to wait after the heartbeat was sent.
		c = p.client(ClientConfig{})
		connected(t, c)
		ch = joined(t, c, "room:1")
		waited := ch.PushWithTimeout("noreply", nil, 5*time.Second)
		time.AfterFunc(500*time.Millisecond, func() { waited.Receive(push.StatusTimeout, func(serializer.Payload) {}) })
		start = time.Now()
		if err := c.Close(t.Context()); err != nil || time.Since(start) != 5*time.Second {
			t.Fatal(err, time.Since(start))
		}
		mustFail(t, waited, push.ErrTimeout)

		// A caller waited and gave up.
		c = p.client(ClientConfig{})
		connected(t, c)
		ch = joined(t, c, "room:1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ch.Push("noreply", nil).Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		start = time.Now()
		if err := c.Close(t.Context()); err != nil || time.Since(start) != 2*time.Second {
			t.Fatal(err, time.Since(start))
		}

		// The connection is lost before the heartbeat's reply. Unsent pushes are sent by the next one.
		c = p.client(ClientConfig{})
		connected(t, c)
		ch = joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallIn, k.stallOut = true, true })
		first := ch.Push("noreply", "first")
		synctest.Wait()
		ch.Push("noreply", "second")
		time.AfterFunc(time.Second, func() { k.cut(errReset) })
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustFail(t, first, push.ErrLost)
		if p.times(`"first"`) != 0 || p.times(`"second"`) != 1 {
			t.Fatal("want only the pushes that were not sent before")
		}
	})
}
