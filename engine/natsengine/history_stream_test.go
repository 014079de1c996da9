package natsengine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// gaps counts the gaps of a log.
type gaps struct {
	mu      sync.Mutex
	reasons []string
}

func (g *gaps) inbox() history.Inbox {
	return history.Inbox{Gap: func(err error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.reasons = append(g.reasons, err.Error())
	}}
}

func (g *gaps) has(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Contains(strings.Join(g.reasons, "\n"), text)
}

func appendTo(t testing.TB, l history.Log, topic string, k history.Keep) history.Record {
	t.Helper()
	r, err := l.Append(t.Context(), topic, history.Record{Event: "e", Payload: serializer.Value(struct{}{})}, k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func topOf(t testing.TB, l history.Log, topic string) history.Position {
	t.Helper()
	tops, err := l.Tops(t.Context(), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	return tops[0]
}

// jetStream returns a client that manages streams, as an operator does.
func (e *testServer) jetStream(t testing.TB) nats.JetStreamContext {
	t.Helper()
	nc := e.connect(t)
	t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func streamConfig(t testing.TB, js nats.JetStreamContext) *nats.StreamConfig {
	t.Helper()
	info, err := js.StreamInfo("bennu")
	if err != nil {
		t.Fatal(err)
	}
	return &info.Config
}

// An operator deletes the stream. The log makes a new one, whose positions have another epoch.
func TestStreamDeleted(t *testing.T) {
	e := newServer(t, withJetStream(t))
	var g gaps
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), g.inbox())
	old := appendTo(t, l, "t", history.Keep{})
	begin := topOf(t, l, "empty")
	if err := e.jetStream(t).DeleteStream("bennu"); err != nil {
		t.Fatal(err)
	}
	r := appendTo(t, l, "t", history.Keep{}) // it waits for the new stream
	brokertest.WaitUntil(t, "notified", func() bool { return g.has("replaced") })
	if top := topOf(t, l, "t"); top.Epoch() == old.Position.Epoch() || top != r.Position {
		t.Errorf("the top is %v; before it was %v; appended %v", top, old.Position, r.Position)
	}
	for topic, p := range map[string]history.Position{"t": old.Position, "empty": begin} {
		if _, err := l.Read(t.Context(), topic, p, 10); !errors.Is(err, history.ErrEpoch) {
			t.Errorf("after %v: %v", p, err)
		}
	}
}

// An operator deletes the stream and makes another with the same configuration before the log looks
// at it. A record of a node that does not know the new stream is not delivered with a wrong
// position.
func TestStreamReplaced(t *testing.T) {
	e := newServer(t, withJetStream(t))
	var g gaps
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), g.inbox())
	old := appendTo(t, l, "t", history.Keep{})
	js := e.jetStream(t)
	cfg := streamConfig(t, js)
	if err := js.DeleteStream("bennu"); err != nil {
		t.Fatal(err)
	}
	addStream(t, js, cfg)
	appendTo(t, l, "t", history.Keep{})
	brokertest.WaitUntil(t, "notified", func() bool { return g.has("replaced") })
	if _, err := l.Read(t.Context(), "t", old.Position, 10); !errors.Is(err, history.ErrEpoch) {
		t.Errorf("after %v: %v", old.Position, err)
	}
	if top := topOf(t, l, "t"); top.IsBeginning() || top.Epoch() == old.Position.Epoch() {
		t.Errorf("the top is %v", top)
	}
}

