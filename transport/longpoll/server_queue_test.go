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

// A poll that its client gave up takes nothing with it, and is in nobody's way.
func TestLongPollGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.getWith(ctx, token) })
		synctest.Wait()
		cancel() // and a message comes before anybody has noticed
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

// lpBroken is a ResponseWriter whose client is gone, or that breaks some time after it was written to.
type lpBroken struct {
	header  http.Header
	stuck   chan struct{} // closed when the write may return
	written chan struct{} // gets something when a write begins
	err     error
	panics  bool

	deadline atomic.Value // of time.Time
}

func (b *lpBroken) Header() http.Header { return b.header }

func (b *lpBroken) WriteHeader(int) {}

func (b *lpBroken) Flush() {}

func (b *lpBroken) Write(p []byte) (int, error) {
	if b.written != nil {
		b.written <- struct{}{}
		<-b.stuck
	}
	if b.panics {
		panic(http.ErrAbortHandler)
	}
	return 0, b.err
}

func (b *lpBroken) SetWriteDeadline(t time.Time) error {
	if b.stuck != nil && t.Before(time.Now()) {
		close(b.stuck)
	}
	b.deadline.Store(t)
	return nil
}

// If an answer cannot be written, what was in it comes first in the next.
func TestLongPollAnswerFails(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	for _, w := range []*lpBroken{{err: errors.New("broken pipe")}, {panics: true}} {
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
	// A session whose client never hears of it ends.
	w := &lpBroken{header: http.Header{}, err: errors.New("broken pipe")}
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	s.mu.Lock()
	last := s.sessions[len(s.sessions)-1]
	s.mu.Unlock()
	if err := <-last.closed; !errors.Is(err, w.err) {
		t.Errorf("closed by %v", err)
	}
}

// A poll that comes while an earlier answer is stuck makes that fail, and gets what was in it, and all in order.
func TestLongPollTakesOverAStuckAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
		session.send("[1]", "[2]")
		w := &lpBroken{header: http.Header{}, stuck: make(chan struct{}), written: make(chan struct{}), err: errors.New("timeout")}
		var wg sync.WaitGroup
		wg.Go(func() { s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil)) })
		<-w.written
		session.send("[3]")
		start := time.Now()
		s.get(token).is(t, 200, "[1]", "[2]", "[3]")
		if d := time.Since(start); d != 0 {
			t.Errorf("after %v", d)
		}
		wg.Wait()
	})
}

// A queue that is full ends the session, or drops what may be dropped.
func TestLongPollSlow(t *testing.T) {
	t.Parallel()
	frame := func(i int) *serializer.Frame { // 100 bytes with what a frame counts as
		return &serializer.Frame{Op: serializer.OpText, Data: []byte(fmt.Sprintf("[%034d]", i))}
	}
	for _, test := range []struct {
		policy transport.SlowPolicy
		drop   func(i int) bool
		want   []int // what is left of 0 to 7 in a queue for 5
		errAt  int   // the frame that finds no room
		stats  longpoll.Stats
	}{
		{transport.Disconnect, func(int) bool { return true }, nil, 5, longpoll.Stats{Slow: 1}},
		{transport.DropOldest, func(int) bool { return true }, []int{3, 4, 5, 6, 7}, -1, longpoll.Stats{Sessions: 1, Dropped: 3}},
		{transport.DropNewest, func(int) bool { return true }, []int{0, 1, 2, 3, 4}, -1, longpoll.Stats{Sessions: 1, Dropped: 3}},
		{transport.DropOldest, func(i int) bool { return i%2 == 0 }, []int{1, 3, 5, 6, 7}, -1, longpoll.Stats{Sessions: 1, Dropped: 3}},
		{transport.DropOldest, func(i int) bool { return i >= 5 }, []int{0, 1, 2, 3, 4}, -1, longpoll.Stats{Sessions: 1, Dropped: 3}},
		{transport.DropNewest, func(i int) bool { return i != 6 }, nil, 6, longpoll.Stats{Dropped: 1, Slow: 1}},
		{transport.DropOldest, func(i int) bool { return i == 5 }, nil, 6, longpoll.Stats{Dropped: 1, Slow: 1}},
	} {
		s := newLPServer(t, longpoll.Config{MaxQueue: 500, OnSlow: test.policy})
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

// A frame of any size fits in an empty queue.
func TestLongPollBigFrame(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{MaxQueue: 100})
	defer s.end()
	token, session := s.open()
	big := "[" + strings.Repeat("1", 10_000) + "]"
	for range 3 {
		session.send(big)
		s.get(token).is(t, 200, big)
	}
}

// Drops, failed answers and polls in any order: what must not be dropped arrives, and nothing arrives out of order.
func TestLongPollDropsAfterAFailedAnswer(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{MaxQueue: 1000, OnSlow: transport.DropOldest})
	defer s.end()
	token, session := s.open()
	rnd := rand.New(rand.NewPCG(1, 2))
	last, pending := -1, []int(nil) // what must still arrive
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
		if err := session.Send(&serializer.Frame{Op: serializer.OpText, Data: fmt.Appendf(nil, "[%d]", i)}, droppable(drop)); err != nil {
			t.Fatal(err)
		}
		if !drop {
			pending = append(pending, i)
		}
		switch rnd.IntN(30) {
		case 0, 1, 2:
			s.ServeHTTP(&lpBroken{header: http.Header{}, err: errors.New("broken pipe")}, httptest.NewRequest("GET", "/?token="+token, nil))
		case 3:
			poll()
		}
	}
	poll()
	if s.Stats().Dropped == 0 {
		t.Error("nothing was dropped")
	}
}

// Many senders, posters and pollers, some of which give up: everything arrives once, in the order of its sender.
func TestLongPollConcurrently(t *testing.T) {
	t.Parallel()
	const senders, each = 4, 500
	s := newLPServer(t, longpoll.Config{Window: 5 * time.Second, MaxQueue: 1 << 24})
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
				if (n+i)%3 == 0 { // fails
					w = &lpBroken{header: http.Header{}, err: errors.New("broken pipe")}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				mu.Lock() // one client, so its polls come one after the other; what came is looked at before the next
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
