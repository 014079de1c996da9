package longpoll_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// A poll that its client cancels takes no messages and does not delay later polls.
func TestCancelledPoll(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.getWith(ctx, token) })
		synctest.Wait()
		cancel() // and a message arrives before the poll has returned
		session.send("[1]")
		wg.Wait()
		session.send("[2]")
		s.getWith(ctx, token)
		s.get(token).is(t, 200, "[1]", "[2]")

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() { s.getWith(ctx, token) })
		time.Sleep(2 * time.Second)
		session.send("[3]")
		s.get(token).is(t, 200, "[3]")
		wg.Wait()
	})
}

// brokenWriter is a ResponseWriter that fails, or that blocks before it fails.
type brokenWriter struct {
	header  http.Header
	stuck   chan struct{} // closed when Write may return
	written chan struct{} // receives a value when Write begins
	err     error
	panics  bool

	deadline atomic.Value // of time.Time
}

func (b *brokenWriter) Header() http.Header { return b.header }

func (b *brokenWriter) WriteHeader(int) {}

func (b *brokenWriter) Flush() {}

func (b *brokenWriter) Write(p []byte) (int, error) {
	if b.written != nil {
		b.written <- struct{}{}
		<-b.stuck
	}
	if b.panics {
		panic(http.ErrAbortHandler)
	}
	return 0, b.err
}

func (b *brokenWriter) SetWriteDeadline(t time.Time) error {
	if b.stuck != nil && t.Before(time.Now()) {
		close(b.stuck)
	}
	b.deadline.Store(t)
	return nil
}

// If an answer cannot be written, its messages come first in the next one.
func TestFailedAnswer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	for _, w := range []*brokenWriter{{err: errors.New("broken pipe")}, {panics: true}} {
		session.send("[1]", "[2]")
		w.header = http.Header{}
		func() {
			defer func() {
				if (recover() != nil) != w.panics {
					t.Error("panic")
				}
			}()
			s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil))
		}()
		if d := time.Until(w.deadline.Load().(time.Time)); d < 5*time.Second || d > 20*time.Second {
			t.Errorf("the answer has %v", d)
		}
		session.send("[3]")
		s.get(token).is(t, 200, "[1]", "[2]", "[3]")
	}
	// A session ends if its client did not receive the token.
	w := &brokenWriter{header: http.Header{}, err: errors.New("broken pipe")}
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	s.mu.Lock()
	last := s.sessions[len(s.sessions)-1]
	s.mu.Unlock()
	if err := <-last.closed; !errors.Is(err, w.err) {
		t.Errorf("closed by %v", err)
	}
}

// A poll that arrives while an earlier answer is stuck makes that answer fail, and receives its
// messages in order.
func TestPollAbortsStuckAnswer(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		session.send("[1]", "[2]")
		w := &brokenWriter{
			header:  http.Header{},
			stuck:   make(chan struct{}),
			written: make(chan struct{}),
			err:     errors.New("timeout"),
		}
		var wg sync.WaitGroup
		wg.Go(func() { s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil)) })
		<-w.written
		session.send("[3]")
		start := time.Now()
		s.get(token).is(t, 200, "[1]", "[2]", "[3]")
		wantAfter(t, start, 0)
		wg.Wait()
	})
}

// A full queue ends the session, or drops frames that may be dropped.
func TestSlowPolicies(t *testing.T) {
	t.Parallel()
	frame := func(i int) *serializer.Frame { // counts as 100 bytes
		return textFrame(fmt.Sprintf("[%034d]", i))
	}
	all, even := func(int) bool { return true }, func(i int) bool { return i%2 == 0 }
	late := func(i int) bool { return i >= 5 }
	dropped := longpoll.Stats{Sessions: 1, Dropped: 3}
	for _, test := range []struct {
		policy transport.SlowPolicy
		drop   func(i int) bool
		want   []int // the frames of 0 to 7 that remain in a queue of 500 bytes
		errAt  int   // the frame that ends the session, or -1
		stats  longpoll.Stats
	}{
		{transport.Disconnect, all, nil, 5, longpoll.Stats{Slow: 1}},
		{transport.DropOldest, all, []int{3, 4, 5, 6, 7}, -1, dropped},
		{transport.DropNewest, all, []int{0, 1, 2, 3, 4}, -1, dropped},
		{transport.DropOldest, even, []int{1, 3, 5, 6, 7}, -1, dropped},
		{transport.DropOldest, late, []int{0, 1, 2, 3, 4}, -1, dropped},
		{transport.DropNewest, func(i int) bool { return i != 6 }, nil, 6, longpoll.Stats{Dropped: 1, Slow: 1}},
		{transport.DropOldest, func(i int) bool { return i == 5 }, nil, 6, longpoll.Stats{Dropped: 1, Slow: 1}},
	} {
		s := newTestServer(t, longpoll.Config{MaxQueue: 500, OnSlow: test.policy})
		token, session := s.open()
		for i := range 8 {
			err := session.Send(frame(i), droppable(test.drop(i)))
			switch {
			case test.errAt < 0 || i < test.errAt:
				if err != nil {
					t.Errorf("policy %d: frame %d: %v", test.policy, i, err)
				}
			case i == test.errAt:
				if !errors.Is(err, transport.ErrFull) {
					t.Errorf("policy %d: frame %d: %v", test.policy, i, err)
				}
			case !errors.Is(err, transport.ErrClosed):
				t.Errorf("policy %d: frame %d: %v", test.policy, i, err)
			}
		}
		if test.errAt >= 0 {
			if err := <-session.closed; !errors.Is(err, transport.ErrFull) {
				t.Errorf("policy %d: closed by %v", test.policy, err)
			}
			s.Wait()
		}
		if got := s.Stats(); got != test.stats {
			t.Errorf("policy %d: %+v, want %+v", test.policy, got, test.stats)
		}
		if test.errAt < 0 {
			var want []string
			for _, i := range test.want {
				want = append(want, string(frame(i).Data))
			}
			s.get(token).is(t, 200, want...)
		}
		s.end()
	}
}

