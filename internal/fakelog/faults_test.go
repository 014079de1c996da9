package fakelog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/internal/fakelog"
)

var keep = history.Keep{Count: 1000, Bytes: 1 << 20, Age: time.Hour}

// node is a log that watches topic "t", with everything that it fed.
type node struct {
	history.Log
	t *testing.T

	mu  sync.Mutex
	saw []string // offsets of records, "gap", "forgotten", "ready", "not ready"
	got []history.Record
}

// join starts the log of a node.
func join(t *testing.T, s *fakelog.Store, name string) *node {
	n := &node{Log: s.Log(name), t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Run(ctx, history.Inbox{
			Record: func(_ string, r history.Record) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.saw = append(n.saw, fmt.Sprint(r.Position.Offset()))
				n.got = append(n.got, r)
			},
			Forgotten: func(string) { n.note("forgotten") },
			Gap:       func(error) { n.note("gap") },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n.Health().Connected {
			t.Error("connected after Run returned")
		}
		if _, err := n.Tops(t.Context(), nil); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("after Run returned: %v", err)
		}
	})
	synctest.Wait()
	n.Watch("t", func(err error) {
		if err != nil {
			n.note("not ready")
		} else {
			n.note("ready")
		}
	})
	synctest.Wait()
	return n
}

func (n *node) note(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.saw = append(n.saw, s)
}

// sees waits and checks what the feed brought since the last call.
func (n *node) sees(want ...string) {
	n.t.Helper()
	time.Sleep(time.Minute)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.saw, want) {
		n.t.Errorf("the feed brought %q, want %q", n.saw, want)
	}
	n.saw = nil
}

// counts waits and counts what the feed brought since the last call.
func (n *node) counts() map[string]int {
	time.Sleep(time.Minute)
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]int{}
	for _, s := range n.saw {
		all[s]++
	}
	n.saw = nil
	return all
}

// append appends with a timeout.
func (n *node) append() (history.Record, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Second)
	defer cancel()
	return n.Append(ctx, "t", history.Record{Event: "e"}, keep)
}

func (n *node) mustAppend() history.Record {
	n.t.Helper()
	r, err := n.append()
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

func (n *node) top() history.Position {
	n.t.Helper()
	tops, err := n.Tops(n.t.Context(), []string{"t"})
	if err != nil {
		n.t.Fatal(err)
	}
	return tops[0]
}

func (n *node) read(after history.Position) error {
	n.t.Helper()
	_, err := n.Read(n.t.Context(), "t", after, 100)
	return err
}

func bubble(t *testing.T, f func(t *testing.T, s *fakelog.Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, fakelog.NewStore(1)) })
}

// TestFeedFaults feeds 1,000 records with one fault each.
func TestFeedFaults(t *testing.T) {
	const all = 1000
	for _, test := range []struct {
		name   string
		faults fakelog.Faults
		ok     func(records, gaps, distinct int, sorted bool) bool
	}{
		{"none", fakelog.Faults{Delay: time.Second}, func(records, gaps, distinct int, sorted bool) bool {
			return records == all && gaps == 0 && distinct == all && sorted
		}},
		{"lost", fakelog.Faults{Lose: 0.1}, func(records, gaps, distinct int, sorted bool) bool {
			return records > all*8/10 && records < all && gaps == 0 && sorted
		}},
		{"gap", fakelog.Faults{Gap: 0.1}, func(records, gaps, distinct int, sorted bool) bool {
			return gaps > all/20 && records == all-gaps && sorted
		}},
		{"repeated", fakelog.Faults{Repeat: 0.1}, func(records, gaps, distinct int, sorted bool) bool {
			return records > all*21/20 && gaps == 0 && distinct == all && !sorted
		}},
		{"swapped", fakelog.Faults{Swap: 0.1}, func(records, gaps, distinct int, sorted bool) bool {
			return records == all && gaps == 0 && distinct == all && !sorted
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *fakelog.Store) {
				a, b := join(t, s, "a"), join(t, s, "b")
				synctest.Wait()
				s.Set(test.faults, "b")
				for range all {
					a.mustAppend()
					time.Sleep(time.Millisecond)
				}
				seen := b.counts()
				gaps := seen["gap"]
				if n := b.Health().Gaps; n != uint64(gaps) {
					t.Errorf("Health counts %d gaps, want %d", n, gaps)
				}
				offsets := make([]uint64, len(b.got))
				for i, r := range b.got {
					offsets[i] = r.Position.Offset()
				}
				sorted := slices.IsSorted(offsets)
				slices.Sort(offsets)
				if distinct := len(slices.Compact(offsets)); !test.ok(len(b.got), gaps, distinct, sorted) {
					t.Errorf("got %d records of which %d differ, %d gaps, sorted: %v", len(b.got), distinct, gaps, sorted)
				}
				if len(a.got) != all {
					t.Errorf("the node without faults got %d records", len(a.got))
				}
			})
		})
	}
}

