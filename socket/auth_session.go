package socket

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/ratelimit"
	"bennu.example/push"
	"bennu.example/serializer"
)

// CodeTokenExpired is the code of the close after a token has expired or its client has logged out:
// the client should come back with another token.
const CodeTokenExpired = 4401

// Events of the channel $socket about tokens.
const (
	eventToken    = "token"    // from the client: a new token
	eventExpiring = "expiring" // from the server
	eventExpired  = "expired"  // from the server
	eventAuth     = "auth"     // from the server: its code has replaced the grant
)

// tokenRate bounds the pushes of eventToken: 1 per second, and 3 at once.
var tokenRate = ratelimit.Rate{Every: time.Second, Burst: 3 * time.Second}

// sessionAuth is the grant of a session. Locks: change, mu, session.mu, and then those of channels
// and of expiry. No code of the user runs under them.
type sessionAuth struct {
	phase     atomic.Uint32 // an authPhase
	verifying atomic.Bool   // a call of Verify runs
	index     int           // in expiry; guarded by its lock

	change sync.Mutex // held while the grant is replaced
	former []formerGrant

	mu     sync.Mutex
	grant  *verified // replaced under session.mu, too
	stage  authStage
	due    time.Time        // of stage
	own    *channel.Channel // the channel $socket; nil if it is not joined
	late   bool             // own was not joined yet when there was something to tell
	closed bool             // the connection has ended
	reason string           // of the close. Empty means that the token has expired.
}

// authPhase is what a session accepts from its client.
type authPhase uint32

const (
	phaseValid   authPhase = iota
	phaseExpired           // messages are refused, except on $socket
	phaseRefused           // the same from the handshake on: its client was refused finally
	phaseDenied            // messages are dropped
	phaseSilent            // those to the client, too
)

// phase is what the session accepts.
func (s *session) phase() authPhase {
	if s.auth == nil {
		return phaseValid
	}
	return s.auth.in()
}

func (a *sessionAuth) in() authPhase        { return authPhase(a.phase.Load()) }
func (a *sessionAuth) enter(next authPhase) { a.phase.Store(uint32(next)) }

// authStage is what happens next to a grant.
type authStage uint8

const (
	stageNotice authStage = iota // the client is asked for a token
	stageExpiry
	stageEnd    // the connection is closed
	stageDenied // the same, after Revoke or a final refusal
)

// newSessionAuth returns nil if the handler does not authenticate.
func newSessionAuth(who *identity) *sessionAuth {
	if who.grant == nil {
		return nil
	}
	a := &sessionAuth{index: -1, grant: who.grant}
	if who.refused {
		a.reason = who.reason
		a.enter(phaseRefused)
	}
	return a
}

// schedule begins the life of the grant. The caller holds mu.
func (s *session) schedule() {
	a := s.auth
	a.enter(phaseValid)
	a.reason = ""
	if a.due = a.grant.expires; a.due.IsZero() {
		s.h.expiry.set(s, a.due)
		return
	}
	notice := min(s.h.cfg.Auth.Notice, time.Until(a.due)/2)
	if notice > 0 {
		notice += notice/10 - rand.N(notice/5+1) // so that clients of one deploy do not refresh together
	}
	a.stage, a.due = stageNotice, a.due.Add(-notice)
	s.h.expiry.set(s, a.due)
}

// expireNow makes the session refuse messages if the grant has expired. The client is notified by
// authDue, which may have to wait.
func (s *session) expireNow() {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.grant.expires; a.in() == phaseValid && !at.IsZero() && !time.Now().Before(at) {
		a.enter(phaseExpired)
	}
}

// authDue handles the next stage of the grant.
func (s *session) authDue() {
	a, cfg := s.auth, s.h.cfg.Auth
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed || a.due.IsZero() || a.in() >= phaseDenied && a.stage != stageDenied:
		return
	case time.Now().Before(a.due): // the grant was replaced meanwhile
		s.h.expiry.set(s, a.due)
		return
	}
	switch a.stage {
	case stageNotice:
		a.stage, a.due = stageExpiry, a.grant.expires
		s.tellStage()
	case stageExpiry:
		a.enter(phaseExpired)
		s.h.counts.expired.Add(1)
		if a.own == nil || cfg.Grace == 0 {
			s.endExpired()
			return
		}
		a.stage, a.due = stageEnd, time.Now().Add(cfg.Grace)
		s.tellStage()
	case stageEnd:
		s.endExpired()
		return
	case stageDenied:
		a.due = time.Time{}
		s.conn.Close(CodeDenied, a.reason)
		return
	}
	s.h.expiry.set(s, a.due)
}

// endExpired closes the connection. The caller holds auth.mu.
func (s *session) endExpired() {
	s.auth.due = time.Time{}
	s.conn.Close(CodeTokenExpired, cmp.Or(s.auth.reason, "token expired"))
}

