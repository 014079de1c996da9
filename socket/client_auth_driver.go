package socket

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// clientAuth is the authentication of a client. It belongs to the loop, except for states, token
// and fetches.
type clientAuth struct {
	s       clientAuthState
	states  watched[AuthState]
	token   atomic.Pointer[string] // of s
	gate    clientlink.Auth        // that the channels know
	epoch   uint64                 // connections of earlier epochs have another identity
	ref     uint64                 // of the token that has no answer yet, or zero
	late    loop.Timer             // of that answer
	retry   loop.Timer             // of the next fetch
	fetches tokenFetches
}

func (c *Client) initAuth() {
	a := &c.auth
	a.s.token, a.s.refreshes = c.cfg.AuthToken, c.cfg.AuthTokenFunc != nil
	if a.s.refreshes {
		a.s.token = ""
	}
	token := a.s.token // a copy, because s belongs to the loop
	a.token.Store(&token)
	a.states.init(&c.totals, c.call)
	a.late.Task = clientTask(func() { c.tokenAnswered(nil, push.ErrTimeout) })
	a.retry.Task = clientTask(func() { c.authFeed(authInput{kind: authInRetry}) })
}

// authFeed performs a step and its outputs.
func (c *Client) authFeed(in authInput) {
	in.now = time.Now()
	var out []authOutput
	c.auth.s, out = authStep(c.auth.s, in)
	c.publishAuth()
	for i := range out {
		c.authPerform(&out[i])
	}
}

// publishAuth notifies the watchers and the channels of the state.
func (c *Client) publishAuth() {
	a := &c.auth
	if *a.token.Load() != a.s.token {
		token := a.s.token
		a.token.Store(&token)
	}
	shown := a.s.shown
	a.states.set(func(was AuthState) (AuthState, bool) { return shown, !shown.isSame(was) }, false)
	if gate := a.s.gate(); gate != a.gate {
		a.gate = gate
		for _, d := range c.channelList() {
			d.AuthChanged(gate)
		}
	}
}

func (c *Client) authPerform(o *authOutput) {
	a := &c.auth
	switch o.kind {
	case authOutSend:
		var token any // null
		if !o.call.isLogout() {
			token = o.call.token
		}
		a.ref = c.nextRef()
		c.conn.send(c.ownOut(a.ref, eventToken, map[string]any{"token": token}))
		c.loop.Arm(&a.late, c.cfg.Timeout)
	case authOutUnsend:
		a.ref = 0
		c.loop.Disarm(&a.late)
	case authOutFetch:
		c.fetchSoon(o.fetch)
	case authOutArm:
		c.loop.Arm(&a.retry, clientDelays(clientRejoinTable)(o.tries))
	case authOutDisarm:
		c.loop.Disarm(&a.retry)
	case authOutResolve:
		o.wait.err = o.err
		close(o.wait.done)
	case authOutReset:
		c.resetIdentity()
	case authOutDial:
		c.dialWithToken()
	case authOutDeny:
		c.denied(o.err)
	}
}

// Auth is part of clientlink.Socket.
func (u clientSocket) Auth() clientlink.Auth { return u.auth.gate }

// waitAuth begins the wait of WaitAuth.
func (c *Client) waitAuth(w *authWait) {
	c.authFeed(authInput{kind: authInWait, wait: w})
	c.stopAuthIfIdle()
}

// authCalled begins a call of Authenticate or Deauthenticate.
func (c *Client) authCalled(k *authCall) {
	c.authFeed(authInput{kind: authInCall, call: k})
	c.stopAuthIfIdle()
}

// stopAuthIfIdle ends the waits of callers if the client will not connect by itself.
func (c *Client) stopAuthIfIdle() {
	s := c.states.load()
	switch {
	case c.conn != nil || c.cancelDial != nil || !s.Until.IsZero():
	case c.ended, c.wanted == WantClosed:
		c.stopAuth(ErrClosed)
	case c.wanted == WantPaused:
		c.stopAuth(ErrPaused)
	default:
		c.stopAuth(fmt.Errorf("%s: %w", s.Status, s.Cause))
	}
}

