package pubsub_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/pubsub"
)

// TestOneOrder checks sentences 5 and 6: all subscribers receive the records in the order of the
// log, and the events of one goroutine, recorded or not, in its order.
func TestOneOrder(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	subscribers := []*recorder{{}, {}, {}}
	for _, s := range subscribers {
		ps.Subscribe("room:1", s)
	}
	const writers, each = 8, 30
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				event := "presence_test" // is not recorded
				if i%2 == 0 {
					event = "recorded"
				}
				if err := ps.Broadcast(t.Context(), "room:1", event, []int{}); i%2 == 0 && err == nil {
					t.Error("an array was recorded")
				}
				if err := ps.Broadcast(t.Context(), "room:1", event, map[string]int{"w": w, "i": i}); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	page, err := ps.Before(t.Context(), "room:1", history.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subscribers {
		next, last := make([]int, writers), uint64(0)
		var recorded []history.Position
		for _, b := range s.got {
			var p struct{ W, I int }
			if b.Payload.Decode(&p) != nil {
				continue // an array, which is not recorded
			}
			if p.I != next[p.W] {
				t.Errorf("event %d of writer %d comes after %d others", p.I, p.W, next[p.W])
			}
			next[p.W]++
			if r := b.Record(); r != nil {
				if r.Position.Offset() != last+1 {
					t.Errorf("offset %d follows %d", r.Position.Offset(), last)
				}
				last = r.Position.Offset()
				recorded = append(recorded, r.Position)
			}
		}
		if len(recorded) != writers*each/2 {
			t.Errorf("got %d records", len(recorded))
		}
		for i, r := range page.Records {
			if recorded[len(recorded)-len(page.Records)+i] != r.Position {
				t.Error("the order is not that of the log")
			}
		}
	}
}

// reader is a subscriber that reads, goes live and is parked, as a channel.
type reader struct {
	t    *testing.T
	ps   *pubsub.PubSub
	r    follow.Reader[*pubsub.Broadcast]
	sub  *pubsub.Subscription
	wake chan struct{}

	mu  sync.Mutex
	got []history.Position
}

func (r *reader) Deliver(b *pubsub.Broadcast) error {
	if b.Record() == nil || !r.r.Live() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rand.IntN(10) == 0 {
		r.r.Park()
		r.wake <- struct{}{} // has room: it is received before the reader is live again
		return nil
	}
	r.got = append(r.got, b.Record().Position)
	return nil
}

// readOn reads until the reader is live, and again when it was parked, until ctx ends.
func (r *reader) readOn(ctx context.Context) {
	for {
		for rounds := 0; ; rounds++ {
			items, err := r.r.Next(ctx, 5, nil)
			if err != nil && ctx.Err() == nil {
				r.t.Errorf("Next: %v", err)
				return
			}
			for _, it := range items {
				r.add(it.Item)
				r.r.Advance(it)
			}
			var f follow.Flip
			if rounds%2 == 0 {
				f = r.r.Flip()
			} else {
				f = r.r.FlipSending(func(b *pubsub.Broadcast) bool { r.add(b); return true })
			}
			if f == follow.FlipLive {
				break
			}
			if f != follow.FlipBehind {
				r.t.Errorf("Flip: %v", f)
				return
			}
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (r *reader) add(b *pubsub.Broadcast) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, b.Record().Position)
}

func (r *reader) last() (n int, p history.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.got) == 0 {
		return 0, p
	}
	return len(r.got), r.got[len(r.got)-1]
}

// TestReadersMissNothing checks sentences 1 and 3 with readers that come and go while others
// broadcast: everything after the mark is received once and in order.
func TestReadersMissNothing(t *testing.T) {
	t.Parallel()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"t": {Count: 5000}})
	writing, stop := context.WithCancel(t.Context())
	var writers, readers sync.WaitGroup
	for range 3 {
		writers.Go(func() {
			for i := 0; i < 1000 && writing.Err() == nil; i++ {
				if err := ps.Broadcast(t.Context(), "t", "e", nil); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
		})
	}
	for range 6 {
		readers.Go(func() {
			var since history.Position
			for range 10 {
				r := &reader{t: t, ps: ps, wake: make(chan struct{}, 1)}
				ctx, cancel := context.WithCancel(t.Context())
				mark, err := ps.Recorded().Open(ctx, &r.r, "t", follow.Start{Since: since})
				if err != nil || !since.IsZero() && mark.Why != "" && mark.Why != follow.WhyMany {
					t.Errorf("opened after %v: %+v, %v", since, mark, err)
				}
				runtime.Gosched() // the join callback
				r.sub = ps.Subscribe("t", r)
				done := make(chan struct{})
				go func() { defer close(done); r.readOn(ctx) }()
				for n, _ := r.last(); n < 20+rand.IntN(50); n, _ = r.last() {
					if ps.LogHealth().Appended >= 3000 {
						break
					}
					runtime.Gosched()
				}
				r.sub.Cancel()
				cancel()
				<-done
				r.r.Close()
				at := mark.Position
				for _, p := range r.got {
					if p.Offset() != at.Offset()+1 {
						t.Errorf("%v follows %v", p, at)
					}
					at = p
				}
				since = at
			}
		})
	}
	readers.Wait()
	stop()
	writers.Wait()
}

