package longpoll

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
	"bennu.example/transport/internal/outbox"
)

const (
	// writeTimeout is how long a client may take to read an answer.
	writeTimeout = 15 * time.Second
	// readTimeout is how long a client may take to send a body.
	readTimeout = 30 * time.Second
)

// Server serves sessions over plain HTTP requests, as Phoenix does. A GET begins a session or waits
// for its messages. A POST has messages for it. The methods may be called from any goroutine.
//
// # Delivery
//
// The frames of a session reach its client in the order in which they were sent, each at most once.
// A poll that its client cancels takes no frames: they stay for the next poll. If writing an answer
// fails, its frames return to the front of the queue, and no other poll takes frames meanwhile.
//
// The protocol has no acknowledgement. If the operating system accepts an answer and the network
// then loses it, its frames are lost. Of two polls at the same time, the later one receives the
// frames; the earlier one waits until its window ends.
//
// # End of a session
//
// A session ends when Close is called, a message is malformed, its queue is full, or its client
// no longer polls. A poll that waits is answered immediately, with the frames that were queued.
// The client's next poll finds that the session is gone. Phoenix would let the first poll wait
// until its window ends. If no poll waits, the queued frames are dropped.
//
// A POST whose message ended the session is answered with status 408 immediately. Phoenix answers
// the same when the window ends.
//
// # Sessions of other nodes
//
// With Peers, the node that receives a request serves it as if the session were its own. Before it
// writes frames to the client, the serving node asks the session's node for permission. Once
// permission is given, the frames count as delivered unless the serving node reports a failure.
// Until then they stay in the session's queue. So a message that is lost between the nodes costs
// at most the frames of one answer, and no frame is delivered twice.
//
// If a node does not answer within PeerTimeout, its sessions count as gone: a GET gets a new
// session, of the serving node. The messages of a POST may have been handled nevertheless.
//
// # Differences from Phoenix
//
// A binary frame is delivered as the base64 of its bytes. Phoenix puts the bytes themselves into a
// JSON string, which breaks clients.
type Server struct {
	cfg    Config
	tokens *tokens
	node   tokenID

	cluster *cluster // nil without Peers

	slow                     outbox.Policy
	idle, full, tooBig, busy atomic.Uint64 // see Stats

	bodies   bodies
	discards atomic.Int64 // requests whose bodies are being discarded

	mu       sync.Mutex
	sessions map[tokenID]*localSession
	places   int        // taken by sessions that live, are being made, or are still ending
	free     *sync.Cond // on mu: places became 0
}

// NewServer returns a Server without sessions. The caller must call Close if cfg has Peers.
func NewServer(cfg Config) *Server {
	s := &Server{
		cfg:      cfg.withDefaults(),
		tokens:   newTokens(cfg.Secret),
		node:     newTokenID(),
		sessions: make(map[tokenID]*localSession),
	}
	s.slow.Max, s.slow.Default, s.slow.OnDrop = s.cfg.MaxQueue, s.cfg.OnSlow, s.cfg.OnDrop
	s.free = sync.NewCond(&s.mu)
	s.bodies.init(s.cfg.MaxBody, maxMoreBodies)
	if cfg.Peers != nil && len(cfg.Secret) > 0 {
		s.cluster = newCluster(s)
	}
	return s
}

// Stats are the counts of a Server.
type Stats struct {
	Sessions  int    // sessions that live, are being made, or have not ended yet
	Dropped   uint64 // frames dropped by the policies DropOldest and DropNewest
	Conflated uint64 // frames replaced by a newer one of their key, by the policy KeepLatest
	Slow      uint64 // sessions that ended because their client read too slowly
	Idle      uint64 // sessions that ended because their client did not poll
	Full      uint64 // sessions refused because there were MaxSessions
	TooBig    uint64 // POSTs beyond MaxBody or MaxMessage
	Busy      uint64 // POSTs refused because too many bodies were in work
}

// Stats returns the current counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Sessions:  s.places,
		Dropped:   s.slow.Dropped.Load(),
		Conflated: s.slow.Conflated.Load(),
		Slow:      s.slow.Ended.Load(),
		Idle:      s.idle.Load(),
		Full:      s.full.Load(),
		TooBig:    s.tooBig.Load(),
		Busy:      s.busy.Load(),
	}
}

// Wait returns when there are no sessions and all calls of Session.Closed have returned. It does
// not end sessions.
func (s *Server) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.places > 0 {
		s.free.Wait()
	}
}

// Close leaves the cluster: requests for sessions of other nodes are answered, and the Server no
// longer listens to its Peers. It does not end sessions. If a session handles a message that came
// from another node, Close waits for that.
func (s *Server) Close() {
	if s.cluster != nil {
		s.cluster.close()
	}
}

// open makes a session. The error is the reason why there is none.
func (s *Server) open(r *http.Request, connect connectFunc) (*localSession, error) {
	if !s.reserve() {
		return nil, errBusy
	}
	begun := false
	defer func() {
		if !begun { // also if connect ended its goroutine
			s.release()
		}
	}()
	open, err := s.connect(connect)
	if err == nil {
		err = r.Context().Err() // no client would receive the token
	}
	if err != nil {
		return nil, err
	}
	begun = true
	l := newLocalSession(s)
	s.mu.Lock()
	s.sessions[l.id] = l
	s.mu.Unlock()
	if err := l.begin(open); err != nil {
		return nil, err
	}
	if !l.alive() {
		return nil, errClosing
	}
	return l, nil
}

const errPanicked = StatusError(http.StatusInternalServerError)

var (
	// errBusy refuses a session beyond MaxSessions.
	errBusy = fmt.Errorf("too many sessions: %w", StatusError(http.StatusServiceUnavailable))
	// errClosing refuses a session that its own function closed, because the server is shutting
	// down. It has no Retry-After: the client's next attempt reaches another server.
	errClosing = fmt.Errorf("closed: %w", StatusError(http.StatusServiceUnavailable))
)

// connect calls connect and recovers its panic.
func (s *Server) connect(connect connectFunc) (open openFunc, err error) {
	defer s.recoverPanic(&err)
	return connect()
}

// recoverPanic must be deferred. It sets err if the function panicked.
func (s *Server) recoverPanic(err *error) {
	v := recover()
	if v == nil {
		return
	}
	*err = errPanicked
	guard.CallOnPanic(s.cfg.OnPanic, v)
}

// find returns the session that a token names, and its id. It returns nil if there is none.
func (s *Server) find(token string) (pollSession, tokenID) {
	c, ok := s.tokens.verify(token, time.Now(), s.cfg.TokenMaxAge)
	switch {
	case !ok:
	case c.node == s.node:
		if l := s.local(c.session); l != nil {
			return l, c.session
		}
	case s.cluster != nil:
		return &remoteSession{cluster: s.cluster, node: c.node, id: c.session}, c.session
	}
	return nil, tokenID{}
}

// local returns the session of this node with the given id, or nil.
func (s *Server) local(id tokenID) *localSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

// reserve takes a place for a session. It reports whether there was one.
func (s *Server) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places >= s.cfg.MaxSessions {
		s.full.Add(1)
		return false
	}
	s.places++
	return true
}

// release returns a place.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places--; s.places == 0 {
		s.free.Broadcast()
	}
}

// forget removes a session from the table. It keeps its place until it has ended.
func (s *Server) forget(l *localSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, l.id)
}

// An openFunc returns the Session of a connection.
type openFunc = func(transport.Conn) transport.Session

// A connectFunc accepts or refuses a new session.
type connectFunc = func() (openFunc, error)
