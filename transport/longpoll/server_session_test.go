package longpoll_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
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
func TestLongPollEndsWhenIdle(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Second
	for _, test := range []struct {
		name  string
		polls []time.Duration // when a GET that is answered at once begins
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
				s := newLPServer(t, longpoll.Config{Window: window})
				defer s.end()
				start := time.Now()
				token, session := s.open()
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() { // posting all the time
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
				if err := session.Send(&serializer.Frame{Op: serializer.OpText}, transport.Delivery{}); !errors.Is(err, transport.ErrClosed) {
					t.Errorf("send: %v", err)
				}
			})
		})
	}
}

// A client that polls as phoenix.js does keeps its session, and one goroutine less than it has requests: none of the session's own.
func TestLongPollLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, _ := s.open()
		for range 1000 {
			s.get(token).is(t, 204)
			time.Sleep(4 * time.Second)
		}
	})
}

// Close ends the session; a GET then begins another, at once, since there is nobody to wait for.
func TestLongPollClose(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	session.send("[1]")
	session.Close(transport.CodeGoingAway, "disconnected")
	session.Close(transport.CodeRestart, "only the first call counts")
	err := <-session.closed
	var closed *transport.CloseError
	if !errors.As(err, &closed) || *closed != (transport.CloseError{Code: transport.CodeGoingAway, Reason: "disconnected"}) {
		t.Errorf("closed by %v", err)
	}
	if err := session.Send(&serializer.Frame{Op: serializer.OpText}, transport.Delivery{}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	s.post(token, "[1]").is(t, 410)
	a := s.get(token)
	a.is(t, 410) // and what was queued is gone
	if a.Token == token {
		t.Error("the old token")
	}
	if len(session.closed) > 0 {
		t.Error("closed twice")
	}
}

// A poll that waits when its session ends is answered at once, so that the client learns of it by its next poll (Phoenix leaves it
// waiting). So is one that a later poll superseded.
func TestLongPollCloseReleasesPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				start := time.Now()
				s.get(token).is(t, 204)
				if d := time.Since(start); d != 3*time.Second {
					t.Errorf("after %v", d)
				}
			})
		}
		time.Sleep(3 * time.Second)
		session.Close(transport.CodeRestart, "")
		wg.Wait()
		s.get(token).is(t, 410)
	})
}

// What was sent just before Close still reaches the poll that waits.
func TestLongPollCloseBehindAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
		var wg sync.WaitGroup
		wg.Go(func() { s.get(token).is(t, 200, "[1]", "[2]") })
		synctest.Wait()
		session.send("[1]", "[2]")
		session.Close(transport.CodeRestart, "")
		wg.Wait()
		s.get(token).is(t, 410)
	})
}

// Closed comes after the Receive that is running, and no other Receive after it.
func TestLongPollClosedWaitsForReceive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		token, session := s.open()
		session.receive = func(serializer.Op, []byte) error {
			time.Sleep(time.Second)
			return nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { s.post(token, "[1]\n[2]").is(t, 410) }) // the second has not been handed on
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
		if got := session.received(); !slices.Equal(got, []string{"1:[1]"}) {
			t.Errorf("got %q", got)
		}
	})
}

// Of two polls the later gets the messages; the earlier waits out its window.
func TestLongPollTwoPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
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
		session.send("[2]") // which the first poll must not take either
		time.Sleep(time.Second)
		wg.Wait()
		s.get(token).is(t, 200, "[2]")
	})
}

