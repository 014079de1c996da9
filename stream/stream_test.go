package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/backlog"
	"bennu.example/internal/testenv/leak"
	"bennu.example/stream"
)

func TestMain(m *testing.M) { leak.Main(m) }

// gapError is the error in place of dropped items.
type gapError int

func (e gapError) Error() string { return fmt.Sprintf("%d items dropped", int(e)) }

func newGap(dropped int) error { return gapError(dropped) }

// owner counts what queues report.
type owner struct {
	count, bytes, dropped, left, ended atomic.Int64
}

func (o *owner) Changed(n, bytes int) { o.count.Add(int64(n)); o.bytes.Add(int64(bytes)) }
func (o *owner) Dropped()             { o.dropped.Add(1) }
func (o *owner) Left()                { o.left.Add(1) }
func (o *owner) Ended(uint64)         { o.ended.Add(1) }

func newStream(cfg backlog.Config) (*stream.Stream[int], *backlog.Queue[int], *owner) {
	o := new(owner)
	cfg.Owner = o
	s, q := stream.New[int](cfg, stream.Stats{ID: 7}, newGap)
	return s, q, o
}

// model is a second implementation of a stream's queue, as a list of texts: "12" is an item and
// "gap 3" an error.
type model struct {
	list             []string
	sizes            []int // zero for a gap
	marks            []int // zero means none
	cfg              backlog.Config
	dropped          int
	ended, discarded bool
}

func (m *model) used() (n int) {
	for _, size := range m.sizes {
		n += size
	}
	return n
}

func (m *model) isFull(size int) bool {
	return m.used() > 0 && m.used()+size > m.cfg.MaxBytes || m.cfg.MaxItems > 0 && len(m.list) >= m.cfg.MaxItems
}

func (m *model) put(v, size, mark int) {
	switch {
	case m.ended:
		return
	case !m.isFull(size):
	case m.cfg.Latest:
		m.dropped++
		m.list, m.sizes, m.marks = m.list[1:], m.sizes[1:], m.marks[1:]
	default:
		m.dropped++
		if last := len(m.list) - 1; last >= 0 && strings.HasPrefix(m.list[last], "gap ") {
			var n int
			_, _ = fmt.Sscanf(m.list[last], "gap %d", &n)
			m.list[last] = fmt.Sprint("gap ", n+1)
			return
		}
		m.list, m.sizes, m.marks = append(m.list, "gap 1"), append(m.sizes, 0), append(m.marks, 0)
		return
	}
	m.list, m.sizes, m.marks = append(m.list, fmt.Sprint(v)), append(m.sizes, size), append(m.marks, mark)
}

// next returns what Next must return, or "wait".
func (m *model) next() string {
	switch {
	case len(m.list) > 0:
		it := m.list[0]
		m.list, m.sizes, m.marks = m.list[1:], m.sizes[1:], m.marks[1:]
		return it
	case m.discarded:
		return "discarded"
	case m.ended:
		return "end"
	}
	return "wait"
}

func (m *model) discard() {
	if m.ended && len(m.list) == 0 {
		return
	}
	*m = model{cfg: m.cfg, dropped: m.dropped, ended: true, discarded: true}
}

func text(v int, err error) string {
	gap, isGap := errors.AsType[gapError](err)
	switch {
	case isGap:
		return fmt.Sprint("gap ", int(gap))
	case errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, stream.ErrDiscarded):
		return "discarded"
	case errors.Is(err, context.DeadlineExceeded):
		return "wait"
	case err != nil:
		return err.Error()
	}
	return fmt.Sprint(v)
}

// TestModel compares streams with the model in random schedules of one goroutine.
func TestModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(schedules) {
			r := rand.New(rand.NewPCG(seed, 1))
			cfg := backlog.Config{MaxBytes: 1 + r.IntN(40)}
			switch r.IntN(3) {
			case 0:
				cfg.MaxItems = 1 + r.IntN(5)
			case 1:
				cfg.MaxItems, cfg.Latest = 1+r.IntN(5), true
			}
			if problem := runModel(t, r, cfg); problem != "" {
				t.Fatalf("seed %d, %+v: %s", seed, cfg, problem)
			}
		}
	})
}