func TestHiddenPrev(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		n := join(t, s, "a")
		synctest.Wait()
		first := n.mustAppend()
		s.Set(fakelog.Faults{AppendHidesPrev: true, ReadHidesPrev: true, FeedHidesTag: true})
		if r := n.mustAppend(); !r.Prev.IsZero() {
			t.Errorf("Append returned Prev %v", r.Prev)
		}
		b, err := n.Read(t.Context(), "t", first.Position, 10)
		if err != nil || !b.Records[0].Prev.IsZero() || b.After != first.Position {
			t.Errorf("Read returned %+v, %v", b, err)
		}
		synctest.Wait()
		if prev := n.got[1].Prev; prev.Tag() != "" || !prev.Matches(first.Position) {
			t.Errorf("the feed has Prev %v", prev)
		}
		s.Set(fakelog.Faults{})
		if b, err = n.Read(t.Context(), "t", first.Position, 10); err != nil || b.Records[0].Prev != first.Position {
			t.Errorf("hiding Prev changed the record: %+v, %v", b, err)
		}
	})
}

// TestNoAnswer loses the answers of appends. Some records are stored, and some are not.
func TestNoAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		n := join(t, s, "a")
		s.Set(fakelog.Faults{NoAnswer: 1})
		stored := map[bool]int{}
		for range 20 {
			before, start := n.top(), time.Now()
			_, err := n.append()
			if !errors.Is(err, history.ErrUncertain) || time.Since(start) != time.Second {
				t.Errorf("got %v after %v", err, time.Since(start))
			}
			stored[n.top() != before]++
		}
		if stored[true] < 3 || stored[false] < 3 {
			t.Errorf("stored: %v", stored)
		}
		if h := n.Health(); h.Failed != 20 || h.Appended != uint64(stored[true]) {
			t.Errorf("health: %+v", h)
		}
		_, err := n.Append(context.Background(), "t", history.Record{Event: "e"}, keep)
		if !errors.Is(err, history.ErrUncertain) {
			t.Errorf("without a deadline: %v", err)
		}
	})
}

func TestFreeze(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		n := join(t, s, "a")
		first := n.mustAppend()
		n.sees("ready", "1")
		s.Freeze()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Read(ctx, "t", first.Position, 1); !errors.Is(err, history.ErrUnavailable) || ctx.Err() == nil {
			t.Errorf("Read: %v", err)
		}
		for range 20 {
			if _, err := n.append(); !errors.Is(err, history.ErrUncertain) {
				t.Errorf("Append: %v", err)
			}
		}
		n.Watch("u", func(error) { n.note("ready") })
		n.sees()
		time.AfterFunc(time.Second/2, s.Thaw)
		if r := n.mustAppend(); r.Position.Offset() < 5 || r.Position.Offset() > 18 {
			t.Errorf("after 20 appends without an answer: %v", r.Position)
		}
		if seen := n.counts(); seen["ready"] != 1 || len(seen) < 5 {
			t.Errorf("the feed brought %v", seen)
		}
	})
}

func TestDisconnect(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		a, b := join(t, s, "a"), join(t, s, "b")
		a.sees("ready")
		b.sees("ready")
		told := map[bool]int{}
		for range 20 {
			s.Disconnect("b")
			if h := b.Health(); h.Connected || h.Err == nil {
				t.Errorf("health: %+v", h)
			}
			if _, err := b.append(); !errors.Is(err, history.ErrUnavailable) {
				t.Errorf("append: %v", err)
			}
			a.mustAppend()
			time.AfterFunc(500*time.Millisecond, func() { s.Connect("b") })
			b.mustAppend() // it waits for the connection, and may be earlier than the feed
			seen := b.counts()
			if seen["ready"] != 1 || seen["not ready"]+seen["gap"] != 1 {
				t.Errorf("the feed brought %v", seen)
			}
			told[seen["not ready"] == 1]++
			b.sees(fmt.Sprint(b.mustAppend().Position.Offset()))
		}
		if told[true] < 3 || told[false] < 3 {
			t.Errorf("ready(err) was called: %v", told)
		}
		if h := b.Health(); !h.Connected || h.Err != nil {
			t.Errorf("health: %+v", h)
		}
	})
}

