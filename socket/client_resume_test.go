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
	"bennu.example/history"
	"bennu.example/serializer"
)

// peerLog is the history of the topics of a peer: the events that its append has broadcast.
type peerLog struct {
	p *peer

	mu      sync.Mutex
	epoch   string
	records []string // the ids of the records
	quiet   bool     // appended records reach nobody before the next join
}

func (l *peerLog) at(offset int) string {
	tag := "0000"
	if offset > 0 {
		tag = "aaaa"
	}
	return fmt.Sprintf("%s-%d-%s", l.epoch, offset, tag)
}

func (l *peerLog) top() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(len(l.records))
}

// append adds records, and sends them to those that joined.
func (l *peerLog) append(ids ...string) {
	for _, id := range ids {
		l.mu.Lock()
		l.records = append(l.records, id)
		payload := map[string]string{"$pos": l.at(len(l.records)), "id": id}
		quiet := l.quiet
		l.mu.Unlock()
		if !quiet {
			l.p.broadcast("room:1", "news", payload)
		}
	}
}

// since returns the offset after which a join continues.
func (l *peerLog) since(m *serializer.Message) (offset int, why string) {
	var params struct {
		History struct{ Since string } `json:"$history"`
	}
	if err := m.Payload.Decode(&params); err != nil {
		return 0, err.Error()
	}
	since := params.History.Since
	if since == "" {
		return len(l.records), "new"
	}
	var epoch string
	if _, err := fmt.Sscanf(strings.ReplaceAll(since, "-", " "), "%s %d", &epoch, &offset); err != nil {
		return 0, err.Error()
	}
	if epoch != l.epoch {
		return len(l.records), "epoch"
	}
	return offset, ""
}

// join is for peer.join.
func (l *peerLog) join(_ *peerConn, m *serializer.Message) (status string, payload any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, why := l.since(m)
	h := map[string]any{"pos": l.at(offset), "recovered": why == "", "missed": len(l.records) - offset}
	if why != "" {
		h["why"] = why
	}
	return "ok", map[string]any{"$history": h}
}

// replay sends what a join has missed.
func (l *peerLog) replay(k *peerConn, m *serializer.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, _ := l.since(m)
	for i, id := range l.records[offset:] {
		k.send(serializer.Message{
			Kind: serializer.KindBroadcast, Topic: m.Topic, Event: "news",
			Payload: serializer.Value(map[string]string{"$pos": l.at(offset + i + 1), "id": id}),
		})
	}
}

// follower is a channel with history and what its callbacks were called with.
type follower struct {
	*channel.Client
	log *peerLog

	mu  sync.Mutex
	got []string
}

func (f *follower) add(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, s)
}

// want compares what the callbacks were called with since the last want.
func (f *follower) want(t *testing.T, list ...string) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.got, list) {
		t.Errorf("got %q, want %q", f.got, list)
	}
	f.got = nil
}

func idOf(p serializer.Payload) string {
	var r struct{ ID string }
	if err := p.Decode(&r); err != nil {
		return err.Error()
	}
	return r.ID
}

// follow begins a channel with history.
func follow(p *peer, c *Client, cfg channel.ResumeConfig) *follower {
	if p.history() == nil {
		l := &peerLog{p: p, epoch: "e1"}
		p.set(func() { p.log, p.join = l, l.join })
	}
	f := &follower{Client: c.Channel("room:1", nil), log: p.history()}
	cfg.OnReset = func(_ serializer.Payload, why string) { f.add("reset: " + why) }
	f.Resume(cfg)
	f.On("news", func(p serializer.Payload) { f.add(idOf(p)) })
	f.OnError(func(err error) {
		if _, ok := errors.AsType[*channel.OverflowError](err); ok {
			f.add(err.Error())
		}
	})
	return f
}

func (f *follower) wantPosition(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	if got := f.Position().String(); got != want {
		t.Errorf("position %s, want %s", got, want)
	}
}

// reconnects breaks the connection, runs f and waits until the channel is joined again.
func reconnects(t *testing.T, p *peer, f *follower, away func()) {
	t.Helper()
	p.last().cut(errReset)
	away()
	time.Sleep(time.Minute)
	if s, err := f.State(); s != channel.StateJoined {
		t.Fatalf("%v: %v", s, err)
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.want(t, "reset: new")
		f.wantPosition(t, "e1-0-0000")
		f.log.append("a", "b")
		f.want(t, "a", "b")
		for _, id := range []string{"c", "d", "e"} {
			reconnects(t, p, f, func() { f.log.append(id, id+"2") })
			f.want(t, id, id+"2")
			if done, total := f.Progress(); done != 2 || total != 2 {
				t.Errorf("progress %d of %d", done, total)
			}
		}
		f.wantPosition(t, "e1-8-aaaa")
		reconnects(t, p, f, func() {})
		f.want(t)
		if done, total := f.Progress(); done != 0 || total != 0 {
			t.Errorf("progress %d of %d, though nothing was missed", done, total)
		}
	})
}

