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
	"unsafe"

	"bennu.example/history"
	"bennu.example/internal/fakelog"
	"bennu.example/internal/follow"
	"bennu.example/serializer"
)

// remoteLog counts the requests to a log that is not instant.
type remoteLog struct {
	history.Log
	reads, tops atomic.Int32
	asked       atomic.Int32 // topics of all requests for tops
	most        atomic.Int32 // topics of one request

	alias map[history.Position]history.Position // positions that are equivalent to others
	watch func(topic string, ready func(error)) // Nil means that of the log
}

func (l *remoteLog) Watch(topic string, ready func(error)) {
	if l.watch != nil {
		l.watch(topic, ready)
		return
	}
	l.Log.Watch(topic, ready)
}

func (l *remoteLog) Read(ctx context.Context, topic string, after history.Position, most int) (history.Batch, error) {
	l.reads.Add(1)
	if begin, ok := l.alias[after]; ok {
		b, err := l.Log.Read(ctx, topic, begin, most)
		b.After = after
		if len(b.Records) > 0 {
			b.Records[0].Prev = after
		}
		return b, err
	}
	return l.Log.Read(ctx, topic, after, most)
}

func (l *remoteLog) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	l.tops.Add(1)
	l.asked.Add(int32(len(topics)))
	l.most.Store(max(l.most.Load(), int32(len(topics))))
	return l.Log.Tops(ctx, topics)
}

func (l *remoteLog) reset() { l.reads.Store(0); l.tops.Store(0); l.asked.Store(0); l.most.Store(0) }

// remote is a set of topics on a log that is shared with another node, in a synctest bubble.
type remote struct {
	*world
	log    *remoteLog
	store  *fakelog.Store
	others history.Log // of the other node
}

// runRemote runs a test on the topic "t", which a live client follows.
func runRemote(t *testing.T, f func(t *testing.T, r *remote, live *client)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, _ := history.Rules{"t": {}}.Rule("t")
		store := fakelog.NewStore(1)
		r := &remote{
			&world{t: t, keep: k}, &remoteLog{Log: store.Log("here")}, store, store.Log("there"),
		}
		r.topics = follow.NewTopics[int](r.log, r.hooks())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		run := func(run func() error) {
			wg.Go(func() {
				if err := run(); err != nil {
					t.Error(err)
				}
			})
		}
		run(func() error { return r.topics.Run(ctx) })
		run(func() error {
			nothing := history.Inbox{
				Record: func(string, history.Record) {}, Forgotten: func(string) {}, Gap: func(error) {},
			}
			return r.others.Run(ctx, nothing)
		})
		synctest.Wait()
		r.topic = r.topics.Acquire("t", k)
		live, _ := r.open(follow.Start{NoReplay: true})
		if flip := live.r.Flip(); flip != follow.FlipLive {
			t.Fatalf("got %v", flip)
		}
		r.live = append(r.live, live)
		f(t, r, live)
		r.close(live)
		cancel()
		wg.Wait()
	})
}

// sleep waits in virtual time, until everything that happens in it has happened.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// elsewhere appends records on the other node.
func (r *remote) elsewhere(n int) {
	r.t.Helper()
	for range n {
		record := history.Record{Event: "e", Payload: serializer.Binary(nil)}
		if _, err := r.others.Append(r.t.Context(), "t", record, r.keep); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestSurveysAreShared checks that many topics are compared with the log by few requests, and that
// quiet topics are compared less and less often.
func TestSurveysAreShared(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, _ *client) {
		const n = 1500
		var all []*follow.Topic[int]
		for i := range n {
			all = append(all, r.topics.Acquire(fmt.Sprint(i), r.keep))
		}
		synctest.Wait()
		r.log.reset()
		r.store.Set(fakelog.Faults{Latency: time.Millisecond}, "here")
		r.store.Disconnect("here")
		r.store.Connect("here")
		sleep(time.Second)
		if tops, asked, most := r.log.tops.Load(), r.log.asked.Load(), r.log.most.Load(); most > 1000 ||
			asked < n || asked > 3*n || tops > 20 {
			t.Errorf("after a reconnection %d requests for %d topics, at most %d", tops, asked, most)
		}
		const few = 100
		for _, topic := range all[few:] {
			topic.Release()
		}
		sleep(10 * time.Minute)
		r.log.reset()
		sleep(time.Hour)
		if each := float64(r.log.asked.Load()) / few; each < 60 || each > 120 {
			t.Errorf("a quiet topic was compared %.1f times in an hour", each)
		}
		if reads := r.log.reads.Load(); reads != 0 {
			t.Errorf("%d reads, although nothing was missing", reads)
		}
		for _, topic := range all[:few] {
			topic.Release()
		}
		r.log.reset()
		sleep(time.Hour)
		if asked := r.log.asked.Load(); asked > 120 {
			t.Errorf("topics that are not in use were compared %d times", asked)
		}
	})
}

