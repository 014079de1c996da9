package socket

import (
	"fmt"
	"slices"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/push"
	"bennu.example/serializer"
)

// This file has the rules of a client's authentication as a step function without clock, network
// and goroutines. It turns an authInput into authOutputs, which client_auth_driver.go performs.

// clientAuthState is the state on which the rules depend. authStep returns the next state.
type clientAuthState struct {
	refreshes bool // there is an AuthTokenFunc

	phase  clientAuthPhase
	shown  AuthState
	denied error // why the client makes no attempt, or nil

	token     string // in use: see Client.Token
	used      string // the one that the server verified last on this connection
	fresh     string // fetched for a connection that is gone, for the next attempt
	loggedOut bool   // attempts send no token

	calls    []*authCall // that have no answer yet, in order: at most three
	sent     bool        // the first one was sent on this connection
	dialed   *authCall   // whose token the connection was opened with, until the server has told
	fetch    uint64      // the number of the last fetch
	fetching bool        // it is under way, for this connection
	began    time.Time   // when it began
	waiting  bool        // for the next fetch
	tries    int         // fetches and refreshes that failed in a row
	waits    []*authWait // calls of WaitAuth
}

// clientFetchPause is the least time between two fetches, whatever the server tells.
const clientFetchPause = time.Second

// clientAuthPhase is what is known about the current connection.
type clientAuthPhase uint8

const (
	authOffline clientAuthPhase = iota // there is no connection
	authOpened                         // the server has not answered the join of $socket yet
	authTold                           // the server tells the state
	authMute                           // the server does not tell
)

// authCall is a token for the server: of Authenticate, of Deauthenticate, or a refresh.
type authCall struct {
	token  string      // empty means a logout
	waits  []*authWait // the callers
	offers bool        // it is a refresh: no program has called
}

func (k *authCall) isLogout() bool { return k.token == "" }

// authWait is a call that waits for a result.
type authWait struct {
	done chan struct{}
	err  error
}

// clientGrant is what the server tells about the authentication: the member auth of the reply to a
// join of $socket, the reply to a token, and the event auth.
type clientGrant struct {
	State     string             `json:"state"`
	ExpiresIn *float64           `json:"expires_in"` // in milliseconds
	Claims    serializer.Payload `json:"claims"`
	Token     string             `json:"token"`
	Reason    string             `json:"reason"`
}

// authInput is an input of authStep.
type authInput struct {
	kind   authInputKind
	now    time.Time
	token  string       // authInOpened: of the handshake; authInFetched
	call   *authCall    // authInOpened, authInRefused: whose token it was, or nil; authInCall
	grant  *clientGrant // authInTold, authInEvent, authInAnswer
	fetch  uint64       // authInFetched
	err    error        // authInFetched, authInAnswer, authInDenied, authInRefused, authInStop
	wait   *authWait    // authInWait, authInCancel
	isLast bool         // authInRefused: the client makes no further attempt
}

type authInputKind uint8

const (
	authInOpened  authInputKind = iota // there is a connection
	authInTold                         // the server answered the join of $socket
	authInMute                         // the server has no $socket, or it has ended
	authInLost                         // the connection has ended
	authInEvent                        // the server changed the grant by itself
	authInNotice                       // the token expires soon
	authInExpired                      // the token has expired
	authInDenied                       // the client must not come back with the same credentials
	authInRefused                      // the server refused an attempt to connect
	authInAnswer                       // the first call was answered, or was not in time
	authInFetched                      // AuthTokenFunc returned
	authInRetry                        // it is time for the next fetch
	authInCall                         // Authenticate or Deauthenticate was called
	authInWait                         // WaitAuth was called
	authInCancel                       // its context has ended
	authInConnect                      // Connect was called
	authInStop                         // the client will not connect by itself
)

// authOutput is an output of authStep.
type authOutput struct {
	kind  authOutputKind
	call  *authCall // authOutSend
	tries int       // authOutArm, from 1
	fetch uint64    // authOutFetch
	wait  *authWait // authOutResolve
	err   error     // authOutResolve, authOutDeny
}

type authOutputKind uint8

const (
	authOutSend    authOutputKind = iota // send the token of a call
	authOutUnsend                        // there is no such token any more
	authOutFetch                         // call AuthTokenFunc
	authOutArm                           // arm the timer of the next fetch
	authOutDisarm                        // disarm it
	authOutResolve                       // end a caller's wait
	authOutReset                         // drop connections that are not used yet: they have another identity
	authOutDial                          // the next attempt has another token
	authOutDeny                          // end the connection
)

