package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/serializer"
)

var keep = history.Keep{Count: 100, Bytes: 1 << 20, Age: time.Hour}

func config(t testing.TB) boltengine.Config {
	return boltengine.Config{Path: filepath.Join(t.TempDir(), "history.db")}
}

// number is the payload of record i.
func number(i int) serializer.Payload { return serializer.Value(map[string]int{"n": i}) }

func numberOf(t testing.TB, r history.Record) int {
	t.Helper()
	var p map[string]int
	if err := r.Payload.Decode(&p); err != nil {
		t.Fatal(err)
	}
	return p["n"]
}

func appendTo(t testing.TB, log history.Log, topic string, i int) history.Record {
	t.Helper()
	r, err := log.Append(t.Context(), topic, history.Record{Event: "e", Payload: number(i)}, keep)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func topOf(t testing.TB, log history.Log, topic string) history.Position {
	t.Helper()
	tops, err := log.Tops(t.Context(), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	return tops[0]
}

// Appends that wait at the same time are committed together, 256 at most.
func TestGroupCommit(t *testing.T) {
	e := open(t, config(t))
	run(t, e, history.Inbox{})
	log := e.History()
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	before, err := e.Commits()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	add := func() {
		wg.Go(func() {
			if _, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, keep); err != nil {
				t.Error(err)
			}
		})
	}
	add()
	<-frozen // the first transaction waits with one append
	for range 600 {
		add()
	}
	until(t, "queued", func() bool { return e.Waiting() == 600 })
	thaw()
	wg.Wait()
	after, err := e.Commits()
	if err != nil {
		t.Fatal(err)
	}
	if n := after - before; n != 4 { // 1, 256, 256, 88
		t.Errorf("601 appends took %d commits, want 4", n)
	}
	if top := topOf(t, log, "t"); top.Offset() != 601 {
		t.Errorf("the top is %v", top)
	}
}

// Before an append was given to the committer its end is certain, and after that it is not.
func TestContextOfAppend(t *testing.T) {
	e := open(t, config(t))
	run(t, e, history.Inbox{})
	log := e.History()
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	defer thaw()
	type result struct{ err error }
	start := func(event string) (cancel func(), done chan result) {
		ctx, cancel := context.WithCancel(t.Context())
		done = make(chan result, 1)
		go func() {
			_, err := log.Append(ctx, "t", history.Record{Event: event}, keep)
			done <- result{err}
		}()
		return cancel, done
	}
	cancelTaken, taken := start("taken")
	<-frozen
	cancelWaits, waits := start("waits")
	until(t, "queued", func() bool { return e.Waiting() == 1 })
	cancelTaken()
	cancelWaits()
	if r := <-taken; !errors.Is(r.err, history.ErrUncertain) || !errors.Is(r.err, context.Canceled) {
		t.Errorf("taken by the committer: %v", r.err)
	}
	if r := <-waits; !errors.Is(r.err, history.ErrUnavailable) || !errors.Is(r.err, context.Canceled) {
		t.Errorf("still in the queue: %v", r.err)
	}
	if _, err := log.Append(canceled(t), "t", history.Record{Event: "e"}, keep); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("with a context that has ended: %v", err)
	}
	thaw()
	last := appendTo(t, log, "t", 1)
	b, err := log.Before(t.Context(), "t", history.Position{}, 10)
	if err != nil || len(b.Records) != 2 || b.Records[0].Event != "taken" || b.Records[1].Position != last.Position {
		t.Errorf("got %+v, %v", b.Records, err)
	}
	if h := log.Health(); h.Queued != 0 || h.Appended != 2 || h.Failed != 3 {
		t.Errorf("got %+v", h)
	}
}

func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// Reading does not wait for the committer.
func TestReadWhileCommitting(t *testing.T) {
	e := open(t, config(t))
	run(t, e, history.Inbox{})
	log := e.History()
	first := appendTo(t, log, "t", 1)
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	done := make(chan error, 1)
	go func() {
		_, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, keep)
		done <- err
	}()
	<-frozen
	if b, err := log.Read(t.Context(), "t", first.Prev, 10); err != nil || len(b.Records) != 1 || b.Top != first.Position {
		t.Errorf("got %+v, %v", b, err)
	}
	if top := topOf(t, log, "t"); top != first.Position {
		t.Errorf("the top is %v", top)
	}
	thaw()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The queue has at most 4,096 appends and 16 MiB.
