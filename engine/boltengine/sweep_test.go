package boltengine_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
)

// counts returns the numbers of topics, records, IDs and sweep entries in the file.
func counts(t testing.TB, e *boltengine.Engine) [4]int {
	t.Helper()
	topics, records, ids, sweeps, err := e.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return [4]int{topics, records, ids, sweeps}
}

// Records end with their age, and are deleted although nothing is appended. The top outlives them
// by ten times the age, at least 24 hours, and then the topic is removed.
func TestExpiry(t *testing.T) {
	for _, age := range []time.Duration{time.Hour, 10 * time.Hour} {
		t.Run(age.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := open(t, config(t))
				run(t, e, history.Inbox{})
				log := e.History()
				k := history.Keep{Count: 100, Bytes: 1 << 20, Age: age}
				begin := topOf(t, log, "t")
				var all []history.Record
				for i := range 3 {
					r, err := log.Append(t.Context(), "t", history.Record{Event: "e", ID: fmt.Sprint(i)}, k)
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, r)
					time.Sleep(age / 4)
				}
				wait := func(until time.Time) {
					time.Sleep(time.Until(until))
					synctest.Wait()
				}
				left := func(want int) {
					t.Helper()
					b, err := log.Before(t.Context(), "t", history.Position{}, 10)
					if err != nil || len(b.Records) != want || b.Top != all[2].Position {
						t.Errorf("got %d records and %v, %v; want %d", len(b.Records), b.Top, err, want)
					}
				}
				last := all[2].Time
				wait(all[0].Time.Add(age - time.Second))
				left(3)
				wait(all[0].Time.Add(age))
				left(2)
				if _, err := log.Read(t.Context(), "t", begin, 10); !errors.Is(err, history.ErrTrimmed) {
					t.Errorf("from the beginning: %v", err)
				}
				if b, err := log.Read(t.Context(), "t", all[0].Position, 10); err != nil || len(b.Records) != 2 {
					t.Errorf("after the expired record: %d, %v", len(b.Records), err)
				}
				wait(last.Add(age))
				left(0)
				wait(last.Add(age + 2*time.Second))
				if got := counts(t, e); got != [4]int{1, 0, 0, 1} {
					t.Errorf("after the age there are %v", got)
				}
				outlive := max(10*age, 24*time.Hour)
				wait(last.Add(age + outlive - time.Second))
				if b, err := log.Read(t.Context(), "t", all[2].Position, 10); err != nil || len(b.Records) != 0 {
					t.Errorf("after the newest record: %d, %v", len(b.Records), err)
				}
				wait(last.Add(age + outlive + 2*time.Second))
				if got := counts(t, e); got != [4]int{} {
					t.Errorf("in the end there are %v", got)
				}
				for _, p := range []history.Position{begin, all[2].Position} {
					if _, err := log.Read(t.Context(), "t", p, 10); !errors.Is(err, history.ErrEpoch) {
						t.Errorf("after the removal, from %v: %v", p, err)
					}
				}
				if r := appendTo(t, log, "t", 1); r.Position.Offset() != 1 || r.Position.Epoch() == begin.Epoch() {
					t.Errorf("the new topic begins with %v", r.Position)
				}
			})
		})
	}
}