// authMachine is a step in progress.
type authMachine struct {
	clientAuthState
	now time.Time
	out []authOutput
}

func (m *authMachine) add(o authOutput) { m.out = append(m.out, o) }

// authStep returns the state after an input, and the outputs.
func authStep(s clientAuthState, in authInput) (clientAuthState, []authOutput) {
	m := authMachine{clientAuthState: s, now: in.now}
	switch in.kind {
	case authInOpened:
		m.phase, m.denied, m.fresh, m.tries = authOpened, nil, "", 0
		if m.used = in.token; len(m.calls) > 0 && m.calls[0] == in.call {
			m.dialed = in.call
		} else {
			m.token = in.token
		}
	case authInTold:
		m.told(in.grant)
	case authInMute:
		m.mute()
	case authInLost:
		m.lost()
	case authInEvent:
		m.apply(in.grant)
	case authInNotice:
		if m.phase == authTold && m.shown.Status == Authenticated {
			m.shown.Status = Expiring
			m.refresh()
		}
	case authInExpired:
		m.expired()
	case authInDenied:
		m.deny(in.err)
	case authInRefused:
		m.refused(in.call, in.err, in.isLast)
	case authInAnswer:
		m.answered(in.grant, in.err)
	case authInFetched:
		m.fetched(in.fetch, in.token, in.err)
	case authInRetry:
		m.waiting = false
		m.refresh()
	case authInCall:
		m.called(in.call)
	case authInWait:
		m.waits = append(slices.Clip(m.waits), in.wait)
	case authInCancel:
		m.waits = slices.DeleteFunc(slices.Clone(m.waits), func(w *authWait) bool { return w == in.wait })
	case authInConnect:
		if m.denied = nil; m.shown.Status == AuthDenied {
			m.shown = AuthState{}
		}
	case authInStop:
		m.stop(in.err)
	}
	m.sendNext()
	m.settleWaits()
	return m.clientAuthState, m.out
}

// isLeaving reports whether a logout has no answer yet. It counts from the call on, and what was
// called before does not end it.
func (s *clientAuthState) isLeaving() bool {
	return slices.ContainsFunc(s.calls, (*authCall).isLogout)
}

// gate returns what the channels need to know.
func (s *clientAuthState) gate() clientlink.Auth {
	switch {
	case s.phase == authMute:
		return clientlink.AuthGranted
	case s.phase != authTold:
		return clientlink.AuthPending
	case s.isLeaving():
		return clientlink.AuthMissing
	}
	switch s.shown.Status {
	case Authenticated, Expiring:
		return clientlink.AuthGranted
	case Expired:
		return clientlink.AuthExpired
	}
	return clientlink.AuthMissing
}

// attempt returns the token for the next attempt to connect. If the call is not nil, it is that of
// the call. If fetches is true, AuthTokenFunc returns it instead.
func (s *clientAuthState) attempt() (token string, call *authCall, fetches bool) {
	switch {
	case len(s.calls) > 0 && s.phase == authOffline:
		return s.calls[0].token, s.calls[0], false
	case s.loggedOut:
		return "", nil, false
	case s.refreshes && s.fresh != "":
		return s.fresh, nil, false
	}
	return s.token, nil, s.refreshes
}

// isStale reports whether the client has nothing but the token that the server verified last.
func (s *clientAuthState) isStale() bool {
	return !s.loggedOut && !s.refreshes && s.token == s.used && len(s.calls) == 0
}

// told handles the state of a new connection.
func (m *authMachine) told(g *clientGrant) {
	if g == nil {
		m.mute()
		return
	}
	m.phase = authTold
	if m.dialed != nil && g.State != stateDenied {
		m.accepted()
	}
	m.apply(g)
}

// accepted answers the call whose token the connection was opened with.
func (m *authMachine) accepted() {
	if !m.isLeaving() {
		m.token, m.loggedOut = m.dialed.token, false
	}
	m.dialed = nil
	m.finish(nil)
}

// mute handles a connection whose server does not tell the state. Calls that are not part of its
// handshake cannot be sent, but later attempts use their tokens.
func (m *authMachine) mute() {
	if m.phase == authOffline {
		return
	}
	m.phase, m.shown, m.sent = authMute, AuthState{}, false
	m.quiet()
	if m.dialed != nil {
		m.accepted()
	}
	for len(m.calls) > 0 {
		switch k := m.calls[0]; {
		case k.offers:
			m.fresh = k.token
			m.finish(nil)
		default:
			m.adopt(k.token)
			m.finish(errNoTokens)
		}
	}
}

