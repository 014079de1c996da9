package longpoll

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// The body of a POST is in memory from when it is read until the session has received its messages.
// The bodies of one session take at most Config.MaxBody together, and those of all sessions
// maxFirstBodies and maxMoreBodies.
//
// A body takes its share in steps, as its bytes arrive. So clients that announce a body and do not
// send it block no others. The first step of each body comes from a separate share, so that large
// bodies cannot exclude small ones.
const (
	bodyStep       = 16 << 10
	maxFirstBodies = 16 << 20 // for the first step of each body
	maxMoreBodies  = 32 << 20 // for the other steps, or MaxBody if that is more
	bodyOverhead   = 1 << 10  // what a POST costs its session in addition to its body

	// maxDiscards bounds the refused requests whose bodies are read at the same time.
	maxDiscards = 1024

	// yieldBytes is how much of one body is read before other goroutines may run.
	yieldBytes = 64 << 10
)

var errBodyBusy = errors.New("longpoll: too many bodies in work")

// bodies are the budgets for the bodies of POSTs.
type bodies struct {
	first, more budget
	perSession  int64

	mu       sync.Mutex
	sessions map[tokenID]*sessionBodies // sessions that have a POST in work
}

// sessionBodies is the budget of one session.
type sessionBodies struct {
	budget
	posts int
}

// init sets the budgets: that of each session, and that of all sessions for the steps behind the
// first of each body. The latter is at least that of one session.
func (b *bodies) init(perSession, more int64) {
	b.perSession = perSession
	b.first.free = maxFirstBodies
	b.more.free = max(more, perSession)
	b.sessions = make(map[tokenID]*sessionBodies)
}

// tryTake takes the bytes for a body of the given size, if they are free. It reports whether it
// took them. Then the caller must call give.
func (b *bodies) tryTake(id tokenID, size int64) bool {
	s := b.enter(id)
	if s.tryTake(size) {
		first := min(size, bodyStep)
		if b.first.tryTake(first) {
			if b.more.tryTake(size - first) {
				return true
			}
			b.first.give(first)
		}
		s.give(size)
	}
	b.leave(id, s)
	return false
}

// give returns the bytes for a body of the given size.
func (b *bodies) give(id tokenID, size int64) {
	b.giveShared(size)
	b.mu.Lock()
	s := b.sessions[id]
	b.mu.Unlock()
	s.give(size)
	b.leave(id, s)
}

// giveShared returns the bytes for a body of the given size to the budgets of all sessions.
func (b *bodies) giveShared(size int64) {
	first := min(size, bodyStep)
	b.first.give(first)
	if size > first {
		b.more.give(size - first)
	}
}

// enter adds a POST to a session's.
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

// leave removes a POST from a session's.
func (b *bodies) leave(id tokenID, s *sessionBodies) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.posts--; s.posts == 0 {
		delete(b.sessions, id)
	}
}

// postBody is the body of one POST. Reading from it takes bytes from the budgets of the Server.
type postBody struct {
	from    yieldingReader
	all     *bodies
	session *sessionBodies
	id      tokenID
	until   time.Time
	done    <-chan struct{}

	size  int64 // taken from the session's budget
	held  int64 // taken from the Server's budgets
	limit int64 // bound of held: the size of the body, as far as it is known
	read  int64
}

// beginBody takes the bytes that a POST needs of its session's budget. It reports false if they are
// not free within the window. Otherwise the caller must call release.
func (s *Server) beginBody(r *http.Request, id tokenID) (*postBody, bool) {
	size := s.cfg.MaxBody
	if r.ContentLength >= 0 {
		size = min(r.ContentLength, size)
	}
	b := &postBody{from: yieldingReader{from: r.Body}, all: &s.bodies, id: id, done: r.Context().Done(), limit: size}
	b.size = min(size+bodyOverhead, s.cfg.MaxBody)
	b.session = s.bodies.enter(id)
	if !b.session.take(b.size, time.Now().Add(s.cfg.Window), b.done) {
		s.bodies.leave(id, b.session)
		return nil, false
	}
	b.until = time.Now().Add(readTimeout)
	return b, true
}

// Read implements io.Reader. It returns errBodyBusy if there is no room within readTimeout.
func (b *postBody) Read(p []byte) (int, error) {
	if b.read == b.held && !b.grow() {
		return 0, errBodyBusy
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.held-b.read)])
	b.read += int64(n)
	return n, err
}

// grow takes bytes for the next step. One byte more than the body has is needed to find its end.
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

// release returns the bytes. The messages of the body must no longer be in use.
func (b *postBody) release() {
	b.all.giveShared(b.held)
	b.session.give(b.size)
	b.all.leave(b.id, b.session)
}

// yieldingReader lets other goroutines run after every yieldBytes. If the client never pauses, its
// goroutine does not wait, and keeps the processor until the scheduler preempts it, after 10 ms.
// With many such clients, all others would wait for that time again and again.
type yieldingReader struct {
	from io.Reader
	read int // since other goroutines could run
}

// Read implements io.Reader.
func (y *yieldingReader) Read(p []byte) (int, error) {
	if y.read >= yieldBytes {
		y.read = 0
		runtime.Gosched()
	}
	n, err := y.from.Read(p)
	y.read += n
	return n, err
}

// Discard reads and drops the body of a request that is going to be refused, up to MaxBody and for
// a limited time. It reports whether it reached the end of the body.
//
// A proxy that is still sending a request when the answer arrives and the connection is closed
// often does not see the answer, and answers 502 itself.
func (s *Server) Discard(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		clearReadDeadline(w)
		return true
	}
	setReadDeadline(w)
	return s.discard(w, r)
}

// discard is Discard with the read deadline that is already set.
func (s *Server) discard(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Expect") != "" { // the client waits before it sends the body; net/http closes the connection
		return false
	}
	defer s.discards.Add(-1)
	if s.discards.Add(1) > maxDiscards {
		w.Header().Set("Connection", "close")
		return false
	}
	body := &io.LimitedReader{R: &yieldingReader{from: r.Body}, N: s.cfg.MaxBody + 1}
	if _, err := io.Copy(io.Discard, body); err != nil || body.N == 0 {
		w.Header().Set("Connection", "close")
		return false
	}
	clearReadDeadline(w)
	return true
}
