//go:build unix

package natsengine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/serializer"
)

// A server without room refuses records. Nothing is stored, and the error says so.
func TestHistoryNoStorage(t *testing.T) {
	e := newServer(t, withJetStream(t), func(o *server.Options) { o.JetStreamMaxStore = 64 << 10 })
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), history.Inbox{})
	begin := topOf(t, l, "t")
	stored := 0
	for {
		r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 4<<10))}
		if _, err := l.Append(t.Context(), "t", r, history.Keep{}); err == nil {
			stored++
			continue
		} else if !errors.Is(err, history.ErrFull) {
			t.Errorf("after %d records: %v", stored, err)
		}
		break
	}
	if b, err := l.Read(t.Context(), "t", begin, 100); err != nil || len(b.Records) != stored {
		t.Errorf("%d records, want %d; %v", len(b.Records), stored, err)
	}
}

// A node that does not keep up with the feed is notified that it misses records.
func TestHistorySlowNode(t *testing.T) {
	e := newServer(t, withJetStream(t))
	var g gaps
	in := g.inbox()
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	in.Record = func(string, history.Record) {
		once.Do(func() { close(blocked) })
		<-release
	}
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr(), Queue: 64 << 10}), in)
	ready := make(chan error, 10)
	l.Watch("t", func(err error) { ready <- err })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	appendTo(t, l, "t", history.Keep{})
	<-blocked
	for range 200 {
		r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 1<<10))}
		if _, err := l.Append(t.Context(), "t", r, history.Keep{}); err != nil {
			t.Fatal(err)
		}
	}
	l.Watch("u", func(err error) { ready <- err }) // it is called although the queue is full
	close(release)
	if err := <-ready; err != nil {
		t.Error(err)
	}
	brokertest.WaitUntil(t, "notified", func() bool { return g.has("did not keep up") })
	if h := l.Health(); h.Gaps == 0 {
		t.Errorf("health %+v", h)
	}
}

// A watch is notified when the log loses its connection, and when it is back.
func TestHistoryWatchNotified(t *testing.T) {
	e := newServer(t, withJetStream(t))
	var g gaps
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), g.inbox())
	first, second := make(chan error, 100), make(chan error, 100)
	l.Watch("t", func(err error) { first <- err })
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	e.stop()
	if err := <-first; !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("without a connection: %v", err)
	}
	l.Watch("u", func(err error) { second <- err })
	if err := <-second; !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("watched without a connection: %v", err)
	}
	e.start(t)
	for _, c := range []chan error{first, second} {
		if err := <-c; err != nil {
			t.Errorf("with a connection: %v", err)
		}
	}
	if !g.has("connection was lost") || len(first) > 0 || len(second) > 0 {
		t.Errorf("gaps %v; %d and %d further calls", g.reasons, len(first), len(second))
	}
}

// Messages in the stream that the log did not store are not continued over, and end nothing.
func TestHistoryForeignMessages(t *testing.T) {
	e := newServer(t, withJetStream(t))
	forgotten := make(chan string, 10)
	in := history.Inbox{Forgotten: func(topic string) { forgotten <- topic }}
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), in)
	ready := make(chan error, 1)
	l.Watch("t", func(err error) { ready <- err })
	<-ready
	begin, first := topOf(t, l, "t"), appendTo(t, l, "t", history.Keep{}).Position
	nc := e.connect(t)
	defer nc.Close()
	for _, data := range []string{
		"", "{}", "\x01\x01", "\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x01\x01\x01\x01\x01e0000",
	} {
		if _, err := nc.Request("bennu.h.t", []byte(data), time.Second); err != nil {
			t.Fatal(err)
		}
		if topic := <-forgotten; topic != "t" {
			t.Errorf("%q was forgotten", topic)
		}
		for _, p := range []history.Position{begin, first} {
			if b, err := l.Read(t.Context(), "t", p, 10); !errors.Is(err, history.ErrTrimmed) {
				t.Errorf("after %q, after %v: %d records, %v", data, p, len(b.Records), err)
			}
		}
		top := topOf(t, l, "t")
		appendTo(t, l, "t", history.Keep{})
		if b, err := l.Read(t.Context(), "t", top, 10); err != nil || len(b.Records) != 1 {
			t.Errorf("after %q: %d records, %v", data, len(b.Records), err)
		}
	}
	for _, m := range []*nats.Msg{ // forged feeds
		{Subject: "bennu.r.t"}, {Subject: "bennu.r.t", Header: nats.Header{nats.JSSequence: {"x"}}},
		{Subject: "bennu.r.t", Header: nats.Header{nats.JSSequence: {"1"}, nats.JSLastSequence: {"0"}}},
	} {
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	appendTo(t, l, "t", history.Keep{})
	if h := l.Health(); !h.Connected || len(forgotten) > 0 {
		t.Errorf("%d forgotten; health %+v", len(forgotten), h)
	}
}

// An ID is recognised after the connection was lost before the answer, and the append succeeds.
func TestHistoryIDSurvivesLoss(t *testing.T) {
	srv := newChild(t)
	l := runLog(t, newLog(t, natsengine.Config{URL: srv.addr()}), history.Inbox{})
	begin := topOf(t, l, "t")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop()
		for range 3 {
			srv.kill(t)
			brokertest.WaitUntil(t, "disconnected", func() bool { return !l.Health().Connected })
			srv.start(t)
			brokertest.WaitUntil(t, "connected", func() bool { return l.Health().Connected })
		}
	})
	var mu sync.Mutex
	at := make(map[string]history.Position)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := string(rune('a'+w)) + time.Duration(i).String()
				r, err := l.Append(t.Context(), "t", history.Record{Event: "e", ID: id}, history.Keep{Count: 100_000})
				if err != nil { // the bound of 2 s may end first
					continue
				}
				mu.Lock()
				at[id] = r.Position
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for after := begin; ; {
		b, err := l.Read(t.Context(), "t", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			if p, ok := at[r.ID]; seen[r.ID] || ok && p != r.Position {
				t.Errorf("%s is at %v; Append returned %v; seen before: %v", r.ID, r.Position, p, seen[r.ID])
			}
			seen[r.ID] = true
			after = r.Position
		}
		if !b.More {
			break
		}
	}
	for id := range at {
		if !seen[id] {
			t.Errorf("%s is not in the log", id)
		}
	}
	t.Logf("%d appended", len(at))
}

// An append with an ID is sent again after the connection was lost. If its context ends before
// that, the server may have stored it.
func TestHistoryIDUncertain(t *testing.T) {
	e := newServer(t, withJetStream(t))
	proxy := brokertest.NewProxy(t, e.addr())
	l := runLog(t, newLog(t, natsengine.Config{URL: proxy.Addr}), history.Inbox{})
	begin := topOf(t, l, "t")
	for _, id := range []string{"", "id"} {
		proxy.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		done := make(chan error)
		go func() {
			_, err := l.Append(ctx, "t", history.Record{Event: "e", ID: id}, history.Keep{})
			done <- err
		}()
		brokertest.WaitUntil(t, "sent", func() bool { return natsengine.InFlight(l) > 0 })
		proxy.Cut()
		if err := <-done; !errors.Is(err, history.ErrUncertain) {
			t.Errorf("with the ID %q: %v", id, err)
		}
		cancel()
		proxy.Resume()
		brokertest.WaitUntil(t, "connected", func() bool { return l.Health().Connected })
	}
	if b, err := l.Read(t.Context(), "t", begin, 10); err != nil || len(b.Records) > 2 {
		t.Errorf("%d records, %v", len(b.Records), err)
	}
}
