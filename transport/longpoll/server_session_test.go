package longpoll_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/safecall"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// A session ends one and a half to three windows after its last GET began. POSTs do not count.
func TestIdleSessionEnds(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Second
	for _, test := range []struct {
		name  string
		polls []time.Duration // the times of GETs that are answered at once
		ends  time.Duration
	}{
		{"never polled", nil, 15 * time.Second},
		{"polled at once", []time.Duration{time.Second}, 30 * time.Second},
		{"polled late", []time.Duration{14 * time.Second}, 30 * time.Second},
		{"polled for a while", []time.Duration{8 * time.Second, 16 * time.Second, 29 * time.Second}, 45 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newTestServer(t, longpoll.Config{Window: window})
				defer s.end()
				start := time.Now()
				token, session := s.open()
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() { // POSTs do not keep the session
					for s.post(token, "[1]").Status == 200 {
						time.Sleep(700 * time.Millisecond)
					}
				})
				last := time.Duration(0)
				for _, at := range test.polls {
					time.Sleep(at - time.Since(start))
					session.send("[2]")
					s.get(token).is(t, 200, "[2]")
					last = at
				}
				if err := <-session.closed; !errors.Is(err, transport.ErrIdle) {
					t.Errorf("closed by %v", err)
				}
				d := time.Since(start)
				if d != test.ends || d-last < window*3/2 || d-last > 3*window {
					t.Errorf("ended after %v, %v after the last poll", d, d-last)
				}
				session.wantEnded(t)
			})
		})
	}
}

// A client that polls as phoenix.js does keeps its session.
func TestPollingSessionLives(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, _ *testSession) {
		for range 1000 {
			s.get(token).is(t, 204)
			time.Sleep(4 * time.Second)
		}
	})
}

// Close ends the session. The next GET begins another one at once.
func TestClose(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	session.send("[1]")
	session.Close(transport.CodeGoingAway, "disconnected")
	session.Close(transport.CodeRestart, "only the first call counts")
	err := <-session.closed
	var closed *transport.CloseError
	want := transport.CloseError{Code: transport.CodeGoingAway, Reason: "disconnected"}
	if !errors.As(err, &closed) || *closed != want {
		t.Errorf("closed by %v", err)
	}
	session.wantEnded(t)
	s.post(token, "[1]").is(t, 410)
	a := s.get(token)
	a.is(t, 410) // and the queued frame is dropped
	if a.Token == token {
		t.Error("the old token")
	}
	if len(session.closed) > 0 {
		t.Error("closed twice")
	}
}

// Close answers the polls that wait, also one that a later poll superseded, so that the client
// learns of the end from its next poll. Phoenix lets them wait.
func TestCloseAnswersPolls(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				start := time.Now()
				s.get(token).is(t, 204)
				wantAfter(t, start, 3*time.Second)
			})
		}
		time.Sleep(3 * time.Second)
		session.Close(transport.CodeRestart, "")
		wg.Wait()
		s.get(token).is(t, 410)
	})
}

// Frames that were sent before Close reach the poll that waits.
func TestCloseDeliversQueuedFrames(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		var wg sync.WaitGroup
		wg.Go(func() { s.get(token).is(t, 200, "[1]", "[2]") })
		synctest.Wait()
		session.send("[1]", "[2]")
		session.Close(transport.CodeRestart, "")
		wg.Wait()
		s.get(token).is(t, 410)
	})
}

// Closed is called after the running Receive has returned, and no further Receive is called.
func TestClosedFollowsReceive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{})
		token, session := s.open()
		session.receive = func(serializer.Op, []byte) error {
			time.Sleep(time.Second)
			return nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { s.post(token, "[1]\n[2]").is(t, 410) }) // the second message is not handled
		synctest.Wait()
		wg.Go(func() { s.post(token, "[3]").is(t, 410) })
		synctest.Wait()
		start := time.Now()
		session.Close(transport.CodeRestart, "")
		<-session.closed
		if d := time.Since(start); d != time.Second {
			t.Errorf("closed after %v", d)
		}
		wg.Wait()
		s.Wait()
		session.wantReceived(t, "1:[1]")
	})
}