// TestRepairsAreShared checks that many records that do not follow the cursor cause few reads.
func TestRepairsAreShared(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, live *client) {
		r.store.Set(fakelog.Faults{Lose: 1}, "here")
		r.elsewhere(1)
		synctest.Wait()
		r.log.reset()
		r.store.Set(fakelog.Faults{Latency: 100 * time.Millisecond}, "here")
		r.elsewhere(100)
		sleep(time.Second)
		if !slices.Equal(live.got, sequence(1, 101)) {
			t.Errorf("got %v", live.got)
		}
		if n := r.log.reads.Load(); n < 1 || n > 3 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestFedRecordThatTheLogDoesNotShow checks that the log is read again if it did not have a record
// that it has fed, and that this ends.
func TestFedRecordThatTheLogDoesNotShow(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, live *client) {
		r.elsewhere(2)
		synctest.Wait()
		batch, err := r.others.Before(t.Context(), "t", history.Position{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		ghost := batch.Records[0]
		ghost.Prev, _ = history.NewPosition(ghost.Position.Epoch(), ghost.Position.Offset()+1, "abcd")
		ghost.Position, _ = history.NewPosition(ghost.Position.Epoch(), ghost.Position.Offset()+2, "abcd")
		r.log.reset()
		r.topic.Apply(&ghost, &delivery{w: r.world})
		sleep(time.Minute)
		if n := r.log.reads.Load(); n < 5 || n > 15 {
			t.Errorf("%d reads", n)
		}
		r.log.reset()
		sleep(10 * time.Minute)
		if n := r.log.reads.Load(); n != 0 {
			t.Errorf("%d reads later", n)
		}
		r.elsewhere(1)
		synctest.Wait()
		if !slices.Equal(live.got, sequence(1, 3)) || r.lost != 0 {
			t.Errorf("got %v, lost %d times", live.got, r.lost)
		}
	})
}

// TestHeldMessagesAreBounded checks that messages that wait for a record are delivered in order,
// whatever their number and size.
func TestHeldMessagesAreBounded(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, _ *client) {
		r.elsewhere(1)
		synctest.Wait()
		r.store.Set(fakelog.Faults{Lose: 1, Latency: time.Hour}, "here")
		after := r.topic.Cursor()
		after, _ = history.NewPosition(after.Epoch(), after.Offset()+1, "abcd")
		var got []int
		n := 0
		send := func(count, size int) {
			for range count {
				r.topic.DeliverAfter(after, size, message{n, &got})
				n++
			}
		}
		send(300, 1)
		if len(got) != 300-256 {
			t.Errorf("of 300 messages %d did not wait", len(got))
		}
		send(1, 1<<20)
		send(1, 2<<20)
		if len(got) != n {
			t.Errorf("of %d messages, of which the last was too large to wait, %d did not wait", n, len(got))
		}
		send(3, 1)
		sleep(time.Second + 1)
		if len(got) != n || !slices.IsSorted(got) {
			t.Errorf("after a second got %d of %d: %v", len(got), n, got)
		}
		r.store.Set(fakelog.Faults{})
		sleep(time.Minute)
	})
}

// message is a delivery that is not of a record.
type message struct {
	n   int
	got *[]int
}

func (m message) Item(*history.Record) int   { return 0 }
func (m message) Deliver(*follow.Topic[int]) { *m.got = append(*m.got, m.n) }
func (m message) Done()                      {}

// TestFeedThatFails checks that a reader of a topic that the log does not feed fails at once, and
// begins when the feed does.
func TestFeedThatFails(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, _ *client) {
		var ready func(error)
		r.log.watch = func(_ string, f func(error)) { ready = f }
		topic := r.topics.Acquire("u", r.keep)
		defer topic.Release()
		var c client
		open := func() (time.Duration, error) {
			start := time.Now()
			_, err := c.r.Open(t.Context(), topic, follow.Start{})
			return time.Since(start), err
		}
		if waited, err := open(); !errors.Is(err, history.ErrUnavailable) || waited != 2*time.Second {
			t.Errorf("before the feed: after %v: %v", waited, err)
		}
		refused := errors.New("refused")
		time.AfterFunc(time.Second, func() { ready(refused) })
		for _, want := range []time.Duration{time.Second, 0} {
			if waited, err := open(); !errors.Is(err, history.ErrUnavailable) || !errors.Is(err, refused) || waited != want {
				t.Errorf("refused: after %v: %v", waited, err)
			}
		}
		ready(nil)
		topic = r.topics.Acquire("u", r.keep)
		if waited, err := open(); err != nil || waited != 0 {
			t.Errorf("after %v: %v", waited, err)
		}
		c.r.Close()
	})
}

// TestEquivalentBeginnings checks that a reader is continued whose beginning is another one than
// that of its node. Some logs have several for a topic that never had a record.
func TestEquivalentBeginnings(t *testing.T) {
	runRemote(t, func(t *testing.T, r *remote, live *client) {
		begin := r.topic.Cursor()
		other, err := history.NewPosition(begin.Epoch(), 1<<20, "0000")
		if err != nil {
			t.Fatal(err)
		}
		r.log.alias = map[history.Position]history.Position{other: begin}
		for n := range 4 {
			c, m := r.open(follow.Start{Since: other})
			if m.Why != "" || m.Position != begin {
				t.Errorf("after %d records: got %+v", n, m)
			}
			r.read(c)
			if !slices.Equal(c.got, sequence(1, n)) {
				t.Errorf("after %d records: got %v", n, c.got)
			}
			c.r.Close()
			r.elsewhere(1)
			synctest.Wait()
		}
		if !slices.Equal(live.got, sequence(1, 4)) {
			t.Errorf("got %v", live.got)
		}
	})
}

// TestTopicSize holds what a followed topic costs, beside its window.
func TestTopicSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(follow.Topic[int]{}); n > 512 {
		t.Errorf("a topic has %d bytes", n)
	}
}