// tell sends an event on $socket, if it is joined. If the reply to the join was not sent yet, the
// client is told after it. The caller holds auth.mu.
func (s *session) tell(event string, payload any) {
	a := s.auth
	if a.own == nil {
		return
	}
	err := a.own.Push(event, payload) // a channel that has just ended needs no event
	if errors.Is(err, channel.ErrNotJoined) && !a.late {
		a.late = a.own.Send(tellLate{}) == nil
	}
}

// tellStage sends the event of the stage that has begun. The caller holds auth.mu.
func (s *session) tellStage() {
	left := max(time.Until(s.auth.due), 0).Round(time.Millisecond).Milliseconds()
	switch s.auth.stage {
	case stageExpiry:
		s.tell(eventExpiring, map[string]int64{"in": left})
	case stageEnd:
		s.tell(eventExpired, map[string]int64{"grace": left})
	}
}

// tellLate is a message of the channel $socket to itself: events came before the reply to its join.
type tellLate struct{}

// tellLate sends what such events would say now.
func (o *socketState) tellLate(_ context.Context, c *channel.Channel, _ tellLate) error {
	a := o.s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.own != c || !a.late:
	case a.in() >= phaseDenied:
		o.s.tell(eventDenied, revocation{Reason: a.reason})
		a.enter(phaseSilent)
	default:
		o.s.tell(eventAuth, a.grant.reply())
		o.s.tellStage()
	}
	return nil
}

// endAuth is called when the connection has ended.
func (s *session) endAuth() {
	if s.auth == nil {
		return
	}
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	s.auth.closed = true
	s.h.expiry.set(s, time.Time{})
}

// refuses reports whether a message is refused because the grant has expired or there is none.
func (p authPhase) refuses(m *serializer.Message) bool {
	return p != phaseValid && m.Topic != topicSocket && (m.Event != serializer.EventLeave || p == phaseRefused)
}

// refuseIn answers such a message.
func (s *session) refuseIn(p authPhase, m *serializer.Message) {
	joinRef := m.JoinRef
	if m.Event != serializer.EventJoin {
		joinRef = s.replyRef(m)
	}
	why := tokenExpired
	if p == phaseRefused {
		why = clientDenied
	}
	s.refuse(m, joinRef, why)
}

// values returns the context with the values of the grant, or nil. The caller holds mu.
func (s *session) values() context.Context {
	if s.auth == nil {
		return nil
	}
	return s.auth.grant
}

// errGone is the error of a grant for a connection that has ended.
var errGone = errors.New("socket: the connection has ended")

// applyTries bounds the attempts of apply. Each failure means that the client has joined a topic
// meanwhile.
const applyTries = 4

// errMissed means that a new subject would have joined a topic without Arrive.
var errMissed = errors.New("socket: a channel was joined meanwhile")

// apply replaces the grant of the connection. It calls notify, under auth.mu, when each channel has
// the change in its mailbox. The grant was decided after mark, so that a revocation since then
// counts. A new subject arrives on the topics that the connection has joined, before the change.
func (s *session) apply(ctx context.Context, v *verified, mark uint64, notify func()) error {
	done := make(arrivals)
	for range applyTries {
		if err := s.arriveAs(ctx, v.grant.ID, done); err != nil {
			return err
		}
		if err := s.replace(v, mark, done, notify); !errors.Is(err, errMissed) {
			return err
		}
	}
	return errUnavailable
}

// replace is apply without arrivals. The error is errMissed if one is missing.
func (s *session) replace(v *verified, mark uint64, done arrivals, notify func()) error {
	a := s.auth
	a.change.Lock()
	defer a.change.Unlock()
	before := a.grant.grant.ID // only the holder of change replaces it
	if before != "" && v.grant.ID != "" && before != v.grant.ID {
		return errIdentity
	}
	login, logout := before == "" && v.grant.ID != "", before != "" && v.grant.ID == ""
	if a.pruneFormer(); logout && len(a.former) >= maxFormer {
		return errUnavailable
	}
	v.number = a.grant.number + 1
	old := formerGrant{until: v.number}
	var watch *idWatch
	if login { // before the grant is stored, so that a Disconnect from here on is seen
		watch = s.h.watch(v.grant.ID)
	}
	err := s.store(v, watch, mark, done, &old, notify)
	if err != nil {
		if watch != nil {
			watch.on.Cancel()
		}
		return err
	}
	switch {
	case login:
		watch.opened(s)
	case logout:
		s.leaveFormer(&old)
	}
	if login || logout {
		s.subjectChanged()
	}
	return nil
}

// store stores the grant and notifies the channels, and then the client.
func (s *session) store(
	v *verified, watch *idWatch, mark uint64, done arrivals, old *formerGrant, notify func(),
) error {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.in() >= phaseRefused {
		return errGone
	}
	for _, id := range []string{a.grant.grant.ID, v.grant.ID} {
		if reason, err := s.h.revocations.since(mark, id); err != nil || reason != nil {
			return cmp.Or(err, errRevoked)
		}
	}
	change, own := &channelhost.Regrant{Values: v}, &channelhost.Regrant{Values: v}
	if a.grant.grant.ID != "" && v.grant.ID == "" {
		change.Otherwise = "deauthenticated"
	}
	s.mu.Lock()
	if a.grant.grant.ID != v.grant.ID && done.miss(&s.channels) {
		s.mu.Unlock()
		return errMissed
	}
	a.grant = v
	for topic, c := range s.channels.all() {
		if topic == topicSocket {
			c.Regrant(own)
		} else {
			old.channels = append(old.channels, c)
			c.Regrant(change)
		}
	}
	s.mu.Unlock()
	if watch != nil {
		s.id.Store(watch)
	}
	s.schedule()
	notify()
	return nil
}

