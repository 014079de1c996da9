// Package longpoll carries frames over plain HTTP requests, at either end, as Phoenix's long poll does.
//
// A [Server] answers requests and drives one transport.Session for each client. With [Peers], requests may reach any node
// of a cluster. [Dial] opens a client's session. Files that begin with server_ belong to the server's end, client_ to the
// client's, and cluster_ to sessions of other nodes.
package longpoll

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
	"bennu.example/transport/internal/outbox"
)

const (
	// writeTimeout is how long a client may take to read an answer, and readTimeout, to send a body. Then its connection is given up.
	writeTimeout = 15 * time.Second
	readTimeout  = 30 * time.Second
)

// LongPollConfig says how long polling is served. Every zero value works.
type Config struct {
	// Off turns it off.
	Off bool
	// Path is the end of its path, below the socket's; "" is "/longpoll".
	Path string

	// Window is how long a poll waits for messages, and a message that was posted for being taken; 0 is 10 s. A client that has begun no poll
	// for one and a half to three times as long is gone.
	Window time.Duration
	// MaxBody bounds a POST's body, in bytes. Zero means 8,000,000. A larger one is answered with 400, and
	// does nothing else. The bodies that one session has in work at the same time are bounded by it in
	// sum; further POSTs wait, for at most Window.
	MaxBody int64
	// MaxMessage bounds a message, in bytes; 0 is 1 MiB. A larger one is answered as a body that is too large.
	MaxMessage int64
	// MaxQueue bounds what waits for one client, in bytes, counting 64 for each frame besides its payload; 0 is 1 MiB. OnSlow is what happens
	// when there would be more. What a poll takes counts until it was written. What the client's own messages cause has a budget of the same
	// size besides, see Delivery: above half of it no further message of a POST is handled until a poll has taken what waits.
	MaxQueue int
	OnSlow   transport.SlowPolicy
	// MaxSessions bounds the sessions; 0 is 100,000. A client that wants a further one is told to come back later, by HTTP's status 503.
	MaxSessions int
	// TokenMaxAge is how long a session's token is good for; 0 is 14 days. Then its client has to begin a new session.
	TokenMaxAge time.Duration
	// Secret signs the tokens. None is a random one. All nodes of a cluster need the same, and handlers that serve something else, another.
	Secret []byte
	// Peers, with a Secret, takes requests to the node that has their session, so that a balancer may send them to any. Without it, a session
	// of another node is as good as gone. All nodes should have the same bounds.
	Peers Peers
	// PeerTimeout is how long to wait for another node to answer; 0 is 2 s. Then the session is taken for gone.
	PeerTimeout time.Duration

	// OnPanic is told of a panic in connect, in what that returned, or in Closed: they go no further, and a request is answered with 500. (A
	// panic in Receive ends the session, which learns of it by a *channel.PanicError.)
	OnPanic func(value any, stack []byte)
}

// withDefaults returns c with every zero value replaced.
func (c Config) withDefaults() Config {
	c.Path = cmp.Or(c.Path, "/longpoll")
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.MaxBody = min(cmp.Or(c.MaxBody, 8_000_000), math.MaxInt/2) // so that sizes can be calculated with, of base64 too
	c.MaxMessage = min(cmp.Or(c.MaxMessage, 1<<20), c.MaxBody)
	c.MaxQueue = cmp.Or(c.MaxQueue, 1<<20)
	c.MaxSessions = cmp.Or(c.MaxSessions, 100_000)
	c.TokenMaxAge = cmp.Or(c.TokenMaxAge, 14*24*time.Hour)
	c.PeerTimeout = cmp.Or(c.PeerTimeout, 2*time.Second)
	return c
}

// StatusError, as the error that refuses a long-poll session or in its tree, is the HTTP status to answer with instead of the protocol's
// own refusal: 500 if the fault is the server's, 503 if the client should come back later. Headers, such as Retry-After, are set
// by whoever refuses.
type StatusError int

func (e StatusError) Error() string {
	return fmt.Sprintf("transport: refused with HTTP status %d", int(e))
}

