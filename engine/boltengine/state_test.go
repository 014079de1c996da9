package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/statetest"
)

func TestStateSuite(t *testing.T) {
	for name, noSync := range map[string]bool{"sync": false, "no sync": true} {
		t.Run(name, func(t *testing.T) {
			statetest.Run(t, func(t *testing.T) statetest.Engine {
				cfg := boltengine.Config{Path: filepath.Join(t.TempDir(), "history.db"), NoSync: noSync, MaxObjects: 200}
				e := open(t, cfg)
				return statetest.Engine{
					Store: e.State(),
					Restart: func(t testing.TB) state.Store {
						if err := e.Close(); err != nil {
							t.Fatal(err)
						}
						e = open(t, cfg)
						return e.State()
					},
					Rollback: func(t testing.TB, object string, n int) {
						if err := e.RollbackObject(object, n); err != nil {
							t.Fatal(err)
						}
					},
					Durable: true, MaxObjects: cfg.MaxObjects,
					// There is one process and no connection. Reading mapped memory cannot be interrupted;
					// TestContextOfApply freezes the committer.
					Skips: []string{"Node", "Freeze"},
				}
			})
		})
	}
}

// runState runs the store of an engine until the test ends.
func runState(t testing.TB, e *boltengine.Engine, in state.Inbox) state.Store {
	t.Helper()
	if in.Change == nil {
		in.Change = func(state.Change) {}
	}
	if in.Uncertain == nil {
		in.Uncertain = func(error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.State().Run(ctx, in) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	until(t, "connected", func() bool { return e.State().Health().Connected })
	return e.State()
}

func put(key, value string) state.Op { return state.Op{Key: key, Value: []byte(value)} }
func del(key string) state.Op        { return state.Op{Key: key, Delete: true} }

func apply(t testing.TB, s state.Store, object string, ops ...state.Op) state.Applied {
	t.Helper()
	a, err := s.Apply(t.Context(), object, ops, state.Tx{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// value returns the value of an item.
func value(t testing.TB, s state.Store, object, key string) string {
	t.Helper()
	p, err := s.Read(t.Context(), object, state.Range{From: key}, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Items) == 0 || p.Items[0].Key != key {
		return ""
	}
	return string(p.Items[0].Value)
}

// The number of objects is counted again when the file is opened. Objects that are removed, or
// whose time has come, make room in the same transaction.
func TestMaxObjects(t *testing.T) {
	cfg := config(t)
	cfg.MaxObjects = 3
	e := open(t, cfg)
	s := runState(t, e, state.Inbox{})
	create := func(object string, tx state.Tx, want error) {
		t.Helper()
		tx.Create = state.ModeNew
		if _, err := s.Apply(t.Context(), object, []state.Op{put("k", "1")}, tx); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", object, err, want)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		create(name, state.Tx{}, nil)
	}
	create("d", state.Tx{}, state.ErrQuota)
	apply(t, s, "a", put("k", "2"))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, cfg)
	s = runState(t, e, state.Inbox{})
	create("d", state.Tx{}, state.ErrQuota)
	if err := s.Remove(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	create("d", state.Tx{TTL: time.Millisecond}, nil)
	create("e", state.Tx{}, state.ErrQuota)
	until(t, "due", func() bool { return value(t, s, "d", "k") == "" })
	create("d", state.Tx{}, nil) // in the place of the old one
	create("e", state.Tx{}, state.ErrQuota)

	// Objects that wait for the same transaction are counted in it.
	if err := s.Remove(t.Context(), "b", ""); err != nil {
		t.Fatal(err)
	}
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	var wg sync.WaitGroup
	wg.Go(func() { apply(t, s, "c", put("k", "1")) })
	<-frozen
	var created atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			_, err := s.Apply(t.Context(), fmt.Sprint("x", i), []state.Op{put("k", "1")}, state.Tx{})
			switch {
			case err == nil:
				created.Add(1)
			case !errors.Is(err, state.ErrQuota):
				t.Error(err)
			}
		})
	}
	until(t, "queued", func() bool { return e.WaitingWrites() == 8 })
	thaw()
	wg.Wait()
	if n := created.Load(); n != 1 {
		t.Errorf("%d objects were created, want 1", n)
	}
}

// Writes that wait at the same time are committed together, 256 at most, and are fed in the order
// of the revisions.
func TestStateGroupCommit(t *testing.T) {
	e := open(t, config(t))
	var fed []uint64
	s := runState(t, e, state.Inbox{Change: func(c state.Change) { fed = append(fed, c.Position.Offset()) }})
	s.Watch("o", func(error) {})
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	before, err := e.Commits()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	add := func() { wg.Go(func() { apply(t, s, "o", put("k", "1")) }) }
	add()
	<-frozen // the first transaction waits with one write
	for range 600 {
		add()
	}
	until(t, "queued", func() bool { return e.WaitingWrites() == 600 })
	thaw()
	wg.Wait()
	after, err := e.Commits()
	if err != nil {
		t.Fatal(err)
	}
	if n := after - before; n != 4 { // 1, 256, 256, 88
		t.Errorf("601 writes took %d commits, want 4", n)
	}
	if len(fed) != 601 || !slices.IsSorted(fed) {
		t.Errorf("%d changes were fed, sorted is %v", len(fed), slices.IsSorted(fed))
	}
}

// A write that does not reach the disk in time is unavailable, and a read does not wait for it.
func TestContextOfApply(t *testing.T) {
	e := open(t, config(t))
	s := runState(t, e, state.Inbox{})
	apply(t, s, "o", put("k", "1"))
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	defer thaw()
	tx := state.Tx{ID: "once"}
	done := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	write := func(id string) {
		_, err := s.Apply(ctx, "o", []state.Op{put("k", "2")}, state.Tx{ID: id})
		done <- err
	}
	go write(tx.ID)
	<-frozen
	go write("given up")
	until(t, "queued", func() bool { return e.WaitingWrites() == 1 })
	if got := value(t, s, "o", "k"); got != "1" {
		t.Errorf("read %s during the commit", got)
	}
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	thaw()
	a, err := s.Apply(t.Context(), "o", []state.Op{put("k", "3")}, tx)
	if err != nil || !a.Repeated || a.Revs[0] != 2 {
		t.Errorf("repeated: %+v, %v", a, err)
	}
	if got := value(t, s, "o", "k"); got != "2" {
		t.Errorf("got %s", got)
	}
}

// A failed commit is reported to every write of it, and the store goes on.
func TestFailedStateCommits(t *testing.T) {
	boom := errors.New("no space left on device")
	for name, test := range map[string]struct {
		hook   func(tx *bolt.Tx) error
		stored bool
	}{
		"error":             {func(*bolt.Tx) error { return boom }, false},
		"panic":             {func(*bolt.Tx) error { panic("page 7: invalid") }, false},
		"fault":             {func(*bolt.Tx) error { return fault() }, false},
		"after the effects": {func(tx *bolt.Tx) error { tx.OnCommit(func() { panic(boom) }); return nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Logger = silent()
			e := open(t, cfg)
			uncertain := make(chan error, 10)
			s := runState(t, e, state.Inbox{Uncertain: func(err error) { uncertain <- err }})
			apply(t, s, "o", put("k", "1"))
			remove := e.Hook(test.hook)
			_, err := s.Apply(t.Context(), "o", []state.Op{put("k", "2")}, state.Tx{})
			if h := s.Health(); !errors.Is(err, history.ErrUnavailable) || h.Connected || h.Err == nil || h.Failed != 1 {
				t.Errorf("%v, %+v", err, h)
			}
			if err := s.Remove(t.Context(), "o", ""); !errors.Is(err, history.ErrUnavailable) && !test.stored {
				t.Errorf("remove: %v", err)
			}
			remove()
			until(t, "connected", func() bool { return s.Health().Connected })
			if test.stored {
				if err := <-uncertain; err == nil || s.Health().Gaps == 0 {
					t.Errorf("%v, %+v", err, s.Health())
				}
				return
			}
			if len(uncertain) > 0 {
				t.Errorf("uncertain: %v", <-uncertain)
			}
			if a := apply(t, s, "o", put("k", "3")); a.Revs[0] != 2 {
				t.Errorf("revision %d after the failure", a.Revs[0])
			}
		})
	}
}

// Damage in one place fails the reads and writes that need it, and no others in the same commit.
func TestStateDamageIsIsolated(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	e := open(t, cfg)
	s := runState(t, e, state.Inbox{})
	for _, object := range []string{"good", "bad"} {
		apply(t, s, object, put("k", "1"), put("l", "1"))
	}
	if err := e.DamageItem("bad", "k"); err != nil {
		t.Fatal(err)
	}
	frozen := make(chan struct{})
	thaw := e.Freeze(func() { close(frozen) })
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			object := []string{"good", "bad"}[i%2]
			_, err := s.Apply(t.Context(), object, []state.Op{put("l", "2"), put("k", "2")}, state.Tx{})
			if (err == nil) != (object == "good") || err != nil && !errors.Is(err, history.ErrUnavailable) {
				t.Errorf("%s: %v", object, err)
			}
		})
	}
	<-frozen
	thaw()
	wg.Wait()
	if _, err := s.Read(t.Context(), "bad", state.Range{}, "", 10); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("reading: %v", err)
	}
	if got := value(t, s, "bad", "l"); got != "1" {
		t.Errorf("a part of a failed write is there: %s", got)
	}
	if err := s.Remove(t.Context(), "bad", ""); err != nil {
		t.Error(err)
	}
	until(t, "swept", func() bool { return len(countsOf(t, e)) > 0 && countsOf(t, e)["removed"] == 0 })
	if got := value(t, s, "good", "l"); got != "2" {
		t.Errorf("got %s", got)
	}
}