// Of two polls the later one receives the messages. The earlier one waits until its window ends.
func TestTwoPolls(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			s.get(token).is(t, 204)
			if d := time.Since(start); d != 10*time.Second {
				t.Errorf("the first poll returned after %v", d)
			}
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			s.get(token).is(t, 200, "[1]")
			if d := time.Since(start); d != 2*time.Second {
				t.Errorf("the second poll returned after %v", d)
			}
		})
		time.Sleep(time.Second)
		session.send("[1]")
		synctest.Wait()
		session.send("[2]") // the first poll must not take this one either
		time.Sleep(time.Second)
		wg.Wait()
		s.get(token).is(t, 200, "[2]")
	})
}

// A panic in connect, or in the function that it returns, is answered with 500.
func TestConnectPanics(t *testing.T) {
	t.Parallel()
	var panics atomic.Int32
	s := longpoll.NewServer(longpoll.Config{OnPanic: func(v any, stack []byte) {
		if v != "oops" || !strings.Contains(string(stack), "TestConnectPanics") {
			t.Errorf("%v\n%s", v, stack)
		}
		panics.Add(1)
	}})
	for _, connect := range []func() (func(transport.Conn) transport.Session, error){
		func() (func(transport.Conn) transport.Session, error) { panic("oops") },
		func() (func(transport.Conn) transport.Session, error) {
			return func(transport.Conn) transport.Session { panic("oops") }, nil
		},
		func() (func(transport.Conn) transport.Session, error) {
			return func(c transport.Conn) transport.Session {
				c.Send(&serializer.Frame{Op: serializer.OpText}, transport.Delivery{})
				c.Close(transport.CodeRestart, "")
				panic("oops")
			}, nil
		},
	} {
		w := httptest.NewRecorder()
		s.Serve(w, httptest.NewRequest("GET", "/", nil), connect)
		if w.Code != 500 || w.Body.Len() > 0 {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
	}
	s.Wait()
	if n := panics.Load(); n != 3 {
		t.Errorf("OnPanic was called %d times", n)
	}
}

// runtime.Goexit in connect, in the function that it returns, or in Receive leaves nothing behind.
func TestGoexit(t *testing.T) {
	t.Parallel()
	s := longpoll.NewServer(longpoll.Config{})
	serve := func(r *http.Request, open func(transport.Conn) transport.Session) string {
		w := httptest.NewRecorder()
		var served sync.WaitGroup
		served.Go(func() {
			s.Serve(w, r, func() (func(transport.Conn) transport.Session, error) {
				if open == nil {
					runtime.Goexit()
				}
				return open, nil
			})
		})
		served.Wait()
		return w.Body.String()
	}
	serve(httptest.NewRequest("GET", "/", nil), nil)
	serve(httptest.NewRequest("GET", "/", nil), func(transport.Conn) transport.Session { runtime.Goexit(); return nil })
	s.Wait()

	session := &testSession{closed: make(chan error, 1)}
	session.receive = func(serializer.Op, []byte) error { runtime.Goexit(); return nil }
	var a testAnswer
	text := serve(httptest.NewRequest("GET", "/", nil), func(transport.Conn) transport.Session { return session })
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	post := httptest.NewRequest("POST", "/?token="+a.Token, strings.NewReader("[1]"))
	if text := serve(post, nil); text != `{"status":408}` {
		t.Errorf("got %q", text)
	}
	if err := <-session.closed; closeCode(err) != transport.CodeInternal || errors.As(err, new(*safecall.PanicError)) {
		t.Errorf("closed by %v", err)
	}
	s.Wait()
}

// A Session may close its connection while it is made, because the server shuts down. The client is
// asked to retry.
func TestCloseBeforeSessionBegins(t *testing.T) {
	t.Parallel()
	s := longpoll.NewServer(longpoll.Config{})
	session := &testSession{closed: make(chan error, 1)}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/", nil), func() (func(transport.Conn) transport.Session, error) {
		return func(c transport.Conn) transport.Session {
			c.Close(transport.CodeRestart, "")
			return session
		}, nil
	})
	if w.Code != 503 {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
	if err := <-session.closed; closeCode(err) != transport.CodeRestart {
		t.Errorf("closed by %v", err)
	}
	s.Wait()
}