// LongPoll serves sessions over plain HTTP requests, as Phoenix does: a GET begins a session or waits for its messages, a POST brings
// messages for it. Its methods may be called from any goroutine.
//
// # What is delivered
//
// The frames of a session reach its client in the order in which they were sent, each at most once. A poll that the client gave up takes
// none with it: they stay for the next. If writing an answer fails, what was in it is put back in front, and no other poll takes
// anything meanwhile. But an answer that the system has accepted and the network then loses is lost, and so are its frames: the protocol
// has no acknowledgement. Of two polls at once the later one gets the frames; the earlier one waits out its window in vain.
//
// # How a session ends
//
// By Close, by a message that is none, by a queue that is full, or because its client no longer polls. A poll that waits then is answered
// at once: with what was queued, or that there is nothing. So its client asks again at once, learns that the session is gone, and can come
// back, where Phoenix leaves it waiting for the rest of the window. Without such a poll what was queued is dropped. A POST whose message
// ended the session is answered with status 408 at once; Phoenix says the same after the window.
//
// # Sessions of other nodes
//
// With Peers a request is served by the node that it reached as if the session were there. Before a poll writes what it was given, it asks
// the session's node, which from then on counts it as written unless it hears otherwise; until then it stays where it is. So what the way
// between the nodes loses costs at most what was just being written, and nothing comes twice. A node that does not answer within
// PeerTimeout has no sessions: a GET gets a new one, of this node. A POST that was on its way there may have been taken nevertheless.
//
// # Differences that clients may see
//
// A binary frame is delivered as the base64 of its bytes, where Phoenix puts the bytes themselves into a JSON string, which breaks clients.
type Server struct {
	cfg    Config
	tokens *tokens
	node   tokenID

	peers *cluster // nil: it has none

	slow                     outbox.Policy
	idle, full, tooBig, busy atomic.Uint64 // see LongPollStats

	bodies   bodies
	discards atomic.Int64 // requests whose bodies are being dropped

	mu       sync.Mutex
	sessions map[tokenID]*localSession
	places   int        // taken by sessions that live, are being made, or are still ending
	free     *sync.Cond // told when places becomes 0
}

// NewLongPoll returns a LongPoll without sessions.
func NewServer(cfg Config) *Server {
	s := &Server{
		cfg:      cfg.withDefaults(),
		tokens:   newTokens(cfg.Secret),
		node:     newTokenID(),
		sessions: make(map[tokenID]*localSession),
	}
	s.slow.Max, s.slow.Default = s.cfg.MaxQueue, s.cfg.OnSlow
	s.free = sync.NewCond(&s.mu)
	s.bodies.init(s.cfg.MaxBody)
	if cfg.Peers != nil && len(cfg.Secret) > 0 {
		s.peers = newCluster(s)
	}
	return s
}

// LongPollStats are counts of a server's end.
type Stats struct {
	Sessions  int    // that live, are being made, or have not ended yet
	Dropped   uint64 // frames, by policy DropOldest or DropNewest
	Conflated uint64 // frames, by policy KeepLatest: dropped for a newer one of their key
	Slow      uint64 // sessions that ended because the client did not keep up
	Idle      uint64 // because it did not poll for one and a half windows
	Full      uint64 // that were refused because there were MaxSessions
	TooBig    uint64 // POSTs beyond MaxBody or MaxMessage
	Busy      uint64 // POSTs that found no room because too many bodies were in work
}

// Stats counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Sessions: s.places, Dropped: s.slow.Dropped.Load(), Conflated: s.slow.Conflated.Load(), Slow: s.slow.Ended.Load(),
		Idle: s.idle.Load(), Full: s.full.Load(), TooBig: s.tooBig.Load(),
		Busy: s.busy.Load(),
	}
}

// Wait returns when there are no sessions and the Closed of all has returned. It ends none.
func (s *Server) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.places > 0 {
		s.free.Wait()
	}
}

// Close ends what it has to do with its Peers, and waits for that: requests for sessions of other nodes are answered. It ends no session; when
// one still has a message in work that came from another node, it waits for that.
func (s *Server) Close() {
	if s.peers != nil {
		s.peers.close()
	}
}