// joinedOwn notes that $socket was joined, and returns the state of the grant for the reply.
func (s *session) joinedOwn(c *channel.Channel) *authReply {
	if s.auth == nil {
		return nil
	}
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	s.auth.own, s.auth.late = c, false
	if s.auth.in() == phaseRefused {
		return &authReply{State: stateDenied, Reason: s.auth.reason}
	}
	return s.auth.grant.reply()
}

// leftOwn notes that $socket has ended. A client that leaves it cannot refresh its token any more.
func (s *session) leftOwn(c *channel.Channel) {
	if s.auth == nil {
		return
	}
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	if s.auth.own != c {
		return
	}
	s.auth.own = nil
	replaced := errors.Is(context.Cause(c.Context()), channel.ErrReplaced)
	if s.auth.in() == phaseExpired && !s.auth.closed && !replaced {
		s.endExpired()
	}
}

// loggedOut is a message of the channel $socket to itself: the client has logged out, and anonymous
// clients are not accepted.
type loggedOut struct{}

// token handles a token of the client.
func (o *socketState) token(ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
	s := o.s
	if s.auth == nil {
		return push.NoReply, errUnknownEvent
	}
	if s.auth.in() == phaseRefused {
		return push.NoReply, errTokenDenied
	}
	if !o.rates.take(&o.rates.tokens, tokenRate) {
		return push.NoReply, errRate
	}
	var in map[string]any
	if p.IsBinary() || p.Decode(&in) != nil {
		return push.NoReply, errInvalidToken
	}
	value, found := in["token"]
	token, isText := value.(string)
	switch {
	case found && value == nil && !s.h.cfg.Auth.Anonymous:
		s.forgetUser() // before the reply, after which the client may push as nobody
		return push.OK(authReply{State: stateAnonymous}), c.Send(loggedOut{})
	case found && value == nil:
		token = ""
	case !isText || token == "" || len(token) > maxToken:
		return push.NoReply, errInvalidToken
	}
	mark := s.h.revocations.mark()
	v, err := s.verify(ctx, token)
	if err == nil {
		err = s.apply(ctx, v, mark, func() {
			// Under auth.mu, so that it is sent in the order of the changes. It fails if the client wants
			// no reply or has gone.
			_ = c.Reply(c.Ref(), push.OK(v.reply()))
		})
	}
	if err != nil {
		const refused = "token refused"
		withError(s.logEvent(zerolog.InfoLevel, refused), err).Msg(refused)
		if reason, final := isFinal(err); final {
			return push.NoReply, errors.Join(tokenError(err), c.Send(finalDenial{reason}))
		}
		return push.NoReply, tokenError(err)
	}
	s.h.counts.refreshed.Add(1)
	return push.NoReply, nil
}

// forgetUser refuses messages that come from now on, as those of a client whose token has expired.
func (s *session) forgetUser() {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.in() < phaseExpired {
		a.enter(phaseExpired)
	}
}

// logOut ends the connection of a client that has logged out.
func (o *socketState) logOut(context.Context, *channel.Channel, loggedOut) error {
	o.s.conn.Close(CodeTokenExpired, loggedOutReason)
	return nil
}

// verify calls Verify on a goroutine of its own, so that the channel $socket goes on if Verify does
// not return. There is one such goroutine for each session at most, and Closed waits for it.
func (s *session) verify(ctx context.Context, token string) (*verified, error) {
	a := s.auth
	if a.verifying.Swap(true) {
		return nil, errVerifySlow
	}
	r := &Request{
		ID: s.subject(), Token: token, Transport: byWebSocket, Version: s.ser.Version(),
		ClientID: s.clientID, ConnectionID: s.connectionID,
	}
	if s.isLongPoll {
		r.Transport = byLongPoll
	}
	type result struct {
		v   *verified
		err error
	}
	done := make(chan result, 1)
	s.running.Add(1)
	go func() {
		got := result{err: clientlink.ErrExited} // unless Verify returns
		defer s.running.Done()
		defer func() {
			a.verifying.Store(false)
			done <- got
		}()
		got.v, got.err = s.h.cfg.Auth.verify(ctx, token, r)
	}()
	late := time.NewTimer(s.h.cfg.Auth.Timeout)
	defer late.Stop()
	select {
	case got := <-done:
		return got.v, got.err
	case <-late.C:
		return nil, errVerifySlow
	}
}

// subject returns Request.ID, or the subject of the current grant.
func (s *session) subject() string {
	if id := s.id.Load(); id != nil {
		return id.id
	}
	return ""
}
