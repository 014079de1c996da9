package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/serializer"
)

// countingLog counts the reads of a Memory and can fail.
type countingLog struct {
	*history.Memory
	reads atomic.Int32
	fail  atomic.Bool
	pause chan struct{} // nil, or Read waits until it is closed
	ahead time.Duration // of the wall clock
}

func (l *countingLog) Read(
	ctx context.Context, topic string, after history.Position, limit int,
) (history.Batch, error) {
	l.reads.Add(1)
	if l.pause != nil {
		<-l.pause
	}
	if l.fail.Load() {
		return history.Batch{}, history.ErrUnavailable
	}
	return l.Memory.Read(ctx, topic, after, limit)
}

// Local is part of history.Local.
func (l *countingLog) Local() (instant bool) { return true }

// world is a log with one topic, whose items are numbers.
type world struct {
	t      *testing.T
	log    *countingLog
	topics *follow.Topics[int]
	topic  *follow.Topic[int]
	keep   history.Keep
	live   []*client // they receive what is delivered
	lost   int
}

// client is a subscriber with a reader.
type client struct {
	r   follow.Reader[int]
	got []int
}

func number(_ string, r *history.Record) int { return int(r.Position.Offset()) }

func newWorld(t *testing.T, k history.Keep) *world {
	k, _ = history.Rules{"t": k}.Rule("t")
	log := new(countingLog)
	log.Memory = history.NewMemory(history.MemoryConfig{Now: func() time.Time { return time.Now().Add(log.ahead) }})
	w := &world{t: t, log: log, keep: k}
	w.topics = follow.NewTopics[int](w.log, w.hooks())
	w.topic = w.topics.Acquire("t", k)
	return w
}

func (w *world) hooks() follow.Hooks[int] {
	return follow.Hooks[int]{
		Item:     number,
		Delivery: func(string, *history.Record) follow.Delivery[int] { return &delivery{w: w} },
		Lost:     func(*follow.Topic[int]) { w.lost++ },
	}
}

// delivery delivers the number of a record to the live clients.
type delivery struct {
	w    *world
	n    int
	park *client // parked instead
	done int
}

func (d *delivery) Item(r *history.Record) int {
	d.n = number("", r)
	return d.n
}

func (d *delivery) Deliver(*follow.Topic[int]) {
	for _, c := range d.w.live {
		if c.r.Live() {
			c.got = append(c.got, d.n)
		}
	}
	if d.park != nil {
		d.park.r.Park()
	}
}

func (d *delivery) Done() { d.done++ }

// append appends records and delivers them, as package pubsub does. The item of a record is its
// offset.
func (w *world) append(n int, body ...byte) (last history.Position) {
	w.t.Helper()
	for range n {
		last = w.appendBy(&delivery{w: w}, body...)
	}
	return last
}

func (w *world) appendBy(d *delivery, body ...byte) history.Position {
	w.t.Helper()
	r := history.Record{Event: "e", Payload: serializer.Binary(body)}
	p, err := w.topics.Append(w.t.Context(), "t", &r, &w.keep, d)
	if err != nil || d.done != 1 {
		w.t.Fatalf("%d deliveries, %v", d.done, err)
	}
	return p
}

func (w *world) open(start follow.Start) (*client, follow.Mark) {
	w.t.Helper()
	c := new(client)
	m, err := c.r.Open(w.t.Context(), w.topics.Acquire("t", w.keep), start)
	if err != nil || m.Position.IsZero() || m.Position != c.r.Position() {
		w.t.Fatalf("opened at %v, the reader is at %v, %v", m.Position, c.r.Position(), err)
	}
	return c, m
}

// read reads on until there is nothing more, and goes live.
func (w *world) read(c *client) follow.Flip {
	w.t.Helper()
	for {
		items, err := c.r.Next(w.t.Context(), 7, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, it := range items {
			c.got = append(c.got, it.Item)
			c.r.Advance(it)
		}
		if len(items) == 0 {
			return c.r.Flip()
		}
	}
}

func (w *world) close(clients ...*client) {
	w.t.Helper()
	for _, c := range clients {
		c.r.Close()
		c.r.Close()
	}
	w.live = nil
	if n := w.topic.Holds(); n != 0 {
		w.t.Errorf("%d holds are left", n)
	}
	w.topic.Release()
	if _, _, all := w.topic.Window(); all != 0 || w.topics.Len() != 0 {
		w.t.Errorf("%d topics and %d bytes are left", w.topics.Len(), all)
	}
}

// sequence returns the numbers from first to last.
func sequence(first, last int) (all []int) {
	for i := first; i <= last; i++ {
		all = append(all, i)
	}
	return all
}

func TestReaderContinues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, history.Keep{})
	since := w.append(10)
	w.append(20)
	c, m := w.open(follow.Start{Since: since})
	if m.Why != "" || m.Position != since {
		t.Errorf("got %+v", m)
	}
	w.append(5) // while the callback runs
	if n, err := c.r.Missed(t.Context()); n != 25 || err != nil {
		t.Errorf("%d missed, %v", n, err)
	}
	w.live = append(w.live, c)
	if f := w.read(c); f != follow.FlipLive {
		t.Errorf("got %v", f)
	}
	top := w.append(5)
	if !slices.Equal(c.got, sequence(11, 40)) || c.r.Position() != top || !c.r.Live() {
		t.Errorf("got %v", c.got)
	}
	if p, err := c.r.Top(t.Context()); p != top || err != nil {
		t.Errorf("the top is %v, %v", p, err)
	}
	if n := w.log.reads.Load(); n != 0 {
		t.Errorf("the log was read %d times, although the window has everything", n)
	}
	w.close(c)
}

