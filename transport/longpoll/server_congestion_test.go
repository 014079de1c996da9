package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
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

const (
	// With congestedQueue, a client is congested by congestingAnswers answers that it has not
	// received, each of which counts as answerSize bytes.
	congestedQueue    = 4096
	answerSize        = 512
	congestingAnswers = 5
)

// respond answers a message with its own text, in a frame that counts as answerSize bytes.
func (s *testSession) respond(data []byte) error {
	text := fmt.Sprintf("%-*s", answerSize-64, data)
	return s.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte(text)}, transport.Delivery{Answer: true})
}

// openCongestible begins a session that answers each message.
func (s *testServer) openCongestible() (token string, session *testSession) {
	token, session = s.open()
	session.receive = func(_ serializer.Op, data []byte) error { return session.respond(data) }
	return token, session
}

// numbered returns the messages [from] to [to-1], and the body of a POST that has them.
func numbered(from, to int) (messages []string, body string) {
	for i := from; i < to; i++ {
		messages = append(messages, fmt.Sprintf("[%d]", i))
	}
	return messages, strings.Join(messages, "\n")
}

// texts returns the texts of answers made by respond.
func (a testAnswer) texts() (texts []string) {
	for _, m := range a.Messages {
		texts = append(texts, strings.TrimRight(m, " "))
	}
	return texts
}

// postLater posts in another goroutine. The channel receives the status.
func (s *testServer) postLater(token, body string) <-chan int {
	status := make(chan int, 1)
	go func() { status <- s.post(token, body).Status }()
	return status
}

func wantStatus(t *testing.T, status <-chan int, want int) {
	t.Helper()
	if got := <-status; got != want {
		t.Errorf("status %d, want %d", got, want)
	}
}

// wantUnanswered checks that a POST waits.
func wantUnanswered(t *testing.T, status <-chan int) {
	t.Helper()
	synctest.Wait()
	if len(status) > 0 {
		t.Errorf("answered with status %d", <-status)
	}
}