// A client that disconnects while connect runs gets no session.
func TestDisconnectDuringConnect(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.getWith(ctx, "")
	if len(s.sessions) > 0 || s.Stats().Sessions > 0 {
		t.Error("a session began")
	}
}

// A panic in Receive ends the session. A panic in Closed ends nothing else.
func TestSessionPanics(t *testing.T) {
	t.Parallel()
	panics := make(chan any, 1)
	s := longpoll.NewServer(longpoll.Config{OnPanic: func(v any, _ []byte) { panics <- v; panic("in OnPanic") }})
	closed := make(chan error, 1)
	connect := func() (func(transport.Conn) transport.Session, error) {
		return func(transport.Conn) transport.Session { return panickingSession{closed} }, nil
	}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/", nil), connect)
	var a testAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"status":408}`, `{"status":410}`} {
		w = httptest.NewRecorder()
		s.Serve(w, httptest.NewRequest("POST", "/?token="+a.Token, strings.NewReader("[1]\n[2]")), connect)
		if w.Body.String() != want {
			t.Errorf("got %q, want %q", w.Body, want)
		}
	}
	var p *safecall.PanicError
	err := <-closed
	if !errors.As(err, &p) || p.Value != "in Receive" || !strings.Contains(string(p.Stack), "panickingSession") {
		t.Errorf("closed by %v", err)
	}
	if closeCode(err) != transport.CodeInternal {
		t.Errorf("closed with code %d", closeCode(err))
	}
	if v := <-panics; v != "in Closed" {
		t.Errorf("OnPanic received %v", v)
	}
	s.Wait()
}

type panickingSession struct{ closed chan error }

func (panickingSession) Receive(serializer.Op, []byte) error { panic("in Receive") }

func (p panickingSession) Closed(err error) { p.closed <- err; panic("in Closed") }

func TestWaitAwaitsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := longpoll.NewServer(longpoll.Config{})
		s.Wait() // returns at once
		w := httptest.NewRecorder()
		var conn transport.Conn
		s.Serve(w, httptest.NewRequest("GET", "/", nil), func() (func(transport.Conn) transport.Session, error) {
			return func(c transport.Conn) transport.Session { conn = c; return lingeringSession{} }, nil
		})
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			conn.Close(transport.CodeRestart, "")
		}()
		s.Wait()
		wantAfter(t, start, 6*time.Second)
	})
}

type lingeringSession struct{}

func (lingeringSession) Receive(serializer.Op, []byte) error { return nil }

func (lingeringSession) Closed(error) { time.Sleep(5 * time.Second) }

// Concurrent polls, POSTs and senders, and sessions that begin and end, for the race detector.
func TestConcurrentSessions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{
		Window: 5 * time.Millisecond, MaxQueue: 2000, OnSlow: transport.DropOldest, MaxSessions: 50,
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for range 60 {
				a := s.get("")
				if a.Status != 410 {
					continue
				}
				s.mu.Lock()
				session := s.sessions[rnd.IntN(len(s.sessions))] // of any goroutine
				s.mu.Unlock()
				var inner sync.WaitGroup
				for range 2 {
					inner.Go(func() { s.get(a.Token) })
					inner.Go(func() { s.post(a.Token, "[1]\n[2]") })
					inner.Go(func() { session.send("[1]", "[2]", "[3]") })
				}
				if rnd.IntN(2) == 0 {
					inner.Go(func() { session.Close(transport.CodeGoingAway, "") })
				}
				inner.Wait()
			}
		})
	}
	wg.Wait()
	s.end()
	for _, session := range s.sessions {
		if len(session.closed) != 1 {
			t.Errorf("closed %d times", len(session.closed))
		}
	}
}