func TestReasons(t *testing.T) {
	t.Parallel()
	w := newWorld(t, history.Keep{Count: 88, MaxReplay: 20})
	first := w.append(1)
	old := w.append(9)
	w.append(60)
	far := w.append(10)
	near := w.append(20)
	top := w.append(1)
	position := func(epoch string, offset uint64, tag string) history.Position {
		p, err := history.NewPosition(epoch, offset, tag)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	epoch := top.Epoch()
	for name, test := range map[string]struct {
		start follow.Start
		want  follow.Mark
	}{
		"no position": {follow.Start{}, follow.Mark{top, follow.WhyNew}},
		"trimmed":     {follow.Start{Since: old}, follow.Mark{top, follow.WhyTrimmed}},
		"first":       {follow.Start{Since: first}, follow.Mark{top, follow.WhyTrimmed}},
		"many":        {follow.Start{Since: far}, follow.Mark{top, follow.WhyMany}},
		"many, in the log": {
			follow.Start{Since: w.record(14).Position}, follow.Mark{top, follow.WhyMany},
		},
		"not many":       {follow.Start{Since: near}, follow.Mark{near, ""}},
		"top":            {follow.Start{Since: top}, follow.Mark{top, ""}},
		"another epoch":  {follow.Start{Since: position("0", 5, "abcd")}, follow.Mark{top, follow.WhyEpoch}},
		"another tag":    {follow.Start{Since: position(epoch, top.Offset(), "0000")}, follow.Mark{top, follow.WhyTag}},
		"another before": {follow.Start{Since: position(epoch, near.Offset(), "0000")}, follow.Mark{top, follow.WhyTag}},
		"ahead":          {follow.Start{Since: position(epoch, top.Offset()+1, "abcd")}, follow.Mark{top, follow.WhyAhead}},
		"did not ask":    {follow.Start{Since: near, Last: 5, NoReplay: true}, follow.Mark{top, follow.WhyNew}},
		"last 1":         {follow.Start{Last: 1}, follow.Mark{near, follow.WhyNew}},
		"last many":      {follow.Start{Last: 1e6, Since: old}, follow.Mark{w.record(82).Prev, follow.WhyTrimmed}},
		"last, continued": {
			follow.Start{Last: 1, Since: near}, follow.Mark{near, ""},
		},
	} {
		c, m := w.open(test.start)
		if m != test.want {
			t.Errorf("%s: got %+v, want %+v", name, m, test.want)
		}
		w.read(c)
		if want := sequence(int(test.want.Position.Offset())+1, 101); !slices.Equal(c.got, want) {
			t.Errorf("%s: got %v, want %v", name, c.got, want)
		}
		c.r.Close()
	}
	w.close()
}

// record returns a retained record.
func (w *world) record(offset int) history.Record {
	w.t.Helper()
	b, err := w.log.Before(w.t.Context(), "t", history.Position{}, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range b.Records {
		if number("", &r) == offset {
			return r
		}
	}
	w.t.Fatalf("record %d is not retained", offset)
	return history.Record{}
}

func TestReach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, history.Keep{})
		since := w.append(1)
		before := w.append(1)
		last := before
		for range 3 {
			time.Sleep(time.Minute)
			last = w.append(1)
		}
		at := w.record(3).Time
		for name, test := range map[string]struct {
			start follow.Start
			want  follow.Mark
		}{
			"older are missed":  {follow.Start{Since: since, Reach: at}, follow.Mark{before, follow.WhyReach}},
			"none is older":     {follow.Start{Since: before, Reach: at}, follow.Mark{before, ""}},
			"all are older":     {follow.Start{Since: since, Reach: at.Add(time.Hour)}, follow.Mark{last, follow.WhyReach}},
			"nothing is missed": {follow.Start{Since: last, Reach: at.Add(time.Hour)}, follow.Mark{last, ""}},
			"the last 4":        {follow.Start{Last: 4, Reach: at}, follow.Mark{before, follow.WhyNew}},
			"the last 2":        {follow.Start{Last: 2, Reach: at}, follow.Mark{w.record(4).Prev, follow.WhyNew}},
			"a millisecond later": {
				follow.Start{Since: before, Reach: at.Add(time.Millisecond)}, follow.Mark{w.record(3).Position, follow.WhyReach},
			},
		} {
			c, m := w.open(test.start)
			if m != test.want {
				t.Errorf("%s: got %+v, want %+v", name, m, test.want)
			}
			c.r.Close()
		}
		w.close()
	})
}