// adopt makes later attempts use a token. Empty means that they send none.
func (m *authMachine) adopt(token string) {
	m.token, m.loggedOut, m.fresh = token, token == "", ""
	m.add(authOutput{kind: authOutReset})
}

// quiet ends what is under way for the connection.
func (m *authMachine) quiet() {
	m.fetching, m.waiting = false, false
	m.add(authOutput{kind: authOutUnsend})
	m.add(authOutput{kind: authOutDisarm})
}

// lost handles the end of the connection. The token of a call without an answer is used for the
// next one, which also answers the call. A logout is done.
func (m *authMachine) lost() {
	m.phase, m.dialed = authOffline, nil
	wasSent := m.sent
	m.sent = false
	m.quiet()
	if wasSent && m.calls[0].offers {
		m.fresh = m.calls[0].token
	}
	m.calls = slices.DeleteFunc(slices.Clone(m.calls), func(k *authCall) bool { return k.offers })
	if n := len(m.calls); n > 1 { // logouts before the last call, and calls before the last logout
		for _, k := range m.calls[:n-1] {
			m.supersede(k)
		}
		m.calls = m.calls[n-1:]
	}
	if len(m.calls) > 0 && m.calls[0].isLogout() {
		m.finish(nil)
	}
}

// apply handles a new state of the grant.
func (m *authMachine) apply(g *clientGrant) {
	if m.phase != authTold {
		return
	}
	was := m.shown.Status
	m.shown = AuthState{Claims: g.Claims}
	switch g.State {
	case stateAuthenticated:
		m.shown.Status = Authenticated
	case stateAnonymous:
		m.shown.Status = Anonymous
	case stateDenied:
		m.deny(deniedError(g.Reason))
		return
	}
	if g.ExpiresIn != nil {
		m.shown.Expires = m.now.Add(milliseconds(*g.ExpiresIn, clientMaxExpiry))
	}
	if g.Token != "" && !m.isLeaving() {
		m.token, m.loggedOut = g.Token, false
	}
	if g.Token != "" || (was == Anonymous) != (m.shown.Status == Anonymous) {
		m.add(authOutput{kind: authOutReset})
	}
	m.tries = 0
	if m.waiting {
		m.waiting = false
		m.add(authOutput{kind: authOutDisarm})
	}
}

// expired handles the expiry of the token. If the client waits for the next fetch, it fetches now.
func (m *authMachine) expired() {
	if m.phase != authTold || m.shown.Status == Expired {
		return
	}
	m.shown.Status = Expired
	if m.waiting {
		m.waiting = false
		m.add(authOutput{kind: authOutDisarm})
	}
	m.refresh()
}

// refresh fetches a token, or offers the server one that it has not seen, if it needs one and
// nothing else is under way.
func (m *authMachine) refresh() {
	isDue := m.phase == authTold && (m.shown.Status == Expiring || m.shown.Status == Expired)
	switch {
	case !isDue || m.loggedOut || m.fetching || m.waiting || len(m.calls) > 0:
	case m.refreshes && m.now.Sub(m.began) < clientFetchPause:
		m.waiting = true
		m.add(authOutput{kind: authOutArm, tries: 1}) // it waits as long as the pause
	case m.refreshes:
		m.fetch++
		m.fetching, m.began = true, m.now
		m.add(authOutput{kind: authOutFetch, fetch: m.fetch})
	case m.token != m.used:
		m.calls = append(m.calls, &authCall{token: m.token, offers: true})
	}
}

// fetched handles the result of a fetch.
func (m *authMachine) fetched(n uint64, token string, err error) {
	if n != m.fetch || !m.fetching {
		if n == m.fetch && m.phase == authOffline && err == nil && !m.loggedOut && m.denied == nil {
			m.fresh = token
		}
		return
	}
	m.fetching = false
	switch {
	case m.loggedOut || len(m.calls) > 0:
	case err != nil:
		m.later(fmt.Errorf("socket: auth token: %w", err))
	case token == "":
		m.later(errEmptyToken)
	case m.shown.Status == Expiring || m.shown.Status == Expired:
		m.calls = append(m.calls, &authCall{token: token, offers: true})
	}
}

// later arms the timer of the next fetch.
func (m *authMachine) later(err error) {
	m.shown.Err = err
	if m.refreshes {
		m.tries++
		m.waiting = true
		m.add(authOutput{kind: authOutArm, tries: m.tries})
	}
}