// The log corrects what it needs in the configuration, and keeps the rest.
func TestStreamCorrected(t *testing.T) {
	e := newServer(t, withJetStream(t))
	var g gaps
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr(), MaxBytes: 1 << 20}), g.inbox())
	old := appendTo(t, l, "t", history.Keep{})
	js := e.jetStream(t)
	cfg := streamConfig(t, js)
	if cfg.MaxBytes != 1<<20 || cfg.MaxMsgsPerSubject != 257 || cfg.MaxAge != 24*time.Hour || !cfg.DenyDelete {
		t.Errorf("created with %+v", cfg)
	}
	cfg.Description, cfg.AllowDirect, cfg.RePublish, cfg.Duplicates = "ours", false, nil, time.Second
	if _, err := js.UpdateStream(cfg); err != nil {
		t.Fatal(err)
	}
	brokertest.WaitUntil(t, "corrected", func() bool {
		cfg := streamConfig(t, js)
		return cfg.AllowDirect && cfg.RePublish != nil && cfg.Duplicates == 2*time.Minute && cfg.Description == "ours"
	})
	if b, err := l.Read(t.Context(), "t", old.Position, 10); err != nil || len(b.Records) != 0 {
		t.Errorf("%d records, %v", len(b.Records), err)
	}
	// A limit that was lowered may have removed records.
	cfg = streamConfig(t, js)
	cfg.MaxMsgsPerSubject = 1
	if _, err := js.UpdateStream(cfg); err != nil {
		t.Fatal(err)
	}
	brokertest.WaitUntil(t, "notified", func() bool { return g.has("replaced") })
	if _, err := l.Read(t.Context(), "t", old.Position, 10); !errors.Is(err, history.ErrEpoch) {
		t.Errorf("after a limit was lowered: %v", err)
	}
}

// A rule with larger numbers extends the stream. Positions stay valid.
func TestStreamExtended(t *testing.T) {
	e := newServer(t, withJetStream(t))
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), history.Inbox{})
	other := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), history.Inbox{})
	first := topOf(t, l, "t")
	for range 258 {
		appendTo(t, l, "t", history.Keep{Count: 256})
	}
	if b, err := l.Read(t.Context(), "t", first, 1000); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("after the beginning: %d records, %v", len(b.Records), err)
	}
	second := topOf(t, l, "u")
	k := history.Keep{Count: 1000, Age: 72 * time.Hour}
	appendTo(t, l, "t", k)
	cfg := streamConfig(t, e.jetStream(t))
	if cfg.MaxMsgsPerSubject != 1001 || cfg.MaxAge != 720*time.Hour {
		t.Errorf("extended to %d, %v", cfg.MaxMsgsPerSubject, cfg.MaxAge)
	}
	// The topic has fewer messages than the new limit, but some were removed by the old one.
	if b, err := l.Read(t.Context(), "t", first, 1000); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("after the beginning, with the new limit: %d records, %v", len(b.Records), err)
	}
	b, err := l.Before(t.Context(), "t", history.Position{}, 2000)
	if err != nil || len(b.Records) < 256 || b.After.IsZero() || b.After.IsBeginning() {
		t.Errorf("%d records after %v, %v", len(b.Records), b.After, err)
	}
	if b, err = other.Read(t.Context(), "t", b.After, 2000); err != nil || len(b.Records) < 256 {
		t.Errorf("at the other node: %d records, %v", len(b.Records), err)
	}
	for range 300 {
		appendTo(t, other, "u", k)
	}
	if b, err := other.Read(t.Context(), "u", second, 1000); err == nil && len(b.Records) != 300 ||
		err != nil && !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("after the beginning of another topic: %d records, %v", len(b.Records), err)
	}
}