func countsOf(t testing.TB, e *boltengine.Engine) map[string]int {
	t.Helper()
	counts, err := e.StateCounts()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// Everything of a removed object is deleted, by one process or the next.
func TestRemovedObjectsAreSwept(t *testing.T) {
	cfg := config(t)
	cfg.NoSync = true
	e := open(t, cfg)
	s := runState(t, e, state.Inbox{})
	hour := time.Hour
	for i := range 40 {
		var ops []state.Op
		for j := range 100 {
			ops = append(ops, state.Op{Key: fmt.Sprint(i, " ", j), Value: []byte("1"), TTL: &hour})
		}
		if _, err := s.Apply(t.Context(), "o", ops, state.Tx{ID: fmt.Sprint(i), TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), "o", ""); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, cfg)
	runState(t, e, state.Inbox{})
	until(t, "nothing left", func() bool {
		for _, n := range countsOf(t, e) {
			if n > 0 {
				return false
			}
		}
		return true
	})
}

// The store remembers a bounded number of removals.
func TestRemovalsAreBounded(t *testing.T) {
	cfg := config(t)
	cfg.NoSync = true
	e := open(t, cfg)
	s := runState(t, e, state.Inbox{})
	object := func(i int) string { return strings.Repeat("o", 32767-1) + fmt.Sprint(i%7) } // as long as possible
	for i := range 1100 {
		if _, err := s.Apply(t.Context(), object(i), []state.Op{put("a", "1")}, state.Tx{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), object(i), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := countsOf(t, e)["writes"]; n != 2*1000 {
		t.Errorf("%d entries of removals", n)
	}
	if err := s.Remove(t.Context(), object(1), "1"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the oldest one: %v", err)
	}
	for i := 100; i < 1100; i += 111 {
		if err := s.Remove(t.Context(), object(i), fmt.Sprint(i)); err != nil {
			t.Errorf("the repeated removal %d: %v", i, err)
		}
	}
}

// An object remembers a bounded number of IDs, revisions and deletions, and these for some time.
func TestStateIsBounded(t *testing.T) {
	cfg := config(t)
	cfg.NoSync = true
	e := open(t, cfg)
	e.ForgetDeletionsAfter(100 * time.Millisecond)
	s := runState(t, e, state.Inbox{})
	write := func(i int, op state.Op) state.Applied {
		t.Helper()
		tx := state.Tx{ID: fmt.Sprint(i), Limits: state.Limits{Changes: 50}}
		a, err := s.Apply(t.Context(), "o", []state.Op{op}, tx)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for i := range 1200 {
		write(i, put(fmt.Sprint(i%80), "1"))
	}
	if n := countsOf(t, e); n["writes"] != 2*1000 || n["items"] != 80 || n["revisions"] != 50 {
		t.Errorf("%v", n)
	}
	if a := write(0, put("0", "2")); a.Repeated {
		t.Error("the oldest ID is remembered")
	}
	if a := write(1199, put("0", "3")); !a.Repeated {
		t.Error("a new ID is not remembered")
	}
	before := write(2000, put("0", "4"))
	gone := write(2001, del("0"))
	subtree := write(2003, state.Op{Key: "1", Delete: true, Under: true})
	since := func(p history.Position) error {
		_, err := s.Changes(t.Context(), "o", p, state.Range{}, 100)
		return err
	}
	if err := since(before.Position); err != nil {
		t.Errorf("before the deletion is forgotten: %v", err)
	}
	<-time.After(150 * time.Millisecond) // the age of a deletion is real time
	write(2002, put("1", "4"))
	if err := since(before.Position); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("after the deletion was forgotten: %v", err)
	}
	if err := since(gone.Position); !errors.Is(err, history.ErrTrimmed) { // that of the subtree
		t.Errorf("since the deletion of an item: %v", err)
	}
	if err := since(subtree.Position); err != nil {
		t.Errorf("since the deletion of a subtree: %v", err)
	}
	if n := countsOf(t, e); n["items"] != 79 {
		t.Errorf("%v", n)
	}
}

// Writes of the log and of objects do not disturb each other.
func TestStateBesideHistory(t *testing.T) {
	cfg := config(t)
	e := open(t, cfg)
	run(t, e, history.Inbox{})
	s := runState(t, e, state.Inbox{})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				if w%2 == 0 {
					apply(t, s, "t", put(fmt.Sprint(w), fmt.Sprint(i)))
				} else {
					appendTo(t, e.History(), "t", i)
				}
			}
		})
	}
	wg.Wait()
	tops, err := s.Tops(t.Context(), []string{"t", "absent"})
	if err != nil || tops[0].Offset() != 80 || tops[1].Offset() != 0 {
		t.Errorf("%v, %v", tops, err)
	}
	if top := topOf(t, e.History(), "t"); top.Offset() != 80 {
		t.Errorf("the log's top is %v", top)
	}
}

func FuzzStateValues(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x04abcd\x04abcd\x01\x01\x01\x01"))
	f.Fuzz(func(_ *testing.T, value []byte) { boltengine.ParseStateValues(value) })
}