// The messages of a client whose answers take more than half of MaxQueue are not handled until a
// poll has taken the answers. This holds on the session's own node and on another one.
func TestCongestedSessionStopsReceiving(t *testing.T) {
	t.Parallel()
	for _, node := range []int{0, 1} {
		withNodes(t, 2, longpoll.Config{MaxQueue: congestedQueue}, func(t *testing.T, n []*testServer) {
			token, session := n[0].openCongestible()
			messages, body := numbered(0, 18)
			start := time.Now()
			status := n[node].postLater(token, body)
			time.Sleep(12 * time.Second) // longer than a message may wait for anything else
			var got []string
			for range 3 {
				wantUnanswered(t, status)
				if handled := len(session.received()); handled != len(got)+congestingAnswers {
					t.Errorf("%d messages were handled, %d answers were delivered", handled, len(got))
				}
				got = append(got, n[node].get(token).texts()...)
			}
			wantStatus(t, status, 200)
			wantAfter(t, start, 12*time.Second)
			got = append(got, n[1-node].get(token).texts()...)
			if !slices.Equal(got, messages) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// A heartbeat and a leave that are posted behind a congested POST are answered as soon as the
// client has polled for the answers before them. They do not time out meanwhile.
func TestCongestionDelaysHeartbeatsByPollsOnly(t *testing.T) {
	t.Parallel()
	const between = 4 * time.Second
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{MaxQueue: congestedQueue})
		defer s.end()
		token, _ := s.openCongestible()
		messages, body := numbered(0, 4*congestingAnswers)
		busy := s.postLater(token, body)
		synctest.Wait()
		start := time.Now()
		heartbeat := s.postLater(token, `["heartbeat"]`)
		synctest.Wait()
		leave := s.postLater(token, `["leave"]`)
		time.Sleep(between)
		var got []string
		for len(got) < 4*congestingAnswers {
			wantUnanswered(t, heartbeat)
			got = append(got, s.get(token).texts()...)
			time.Sleep(between)
		}
		for _, status := range []<-chan int{busy, heartbeat, leave} {
			wantStatus(t, status, 200)
		}
		wantAfter(t, start, 5*between) // four polls, each after a pause, and the last pause
		got = append(got, s.get(token).texts()...)
		if want := append(messages, `["heartbeat"]`, `["leave"]`); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

// A congested client that no longer polls is idle: its session ends as any other, and so do its
// POSTs.
func TestCongestedSessionEndsWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{MaxQueue: congestedQueue})
		defer s.end()
		token, session := s.openCongestible()
		_, body := numbered(0, 100)
		start := time.Now()
		first := s.postLater(token, body)
		synctest.Wait()
		second := s.postLater(token, body)
		synctest.Wait()
		resumed := make(chan struct{}, 1)
		if !session.Congested(func() { resumed <- struct{}{} }) {
			t.Error("not congested")
		}
		if err := <-session.closed; !errors.Is(err, transport.ErrIdle) {
			t.Errorf("closed by %v", err)
		}
		wantAfter(t, start, 15*time.Second)
		wantStatus(t, first, 410)
		wantStatus(t, second, 410)
		<-resumed
		if n := len(session.received()); n != congestingAnswers {
			t.Errorf("%d messages were handled", n)
		}
		if got := s.Stats(); got.Idle != 1 || got.Slow != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// The function that Congested registers is called once, under no lock, when the answers were
// delivered. The client's own messages are what counts, not those that others send.
func TestCongestedRegistersOneFunction(t *testing.T) {
	t.Parallel()
	cfg := longpoll.Config{MaxQueue: congestedQueue}
	withSession(t, cfg, func(t *testing.T, s *testServer, token string, session *testSession) {
		calls := make(chan string, 10)
		on := func(name string) func() { return func() { calls <- name; session.send("[1]") } }

		session.send("[" + strings.Repeat("1", congestedQueue/2) + "]")
		if session.Congested(on("never")) {
			t.Error("congested by a broadcast")
		}
		for i := range congestingAnswers {
			if session.Congested(nil) {
				t.Errorf("congested by %d answers", i)
			}
			session.respond([]byte("[0]"))
		}
		if !session.Congested(on("replaced")) || !session.Congested(on("once")) || !session.Congested(nil) {
			t.Error("not congested")
		}
		// A poll whose answer fails leaves the session congested.
		s.getBroken(token)
		if !session.Congested(nil) || len(calls) > 0 {
			t.Error("the failed answer ended the congestion")
		}
		s.get(token)
		synctest.Wait()
		if session.Congested(on("never")) || len(calls) != 1 || <-calls != "once" {
			t.Error("the answer did not end the congestion")
		}
		session.Close(transport.CodeGoingAway, "")
		synctest.Wait()
		if len(calls) > 0 {
			t.Errorf("%q was called", <-calls)
		}
	})
}

// Congestion ends at a quarter of MaxQueue: a poll whose answer is overtaken by further ones does
// not end it.
func TestCongestionEndsAtAQuarter(t *testing.T) {
	t.Parallel()
	for during, congested := range []bool{false, false, false, true} {
		cfg := longpoll.Config{MaxQueue: congestedQueue}
		withSession(t, cfg, func(t *testing.T, s *testServer, token string, session *testSession) {
			for range congestingAnswers {
				session.respond([]byte("[0]"))
			}
			w := &observedWriter{httptest.NewRecorder(), func() {
				for range during {
					session.respond([]byte("[1]"))
				}
			}}
			s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil))
			if got := session.Congested(nil); got != congested {
				t.Errorf("%d answers while a poll was written: congested is %v", during, got)
			}
			if during == 0 {
				return
			}
			if got := len(s.get(token).Messages); got != during || session.Congested(nil) {
				t.Errorf("%d answers were left, congested is %v", got, session.Congested(nil))
			}
		})
	}
}

// A POST that its client gives up while the session is congested is not kept in memory: the
// messages that were not handled are dropped. Later POSTs are handled.
func TestCongestedPostGivenUp(t *testing.T) {
	t.Parallel()
	for _, node := range []int{0, 1} {
		withNodes(t, 2, longpoll.Config{MaxQueue: congestedQueue}, func(t *testing.T, n []*testServer) {
			token, session := n[0].openCongestible()
			messages, body := numbered(0, 10)
			ctx, cancel := context.WithCancel(t.Context())
			var post sync.WaitGroup
			post.Go(func() {
				r := httptest.NewRequest("POST", "/?token="+token, strings.NewReader(body)).WithContext(ctx)
				r.Header = batchHeader.Clone()
				n[node].ServeHTTP(httptest.NewRecorder(), r)
			})
			synctest.Wait()
			cancel()
			post.Wait()
			status := n[node].postLater(token, "[20]")
			wantUnanswered(t, status)
			n[0].get(token)
			wantStatus(t, status, 200)
			if got, want := n[0].get(token).texts(), []string{"[20]"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if n := len(session.received()); n != congestingAnswers+1 {
				t.Errorf("%d of %d messages were handled", n-1, len(messages))
			}
		})
	}
}

// Whatever the sizes of messages and answers are and however the client polls, its own messages
// never end its session, none is handled while too many answers wait, and every answer arrives once
// and in order.
func TestCongestionRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			s := newTestServer(t, longpoll.Config{MaxQueue: congestedQueue})
			defer s.end()
			token, session := s.open()
			var waiting atomic.Int64 // bytes of answers that were sent and not delivered
			sizes := rand.New(rand.NewPCG(seed, 4))
			session.receive = func(_ serializer.Op, data []byte) error {
				if n := waiting.Load(); n > congestedQueue/2 {
					t.Errorf("seed %d: a message was handled while %d bytes of answers waited", seed, n)
				}
				answer := fmt.Sprintf("%-*s", sizes.IntN(1900), data)
				waiting.Add(int64(len(answer) + 64))
				how := transport.Delivery{Answer: sizes.IntN(3) > 0}
				how.Caused = !how.Answer
				return session.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte(answer)}, how)
			}
			messages, _ := numbered(0, 300)
			var posts sync.WaitGroup
			posts.Go(func() {
				for rest := messages; len(rest) > 0; {
					n := min(1+random.IntN(60), len(rest))
					s.post(token, strings.Join(rest[:n], "\n")).is(t, 200)
					rest = rest[n:]
				}
			})
			polls := rand.New(rand.NewPCG(seed, 5))
			var got []string
			for len(got) < len(messages) {
				time.Sleep(time.Duration(polls.IntN(3000)) * time.Millisecond)
				if polls.IntN(4) == 0 {
					s.getBroken(token)
					continue
				}
				w := &observedWriter{ResponseRecorder: httptest.NewRecorder()}
				w.onWrite = func() {
					for _, m := range s.answer(w.ResponseRecorder).Messages {
						waiting.Add(-int64(len(m) + 64))
						got = append(got, strings.TrimRight(m, " "))
					}
				}
				s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil))
			}
			posts.Wait()
			if !slices.Equal(got, messages) {
				t.Errorf("seed %d: got %q", seed, got)
			}
		})
	}
}

// observedWriter calls a function after an answer was written and before it counts as delivered.
type observedWriter struct {
	*httptest.ResponseRecorder
	onWrite func()
}

func (w *observedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseRecorder.Write(p)
	w.onWrite()
	return n, err
}