// TestDisconnectDuringAppend cuts the connection between a request and its answer.
func TestDisconnectDuringAppend(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		n := join(t, s, "a")
		s.Set(fakelog.Faults{Latency: 100 * time.Millisecond})
		stored := map[bool]int{}
		for i := range 50 {
			before := n.top()
			time.AfterFunc(time.Duration(i)*time.Millisecond, func() { s.Disconnect(); s.Connect() })
			switch _, err := n.append(); {
			case errors.Is(err, history.ErrUncertain):
				stored[n.top() != before]++
			case err != nil:
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if stored[true] < 3 || stored[false] < 3 {
			t.Errorf("stored: %v", stored)
		}
	})
}

func TestLosses(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		a, b := join(t, s, "a"), join(t, s, "b")
		first := a.mustAppend()
		second := a.mustAppend()
		if got := s.Rollback("t", 1); len(got) != 1 || got[0].Position != second.Position {
			t.Errorf("Rollback returned %+v", got)
		}
		if a.top() != first.Position || !errors.Is(b.read(second.Position), history.ErrAhead) {
			t.Errorf("after Rollback: the top is %v", a.top())
		}
		third := b.mustAppend()
		if !errors.Is(a.read(second.Position), history.ErrTag) || third.Position.Offset() != second.Position.Offset() {
			t.Errorf("%v follows %v", third.Position, second.Position)
		}
		s.RollbackAll(2)
		if !a.top().IsBeginning() {
			t.Errorf("after RollbackAll: the top is %v", a.top())
		}
		fourth := a.mustAppend()
		a.mustAppend()
		s.Trim("t", 1)
		begin := position(t, fourth.Position.Epoch(), 0, "0000")
		if !errors.Is(a.read(begin), history.ErrTrimmed) || a.read(fourth.Position) != nil {
			t.Error("after Trim")
		}
		top := a.top()
		s.Trim("t", 0)
		if a.top() != top || !errors.Is(a.read(fourth.Position), history.ErrTrimmed) {
			t.Error("after Trim of all")
		}
		s.Evict("t")
		if !errors.Is(a.read(top), history.ErrEpoch) || !a.top().IsBeginning() {
			t.Errorf("after Evict: the top is %v", a.top())
		}
		if err := a.Forget(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		b.sees("ready", "1", "2", "2", "1", "2", "forgotten")
		a.sees("ready", "1", "2", "2", "1", "2", "forgotten")
	})
}

func TestTwoPrimaries(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		a, b := join(t, s, "a"), join(t, s, "b")
		begin := a.top()
		common := a.mustAppend()
		a.sees("ready", "1")
		b.sees("ready", "1")
		s.Split("b")
		lost := b.mustAppend()
		b.sees("2")
		a.sees()
		kept := a.mustAppend()
		a.mustAppend()
		a.sees("2", "3")
		b.sees()
		if lost.Prev != common.Position || kept.Prev != common.Position || b.top() != lost.Position {
			t.Errorf("%v and %v follow %v", lost.Position, kept.Position, common.Position)
		}
		if got := s.Heal("t"); len(got) != 1 || got[0].Position != lost.Position {
			t.Errorf("Heal returned %+v", got)
		}
		if err := b.read(lost.Position); !errors.Is(err, history.ErrTag) {
			t.Errorf("after Heal: %v", err)
		}
		if err := b.read(begin); err != nil {
			t.Errorf("after Heal: %v", err)
		}
		if seen := b.counts(); seen["ready"] != 1 {
			t.Errorf("after Heal the feed brought %v", seen)
		}
		b.mustAppend()
		a.sees("4")
	})
}

// TestSlowNode checks that the queue of a node that does not read its feed is bounded.
func TestSlowNode(t *testing.T) {
	bubble(t, func(t *testing.T, s *fakelog.Store) {
		a, b := join(t, s, "a"), join(t, s, "b")
		b.sees("ready")
		s.Set(fakelog.Faults{Delay: time.Hour}, "b")
		large := history.Record{Event: "e", Payload: binary(1 << 20)}
		for range 20 {
			if _, err := a.Append(t.Context(), "t", large, keep); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		if seen := b.counts(); seen["gap"] != 1 || len(seen) > 16 {
			t.Errorf("the feed brought %v", seen)
		}
	})
}