// A panic in connect or while a session begins is a 500 and nothing else.
func TestLongPollConnectPanics(t *testing.T) {
	t.Parallel()
	var told atomic.Int32
	s := longpoll.NewServer(longpoll.Config{OnPanic: func(v any, stack []byte) {
		if v != "oops" || !strings.Contains(string(stack), "TestLongPollConnectPanics") {
			t.Errorf("%v\n%s", v, stack)
		}
		told.Add(1)
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
	if n := told.Load(); n != 3 {
		t.Errorf("told of %d panics", n)
	}
}

// A goroutine that is ended in connect, while a session begins or in Receive leaves nothing behind.
func TestLongPollGoexit(t *testing.T) {
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

	session := &lpSession{closed: make(chan error, 1)}
	session.receive = func(serializer.Op, []byte) error { runtime.Goexit(); return nil }
	var a lpAnswer
	text := serve(httptest.NewRequest("GET", "/", nil), func(transport.Conn) transport.Session { return session })
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	if text := serve(httptest.NewRequest("POST", "/?token="+a.Token, strings.NewReader("[1]")), nil); text != `{"status":408}` {
		t.Errorf("got %q", text)
	}
	if err := <-session.closed; lpCode(err) != transport.CodeInternal || errors.As(err, new(*safecall.PanicError)) {
		t.Errorf("closed by %v", err)
	}
	s.Wait()
}

// A Session may close its connection while it begins: the server is going down. The client is told to come back.
func TestLongPollCloseWhileItBegins(t *testing.T) {
	t.Parallel()
	s := longpoll.NewServer(longpoll.Config{})
	session := &lpSession{closed: make(chan error, 1)}
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
	if err := <-session.closed; lpCode(err) != transport.CodeRestart {
		t.Errorf("closed by %v", err)
	}
	s.Wait()
}

// A client that has gone away while connect ran gets no session.
func TestLongPollGoneBeforeItBegins(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.getWith(ctx, "")
	if len(s.sessions) > 0 || s.Stats().Sessions > 0 {
		t.Error("a session began")
	}
}

// A panic in Receive ends the session; one in Closed ends nothing else.
func TestLongPollSessionPanics(t *testing.T) {
	t.Parallel()
	told := make(chan any, 1)
	s := longpoll.NewServer(longpoll.Config{OnPanic: func(v any, _ []byte) { told <- v; panic("in OnPanic") }})
	closed := make(chan error, 1)
	connect := func() (func(transport.Conn) transport.Session, error) {
		return func(transport.Conn) transport.Session { return lpPanics{closed} }, nil
	}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/", nil), connect)
	var a lpAnswer
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
	if err := <-closed; !errors.As(err, &p) || p.Value != "in Receive" || !strings.Contains(string(p.Stack), "lpPanics") || lpCode(err) != transport.CodeInternal {
		t.Errorf("closed by %v", err)
	}
	if v := <-told; v != "in Closed" {
		t.Errorf("told of %v", v)
	}
	s.Wait()
}

type lpPanics struct{ closed chan error }

func (lpPanics) Receive(serializer.Op, []byte) error { panic("in Receive") }

func (p lpPanics) Closed(err error) { p.closed <- err; panic("in Closed") }

// Wait waits for Closed.
func TestLongPollWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := longpoll.NewServer(longpoll.Config{})
		s.Wait() // for nothing
		w := httptest.NewRecorder()
		var conn transport.Conn
		s.Serve(w, httptest.NewRequest("GET", "/", nil), func() (func(transport.Conn) transport.Session, error) {
			return func(c transport.Conn) transport.Session { conn = c; return lpLingers{} }, nil
		})
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			conn.Close(transport.CodeRestart, "")
		}()
		s.Wait()
		if d := time.Since(start); d != 6*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

type lpLingers struct{}

func (lpLingers) Receive(serializer.Op, []byte) error { return nil }

func (lpLingers) Closed(error) { time.Sleep(5 * time.Second) }

// Polls at once, sessions that begin and end, senders under way: nothing is torn, nothing is left. For the race detector.
func TestLongPollChaos(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{Window: 5 * time.Millisecond, MaxQueue: 2000, OnSlow: transport.DropOldest, MaxSessions: 50})
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
				session := s.sessions[rnd.IntN(len(s.sessions))] // anybody's
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
