package boltengine_test

import (
	"errors"
	"testing"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
)

// A failed commit is reported to every append of it, and to nobody else. The log goes on.
func TestFailedCommits(t *testing.T) {
	boom := errors.New("no space left on device")
	for name, test := range map[string]struct {
		hook   func(tx *bolt.Tx) error
		want   error
		stored bool
	}{
		"error": {func(*bolt.Tx) error { return boom }, history.ErrUnavailable, false},
		"panic": {func(*bolt.Tx) error { panic("page 7: invalid") }, history.ErrUnavailable, false},
		"fault": {func(*bolt.Tx) error { return fault() }, history.ErrUnavailable, false},
		"after the effects": {
			func(tx *bolt.Tx) error { tx.OnCommit(func() { panic(boom) }); return nil }, history.ErrUncertain, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Logger = silent()
			e := open(t, cfg)
			log := e.History()
			gaps := make(chan error, 100)
			fed := make(chan history.Record, 100)
			run(t, e, history.Inbox{
				Record: func(_ string, r history.Record) { fed <- r },
				Gap:    func(err error) { gaps <- err },
			})
			log.Watch("t", func(error) {})
			first := appendTo(t, log, "t", 1)
			<-fed
			remove := e.Hook(test.hook)
			if _, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, keep); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if h := log.Health(); h.Connected || h.Err == nil || h.Failed != 1 || h.Appended != 1 {
				t.Errorf("got %+v", h)
			}
			if test.stored {
				if err := <-gaps; err == nil || log.Health().Gaps == 0 {
					t.Errorf("got %v, %+v", err, log.Health())
				}
			}
			remove()
			last := appendTo(t, log, "t", 2)
			if r := <-fed; r.Position != last.Position {
				t.Errorf("fed %v, want %v", r.Position, last.Position)
			}
			b, err := log.Read(t.Context(), "t", first.Position, 10)
			if err != nil || len(b.Records) != 1 && !test.stored || len(b.Records) != 2 && test.stored {
				t.Errorf("got %d records, %v", len(b.Records), err)
			}
			if h := log.Health(); !h.Connected || h.Err != nil {
				t.Errorf("got %+v", h)
			}
			if len(gaps) > 0 && !test.stored {
				t.Errorf("gap: %v", <-gaps)
			}
		})
	}
}

// After a failure, the log finds out by itself that the disk works again.
func TestRecoveryWithoutAppend(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	e := open(t, cfg)
	log := e.History()
	run(t, e, history.Inbox{})
	remove := e.Hook(func(*bolt.Tx) error { return errors.New("no space left on device") })
	if _, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, keep); err == nil {
		t.Error("nil")
	}
	since := log.Health().Since
	remove()
	until(t, "connected", func() bool { return log.Health().Connected })
	if h := log.Health(); h.Err != nil || !h.Since.After(since) {
		t.Errorf("got %+v", h)
	}
}

// Damage in one place fails the appends that need it, and no others in the same commit.
func TestDamageIsIsolated(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	e := open(t, cfg)
	log := e.History()
	for _, topic := range []string{"good", "bad"} {
		log.Watch(topic, func(error) {})
	}
	run(t, e, history.Inbox{Record: func(string, history.Record) {}, Forgotten: func(string) {}})
	appendTo(t, log, "bad", 1)
	appendTo(t, log, "good", 1)
	if err := e.Damage("bad"); err != nil {
		t.Fatal(err)
	}
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	errs := make(chan error, 20)
	for i := range cap(errs) {
		topic := []string{"good", "bad"}[i%2]
		go func() {
			_, err := log.Append(t.Context(), topic, history.Record{Event: "e"}, keep)
			if (err == nil) != (topic == "good") {
				t.Errorf("%s: %v", topic, err)
			}
			errs <- err
		}()
	}
	<-frozen
	thaw()
	for range cap(errs) {
		if err := <-errs; err != nil && !errors.Is(err, history.ErrUnavailable) {
			t.Error(err)
		}
	}
	if _, err := log.Read(t.Context(), "bad", topOf(t, log, "good"), 10); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("reading the damaged topic: %v", err)
	}
	if err := log.Forget(t.Context(), "bad"); err != nil {
		t.Fatal(err)
	}
	appendTo(t, log, "bad", 2)
	if top := topOf(t, log, "bad"); top.Offset() != 1 {
		t.Errorf("the forgotten topic has the top %v", top)
	}
}

// The contents of a record cannot change unnoticed.
func TestDamagedRecord(t *testing.T) {
	cfg := config(t)
	e := open(t, cfg)
	log := e.History()
	run(t, e, history.Inbox{})
	var all []history.Record
	for i := range 5 {
		all = append(all, appendTo(t, log, "t", i))
	}
	if err := e.DamageRecord("t", 3); err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{history.ErrTrimmed, history.ErrTrimmed, history.ErrTrimmed, nil, nil} {
		if _, err := log.Read(t.Context(), "t", all[i].Position, 10); !errors.Is(err, want) {
			t.Errorf("after record %d: %v, want %v", i+1, err, want)
		}
	}
	if _, err := log.Before(t.Context(), "t", history.Position{}, 10); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("all: %v", err)
	}
	k := keep
	k.Count = 2
	r, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, k) // removes the damaged record, too
	if err != nil {
		t.Fatal(err)
	}
	b, err := log.Before(t.Context(), "t", history.Position{}, 10)
	if err != nil || len(b.Records) != 2 || b.Top != r.Position || b.After != all[3].Position {
		t.Errorf("%+v, %v", b, err)
	}
}
