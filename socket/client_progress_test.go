package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// progressReader reads a stream of progress, and checks what holds for all values.
type progressReader struct {
	*stream.Stream[Progress]
	mu    sync.Mutex
	last  Progress
	n     int
	ended error
}

func readProgress(t *testing.T, s *stream.Stream[Progress]) *progressReader {
	r := &progressReader{Stream: s}
	var at time.Time
	go func() {
		for {
			p, err := s.Next(context.Background())
			r.mu.Lock()
			if err != nil {
				r.ended = err
				r.mu.Unlock()
				return
			}
			if p.Up.Done < r.last.Up.Done || p.Down.Done < r.last.Down.Done || p.Up.Done > p.Up.Total ||
				p.Down.Done > p.Down.Total || p.Up.DoneBytes > p.Up.TotalBytes || p.Down.DoneBytes > p.Down.TotalBytes ||
				p.Up.Failed > p.Up.Done || p.Down.Failed > p.Down.Done {
				t.Errorf("got %+v after %+v", p, r.last)
			}
			if since := time.Since(at); r.n > 1 && since < progressEvery {
				t.Errorf("a value after %v", since)
			}
			r.last, at = p, time.Now()
			r.n++
			r.mu.Unlock()
		}
	}()
	return r
}

// want compares the last value: what is done, the total and what failed, up and down.
func (r *progressReader) want(t *testing.T, up, upTotal, upFailed, down, downTotal, downFailed int) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.last
	got := [...]int{p.Up.Done, p.Up.Total, p.Up.Failed, p.Down.Done, p.Down.Total, p.Down.Failed}
	if want := [...]int{up, upTotal, upFailed, down, downTotal, downFailed}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func (r *progressReader) wantEnd(t *testing.T, want error) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(r.ended, want) {
		t.Errorf("the stream ended with %v, want %v", r.ended, want)
	}
}

func TestClientProgressUp(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		room := joined(t, c, "room:1")
		empty := readProgress(t, c.Progress(true))
		empty.want(t, 0, 0, 0, 0, 0, 0)
		empty.wantEnd(t, io.EOF)

		room.Push("echo", "12345678") // 10 bytes of JSON
		room.Push("fail", "12345678")
		all, old := readProgress(t, c.Progress(false)), readProgress(t, c.Progress(true))
		all.want(t, 0, 2, 0, 0, 0, 0)
		if all.last.Up.TotalBytes != 20 || all.last.Up.DoneBytes != 0 {
			t.Errorf("the bytes are %+v", all.last.Up)
		}
		room.Push("echo", 1)
		time.Sleep(500 * time.Millisecond)
		all.want(t, 0, 3, 0, 0, 0, 0)
		old.want(t, 0, 2, 0, 0, 0, 0)
		old.wantEnd(t, nil)
		time.Sleep(600 * time.Millisecond)
		old.want(t, 2, 2, 1, 0, 0, 0)
		old.wantEnd(t, io.EOF)
		all.want(t, 3, 3, 1, 0, 0, 0)
		room.PushWithTimeout("noreply", 1, time.Minute)
		synctest.Wait()
		c.Pause()
		time.Sleep(time.Second)
		all.want(t, 4, 4, 2, 0, 0, 0)
		room.Push("echo", 1)
		time.Sleep(time.Second)
		all.want(t, 4, 5, 2, 0, 0, 0)
		mustReply(t, func() *push.Push { c.Connect(); return room.Push("echo", 1) }())
		mustReply(t, room.Leave())
		time.Sleep(time.Second)
		all.want(t, 6, 6, 2, 0, 0, 0)
		all.Discard()
		all.wantEnd(t, stream.ErrDiscarded)
		synctest.Wait()
		for _, s := range c.Consumers() {
			if s.Kind == stream.Progresses {
				t.Errorf("a discarded stream is left: %+v", s)
			}
		}
	})
}

// Thousands of pushes give ten values in a second, and the last one.
func TestClientProgressRate(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		room := joined(t, c, "room:1")
		r := readProgress(t, c.Progress(false))
		for range 500 {
			room.Push("echo", 1)
			time.Sleep(4 * time.Millisecond)
		}
		time.Sleep(time.Second)
		r.want(t, 500, 500, 0, 0, 0, 0)
		if r.n < 15 || r.n > 25 {
			t.Errorf("%d values in two seconds", r.n)
		}
		n := r.n
		time.Sleep(time.Hour) // nothing changes
		synctest.Wait()
		if r.n != n {
			t.Errorf("%d values without a change", r.n-n)
		}
	})
}

