package historytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"bennu.example/history"
)

// soon is how long a call may go on after its context has ended, on a busy machine.
const soon = 10 * time.Second

// outcomes are appends whose answer may be missing, by event.
type outcomes map[string]error

// append appends a record to topic "t" that is alone with its event, and notes the answer.
func (o outcomes) append(ctx context.Context, n *node) error {
	n.t.Helper()
	event := fmt.Sprint("event ", len(o))
	r, err := n.Append(ctx, "t", history.Record{Event: event, Payload: object(len(o))}, long)
	switch {
	case err == nil && r.Position.IsZero():
		n.t.Error("Append returned no position")
	case err != nil && !errors.Is(err, history.ErrUnavailable) && !errors.Is(err, history.ErrUncertain):
		n.t.Errorf("Append: %v", err)
	}
	o[event] = err
	return err
}

// check compares the answers with the log: an append that succeeded made one record, one that was
// refused made none, and one whose end is uncertain made one at most.
func (o outcomes) check(n *node, begin history.Position) {
	n.t.Helper()
	count := make(map[string]int)
	for _, r := range n.read("t", begin).Records {
		count[r.Event]++
	}
	for event, err := range o {
		switch got := count[event]; {
		case err == nil && got != 1, errors.Is(err, history.ErrUnavailable) && got != 0, got > 1:
			n.t.Errorf("%s: Append returned %v, and the log has %d records", event, err, got)
		}
	}
}

// timeouts appends with contexts that end at any time.
func timeouts(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	all := make(outcomes)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := all.append(canceled, n); err == nil && !instant(e.Log) {
		t.Error("Append with a context that has ended returned nil")
	}
	start := time.Now()
	_ = all.append(t.Context(), n)
	round := time.Since(start) + 100*time.Microsecond
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(round)))) //nolint:gosec // a test
		_ = all.append(ctx, n)
		cancel()
	}
	_ = all.append(t.Context(), n)
	all.check(n, begin)
}

// frozenStore calls a log whose store does not answer.
func frozenStore(t *testing.T, e Engine) {
	if e.Freeze == nil {
		t.Skip("Freeze is nil")
	}
	n := start(t, e.Log)
	begin := n.top("t")
	first := n.append("t", 3, long)[0]
	if !instant(e.Log) {
		n.watchNow("t")
	}
	from := n.top("t")
	thaw := e.Freeze(t)
	all := make(outcomes)
	for name, call := range map[string]func(ctx context.Context) error{
		"Read":   func(ctx context.Context) error { _, err := n.Read(ctx, "t", first.Position, 10); return err },
		"Before": func(ctx context.Context) error { _, err := n.Before(ctx, "t", first.Position, 10); return err },
		"Tops":   func(ctx context.Context) error { _, err := n.Tops(ctx, []string{"t"}); return err },
		"Append": func(ctx context.Context) error { return all.append(ctx, n) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := call(ctx)
		end, _ := ctx.Deadline()
		if late := time.Since(end); late > soon {
			t.Errorf("%s ended %v after its context", name, late)
		}
		if !errors.Is(err, history.ErrUnavailable) && (name != "Append" || !errors.Is(err, history.ErrUncertain)) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	const ids = 5
	ended := func(i int) (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), time.Duration(i)*10*time.Millisecond)
	}
	once := make(map[string]error)
	for i := range ids {
		id := fmt.Sprint("id ", i)
		ctx, cancel := ended(i)
		_, once[id] = n.Append(ctx, "t", history.Record{Event: "once", ID: id}, long)
		cancel()
	}
	thaw()
	n.until("thawed", func() bool { _, err := n.Tops(t.Context(), []string{"t"}); return err == nil })
	for id := range once { // as a job does that is retried
		n.until("appended", func() bool {
			_, err := n.Append(t.Context(), "t", history.Record{Event: "once", ID: id}, long)
			return err == nil
		})
	}
	all.check(n, begin)
	count := make(map[string]int)
	for _, r := range n.read("t", begin).Records {
		if r.ID != "" {
			count[r.ID]++
		}
	}
	for id := range once {
		if count[id] != 1 {
			t.Errorf("the log has %d records with the ID %q, want 1", count[id], id)
		}
	}
	if !instant(e.Log) {
		n.checkFeed("t", begin, from)
	}
}