// A log that is another one resets the channel before any of its records.
func TestResumeReset(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.log.append("a")
		f.want(t, "reset: new", "a")
		reconnects(t, p, f, func() {
			f.log.mu.Lock()
			f.log.epoch, f.log.records = "e2", nil
			f.log.mu.Unlock()
			f.log.append("b", "c")
		})
		f.log.append("d")
		f.want(t, "reset: epoch", "d")
		f.wantPosition(t, "e2-3-aaaa")
	})
}

// A program that stored its position continues there.
func TestResumeSince(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		l := &peerLog{p: p, epoch: "e1"}
		p.log, p.join = l, l.join
		l.append("a", "b", "c")
		since, err := history.ParsePosition("e1-1-aaaa")
		if err != nil {
			t.Fatal(err)
		}
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{Since: since, Last: 7})
		if f.Position() != since {
			t.Errorf("position %v, want %v", f.Position(), since)
		}
		mustReply(t, f.Join())
		f.want(t, "b", "c")
		if join := p.got()[0]; !strings.HasSuffix(join, `{"$history":{"last":7,"own":false,"since":"e1-1-aaaa"}}`) {
			t.Errorf("joined with %s", join)
		}
	})
}

// Records that come again, because the channel joined twice on one connection, are dropped.
func TestResumeDropsRepeatedRecords(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.log.append("a", "b")
		for _, pos := range []string{"e1-1-aaaa", "e1-2-aaaa", "e1-2-aaaa"} {
			p.broadcast("room:1", "news", map[string]string{"$pos": pos, "id": "again"})
		}
		f.log.append("c")
		f.want(t, "reset: new", "a", "b", "c")
	})
}

// A record that arrives while the channel is not joined belongs to an older join. It does not move
// the position, and comes again.
func TestResumeIgnoresEarlyRecords(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.log.append("a")
		f.want(t, "reset: new", "a")
		p.last().lifecycle("room:1", serializer.EventError, `"1"`, nil)
		synctest.Wait()
		p.set(func() { f.log.quiet = true })
		f.log.append("b", "c")
		p.last().send(serializer.Message{
			Kind: serializer.KindBroadcast, Topic: "room:1", Event: "news",
			Payload: serializer.Value(map[string]string{"$pos": "e1-3-aaaa", "id": "c"}),
		})
		p.last().send(serializer.Message{
			Kind: serializer.KindBroadcast, Topic: "room:1", Event: "$history",
			Payload: serializer.Value(map[string]string{"$pos": "e1-3-aaaa"}),
		})
		f.want(t)
		f.wantPosition(t, "e1-1-aaaa")
		time.Sleep(time.Minute)
		f.want(t, "b", "c")
		f.wantPosition(t, "e1-3-aaaa")
	})
}

// An event that only moves the position reaches no callback.
func TestResumeMarkers(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		f.OnMessage(func(m serializer.Message) { f.add(m.Event) })
		mustReply(t, f.Join())
		f.log.append("a")
		p.broadcast("room:1", "plain", map[string]string{})
		p.broadcast("room:1", "$history", map[string]string{"$pos": "e1-5-aaaa"})
		f.want(t, "reset: new", "a", "news", "plain")
		f.wantPosition(t, "e1-5-aaaa")
		p.broadcast("room:1", "$history", map[string]string{"$pos": "e1-4-aaaa"})
		f.wantPosition(t, "e1-5-aaaa")
	})
}

// A position that the server cannot read is forgotten.
func TestResumeInvalidPosition(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.log.append("a")
		f.want(t, "reset: new", "a")
		p.set(func() {
			p.join = func(k *peerConn, m *serializer.Message) (string, any) {
				p.set(func() { p.join = f.log.join })
				return "error", map[string]string{"reason": "invalid position"}
			}
		})
		reconnects(t, p, f, func() {})
		f.want(t, "reset: new")
	})
}