func runModel(t *testing.T, r *rand.Rand, cfg backlog.Config) string {
	s, q, o := newStream(cfg)
	m := &model{cfg: cfg}
	for step := range 5 + r.IntN(40) {
		size := 1 + r.IntN(12)
		if cfg.Latest {
			size = 1 // so that removing one item makes room
		}
		switch n := r.IntN(100); {
		case n < 50:
			v, mark := step, r.IntN(2)*step
			if mark == 0 {
				q.Put(&v, size, nil)
			} else {
				q.Put(&v, size, mark)
			}
			m.put(v, size, mark)
		case n < 90:
			want := m.next()
			ctx, cancel := t.Context(), func() {}
			if want == "wait" {
				ctx, cancel = context.WithTimeout(ctx, time.Nanosecond)
			}
			got := text(s.Next(ctx))
			if cancel(); got != want {
				return fmt.Sprintf("step %d: got %s, want %s", step, got, want)
			}
		case n < 95:
			s.Drain()
			m.ended = true
		case n < 96:
			s.Discard()
			m.discard()
		}
		mark, _ := q.FirstMark(false).(int)
		i := slices.IndexFunc(m.marks, func(n int) bool { return n != 0 })
		if i < 0 && mark != 0 || i >= 0 && mark != m.marks[i] {
			return fmt.Sprintf("step %d: first mark %d, want one of %v", step, mark, m.marks)
		}
		if got, want := q.HasRoom(size), m.ended || !m.isFull(size); got != want {
			return fmt.Sprintf("step %d: HasRoom %t", step, got)
		}
		st := s.Stats()
		items := len(slices.DeleteFunc(slices.Clone(m.sizes), func(n int) bool { return n == 0 }))
		if st.Count != len(m.list) || st.Bytes != int64(m.used()) || st.Dropped != uint64(m.dropped) || st.ID != 7 ||
			o.bytes.Load() != st.Bytes || o.count.Load() != int64(items) || o.dropped.Load() != int64(m.dropped) {
			return fmt.Sprintf("step %d: %+v, owner %d items, %d bytes; want %v", step, st, o.count.Load(), o.bytes.Load(), m)
		}
		if over := m.discarded || m.ended && len(m.list) == 0; (o.ended.Load() == 1) != over {
			return fmt.Sprintf("step %d: ended %d times, want %t", step, o.ended.Load(), over)
		}
	}
	return ""
}

// TestConcurrent lets a producer, two readers, and one that ends the stream run at the same time.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	for seed := range uint64(schedules / 30) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			s, q, o := newStream(backlog.Config{MaxBytes: 1 + r.IntN(60)})
			how, n := r.IntN(3), 1+r.IntN(100)
			pause := func(r *rand.Rand) { time.Sleep(time.Duration(r.IntN(3))) }
			got := make([][]string, 2)
			for i := range got {
				r := rand.New(rand.NewPCG(seed, uint64(3+i)))
				go func() {
					for {
						ctx, cancel := t.Context(), func() {}
						if r.IntN(4) == 0 { // a reader that gives up, and comes back
							ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(3)))
						}
						it := text(s.Next(ctx))
						cancel()
						if it == "wait" {
							continue
						}
						got[i] = append(got[i], it)
						if it == "end" || it == "discarded" {
							return
						}
						pause(r)
					}
				}()
			}
			var after []string // Drain and Discard have returned: nothing that follows may be read
			for v := range n {
				if v == n/2 && how > 0 {
					[]func(){s.Drain, s.Discard}[how-1]()
					if how == 2 && o.bytes.Load() != 0 {
						t.Errorf("seed %d: %d bytes after Discard", seed, o.bytes.Load())
					}
				}
				if v >= n/2 && how > 0 {
					after = append(after, fmt.Sprint(v))
				}
				q.Put(&v, 1+r.IntN(9), nil)
				pause(r)
			}
			s.Drain()
			synctest.Wait() // both readers have returned, or synctest reports a deadlock
			time.Sleep(time.Second)
			synctest.Wait()
			check(t, seed, got, after, int(o.dropped.Load()), n, how)
			if o.bytes.Load() != 0 || o.count.Load() != 0 || o.ended.Load() != 1 {
				t.Errorf("seed %d: %d items and %d bytes are left; ended %d times",
					seed, o.count.Load(), o.bytes.Load(), o.ended.Load())
			}
		})
		if t.Failed() {
			return
		}
	}
}