// TestReachAfterClockWasSetBack checks that a reader gets no item that is too old, even if it
// follows one that is not.
func TestReachAfterClockWasSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, history.Keep{})
		since := w.append(1)
		for _, ahead := range []time.Duration{0, time.Hour, -time.Hour, 0} {
			w.log.ahead = ahead
			w.append(1)
		}
		reach := time.Now().Add(-time.Minute)
		c, m := w.open(follow.Start{Since: since, Reach: reach})
		if want := (follow.Mark{Position: w.record(4).Position, Why: follow.WhyReach}); m != want {
			t.Errorf("got %+v, want %+v", m, want)
		}
		if why, err := c.r.Seek(t.Context(), follow.Start{Since: since, Reach: reach}); why != follow.WhyReach || err != nil {
			t.Errorf("Seek: %q, %v", why, err)
		}
		c.r.Close()
		w.close()
	})
}

// TestHeldItemsStay checks that what is appended while a join callback runs stays readable, even if
// the log has removed it, but only within the bound.
func TestHeldItemsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, history.Keep{Count: 5, Bytes: 10_000})
	w.append(3)
	held, m := w.open(follow.Start{NoReplay: true})
	free, _ := w.open(follow.Start{NoReplay: true})
	free.r.Unhold()
	w.append(80)
	if items, _, _ := w.topic.Window(); items != 80 {
		t.Errorf("the window has %d items, want 80", items)
	}
	if n, err := held.r.Missed(t.Context()); n != 80 || err != nil {
		t.Errorf("%d missed, %v", n, err)
	}
	if _, err := w.log.Memory.Read(t.Context(), "t", m.Position, 1); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("the log still has the records: %v", err)
	}
	w.read(held)
	if !slices.Equal(held.got, sequence(4, 83)) {
		t.Errorf("got %v", held.got)
	}
	if items, _, _ := w.topic.Window(); items != 64 {
		t.Errorf("without a hold the window has %d items, want 64", items)
	}
	if _, err := free.r.Next(t.Context(), 1, nil); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("a reader that does not hold: %v", err)
	}
	slow, _ := w.open(follow.Start{NoReplay: true})
	w.append(50, make([]byte, 1000)...)
	if _, bytes, _ := w.topic.Window(); bytes > 2*10_000+5*256 {
		t.Errorf("the window has %d bytes", bytes)
	}
	if _, err := slow.r.Next(t.Context(), 1, nil); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := slow.r.Missed(t.Context()); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("beyond the bound: %v", err)
	}
	if f := slow.r.Flip(); f != follow.FlipBehind {
		t.Errorf("beyond the bound: %v", f)
	}
	slow.r.GoLive()
	w.live = append(w.live, slow)
	w.append(1)
	if !slices.Equal(slow.got, []int{134}) {
		t.Errorf("got %v", slow.got)
	}
	w.close(held, free, slow)
}

// TestReadsAreShared checks that readers that return together read the log once, and that the
// window is small again some time later.
func TestReadsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, history.Keep{})
		since := w.append(1)
		w.append(200)
		w.log.pause = make(chan struct{})
		var clients [20]client
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				m, err := clients[i].r.Open(t.Context(), w.topics.Acquire("t", w.keep), follow.Start{Since: since})
				if err != nil || m.Why != "" {
					t.Errorf("got %+v, %v", m, err)
				}
			})
		}
		synctest.Wait() // all of them wait for one read
		close(w.log.pause)
		wg.Wait()
		if n := w.log.reads.Load(); n != 1 {
			t.Errorf("the log was read %d times", n)
		}
		for i := range clients {
			c := &clients[i]
			if f := w.read(c); f != follow.FlipLive || !slices.Equal(c.got, sequence(2, 201)) {
				t.Errorf("%v, got %v", f, c.got)
			}
			c.r.Close()
		}
		time.Sleep(4 * time.Second)
		late, _ := w.open(follow.Start{Since: since})
		if n := w.log.reads.Load(); n != 1 {
			t.Errorf("after 4 s the log was read %d times", n)
		}
		late.r.Close()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if items, _, _ := w.topic.Window(); items != 64 {
			t.Errorf("the window has %d items", items)
		}
		w.close()
	})
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, history.Keep{})
		since := w.append(1)
		w.append(100)
		w.log.fail.Store(true)
		var c client
		if _, err := c.r.Open(t.Context(), w.topic, follow.Start{Since: since}); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		c.r.Close() // does nothing
		w.log.fail.Store(false)
		// A read that hangs does not hang others whose context ends.
		w.log.pause = make(chan struct{})
		var first client
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = first.r.Open(t.Context(), w.topics.Acquire("t", w.keep), follow.Start{Since: since}) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.r.Open(ctx, w.topic, follow.Start{Since: since}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(w.log.pause)
		wg.Wait()
		w.close(&first)
	})
}