func TestClientProgressDown(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBacklog: 1000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		room := joined(t, c, "room:1")
		goOn := make(chan struct{})
		room.On("news", func(serializer.Payload) { <-goOn })
		s := room.Stream("news")
		send := func(n int) {
			for range n {
				p.broadcast("room:1", "news", "123")
			}
			synctest.Wait()
		}
		send(2) // one for the callbacks and one for the stream, each
		r, old := readProgress(t, c.Progress(false)), readProgress(t, c.Progress(true))
		r.want(t, 0, 0, 0, 0, 4, 0)
		if r.last.Down.TotalBytes != 4*5 {
			t.Errorf("the bytes are %+v", r.last.Down)
		}
		p.broadcast("room:1", "unwanted", 1)
		send(1)
		time.Sleep(time.Second)
		r.want(t, 0, 0, 0, 1, 7, 0)
		for range 3 {
			goOn <- struct{}{}
		}
		time.Sleep(time.Second)
		r.want(t, 0, 0, 0, 4, 7, 0)
		old.wantEnd(t, nil)
		s.Discard()
		time.Sleep(time.Second)
		r.want(t, 0, 0, 0, 7, 7, 0)
		old.want(t, 0, 0, 0, 7, 7, 0)
		old.wantEnd(t, io.EOF)
		send(10) // the backlog holds 7 of them
		time.Sleep(time.Second)
		r.want(t, 0, 0, 0, 10, 17, 3)
		close(goOn)
		time.Sleep(time.Second)
		r.want(t, 0, 0, 0, 17, 17, 3)
	})
}

// The records that a join misses count from its reply on, and a replay that is cut leaves no rest.
func TestClientProgressOfReplay(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.log.append("a")
		synctest.Wait()
		r := readProgress(t, c.Progress(false))
		r.want(t, 0, 0, 0, 0, 0, 0)
		reconnects(t, p, f, func() { f.log.append("b", "c", "d") })
		r.want(t, 0, 0, 0, 3, 3, 0)

		replayed := f.log.join // a server that does not send the records
		f.log.quiet = true
		p.set(func() {
			p.log, p.join = nil, replayed
		})
		reconnects(t, p, f, func() { f.log.append("e", "f", "g", "h", "i") })
		r.want(t, 0, 0, 0, 3, 8, 0)
		p.set(func() { p.log = f.log })
		reconnects(t, p, f, func() { f.log.append("j") })
		r.want(t, 0, 0, 0, 9, 9, 0)
		f.want(t, "reset: new", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	})
}

// Streams end with the client, and those of a closed client are empty.
func TestClientProgressEnds(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		room := c.Channel("room:1", nil)
		room.Join()
		room.Push("echo", 1)
		r, old := readProgress(t, c.Progress(false)), readProgress(t, c.Progress(true))
		stopped := readProgress(t, c.Progress(false))
		if !c.Drain(stopped.ID()) || c.Drain(1<<40) {
			t.Error("Drain does not find the stream of its id")
		}
		stopped.wantEnd(t, io.EOF)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		closeNow(t, c, ctx)
		for _, r := range []*progressReader{r, old} {
			r.want(t, 1, 1, 1, 0, 0, 0)
			r.wantEnd(t, io.EOF)
		}
		late := readProgress(t, c.Progress(false))
		late.want(t, 0, 0, 0, 0, 0, 0)
		late.wantEnd(t, io.EOF)
	})
}

func closeNow(t *testing.T, c *Client, ctx context.Context) {
	t.Helper()
	if err := c.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestClientCatchUp(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		if err := c.CatchUp(t.Context()); err != nil {
			t.Errorf("without channels: %v", err)
		}
		f := follow(p, c, channel.ResumeConfig{})
		f.log.quiet = true // records come with the next join
		other := c.Channel("room:2", nil)
		other.Join() // without Resume
		join := f.Join()
		done := make(chan error, 1)
		go func() { done <- c.CatchUp(t.Context()) }()
		synctest.Wait()
		if len(done) > 0 {
			t.Fatalf("CatchUp did not wait for the join: %v", <-done)
		}
		connected(t, c)
		mustReply(t, join)
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.On("news", func(serializer.Payload) { time.Sleep(time.Second) })
		f.log.append("a", "b")
		p.last().cut(errReset)
		if err := c.CatchUp(t.Context()); err != nil {
			t.Error(err)
		}
		f.want(t, "reset: new", "a", "b") // their callbacks have returned
		f.log.append("never sent")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.CatchUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, though a record did not come", err)
		}
	})
}

// The error names each topic that the server does not record.
func TestClientCatchUpWithoutHistory(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for i := range 100 {
			room := c.Channel(fmt.Sprint("room:", i), nil)
			room.Resume(channel.ResumeConfig{})
			mustReply(t, room.Join())
		}
		err := c.CatchUp(t.Context())
		joined, ok := err.(interface{ Unwrap() []error })
		if !errors.Is(err, history.ErrNoRule) || !ok || len(joined.Unwrap()) != 100 {
			t.Errorf("got %v", err)
		}
	})
}

// The error of Flush has what failed until its context ended.
func TestClientFlushError(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		room := joined(t, c, "room:1")
		room.Push("fail", 1)
		room.Push("noreply", 1).Done()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Flush(ctx)
		failed, ok := errors.AsType[*FlushError](err)
		if !errors.Is(err, context.DeadlineExceeded) || !ok || failed.Failed != 1 || len(failed.Errors) != 1 {
			t.Errorf("got %v", err)
		}
		begun := time.Now()
		room.PushWithTimeout("noreply", 1, time.Minute) // nobody waits for this one
		err = c.Flush(t.Context())
		if failed, ok = errors.AsType[*FlushError](err); !ok || failed.Failed != 1 || !errors.Is(err, push.ErrTimeout) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != 10*time.Second { // 1 s after the timeout of the other one
			t.Errorf("it took %v", took)
		}
	})
}
