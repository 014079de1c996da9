package longpoll

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// scripted is a pollSession whose polls a test answers.
type scripted struct {
	onPoll    func(p *poll) ([]*serializer.Frame, bool)
	delivered []bool
}

func (s *scripted) poll(_ context.Context, p *poll) ([]*serializer.Frame, bool) {
	return s.onPoll(p)
}

func (s *scripted) settle(delivered bool) { s.delivered = append(s.delivered, delivered) }

func (s *scripted) post(context.Context, []part, func()) int { return statusOK }

// A newer poll may arrive between the moment when an older one takes messages and its answer. The
// answer of the older one is empty then.
func TestAbortedPollIsEmpty(t *testing.T) {
	t.Parallel()
	s := &scripted{onPoll: func(p *poll) ([]*serializer.Frame, bool) {
		p.abort()
		return []*serializer.Frame{{Op: serializer.OpText, Data: []byte("[1]")}}, false
	}}
	w := httptest.NewRecorder()
	answered := answerPoll(w, httptest.NewRequest("GET", "/", nil), s, "T")
	if !answered || w.Body.String() != `{"status":204,"token":"T","messages":[]}` {
		t.Errorf("got %q", w.Body)
	}
	if len(s.delivered) != 1 || s.delivered[0] {
		t.Errorf("settled %v", s.delivered)
	}
}

// A session may end after it was found and before it is polled. The GET then begins another
// session.
func TestPollOfEndedSession(t *testing.T) {
	t.Parallel()
	s := &scripted{onPoll: func(*poll) ([]*serializer.Frame, bool) { return nil, true }}
	w := httptest.NewRecorder()
	if answerPoll(w, httptest.NewRequest("GET", "/", nil), s, "T") || w.Body.Len() > 0 || s.delivered != nil {
		t.Errorf("answered %q, settled %v", w.Body, s.delivered)
	}
}

// plainWriter is a ResponseWriter without other methods, as that of http.TimeoutHandler.
type plainWriter struct{ w *httptest.ResponseRecorder }

func (p plainWriter) Header() http.Header         { return p.w.Header() }
func (p plainWriter) WriteHeader(code int)        { p.w.WriteHeader(code) }
func (p plainWriter) Write(b []byte) (int, error) { return p.w.Write(b) }

func TestPlainWriter(t *testing.T) {
	t.Parallel()
	s := &scripted{onPoll: func(*poll) ([]*serializer.Frame, bool) {
		return []*serializer.Frame{{Op: serializer.OpText, Data: []byte("[1]")}}, false
	}}
	w := httptest.NewRecorder()
	answered := answerPoll(plainWriter{w}, httptest.NewRequest("GET", "/", nil), s, "T")
	if !answered || w.Body.String() != `{"status":200,"token":"T","messages":["[1]"]}` {
		t.Errorf("got %q", w.Body)
	}
	if len(s.delivered) != 1 || !s.delivered[0] {
		t.Errorf("settled %v", s.delivered)
	}
}

// A POST that takes the turn just when the session ends returns it, and its message is not handled.
func TestPostToEndedSession(t *testing.T) {
	t.Parallel()
	s := NewServer(Config{})
	for range 50 { // select chooses at random
		l := newLocalSession(s)
		if err := l.begin(func(transport.Conn) transport.Session { return noSession{} }); err != nil || !s.reserve() {
			t.Fatal("no session")
		}
		l.turn <- struct{}{} // keeps the session from finishing
		l.end(transport.ErrIdle)
		<-l.turn
		if status := l.post(t.Context(), []part{{serializer.OpText, []byte("[1]")}}, func() {}); status != statusGone {
			t.Fatalf("status %d", status)
		}
	}
	s.Wait()
}

// The memory of an idle session, without its transport.Session, has a budget.
func TestMemoryOfIdleSession(t *testing.T) {
	const n = 1000
	s := NewServer(Config{})
	sessions := make([]*localSession, 0, n)
	open := func() {
		l, err := s.open(httptest.NewRequest("GET", "/", nil), func() (func(transport.Conn) transport.Session, error) {
			return func(transport.Conn) transport.Session { return noSession{} }, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, l)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	open()
	goroutines, before := runtime.NumGoroutine(), heap()
	for range n - 1 {
		open()
	}
	if got := (heap() - before) / n; got > 1000 {
		t.Errorf("%d bytes", got)
	} else {
		t.Logf("%d bytes", got)
	}
	if got := runtime.NumGoroutine(); got > goroutines+n/10 { // parallel tests have goroutines too
		t.Errorf("%d goroutines more", got-goroutines)
	}
	for _, l := range sessions {
		l.end(errors.New("over"))
	}
	s.Wait()
}