func TestPark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, history.Keep{})
	w.append(3)
	c, _ := w.open(follow.Start{NoReplay: true})
	if f := c.r.Flip(); f != follow.FlipLive {
		t.Fatalf("got %v", f)
	}
	before := c.r.Position()
	for round := range 3 {
		w.appendBy(&delivery{w: w, park: c})
		if c.r.Live() || c.r.Position() != before || w.topic.Holds() != 0 {
			t.Fatalf("round %d: live is %v, at %v", round, c.r.Live(), c.r.Position())
		}
		if f := c.r.Flip(); f != follow.FlipBehind {
			t.Errorf("round %d: got %v", round, f)
		}
		refuse := func(int) bool { return false }
		if f := c.r.FlipSending(refuse); f != follow.FlipBehind || c.r.Position() != before {
			t.Errorf("round %d: got %v", round, f)
		}
		w.append(2)
		var sent []int
		send := func(n int) bool { sent = append(sent, n); return true }
		if f := c.r.FlipSending(send); f != follow.FlipLive || len(sent) != 3 {
			t.Errorf("round %d: got %v, %v", round, f, sent)
		}
		before = w.append(1)
		if f := c.r.FlipSending(send); f != follow.FlipLive || len(sent) != 3 {
			t.Errorf("round %d: flipped again: %v, %v", round, f, sent)
		}
		if items, err := c.r.Next(t.Context(), 10, nil); len(items) > 0 || err != nil {
			t.Errorf("round %d: a live reader read %v, %v", round, items, err)
		}
		c.r.Sync(func(p history.Position, live bool) {
			if p != before || !live {
				t.Errorf("round %d: in sync at %v, live is %v", round, p, live)
			}
		})
	}
	w.close(c)
}

func TestForget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, history.Keep{})
	since := w.append(5)
	live, _ := w.open(follow.Start{})
	reading, _ := w.open(follow.Start{})
	live.r.Flip()
	w.append(5)
	if err := w.topics.Forget(t.Context(), "t", w.keep); err != nil || w.lost != 1 {
		t.Fatalf("%d notifications, %v", w.lost, err)
	}
	tops, _ := w.log.Tops(t.Context(), []string{"t"})
	if _, err := reading.r.Next(t.Context(), 1, nil); !errors.Is(err, history.ErrEpoch) {
		t.Errorf("Next after Forget: %v", err)
	}
	if f := reading.r.Flip(); f != follow.FlipLost || reading.r.Live() {
		t.Errorf("Flip after Forget: %v", f)
	}
	late, m := w.open(follow.Start{Since: since})
	if m.Why != follow.WhyEpoch || m.Position != tops[0] {
		t.Errorf("got %+v", m)
	}
	w.append(3)
	w.read(late)
	if !slices.Equal(late.got, sequence(1, 3)) {
		t.Errorf("got %v", late.got)
	}
	reading.r.GoLive()
	w.close(live, reading, late)
}

func TestWindowsAreBounded(t *testing.T) {
	t.Parallel()
	k, _ := history.Rules{"*": {}}.Rule("t")
	log := history.NewMemory(history.MemoryConfig{})
	w := &world{t: t}
	topics := follow.NewTopics[int](log, w.hooks())
	const most = 100_000
	topics.SetMost(most)
	late := 0 // topics that got a window after the bound was reached
	for i := range 100 {
		name := fmt.Sprint(i)
		topic := topics.Acquire(name, k)
		defer topic.Release()
		for range 20 {
			r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 100))}
			if _, err := topics.Append(t.Context(), name, &r, &k, &delivery{w: w}); err != nil {
				t.Fatal(err)
			}
			if _, _, bytes := topic.Window(); bytes > most+1000 {
				t.Fatalf("%d bytes", bytes)
			}
		}
		if n, _, _ := topic.Window(); i > 40 && n == 20 {
			late++
		}
	}
	if late == 0 {
		t.Error("no topic got a window after the bound was reached: others must lose theirs")
	}
}