func TestFullQueue(t *testing.T) {
	for name, test := range map[string]struct {
		size, fits int
	}{
		"appends": {1, 4096},
		"bytes":   {1 << 20, 15},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, boltengine.Config{Path: config(t).Path, NoSync: true})
			run(t, e, history.Inbox{})
			log := e.History()
			frozen := make(chan struct{})
			thaw := e.Freeze(func() { close(frozen) })
			defer thaw()
			r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, test.size))}
			var wg sync.WaitGroup
			add := func() {
				wg.Go(func() {
					if _, err := log.Append(t.Context(), "t", r, keep); err != nil {
						t.Error(err)
					}
				})
			}
			add() // it is in the transaction, where its bytes count, too
			<-frozen
			fits := test.fits
			if test.size > 1 {
				fits--
			}
			for range fits {
				add()
			}
			until(t, "queued", func() bool { return e.Waiting() == fits })
			if _, err := log.Append(t.Context(), "t", r, keep); !errors.Is(err, history.ErrFull) {
				t.Errorf("got %v", err)
			}
			thaw()
			wg.Wait()
			if q := log.Health().Queued; q != 0 {
				t.Errorf("%d bytes are still queued", q)
			}
			appendTo(t, log, "t", 1)
		})
	}
}

func TestRefusedAppends(t *testing.T) {
	e := open(t, config(t))
	log := e.History()
	r := history.Record{Event: "e"}
	if _, err := log.Append(t.Context(), "t", r, keep); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("before Run: %v", err)
	}
	if err := log.Forget(t.Context(), "t"); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("Forget before Run: %v", err)
	}
	stop := run(t, e, history.Inbox{})
	k := keep
	k.Bytes = 64 << 20
	large := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 16<<20))}
	if _, err := log.Append(t.Context(), "t", large, k); !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("a record that never fits into the queue: %v", err)
	}
	long := strings.Repeat("t", bolt.MaxKeySize)
	if _, err := log.Append(t.Context(), long, r, keep); !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("a long topic: %v", err)
	}
	if err := log.Forget(t.Context(), long); !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("Forget of a long topic: %v", err)
	}
	if top := topOf(t, log, long); !top.IsBeginning() {
		t.Errorf("the top of a long topic is %v", top)
	}
	appendTo(t, log, long[1:], 1)
	appendTo(t, log, "full", 1)
	if err := e.SetOffset("full", 1<<53-1); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), "full", r, keep); !errors.Is(err, history.ErrFull) {
		t.Errorf("after the last offset: %v", err)
	}
	stop()
	if _, err := log.Append(t.Context(), "t", r, keep); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("after Run: %v", err)
	}
	if h := log.Health(); h.Connected || h.Err == nil {
		t.Errorf("after Run: %+v", h)
	}
	if _, err := log.Tops(t.Context(), []string{"t"}); err != nil {
		t.Errorf("reading after Run: %v", err)
	}
	if err := log.Run(t.Context(), history.Inbox{}); err == nil {
		t.Error("a second Run returned nil")
	}
	if err := errors.Join(e.Close(), e.Close()); err != nil {
		t.Error(err)
	}
	if _, err := log.Append(t.Context(), "t", r, keep); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := log.Tops(t.Context(), []string{"t"}); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("reading after Close: %v", err)
	}
	other := open(t, config(t))
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := other.History().Run(t.Context(), history.Inbox{}); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("Run after Close: %v", err)
	}
}

// Close ends Run, and stores what waits.
func TestCloseWhileRunning(t *testing.T) {
	cfg := config(t)
	e := open(t, cfg)
	run(t, e, history.Inbox{})
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	var wg sync.WaitGroup
	add := func() {
		wg.Go(func() {
			if _, err := e.History().Append(t.Context(), "t", history.Record{Event: "e"}, history.Keep{Count: 400}); err != nil {
				t.Error(err)
			}
		})
	}
	add()
	<-frozen // the first transaction waits with one record
	for range 399 {
		add()
	}
	until(t, "queued", func() bool { return e.WaitingRecords() == 399 })
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	thaw()
	wg.Wait()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	e = open(t, cfg)
	if b, err := e.History().Before(t.Context(), "t", history.Position{}, 1000); err != nil || len(b.Records) != 400 {
		t.Errorf("%d records, %v", len(b.Records), err)
	}
}