// The stream removes its oldest messages if it has too many bytes. Then nothing is continued over
// them, not even the beginning of a topic with few records.
func TestStreamFull(t *testing.T) {
	e := newServer(t, withJetStream(t))
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr(), MaxBytes: 64 << 10}), history.Inbox{})
	begin, top := topOf(t, l, "t"), appendTo(t, l, "t", history.Keep{}).Position
	for range 40 {
		r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 4<<10))}
		if _, err := l.Append(t.Context(), "other", r, history.Keep{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []history.Position{begin, top} {
		if b, err := l.Read(t.Context(), "t", p, 10); !errors.Is(err, history.ErrTrimmed) {
			t.Errorf("after %v: %d records, %v", p, len(b.Records), err)
		}
	}
	next := appendTo(t, l, "t", history.Keep{}).Position
	for _, p := range []history.Position{begin, top} {
		if b, err := l.Read(t.Context(), "t", p, 10); !errors.Is(err, history.ErrTrimmed) {
			t.Errorf("after %v, with a new record: %d records, %v", p, len(b.Records), err)
		}
	}
	brokertest.WaitUntil(t, "a new landmark", func() bool { return topOf(t, l, "empty").Offset() > top.Offset() })
	if b, err := l.Read(t.Context(), "t", next, 10); err != nil || len(b.Records) > 0 {
		t.Errorf("after %v: %d records, %v", next, len(b.Records), err)
	}
}

// waitUnavailable waits until a log reports the reason why it cannot be used.
func waitUnavailable(t *testing.T, l history.Log, reason string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, history.Inbox{}) }()
	t.Cleanup(func() { cancel(); <-done })
	brokertest.WaitUntil(t, "failed with "+reason, func() bool {
		err := l.Health().Err
		return err != nil && strings.Contains(strings.ToLower(err.Error()), reason)
	})
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	_, err := l.Append(short, "t", history.Record{Event: "e"}, history.Keep{})
	if !errors.Is(err, history.ErrUnavailable) || errors.Is(err, history.ErrUncertain) {
		t.Errorf("Append: %v", err)
	}
	if h := l.Health(); h.Connected || h.Failed != 1 {
		t.Errorf("health %+v", h)
	}
}

func TestHistoryUnavailable(t *testing.T) {
	t.Run("no JetStream", func(t *testing.T) {
		waitUnavailable(t, newLog(t, natsengine.Config{URL: newServer(t).addr()}), "jetstream is not enabled")
	})
	t.Run("another stream", func(t *testing.T) {
		e := newServer(t, withJetStream(t))
		if _, err := e.jetStream(t).AddStream(&nats.StreamConfig{Name: "bennu", Subjects: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
		waitUnavailable(t, newLog(t, natsengine.Config{URL: e.addr()}), "belongs to something else")
	})
	t.Run("overlapping subjects", func(t *testing.T) {
		e := newServer(t, withJetStream(t))
		if _, err := e.jetStream(t).AddStream(&nats.StreamConfig{Name: "all", Subjects: []string{"bennu.>"}}); err != nil {
			t.Fatal(err)
		}
		waitUnavailable(t, newLog(t, natsengine.Config{URL: e.addr()}), "subjects overlap")
	})
	t.Run("too many replicas", func(t *testing.T) {
		e := newServer(t, withJetStream(t))
		waitUnavailable(t, newLog(t, natsengine.Config{URL: e.addr(), Replicas: 3}), "replicas > 1")
	})
	t.Run("no server", func(t *testing.T) {
		e := newServer(t)
		e.stop()
		waitUnavailable(t, newLog(t, natsengine.Config{URL: "nats://u:hunter2@" + e.addr()}), "no servers")
	})
}

// A user with the permissions of the package's documentation can do everything. Without one of them
// the log says so.
func TestHistoryPermissions(t *testing.T) {
	publish := []string{
		"bennu.>", "$JS.API.STREAM.INFO.bennu", "$JS.API.STREAM.CREATE.bennu", "$JS.API.STREAM.UPDATE.bennu",
		"$JS.API.STREAM.MSG.GET.bennu", "$JS.API.DIRECT.GET.bennu",
	}
	user := func(name string, publish ...string) *server.User {
		return &server.User{Username: name, Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{"bennu.>"}},
		}}
	}
	e := newServer(t, withJetStream(t), func(o *server.Options) {
		o.Users = []*server.User{user("bennu", publish...)}
		for i := range publish {
			without := append(append([]string{}, publish[:i]...), publish[i+1:]...)
			o.Users = append(o.Users, user(fmt.Sprint("without", i), without...))
		}
	})
	cfg := func(name string) natsengine.Config {
		return natsengine.Config{URL: e.addr(), Options: []nats.Option{nats.UserInfo(name, "secret")}}
	}
	waitUnavailable(t, newLog(t, cfg("without2")), "permissions violation")
	l := runLog(t, newLog(t, cfg("bennu")), history.Inbox{})
	begin := topOf(t, l, "t")
	appendTo(t, l, "t", history.Keep{Count: 1000}) // needs an update
	if b, err := l.Read(t.Context(), "t", begin, 10); err != nil || len(b.Records) != 1 {
		t.Errorf("%d records, %v", len(b.Records), err)
	}
	if err := l.Forget(t.Context(), "t"); err != nil {
		t.Error(err)
	}
	for _, i := range []int{1, 4} {
		waitUnavailable(t, newLog(t, cfg(fmt.Sprint("without", i))), "permissions violation")
	}
}