func (c *Client) stopAuth(err error) { c.authFeed(authInput{kind: authInStop, err: err}) }

// resetIdentity drops the connections that are not used yet, because the client has another
// identity than when they were opened.
func (c *Client) resetIdentity() {
	c.auth.epoch++
	if c.move.conn != nil {
		c.moveFailed(errOtherToken)
	}
	if c.upgrade.conn != nil {
		c.newConn(c.upgrade.conn, "").closeSoon(clientCodeNormal, "")
		c.upgrade = dialResult{}
		c.probeLater(0)
	}
}

// dialWithToken makes an attempt with a new token, if one is under way with another, or if only a
// new token can help.
func (c *Client) dialWithToken() {
	if c.wanted == WantPaused || c.ended || c.conn != nil {
		return
	}
	status := c.states.load().Status
	switch {
	case c.cancelDial != nil:
		c.cancelDial()
	case len(c.auth.s.calls) > 0 && c.isWanted() && (status == StatusDenied || status == StatusFailed):
		c.backoff, c.failed, c.denials = 0, 0, 0
		c.loop.Disarm(&c.retry)
	default:
		return
	}
	c.connect()
}

// denied ends the connection of a client that was denied.
func (c *Client) denied(err error) {
	if c.conn == nil {
		return
	}
	c.cfg.Logger.Info().Err(err).Str("transport", c.conn.name).Msg("client denied")
	c.stopProbe()
	c.stopMove()
	c.advice = clientAdvice{}
	c.drop(clientCodeNormal, "", nil, func(d clientlink.Channel) { d.Closed(err) })
	c.setOffline(StatusDenied, err, time.Time{})
}

// deniedByCode returns the reason if the server closed the connection with CodeDenied, or nil.
func deniedByCode(err error) error {
	var closed *transport.CloseError
	if !errors.As(err, &closed) || closed.Code != CodeDenied {
		return nil
	}
	return fmt.Errorf("%w: %w", deniedError(closed.Reason), err)
}

// authEnd returns why the client must not reconnect after its connection has ended with err, or
// nil.
func (c *Client) authEnd(err error) error {
	var closed *transport.CloseError
	code := 0
	if errors.As(err, &closed) {
		code = closed.Code
	}
	s := &c.auth.s
	isExpired := code == CodeTokenExpired || s.shown.Status == Expired
	switch {
	case code == CodeTokenExpired && s.loggedOut && len(s.calls) == 0 && !isParamsFunc(c.cfg.Params):
		return fmt.Errorf("socket: %w: %w: %w", ErrDenied, errLoggedOut, err)
	case isExpired && s.isStale() && !isParamsFunc(c.cfg.Params):
		return fmt.Errorf("socket: %w: %w: %w", ErrDenied, ErrTokenExpired, err)
	}
	return nil
}

// refusedBy wraps the refusal of an attempt to connect.
func (c *Client) refusedBy(err error) error {
	s := &c.auth.s
	if at := s.shown.Expires; s.isStale() && !at.IsZero() && !time.Now().Before(at) {
		return fmt.Errorf("%w: %w: %w", ErrDenied, ErrTokenExpired, err)
	}
	return fmt.Errorf("%w: %w", ErrDenied, err)
}

// tokenAnswered handles the reply to a token, or that there is none in time.
func (c *Client) tokenAnswered(m *serializer.Message, err error) {
	c.auth.ref = 0
	c.loop.Disarm(&c.auth.late)
	in := authInput{kind: authInAnswer, err: err}
	if m != nil {
		in.grant, in.err = parseGrant(m)
	}
	if in.err != nil {
		in.err = fmt.Errorf("token: %w", in.err) // a pointer, for AuthState.isSame
	}
	c.authFeed(in)
}