// A server without history resets the channel with every join, and is not asked for its top.
func TestResumeOff(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		p.set(func() { p.log, p.join = nil, nil })
		mustReply(t, f.Join())
		p.last().cut(errReset)
		time.Sleep(time.Minute)
		f.want(t, "reset: off", "reset: off")
		if err := f.CatchUp(t.Context()); !errors.Is(err, history.ErrNoRule) {
			t.Errorf("CatchUp: %v, want %v", err, history.ErrNoRule)
		}
		for _, frame := range p.got("phx_join", "heartbeat") {
			t.Errorf("sent %s", frame)
		}
	})
}

// A full backlog loses no record, no push in flight, and none that follows.
func TestResumeOverflow(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBacklog: 2000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		blocked := make(chan struct{})
		f.On("news", func(p serializer.Payload) {
			if idOf(p) == "0" {
				<-blocked
			}
			time.Sleep(time.Millisecond) // in virtual time
		})
		mustReply(t, f.Join())
		want := []string{"reset: new"}
		for i := range 500 {
			id := fmt.Sprint(i)
			f.log.append(id)
			want = append(want, id)
		}
		synctest.Wait()
		inFlight := f.Push("later", nil)
		synctest.Wait()
		close(blocked)
		time.Sleep(100 * time.Millisecond)
		after := f.Push("echo", map[string]string{"x": "y"})
		mustReply(t, inFlight)
		mustReply(t, after)
		time.Sleep(time.Minute)
		f.want(t, want...)
		f.wantPosition(t, "e1-500-aaaa")
		if got := f.Stats().Callbacks.Dropped; got != 0 {
			t.Errorf("%d events dropped", got)
		}
	})
}

// A record that does not fit beside another, although the backlog is less than half full, is not
// requested again until it fits.
func TestResumeOverflowByLargeRecord(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBacklog: 1000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		f.On("news", func(serializer.Payload) { time.Sleep(time.Second) })
		mustReply(t, f.Join())
		large := strings.Repeat("x", 800)
		f.log.append("small")
		f.log.append(large)
		time.Sleep(time.Minute)
		f.want(t, "reset: new", "small", large)
		joins := 0
		for _, frame := range p.got() {
			if strings.Contains(frame, " phx_join ") && strings.Contains(frame, f.Topic()) {
				joins++
			}
		}
		if joins != 2 {
			t.Errorf("joined %d times, want 2", joins)
		}
	})
}

// Position is that of the slowest iterator, and an iterator that is full holds up nothing for good.
func TestResumeIterator(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBacklog: 1000}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		events := f.EventsContext(t.Context(), "news")
		mustReply(t, f.Join())
		f.log.append("a")
		f.want(t, "reset: new", "a")
		f.wantPosition(t, "e1-0-0000")
		for range 20 {
			f.log.append("x")
		}
		synctest.Wait()
		n := 0
		for m, err := range events {
			if err != nil {
				t.Fatal(err)
			}
			n++
			f.wantPosition(t, fmt.Sprintf("e1-%d-aaaa", n))
			if idOf(m.Payload) == "" {
				t.Errorf("event %d: %s", n, m.Payload.Bytes())
			}
			if n == 21 {
				break
			}
			time.Sleep(time.Second)
		}
		f.wantPosition(t, "e1-21-aaaa")
	})
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		f := follow(p, c, channel.ResumeConfig{})
		f.log.quiet = true // records come with the next join
		f.On("news", func(serializer.Payload) { time.Sleep(time.Second) })
		done := make(chan error, 1)
		go func() { done <- f.CatchUp(t.Context()) }()
		synctest.Wait()
		connected(t, c)
		mustReply(t, f.Join())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		f.want(t, "reset: new")

		f.log.append("a", "b")
		p.last().cut(errReset)
		if err := f.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.want(t, "a", "b") // their callbacks have returned

		f.log.append("never sent")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.CatchUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("CatchUp: %v, though a record did not come", err)
		}

		go func() { done <- f.CatchUp(t.Context()) }()
		synctest.Wait()
		mustReply(t, f.Leave())
		if err := <-done; !errors.Is(err, channel.ErrClosed) {
			t.Errorf("CatchUp: %v, want %v", err, channel.ErrClosed)
		}
	})
}

func TestResumeMisuse(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		plain := joined(t, c, "room:2")
		if err := plain.CatchUp(t.Context()); err == nil {
			t.Error("CatchUp without Resume returned nil")
		}
		if !plain.Position().IsZero() {
			t.Errorf("position %v without Resume", plain.Position())
		}
		f := follow(p, c, channel.ResumeConfig{})
		for name, ch := range map[string]*channel.Client{"twice": f.Client, "after Join": plain} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				ch.Resume(channel.ResumeConfig{})
			}()
		}
	})
}