// Refuse answers a request that the caller refuses, as one of a page that may not connect. It reads the request's
// body first. The error chooses the answer in the same way as an error of connect: see Serve.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.Discard(w, r)
	s.refuse(w, err)
}

// Serve answers one request, whose origin the caller has checked. When a GET needs a new session it calls connect, and if that does not
// refuse, what it returned with the session's Conn; the Session gets nothing before that has returned. An error of connect is answered with
// the protocol's 403, or as a StatusError says.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, connect func() (open func(transport.Conn) transport.Session, err error)) {
	if r.Method == http.MethodPost {
		s.post(w, r)
		return
	}
	if !s.Discard(w, r) {
		setWriteDeadline(w)
		respond(w, http.StatusBadRequest, nil)
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.get(w, r, connect)
	case http.MethodOptions:
		h := w.Header()
		h.Set("Access-Control-Allow-Headers", strings.Join(r.Header.Values("Access-Control-Request-Headers"), ", "))
		h.Set("Access-Control-Allow-Methods", "get, post, options")
		h.Set("Access-Control-Max-Age", "3600")
		setWriteDeadline(w)
		respond(w, http.StatusOK, nil)
	default:
		setWriteDeadline(w)
		respond(w, http.StatusBadRequest, nil)
	}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, connect func() (func(transport.Conn) transport.Session, error)) {
	token := pollToken(r)
	if session, _ := s.find(token); session != nil && answerPoll(w, r, session, token) {
		return
	}
	s.begin(w, r, connect)
}

// answerPoll answers a GET of a session, unless that turns out to be gone.
func answerPoll(w http.ResponseWriter, r *http.Request, session pollSession, token string) (answered bool) {
	p := &poll{control: http.NewResponseController(w)}
	messages, gone := session.poll(r.Context(), p)
	if gone {
		return false
	}
	if messages != nil && deliver(w, session, p, token, messages) || r.Context().Err() != nil {
		return true
	}
	setWriteDeadline(w)
	_ = respondAnswer(w, statusEmpty, token, nil) // nothing is lost with it
	return true
}

// deliver answers with messages, unless a newer poll is to have them.
func deliver(w http.ResponseWriter, session pollSession, p *poll, token string, messages []*serializer.Frame) (answered bool) {
	delivered := false
	defer func() { // whatever w does
		p.end()
		session.settle(delivered)
	}()
	if !p.begin() {
		return false
	}
	delivered = respondAnswer(w, statusOK, token, messages) == nil
	return true
}

// begin answers a GET with a new session.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, connect func() (func(transport.Conn) transport.Session, error)) {
	l, err := s.open(r, connect)
	if l == nil {
		s.refuse(w, err)
		return
	}
	setWriteDeadline(w)
	c := claims{issued: time.Now().Unix(), node: s.node, session: l.id}
	if err := respondAnswer(w, statusGone, s.tokens.sign(c), nil); err != nil {
		l.end(fmt.Errorf("transport: open long-poll session: %w", err)) // nobody knows of it
	}
}

// open makes a new session. The error says why there is none.
func (s *Server) open(r *http.Request, connect func() (func(transport.Conn) transport.Session, error)) (*localSession, error) {
	if !s.reserve() {
		return nil, errBusy
	}
	begins := false
	defer func() {
		if !begins { // also if connect ended its goroutine
			s.release()
		}
	}()
	open, err := s.connect(connect)
	if err == nil {
		err = r.Context().Err() // nobody would hear of the session
	}
	if err != nil {
		return nil, err
	}
	begins = true
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

// errBusy refuses a session beyond MaxSessions. errClosing refuses one that begins after Close: the client's next attempt
// reaches another server, so it is not asked to wait.
var (
	errBusy    = fmt.Errorf("too many sessions: %w", StatusError(http.StatusServiceUnavailable))
	errClosing = fmt.Errorf("closed: %w", StatusError(http.StatusServiceUnavailable))
)

// connect calls connect.
func (s *Server) connect(connect func() (func(transport.Conn) transport.Session, error)) (open func(transport.Conn) transport.Session, err error) {
	defer s.recovered(&err)
	return connect()
}

// refuse answers a request that is refused.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	setWriteDeadline(w)
	var status StatusError
	if !errors.As(err, &status) {
		respondStatus(w, statusForbidden)
		return
	}
	if errors.Is(err, errBusy) {
		w.Header().Set("Retry-After", strconv.Itoa(int(max(s.cfg.Window, time.Second)/time.Second)))
	}
	respond(w, int(status), nil)
}