// A record that is too long for the server is refused, and the log goes on.
func TestHistoryMaxPayload(t *testing.T) {
	e := newServer(t, withJetStream(t), func(o *server.Options) { o.MaxPayload = 10_000 })
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), history.Inbox{})
	add := func(size int) error {
		r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, size))}
		_, err := l.Append(t.Context(), "t", r, history.Keep{})
		return err
	}
	if err := add(10_000); !errors.Is(err, history.ErrTooLarge) || errors.Is(err, history.ErrUncertain) {
		t.Errorf("10,000 bytes: %v", err)
	}
	if err := add(9_900); err != nil {
		t.Errorf("9,900 bytes: %v", err)
	}
	if h := l.Health(); !h.Connected || h.Appended != 1 || h.Failed != 1 {
		t.Errorf("health %+v", h)
	}
}

// Appends that wait are bounded in number and bytes.
func TestHistoryFull(t *testing.T) {
	e := newServer(t, withJetStream(t))
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), history.Inbox{})
	e.stop()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	full := make(chan struct{})
	var once sync.Once
	for range 20 {
		wg.Go(func() {
			r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 1<<20))}
			_, err := l.Append(ctx, "t", r, history.Keep{})
			if errors.Is(err, history.ErrFull) {
				once.Do(func() { close(full) })
			} else if !errors.Is(err, history.ErrUnavailable) && !errors.Is(err, history.ErrUncertain) {
				t.Error(err)
			}
		})
	}
	<-full
	if h := l.Health(); h.Queued > 16<<20 {
		t.Errorf("%d bytes wait", h.Queued)
	}
	cancel()
	wg.Wait()
	if h := l.Health(); h.Queued != 0 || h.Failed != 20 {
		t.Errorf("health %+v", h)
	}
}

// A node that does not know that the stream was replaced appends a record. Another node does not
// feed it as a record of its own stream, but reports a gap, and finds it in the log.
func TestStreamReplacedForOneNode(t *testing.T) {
	e := newServer(t, withJetStream(t))
	slow, err := natsengine.New(natsengine.Config{URL: e.addr(), Ping: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	stale := runLog(t, slow.History(), history.Inbox{})
	old := appendTo(t, stale, "t", history.Keep{})
	js := e.jetStream(t)
	cfg := streamConfig(t, js)
	if err := js.DeleteStream("bennu"); err != nil {
		t.Fatal(err)
	}
	addStream(t, js, cfg)
	var g gaps
	in := g.inbox()
	in.Record = func(_ string, r history.Record) { t.Errorf("fed %v", r.Position) }
	l := runLog(t, newLog(t, natsengine.Config{URL: e.addr()}), in)
	ready := make(chan error, 1)
	l.Watch("t", func(err error) { ready <- err })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	begin := topOf(t, l, "t")
	if begin.Epoch() == old.Position.Epoch() {
		t.Errorf("the epoch is still %s", begin.Epoch())
	}
	appendTo(t, stale, "t", history.Keep{})
	brokertest.WaitUntil(t, "notified", func() bool { return g.has("knows another stream") })
	if b, err := l.Read(t.Context(), "t", begin, 10); err != nil || len(b.Records) != 1 {
		t.Errorf("%d records, %v", len(b.Records), err)
	}
}

// addStream makes a stream in place of one that was deleted. The server refuses it while a log is
// making the same one.
func addStream(t *testing.T, js nats.JetStreamContext, cfg *nats.StreamConfig) {
	t.Helper()
	brokertest.WaitUntil(t, "added", func() bool {
		_, err := js.AddStream(cfg)
		refused, ok := errors.AsType[*nats.APIError](err)
		if err != nil && (!ok || refused.Description != "error creating store for stream") {
			t.Fatal(err)
		}
		return err == nil
	})
}
