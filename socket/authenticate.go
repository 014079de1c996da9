package socket

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errNoAuth = errors.New("the context belongs to no connection with Config.Auth")

// Authenticate replaces the grant of a connection. The context is that of a callback of one of its
// channels, or made from it. The zero Grant logs the client out: without Auth.Anonymous, this
// closes the connection with CodeTokenExpired.
//
// The callback keeps its context. Its channel, as all others of the connection, has the change in
// its mailbox when Authenticate returns: messages that it received before are handled with the old
// grant. Then Reauthorize decides whether the channel stays, as after a token of the client: see
// [Auth]. The client receives the event "auth" on $socket, with the Claims and the Token.
//
// A login or a logout deletes the last wills that the connection has set, and those of older
// connections of the same user and client on the topics that it has joined. Authenticate waits for
// their store.
//
// An error means that nothing has changed. It wraps push.Reason("identity changed") if the
// connection is another user's, and push.Reason("unavailable") if the store of last wills does not
// answer.
func Authenticate(ctx context.Context, g Grant) error {
	err := errNoAuth
	if s := sessionFrom(ctx); s != nil && s.auth != nil {
		err = s.authenticate(ctx, g)
	}
	if err != nil {
		return fmt.Errorf("socket: authenticate: %w", err)
	}
	return nil
}

func (s *session) authenticate(ctx context.Context, g Grant) error {
	auth := s.h.cfg.Auth
	if g.ID == "" && !auth.Anonymous {
		return s.logOut()
	}
	mark := s.h.revocations.mark()
	v, err := newVerified(g, auth.MaxAge)
	if err != nil {
		return err
	}
	return s.apply(ctx, v, mark, func() { s.tell(eventAuth, v.reply()) })
}

// logOut closes the connection. The client has time to read the event and the reply of the callback
// that called Authenticate.
func (s *session) logOut() error {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.in() >= phaseRefused {
		return errGone
	}
	s.tell(eventAuth, authReply{State: stateAnonymous})
	a.enter(phaseExpired)
	a.stage, a.due, a.reason = stageEnd, time.Now(), loggedOutReason
	s.h.expiry.set(s, a.due)
	return nil
}
