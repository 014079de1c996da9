package longpoll

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Bodies of POSTs are in memory from when they are read until the session has received their messages.
// Together, those of one session take at most LongPollConfig.MaxBody, and those of all sessions this much.
//
// A body takes its share in steps, as its bytes arrive, so that clients which announce a body and never send
// it block nobody. The first step of each comes from a share of its own: large bodies cannot keep small ones out.
const (
	bodyStep       = 16 << 10
	maxFirstBodies = 16 << 20 // for the first step of each body
	maxMoreBodies  = 32 << 20 // for the rest; at least MaxBody
	bodyOverhead   = 1 << 10  // what a POST costs its session besides its body

	// maxDiscards is how many requests that are refused may have their bodies read at the same time.
	maxDiscards = 1024
)

var errBodyBusy = errors.New("no room for the body of a long-poll request")

// budget is a number of bytes that several goroutines share. They get them in the order in which they ask.
type budget struct {
	mu      sync.Mutex
	free    int64
	waiting []*budgetWaiter
}

type budgetWaiter struct {
	n     int64
	ready chan struct{} // closed once it has the bytes
}

// take takes n bytes. It waits for them until the time given or until done is closed, and then reports false.
func (b *budget) take(n int64, until time.Time, done <-chan struct{}) bool {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return true
	}
	w := &budgetWaiter{n: n, ready: make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()

	timeout := time.NewTimer(time.Until(until))
	defer timeout.Stop()
	select {
	case <-w.ready:
		return true
	case <-timeout.C:
	case <-done:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, w)
	if i < 0 {
		return true // it got them just now
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	b.grant() // those behind it may need less
	return false
}

// give gives n bytes back.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grant()
}

// grant gives those that wait what there is. The caller holds mu.
func (b *budget) grant() {
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		w := b.waiting[0]
		b.waiting = slices.Delete(b.waiting, 0, 1)
		b.free -= w.n
		close(w.ready)
	}
	if len(b.waiting) == 0 {
		b.waiting = nil
	}
}

// bodies are the POSTs whose bodies are in memory.
type bodies struct {
	first, more budget
	perSession  int64

	mu       sync.Mutex
	sessions map[tokenID]*sessionBodies // those with a POST under way
}

type sessionBodies struct {
	budget
	posts int
}

func (b *bodies) init(maxBody int64) {
	b.perSession = maxBody
	b.first.free = maxFirstBodies
	b.more.free = max(maxMoreBodies, maxBody)
	b.sessions = make(map[tokenID]*sessionBodies)
}

// postBody is the body of one POST. Reading from it takes room from the budget of the handler.
type postBody struct {
	from    io.Reader
	all     *bodies
	session *sessionBodies
	id      tokenID
	until   time.Time
	done    <-chan struct{}

	size  int64 // taken from the session's budget
	held  int64 // taken from the handler's
	limit int64 // of held: the body's size, as far as it is known
	read  int64
}

// begin takes the room that a POST needs of its session, or reports false if there is none within the window.
// The caller must call release.
func (s *Server) beginBody(r *http.Request, id tokenID) (*postBody, bool) {
	size := s.cfg.MaxBody
	if r.ContentLength >= 0 {
		size = min(r.ContentLength, size)
	}
	b := &postBody{from: r.Body, all: &s.bodies, id: id, done: r.Context().Done(), limit: size}
	b.size = min(size+bodyOverhead, s.cfg.MaxBody)
	b.session = s.bodies.enter(id)
	if !b.session.take(b.size, time.Now().Add(s.cfg.Window), b.done) {
		s.bodies.leave(id, b.session)
		return nil, false
	}
	b.until = time.Now().Add(readTimeout)
	return b, true
}

func (b *bodies) enter(id tokenID) *sessionBodies {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[id]
	if s == nil {
		s = &sessionBodies{budget: budget{free: b.perSession}}
		b.sessions[id] = s
	}
	s.posts++
	return s
}

func (b *bodies) leave(id tokenID, s *sessionBodies) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.posts--; s.posts == 0 {
		delete(b.sessions, id)
	}
}

// Read implements [io.Reader].
func (b *postBody) Read(p []byte) (int, error) {
	if b.read == b.held && !b.grow() {
		return 0, errBodyBusy
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.held-b.read)])
	b.read += int64(n)
	return n, err
}

// grow takes room for the next step. The last byte of it is for finding the end of the body.
func (b *postBody) grow() bool {
	budget := &b.all.more
	if b.held == 0 {
		budget = &b.all.first
	}
	step := min(bodyStep, max(b.limit-b.held, 0)+1)
	if !budget.take(step, b.until, b.done) {
		return false
	}
	b.held += step
	return true
}

// release gives the room back. The body's bytes must not be in use any more.
func (b *postBody) release() {
	first := min(b.held, bodyStep)
	b.all.first.give(first)
	if b.held > first {
		b.all.more.give(b.held - first)
	}
	b.session.give(b.size)
	b.all.leave(b.id, b.session)
}

// Discard reads and drops the body of a request that is going to be refused, up to MaxBody and for a limited time.
// It reports whether it came to the body's end. A proxy that is still sending a request when the answer
// arrives, and the connection ends, often sees no answer at all, and answers 502 itself.
func (s *Server) Discard(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		clearReadDeadline(w)
		return true
	}
	setReadDeadline(w)
	return s.discard(w, r)
}

// discard is Discard with the read deadline that is set already.
func (s *Server) discard(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Expect") != "" { // the client waits for leave to send it; net/http closes the connection
		return false
	}
	defer s.discards.Add(-1)
	if s.discards.Add(1) > maxDiscards {
		w.Header().Set("Connection", "close")
		return false
	}
	body := &io.LimitedReader{R: r.Body, N: s.cfg.MaxBody + 1}
	if _, err := io.Copy(io.Discard, body); err != nil || body.N == 0 {
		w.Header().Set("Connection", "close")
		return false
	}
	clearReadDeadline(w)
	return true
}