// parseGrant returns the content of a reply to a token.
func parseGrant(m *serializer.Message) (*clientGrant, error) {
	if m.Status == push.StatusOK {
		g := new(clientGrant)
		if err := m.Payload.Decode(g); err != nil {
			return nil, fmt.Errorf("malformed reply: %w", err)
		}
		return g, nil
	}
	err := &push.Error{Status: m.Status, Payload: m.Payload}
	switch err.Reason() {
	case "identity changed", "unavailable", "rate", "invalid token", "unmatched topic":
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrDenied, err)
}

// authEvent handles an event of $socket about the authentication, or a reply that came too late.
func (c *Client) authEvent(m *serializer.Message) {
	switch {
	case m.Kind == serializer.KindReply && c.auth.ref != 0 && m.Ref == clientRefText(c.auth.ref):
		c.tokenAnswered(m, nil)
	case m.Kind == serializer.KindReply, m.Event == eventAuth:
		var g clientGrant
		isOK := m.Kind != serializer.KindReply || m.Status == push.StatusOK
		if isOK && m.Payload.Decode(&g) == nil && g.State != "" {
			c.authFeed(authInput{kind: authInEvent, grant: &g})
		}
	case m.Event == eventExpiring:
		c.authFeed(authInput{kind: authInNotice})
	case m.Event == eventExpired:
		c.authFeed(authInput{kind: authInExpired})
	case m.Event == eventDenied:
		var r revocation
		_ = m.Payload.Decode(&r) // without a reason, the client is denied as well
		c.authFeed(authInput{kind: authInDenied, err: deniedError(r.Reason)})
	}
}

// authSource is where an attempt to connect has its token from.
type authSource struct {
	token   string // if fetches is true, once it is fetched
	call    *authCall
	fetches bool
	epoch   uint64
}

// authSource returns the source for the next attempt.
func (c *Client) authSource() (s authSource) {
	a := &c.auth
	s.epoch = a.epoch
	s.token, s.call, s.fetches = a.s.attempt()
	if a.s.refreshes && !s.fetches {
		a.s.fresh = "" // it is used once
	}
	return s
}

// fetchSoon fetches a token on a new goroutine.
func (c *Client) fetchSoon(n uint64) {
	c.goUser(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.cfg.ConnectTimeout)
		defer cancel()
		in := authInput{kind: authInFetched, fetch: n, err: clientlink.ErrExited} // unless the function returns
		defer func() { c.post(clientTask(func() { c.authFeed(in) })) }()
		in.token, in.err = c.fetchToken(ctx)
	})
}

// tokenFetches makes sure that there is one call of AuthTokenFunc at a time.
type tokenFetches struct {
	mu      sync.Mutex
	current *tokenFetch
}

// tokenFetch is a call of AuthTokenFunc. The fields can be read once done is closed.
type tokenFetch struct {
	done   chan struct{}
	token  string
	err    error
	isOver bool // the context of the call has ended, which says nothing about other calls
}

// fetchToken calls AuthTokenFunc, or waits for the call that is under way and returns its result.
func (c *Client) fetchToken(ctx context.Context) (string, error) {
	f := &c.auth.fetches
	for {
		f.mu.Lock()
		k := f.current
		if k == nil {
			k = &tokenFetch{done: make(chan struct{}), err: clientlink.ErrExited}
			f.current = k
			f.mu.Unlock()
			return f.run(ctx, k, c.cfg.AuthTokenFunc)
		}
		f.mu.Unlock()
		select {
		case <-k.done:
			if !k.isOver {
				return k.token, k.err
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// run makes the current call. If the function ends the goroutine, those that wait get ErrExited.
func (f *tokenFetches) run(
	ctx context.Context, k *tokenFetch, call func(context.Context) (string, error),
) (string, error) {
	defer func() {
		k.isOver = k.err != nil && ctx.Err() != nil
		f.mu.Lock()
		f.current = nil
		f.mu.Unlock()
		close(k.done)
	}()
	k.token, k.err = call(ctx)
	return k.token, k.err
}