// lostConnection cuts the connection of a node while another appends.
func lostConnection(t *testing.T, e Engine) {
	if e.Disconnect == nil {
		t.Skip("Disconnect is nil")
	}
	a, b := startTwo(t, e)
	begin := a.top("t")
	w := a.watchNow("t")
	a.append("t", 3, long)
	a.checkFeed("t", begin, begin)
	from := a.top("t")
	connect := e.Disconnect(t)
	all := make(outcomes)
	b.append("t", 5, long)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := all.append(ctx, a); err == nil {
			t.Error("Append without a connection returned nil")
		}
		end, _ := ctx.Deadline()
		if late := time.Since(end); late > soon {
			t.Errorf("Append ended %v after its context", late)
		}
		cancel()
	}
	a.until("disconnected", func() bool { h := a.Health(); return !h.Connected && h.Err != nil })
	connect()
	a.waitReady("t", w, 2)
	a.until("connected", func() bool { h := a.Health(); return h.Connected && h.Err == nil })
	next := b.append("t", 5, long)
	a.waitFor("fed", func() bool { return a.gaps > 0 || has(a.records["t"], next[4].Position) })
	all.check(a, begin)
	// Either the log notified the node, or it fed what was appended meanwhile.
	a.mu.Lock()
	notified := a.gaps > 0 || w.refusals > 0
	a.mu.Unlock()
	if !notified {
		a.checkFeed("t", begin, from)
	}
}

// lostRecords and lostMeta read after a part of the store was lost. Whatever remains, no answer
// hides a record that is missing.
func lostRecords(t *testing.T, e Engine) { lose(t, e, e.LoseRecords, "LoseRecords") }
func lostMeta(t *testing.T, e Engine)    { lose(t, e, e.LoseMeta, "LoseMeta") }

func lose(t *testing.T, e Engine, lose func(t testing.TB, topic string), name string) {
	if lose == nil {
		t.Skip(name + " is nil")
	}
	n := start(t, e.Log)
	begin := n.top("t")
	all := n.append("t", 10, keep)
	other := n.append("u", 3, keep)
	lose(t, "t")
	n.honest("t", begin, all, 10)
	top := n.top("t")
	all = append(all, n.append("t", 3, keep)...)
	n.honest("t", begin, all, 10)
	if b := n.read("t", top); len(b.Records) != 3 {
		t.Errorf("after the top that remained: %d records", len(b.Records))
	}
	all = append(all, n.append("t", 10, keep)...)
	n.honest("t", begin, all, 10)
	n.same(n.read("u", other[0].Position).Records, other[1:])
}

// honest checks that reading after each of the first records returns all that were appended after
// it, or that it cannot be continued.
func (n *node) honest(topic string, begin history.Position, all []history.Record, first int) {
	n.t.Helper()
	for i := range first + 1 {
		after := begin
		if i > 0 {
			after = all[i-1].Position
		}
		b, err := n.Read(n.t.Context(), topic, after, 1000)
		switch got := answer(b, err); got {
		case epoch, trimmed, ahead, wrong:
		case fmt.Sprint(len(all) - i):
			n.same(b.Records, all[i:])
		default:
			n.t.Errorf("after %d of %d records: %s", i, len(all), got)
		}
	}
}

// manyTopics appends to 100,000 topics. Those that the log forgot cannot be continued.
func manyTopics(t *testing.T, e Engine) {
	if e.MaxTopics == 0 || e.Topics == nil {
		t.Skip("MaxTopics is zero")
	}
	n := start(t, e.Log)
	const all = 100_000
	at := make([]history.Position, all)
	for i := range at {
		r, err := n.Append(t.Context(), fmt.Sprint(i), history.Record{Event: "e", Payload: object(i)}, keep)
		if err != nil {
			t.Fatal(err)
		}
		at[i] = r.Position
	}
	if got := e.Topics(t); got > e.MaxTopics {
		t.Errorf("the store has %d topics, want at most %d", got, e.MaxTopics)
	}
	known := 0
	for i, p := range at {
		switch b, err := n.Read(t.Context(), fmt.Sprint(i), p, 10); {
		case err == nil && len(b.Records) == 0 && b.Top == p:
			known++
		case !errors.Is(err, history.ErrEpoch):
			t.Fatalf("topic %d: %+v, %v", i, b, err)
		}
	}
	if known != e.Topics(t) {
		t.Errorf("%d topics can be continued, and the store has %d", known, e.Topics(t))
	}
}