// A topic that is watched keeps its top. A topic without records that is watched keeps its
// beginning, although others of its slot are removed.
func TestWatchedTopicsKeepTheirTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, config(t))
		run(t, e, history.Inbox{Record: func(string, history.Record) {}})
		log := e.History()
		k := history.Keep{Count: 1, Bytes: 100, Age: time.Minute}
		watched, err := log.Append(t.Context(), "watched", history.Record{Event: "e"}, k)
		if err != nil {
			t.Fatal(err)
		}
		log.Watch("watched", func(error) {})
		empty := make(map[string]history.Position)
		for i := range 50 {
			name := fmt.Sprint("empty ", i)
			log.Watch(name, func(error) {})
			empty[name] = topOf(t, log, name)
		}
		unwatched := make(map[string]history.Position)
		for i := range 20_000 {
			name := fmt.Sprint("empty and not watched ", i)
			unwatched[name] = topOf(t, log, name)
		}
		const gone = 200
		for i := range gone {
			if _, err := log.Append(t.Context(), fmt.Sprint("gone ", i), history.Record{Event: "e"}, k); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(26 * time.Hour)
		synctest.Wait()
		if n, err := e.Topics(); err != nil || n != 1 {
			t.Errorf("%d topics are left, %v", n, err)
		}
		if top := topOf(t, log, "watched"); top != watched.Position {
			t.Errorf("the watched topic has the top %v, want %v", top, watched.Position)
		}
		for name, p := range empty {
			if top := topOf(t, log, name); top != p {
				t.Errorf("%s has the top %v, want %v", name, top, p)
			}
		}
		changed := 0
		for name, p := range unwatched {
			if topOf(t, log, name) != p {
				changed++
			}
		}
		// Each removed topic ends the beginnings of one slot.
		if most := 2 * len(unwatched) * gone / boltengine.Slots; changed == 0 || changed > most {
			t.Errorf("%d of %d unknown topics have another beginning, want at most %d", changed, len(unwatched), most)
		}
		log.Unwatch("watched")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n, err := e.Topics(); err != nil || n != 0 {
			t.Errorf("%d topics are left, %v", n, err)
		}
		// A beginning that was valid while it was watched is continued by the first record.
		r, err := log.Append(t.Context(), "empty 1", history.Record{Event: "e"}, k)
		if err != nil || r.Prev != empty["empty 1"] {
			t.Errorf("the first record follows %v, want %v; %v", r.Prev, empty["empty 1"], err)
		}
	})
}

// An append deletes two records at most. The sweep deletes the others, also those of a forgotten
// topic, and their IDs.
func TestSweepIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, config(t))
		run(t, e, history.Inbox{})
		log := e.History()
		const n = 3000
		k := history.Keep{Count: n, Bytes: 1 << 20, Age: time.Hour}
		done := make(chan error)
		for i := range n {
			go func() {
				_, err := log.Append(t.Context(), "t", history.Record{Event: "e", ID: fmt.Sprint(i)}, k)
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if got := counts(t, e); got != [4]int{1, n, n, 1} {
			t.Errorf("there are %v", got)
		}
		k.Count = 10
		last, err := log.Append(t.Context(), "t", history.Record{Event: "e"}, k)
		if err != nil {
			t.Fatal(err)
		}
		if got := counts(t, e); got != [4]int{1, n - 1, n - 2, 1} {
			t.Errorf("after the append there are %v", got)
		}
		if b, err := log.Before(t.Context(), "t", history.Position{}, n); err != nil || len(b.Records) != 10 {
			t.Errorf("%d records are left, %v", len(b.Records), err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := counts(t, e); got != [4]int{1, 10, 9, 1} {
			t.Errorf("after the sweep there are %v", got)
		}
		if err := log.Forget(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := counts(t, e); got != [4]int{1, 0, 0, 1} {
			t.Errorf("after Forget there are %v", got)
		}
		if _, err := log.Read(t.Context(), "t", last.Position, 10); !errors.Is(err, history.ErrEpoch) {
			t.Errorf("a forgotten position: %v", err)
		}
		forgotten := topOf(t, log, "t")
		time.Sleep(36 * time.Hour) // it never had a record, so nothing is lost with it
		synctest.Wait()
		if got := counts(t, e); got != [4]int{} {
			t.Errorf("in the end there are %v", got)
		}
		if top := topOf(t, log, "t"); top != forgotten {
			t.Errorf("the beginning is %v, want %v", top, forgotten)
		}
	})
}

// An ID is recognised for two minutes, and a repeat does not renew it.
func TestIDsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		e := open(t, cfg)
		stop := run(t, e, history.Inbox{})
		add := func() history.Record {
			t.Helper()
			r, err := e.History().Append(t.Context(), "t", history.Record{Event: "e", ID: "id"}, keep)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		first := add()
		time.Sleep(time.Minute)
		if again := add(); again.Position != first.Position || again.Prev != first.Prev || again.ID != "id" {
			t.Errorf("after a minute: %+v", again)
		}
		stop()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = open(t, cfg) // the clock has an error of a millisecond after a restart
		run(t, e, history.Inbox{})
		time.Sleep(time.Minute - time.Second)
		if again := add(); again.Position != first.Position || !again.Time.Equal(first.Time) {
			t.Errorf("after almost two minutes and a restart: %+v", again)
		}
		time.Sleep(time.Second)
		second := add()
		if second.Position.Offset() != first.Position.Offset()+1 {
			t.Errorf("after two minutes: %+v", second)
		}
		if again := add(); again.Position != second.Position {
			t.Errorf("the second record: %+v", again)
		}
	})
}