// hookedLog is a Memory that calls a function before and after Append.
type hookedLog struct {
	*history.Memory
	before, after func()
}

func (l *hookedLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	call := func(f *func()) {
		if g := *f; g != nil {
			*f = nil
			g()
		}
	}
	call(&l.before)
	defer call(&l.after)
	return l.Memory.Append(ctx, topic, r, k)
}

// TestReaderBeginsDuringAnAppend checks that a reader that begins while a record is appended to a
// topic without users receives the record, or has it before its mark.
func TestReaderBeginsDuringAnAppend(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 3} {
		for _, when := range []string{"before", "after"} {
			log := &hookedLog{Memory: history.NewMemory(history.MemoryConfig{})}
			ps := pubsub.NewRecorded(nil, log, rules)
			s := new(recorder)
			var r follow.Reader[*pubsub.Broadcast]
			var mark follow.Mark
			join := func() {
				var err error
				if mark, err = ps.Recorded().Open(t.Context(), &r, "room:1", follow.Start{}); err != nil {
					t.Error(err)
				}
				ps.Subscribe("room:1", s)
				if f := r.Flip(); f != follow.FlipLive {
					t.Errorf("%s: %v", when, f)
				}
				for range others { // another broadcast is faster
					if err := ps.Broadcast(t.Context(), "room:1", "other", nil); err != nil {
						t.Error(err)
					}
				}
			}
			if when == "before" {
				log.before = join
			} else {
				log.after = join
			}
			p, err := ps.Append(t.Context(), "room:1", "e", nil)
			if err != nil {
				t.Fatal(err)
			}
			got := len(s.got)
			if want := map[string]int{"before": 1, "after": 0}[when] + others; got != want {
				t.Errorf("%s: got %d, want %d", when, got, want)
			}
			at := mark.Position
			for _, b := range s.got {
				if b.Record().Prev != at {
					t.Errorf("%s: %v follows %v", when, b.Record().Position, at)
				}
				at = b.Record().Position
			}
			if p.Offset() > at.Offset() {
				t.Errorf("%s: %v was not received", when, p)
			}
			r.Close()
		}
	}
}

// TestNothingOvertakesARecord checks that a record that was appended is delivered before the next
// one is appended.
func TestNothingOvertakesARecord(t *testing.T) {
	t.Parallel()
	log := &hookedLog{Memory: history.NewMemory(history.MemoryConfig{})}
	ps := pubsub.NewRecorded(nil, log, rules)
	s := new(recorder)
	ps.Subscribe("room:1", s)
	second := make(chan struct{})
	log.after = func() { // the first is in the log, and not delivered yet
		go func() {
			defer close(second)
			if err := ps.Broadcast(t.Context(), "room:1", "second", nil); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-second:
			t.Error("the second broadcast did not wait for the first")
		case <-time.After(50 * time.Millisecond): // it waits
		}
	}
	if err := ps.Broadcast(t.Context(), "room:1", "first", nil); err != nil {
		t.Fatal(err)
	}
	<-second
	if got := s.events(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("got %v", got)
	}
}