func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	session, id := s.find(pollToken(r))
	if session == nil {
		s.Discard(w, r)
		setWriteDeadline(w)
		respondStatus(w, statusGone)
		return
	}
	parts, release, err := s.read(w, r, id)
	if err != nil {
		s.refuseBody(w, err)
		return
	}
	clearReadDeadline(w)
	status := session.post(r.Context(), parts, release)
	setWriteDeadline(w)
	respondStatus(w, status)
}

// read reads the messages of a POST. Release must be called when they are not in use any more. If it fails, it has
// dropped the rest of the body.
func (s *Server) read(w http.ResponseWriter, r *http.Request, id tokenID) (parts []part, release func(), err error) {
	setReadDeadline(w)
	defer func() {
		if err != nil {
			s.discard(w, r)
		}
	}()
	if r.ContentLength > s.cfg.MaxBody {
		return nil, nil, errBodyTooLarge
	}
	body, ok := s.beginBody(r, id)
	if !ok {
		return nil, nil, errBodyBusy
	}
	setReadDeadline(w) // it may have waited
	types := r.Header["Content-Type"]
	batch := len(types) == 1 && types[0] == "application/x-ndjson"
	parts, err = readParts(body, batch, s.cfg.MaxBody, s.cfg.MaxMessage)
	if err != nil {
		body.release()
		return nil, nil, err
	}
	return parts, body.release, nil
}

// refuseBody answers a POST whose body was not read.
func (s *Server) refuseBody(w http.ResponseWriter, err error) {
	setWriteDeadline(w)
	switch {
	case errors.Is(err, errBodyBusy):
		s.busy.Add(1)
		respondStatus(w, statusTimeout) // as for a message that does not get its turn within the window
		return
	case errors.Is(err, errBodyTooLarge):
		s.tooBig.Add(1)
	}
	respond(w, httpStatus(err), nil)
}

// httpStatus is how a body that cannot be read is answered.
func httpStatus(err error) int {
	if errors.Is(err, errBodyBase64) {
		return http.StatusInternalServerError // Phoenix crashes
	}
	return http.StatusBadRequest
}

// pollToken is the token that the request names its session by. The header wins, also if it is no good.
func pollToken(r *http.Request) string {
	if tokens := r.Header["X-Phoenix-Longpoll-Token"]; len(tokens) > 0 {
		return tokens[0]
	}
	tokens := r.URL.Query()["token"]
	if len(tokens) == 0 {
		return ""
	}
	return tokens[len(tokens)-1]
}

// find returns the session that a token names, and its id. It returns nil if there is none (any more).
func (s *Server) find(token string) (pollSession, tokenID) {
	c, ok := s.tokens.verify(token, time.Now(), s.cfg.TokenMaxAge)
	switch {
	case !ok:
	case c.node == s.node:
		if l := s.local(c.session); l != nil {
			return l, c.session
		}
	case s.peers != nil:
		return &remoteSession{peers: s.peers, node: c.node, id: c.session}, c.session
	}
	return nil, tokenID{}
}

// local returns a session of this node, nil if there is none (any more).
func (s *Server) local(id tokenID) *localSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

// reserve takes the place of a session, if there is one.
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

// release gives a place back.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places--; s.places == 0 {
		s.free.Broadcast()
	}
}

// forget makes a session unknown. It keeps its place until it has ended.
func (s *Server) forget(l *localSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, l.id)
}

// recovered, deferred, makes an error of a panic.
func (s *Server) recovered(err *error) {
	v := recover()
	if v == nil {
		return
	}
	*err = errPanicked
	guard.CallOnPanic(s.cfg.OnPanic, v)
}