// check checks what two readers got of n items.
func check(t *testing.T, seed uint64, got [][]string, after []string, dropped, n, how int) {
	t.Helper()
	items, gaps := 0, 0
	seen := map[string]bool{}
	for _, list := range got {
		last := -1
		for i, it := range list {
			var v int
			switch {
			case it == "end", it == "discarded":
				if i != len(list)-1 {
					t.Errorf("seed %d: %s is not the last of %v", seed, it, list)
				}
			case strings.HasPrefix(it, "gap "):
				_, _ = fmt.Sscanf(it, "gap %d", &v)
				gaps += v
			default:
				_, _ = fmt.Sscan(it, &v)
				if v <= last || seen[it] || slices.Contains(after, it) {
					t.Errorf("seed %d: %s is read twice, too early or too late: %v", seed, it, got)
				}
				last, seen[it] = v, true
				items++
			}
		}
		if len(list) == 0 || list[len(list)-1] != "end" && (how < 2 || list[len(list)-1] != "discarded") {
			t.Errorf("seed %d: a reader ended with %v", seed, list)
		}
	}
	if how < 2 && (gaps != dropped || items+gaps != n-len(after)) {
		t.Errorf("seed %d: %d items and gaps of %d, want %d in all, %d of them dropped",
			seed, items, gaps, n-len(after), dropped)
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	s, q, o := newStream(backlog.Config{MaxBytes: 100})
	for v := range 3 {
		q.Put(&v, 10, nil)
	}
	var got []string
	all := s.All(t.Context())
	for v, err := range all {
		got = append(got, text(v, err))
		if v == 1 {
			break
		}
	}
	for v, err := range all { // the loop is over
		t.Error(v, err)
	}
	if want := []string{"0", "1"}; !slices.Equal(got, want) || o.bytes.Load() != 0 || o.ended.Load() != 1 {
		t.Errorf("got %v, and %d bytes are left", got, o.bytes.Load())
	}
	defer func() {
		if recover() == nil {
			t.Error("a second All did not panic")
		}
	}()
	s.All(t.Context())
}

// TestAllEnds checks the last values of a loop, by what ends it.
func TestAllEnds(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	for how, want := range map[string]string{
		"drain": "0 1", "discard": "0 discarded", "context": "0", "gone": "0 1",
	} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, q, _ := newStream(backlog.Config{MaxBytes: 100, Gone: gone})
			var got []string
			for v := range 2 {
				q.Put(&v, 10, nil)
			}
			for v, err := range s.All(ctx) {
				if got = append(got, text(v, err)); len(got) == 1 {
					map[string]func(){
						"drain": s.Drain, "discard": s.Discard, "context": cancel, "gone": func() { close(gone) },
					}[how]()
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got %v, want %s", got, want)
			}
		})
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, q, _ := newStream(backlog.Config{MaxBytes: 100})
		for v := range 3 {
			q.Put(&v, 40, nil)
			time.Sleep(time.Second)
		}
		if st := s.Stats(); st.Count != 3 || st.Bytes != 80 || st.Oldest != 3*time.Second || st.Dropped != 1 || st.Waiting {
			t.Errorf("%+v", st)
		}
		for range 3 {
			_, _ = s.Next(t.Context())
		}
		if st := s.Stats(); st.Count != 0 || st.Oldest != 0 {
			t.Errorf("%+v", st)
		}
		done := make(chan string)
		go func() { done <- text(s.Next(t.Context())) }()
		synctest.Wait()
		if !s.Stats().Waiting {
			t.Error("no reader waits")
		}
		s.Discard()
		if got := <-done; got != "discarded" {
			t.Error(got)
		}
	})
}

// BenchmarkPut measures Put alone, without growth of the queue. The budget is 120 ns and no
// allocation.
func BenchmarkPut(b *testing.B) {
	type event struct{ _ [10]string } // as large as a message
	s, q := stream.New[event](backlog.Config{Owner: new(owner), MaxBytes: 1 << 20}, stream.Stats{}, newGap)
	var e event
	ctx := context.Background()
	const batch = 32
	var puts time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		for range batch {
			q.Put(&e, 200, nil)
		}
		puts += time.Since(start)
		for range batch {
			_, _ = s.Next(ctx)
		}
	}
	b.ReportMetric(float64(puts.Nanoseconds())/float64(b.N*batch), "ns/put")
}

func TestPutAllocations(t *testing.T) {
	if isRace {
		t.Skip("the race detector allocates")
	}
	type event struct{ _ [10]string }
	s, q := stream.New[event](backlog.Config{Owner: new(owner), MaxBytes: 1 << 20}, stream.Stats{}, newGap)
	var e event
	per := testing.AllocsPerRun(1000, func() {
		for range 32 {
			q.Put(&e, 200, nil)
		}
		for range 32 {
			_, _ = s.Next(context.Background())
		}
	})
	if per > 0 {
		t.Errorf("%.2f allocations for 32 items", per)
	}
}