// sendNext sends the next call, if the server takes it.
func (m *authMachine) sendNext() {
	if m.phase == authTold && !m.sent && len(m.calls) > 0 {
		m.sent = true
		m.add(authOutput{kind: authOutSend, call: m.calls[0]})
	}
}

// answered handles the answer to the first call.
func (m *authMachine) answered(g *clientGrant, err error) {
	if m.phase != authTold || !m.sent {
		return
	}
	m.sent = false
	k := m.calls[0]
	if k.offers && err != nil {
		m.finish(err)
		m.used = k.token // a token without a function is offered once
		m.later(err)
		return
	}
	if err == nil {
		m.used = k.token
		switch {
		case m.isLeaving():
		case k.offers:
			m.token = k.token
		default:
			m.adopt(k.token)
		}
		m.apply(g)
		if m.phase != authTold {
			return
		}
	}
	if err != nil {
		m.shown.Err = err
	}
	m.finish(err)
	m.refresh()
}

// supersede answers a call because of a later one. A logout is done then.
func (m *authMachine) supersede(k *authCall) {
	if k.isLogout() {
		m.resolve(k, nil)
	} else {
		m.resolve(k, errSuperseded)
	}
}

// finish answers the first call.
func (m *authMachine) finish(err error) {
	m.resolve(m.calls[0], err)
	m.calls = m.calls[1:]
}

func (m *authMachine) resolve(k *authCall, err error) {
	for _, w := range k.waits {
		m.add(authOutput{kind: authOutResolve, wait: w, err: err})
	}
	k.waits = nil
}

// called handles Authenticate and Deauthenticate. Calls that are not sent yet are superseded,
// except for a logout before a login.
func (m *authMachine) called(k *authCall) {
	m.denied = nil
	if k.isLogout() {
		m.adopt("")
	}
	keep := 0
	if m.sent || m.dialed != nil { // the first call may be answered
		keep = 1
	}
	kept := m.calls[:keep:keep]
	for _, old := range m.calls[keep:] {
		switch {
		case old.isLogout() && k.isLogout():
			k.waits = append(k.waits, old.waits...)
			old.waits = nil
		case old.isLogout() && m.phase != authOffline:
			kept = append(kept, old)
		default:
			m.supersede(old)
		}
	}
	m.calls = append(kept, k)
	switch {
	case m.phase == authMute:
		m.mute()
	case m.phase == authOffline && k.isLogout():
		m.finish(nil)
		m.add(authOutput{kind: authOutDial})
	case m.phase == authOffline:
		m.add(authOutput{kind: authOutReset})
		m.add(authOutput{kind: authOutDial})
	}
}

// refused handles the refusal of an attempt to connect.
func (m *authMachine) refused(k *authCall, err error, isLast bool) {
	m.fresh = ""
	if k != nil && len(m.calls) > 0 && m.calls[0] == k {
		m.finish(err)
	}
	m.shown.Err = err
	if isLast {
		m.shown = AuthState{Status: AuthDenied, Err: err}
		m.denied = err
		m.stop(err)
	}
}

// deny ends the connection for good.
func (m *authMachine) deny(err error) {
	m.phase, m.dialed, m.fresh, m.sent = authOffline, nil, "", false
	m.quiet()
	m.shown = AuthState{Status: AuthDenied, Err: err}
	m.denied = err
	m.add(authOutput{kind: authOutDeny, err: err})
	m.stop(err)
	m.calls = nil
}

// stop ends the waits of callers. Their tokens are used for the next connection.
func (m *authMachine) stop(err error) {
	m.fresh = ""
	for _, k := range m.calls {
		m.resolve(k, err)
	}
	for _, w := range m.waits {
		m.add(authOutput{kind: authOutResolve, wait: w, err: err})
	}
	m.waits = nil
}

// settleWaits ends the calls of WaitAuth if the client is authenticated, or denied.
func (m *authMachine) settleWaits() {
	switch {
	case len(m.waits) == 0:
	case m.denied != nil:
		m.stop(m.denied)
	case m.gate() == clientlink.AuthGranted:
		for _, w := range m.waits {
			m.add(authOutput{kind: authOutResolve, wait: w})
		}
		m.waits = nil
	}
}

// deniedError returns the error of a client that was denied for this reason.
func deniedError(reason string) error {
	if reason == "" {
		return fmt.Errorf("socket: %w", ErrDenied)
	}
	return fmt.Errorf("socket: %w: %w", ErrDenied, push.Reason(reason))
}