// The feed has the records of watched topics in the order of the log.
func TestFeed(t *testing.T) {
	e := open(t, config(t))
	log := e.History()
	type event struct {
		topic     string
		n         int
		forgotten bool
	}
	events := make(chan event, 1000)
	ready := make(chan string, 10)
	watch := func(topic string) {
		log.Watch(topic, func(err error) {
			if err != nil {
				t.Error(err)
			}
			ready <- topic
		})
	}
	watch("before")
	run(t, e, history.Inbox{
		Record:    func(topic string, r history.Record) { events <- event{topic: topic, n: numberOf(t, r)} },
		Forgotten: func(topic string) { events <- event{topic: topic, forgotten: true} },
		Gap:       func(err error) { t.Error(err) },
	})
	if got := <-ready; got != "before" {
		t.Errorf("%s is ready", got)
	}
	watch("t")
	watch("u")
	got := []string{<-ready, <-ready}
	slices.Sort(got)
	if !slices.Equal(got, []string{"t", "u"}) {
		t.Errorf("%v are ready", got)
	}
	forget := func(topic string) {
		t.Helper()
		if err := log.Forget(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
	appendTo(t, log, "t", 1)
	appendTo(t, log, "u", 2)
	appendTo(t, log, "other", 3)
	forget("other")
	once := history.Record{Event: "e", Payload: number(4), ID: "id"}
	for range 2 {
		if _, err := log.Append(t.Context(), "t", once, keep); err != nil {
			t.Fatal(err)
		}
	}
	forget("t")
	appendTo(t, log, "t", 5)
	log.Unwatch("u")
	appendTo(t, log, "u", 6)
	appendTo(t, log, "t", 7)
	for _, want := range []event{
		{"t", 1, false}, {"u", 2, false}, {"t", 4, false}, {"t", 0, true}, {"t", 5, false}, {"t", 7, false},
	} {
		if got := <-events; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A record that is appended after ready is fed, whatever else happens at the time.
func TestWatchThenRead(t *testing.T) {
	e := open(t, boltengine.Config{Path: config(t).Path, NoSync: true})
	log := e.History()
	fed := make(chan history.Record, 10_000)
	run(t, e, history.Inbox{Record: func(_ string, r history.Record) { fed <- r }})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := log.Append(ctx, "t", history.Record{Event: "e"}, history.Keep{Count: 5000})
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		ready := make(chan error)
		log.Watch("t", func(err error) { ready <- err })
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		cursor := topOf(t, log, "t")
		for joined := false; !joined; {
			// Older records were on their way. The first newer record continues from the cursor.
			r := <-fed
			if r.Position.Offset() > cursor.Offset() {
				if r.Prev != cursor {
					t.Fatalf("after %v: fed %v, which follows %v", cursor, r.Position, r.Prev)
				}
				joined = true
			}
		}
		log.Unwatch("t")
		for len(fed) > 0 {
			<-fed
		}
	}
}

// The memory does not depend on the number of topics.
func TestManyTopics(t *testing.T) {
	e := open(t, boltengine.Config{Path: config(t).Path, NoSync: true})
	run(t, e, history.Inbox{})
	log := e.History()
	const topics, workers = 20_000, 256
	fill := func(round int) {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < topics; i += workers {
					r := history.Record{Event: "e", ID: fmt.Sprint(i)}
					if _, err := log.Append(t.Context(), fmt.Sprint(round, " ", i), r, keep); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	heap := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	fill(0)
	before := heap()
	fill(1)
	if grown := heap() - before; grown > topics*20 {
		t.Errorf("the heap has grown by %d bytes for %d topics", grown, topics)
	}
	if n, err := e.Topics(); err != nil || n != 2*topics {
		t.Errorf("%d topics, %v", n, err)
	}
	i := rand.IntN(topics)
	if top := topOf(t, log, fmt.Sprint(1, " ", i)); top.Offset() != 1 {
		t.Errorf("topic %d has the top %v", i, top)
	}
}