// A frame of any size fits into an empty queue.
func TestLargeFrameInEmptyQueue(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{MaxQueue: 100})
	defer s.end()
	token, session := s.open()
	big := "[" + strings.Repeat("1", 10_000) + "]"
	for range 3 {
		session.send(big)
		s.get(token).is(t, 200, big)
	}
}

// With drops, failed answers and polls in any order, frames that must not be dropped arrive, and no
// frame arrives out of order.
func TestDropsAndFailedAnswers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{MaxQueue: 1000, OnSlow: transport.DropOldest})
	defer s.end()
	token, session := s.open()
	rnd := rand.New(rand.NewPCG(1, 2))
	last, pending := -1, []int(nil) // the frames that must still arrive
	poll := func() {
		for _, m := range s.get(token).Messages {
			var n [1]int
			if err := json.Unmarshal([]byte(m), &n); err != nil || n[0] <= last {
				t.Fatalf("%s behind %d, %v", m, last, err)
			}
			last = n[0]
			if len(pending) > 0 && pending[0] == last {
				pending = pending[1:]
			}
		}
		if len(pending) > 0 {
			t.Fatalf("%d is missing", pending[0])
		}
	}
	for i := range 5000 {
		drop := len(pending) > 8 || rnd.IntN(4) > 0
		if err := session.Send(textFrame(fmt.Sprintf("[%d]", i)), droppable(drop)); err != nil {
			t.Fatal(err)
		}
		if !drop {
			pending = append(pending, i)
		}
		switch rnd.IntN(30) {
		case 0, 1, 2:
			s.getBroken(token)
		case 3:
			poll()
		}
	}
	poll()
	if s.Stats().Dropped == 0 {
		t.Error("nothing was dropped")
	}
}

// With many senders, POSTs and polls, some of which fail, every message arrives once and in the
// order of its sender.
func TestConcurrentRequests(t *testing.T) {
	t.Parallel()
	const senders, each = 4, 500
	s := newTestServer(t, longpoll.Config{Window: 5 * time.Second, MaxQueue: 1 << 24})
	defer s.end()
	token, session := s.open()
	running := atomic.Int32{}
	session.receive = func(serializer.Op, []byte) error {
		if running.Add(1) > 1 {
			t.Error("two Receives at once")
		}
		running.Add(-1)
		return nil
	}
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				session.send(fmt.Sprintf("[%d,%d]", i, j))
			}
		})
		wg.Go(func() {
			for j := range each / 5 {
				s.post(token, fmt.Sprintf("[%d]\n[%d]", j, j)).is(t, 200)
			}
		})
	}
	var mu sync.Mutex
	got, total := [senders]int{}, 0
	enough := make(chan struct{})
	for i := range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-enough:
					return
				default:
				}
				var w http.ResponseWriter = httptest.NewRecorder()
				if (n+i)%3 == 0 { // a poll whose answer fails
					w = &brokenWriter{header: http.Header{}, err: errors.New("broken pipe")}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				mu.Lock() // as one client does, which handles an answer before its next poll
				s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil).WithContext(ctx))
				if r, ok := w.(*httptest.ResponseRecorder); ok && r.Body.Len() > 0 {
					for _, m := range s.answer(r).Messages {
						var v [2]int
						if err := json.Unmarshal([]byte(m), &v); err != nil || got[v[0]] != v[1] {
							t.Errorf("%s, expected the %dth, %v", m, got[v[0]], err)
						}
						got[v[0]] = v[1] + 1
						if total++; total == senders*each {
							close(enough)
						}
					}
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	if n := len(session.received()); n != senders*each/5*2 {
		t.Errorf("%d messages received", n)
	}
}
