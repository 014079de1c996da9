package socket

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/push"
)

// authRig performs authStep with random inputs that a connection and a program can make, and checks
// what must always hold. It is a second, simpler account of what is under way.
type authRig struct {
	t   *testing.T
	rnd *rand.Rand
	s   clientAuthState
	log []string

	open    bool
	told    bool
	now     time.Time
	fetched time.Time // when the last fetch began
	fetches []uint64  // that have not returned
	current uint64    // the fetch for this connection, or zero
	send    *authCall
	armed   bool
	tokens  int
	waits   map[*authWait]string // with what they wait for
	want    string               // the token in use
	out     bool                 // Deauthenticate was called, and no login since
}

func (r *authRig) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(r.log, "\n"))
}

func (r *authRig) token() string {
	r.tokens++
	return fmt.Sprint("token ", r.tokens)
}

func (r *authRig) wait(what string) *authWait {
	w := newAuthWait()
	r.waits[w] = what
	return w
}

// feed performs a step.
func (r *authRig) feed(name string, in authInput) {
	r.t.Helper()
	r.now = r.now.Add([]time.Duration{0, 300 * time.Millisecond, time.Second, time.Hour}[r.rnd.IntN(4)])
	in.now = r.now
	was := r.s
	var out []authOutput
	r.s, out = authStep(r.s, in)
	r.log = append(r.log, fmt.Sprintf("%s: %s, %d calls, %v", name, r.s.shown.Status, len(r.s.calls), r.s.phase))
	for _, o := range out {
		switch o.kind {
		case authOutSend:
			if !r.told || r.send != nil {
				r.fail("a token is sent to a server that does not take it, or before the last was answered")
			}
			r.send = o.call
		case authOutUnsend:
			r.send, r.current = nil, 0
		case authOutFetch:
			if r.current != 0 || r.armed || !r.s.refreshes || r.out || was.phase != authTold {
				r.fail("a fetch while one is under way, or without need")
			}
			if after := r.now.Sub(r.fetched); after < time.Second {
				r.fail("a fetch %v after the last", after)
			}
			r.fetched = r.now
			r.current = o.fetch
			r.fetches = append(r.fetches, o.fetch)
		case authOutArm:
			if r.armed || o.tries < 1 {
				r.fail("the timer is armed already, or tries is %d", o.tries)
			}
			r.armed = true
		case authOutDisarm:
			r.armed = false
		case authOutResolve:
			what, found := r.waits[o.wait]
			if !found {
				r.fail("a wait is resolved twice")
			}
			delete(r.waits, o.wait)
			r.log = append(r.log, fmt.Sprintf("  %s: %v", what, o.err))
			switch {
			case o.err != nil:
			case what == "wait":
				if r.s.gate() != clientlink.AuthGranted {
					r.fail("WaitAuth returns without authentication")
				}
			}
		case authOutDeny:
			r.open, r.told = false, false
			if r.s.shown.Status != AuthDenied || !errors.Is(r.s.shown.Err, ErrDenied) {
				r.fail("denied, but shows %+v", r.s.shown)
			}
		}
	}
	r.check()
}

func (r *authRig) check() {
	r.t.Helper()
	s := &r.s
	isLogout := slices.ContainsFunc(s.calls, (*authCall).isLogout)
	switch gate := s.gate(); {
	case len(s.calls) > 3:
		r.fail("%d calls wait", len(s.calls))
	case s.sent != (r.send != nil), s.waiting != r.armed, s.fetching != (r.current != 0):
		r.fail("sent %v, waiting %v, fetching %v", s.sent, s.waiting, s.fetching)
	case !r.open && gate != clientlink.AuthPending, r.told && gate == clientlink.AuthPending:
		r.fail("gate %v", gate)
	case r.told && gate == clientlink.AuthGranted &&
		(isLogout || s.shown.Status != Authenticated && s.shown.Status != Expiring):
		r.fail("granted, but %v", s.shown.Status)
	case gate == clientlink.AuthGranted && slices.Contains(r.values(), "wait"):
		r.fail("WaitAuth waits although the client is authenticated")
	case r.told && len(s.calls) > 0 && r.send == nil:
		r.fail("a call is not sent")
	case s.token != r.want:
		r.fail("token %q, want %q", s.token, r.want)
	case s.loggedOut != r.out:
		r.fail("logged out: %v, want %v", s.loggedOut, r.out)
	}
	isDue := r.told && s.refreshes && !r.out && (s.shown.Status == Expiring || s.shown.Status == Expired)
	if isDue && r.current == 0 && r.send == nil && !r.armed {
		r.fail("no token is fetched")
	}
	if token, call, fetches := s.attempt(); r.out && call == nil && (token != "" || fetches) {
		r.fail("an attempt after a logout has a token")
	}
}

func (r *authRig) values() (list []string) {
	for _, what := range r.waits {
		list = append(list, what)
	}
	return list
}

// grant returns a state of the server, sometimes with a token.
func (r *authRig) grant(states ...string) *clientGrant {
	g := &clientGrant{State: states[r.rnd.IntN(len(states))]}
	if r.rnd.IntN(5) == 0 && g.State == stateAuthenticated {
		g.Token = r.token()
	}
	return g
}

func (r *authRig) leaving() bool {
	return slices.ContainsFunc(r.s.calls, func(k *authCall) bool { return k.token == "" })
}

// takes notes the token of a grant that the client uses from now on.
func (r *authRig) takes(g *clientGrant) {
	if g.Token != "" && !r.leaving() {
		r.want, r.out = g.Token, false
	}
}

func (r *authRig) connect() {
	token, call, fetches := r.s.attempt()
	if fetches {
		token = r.token()
	}
	if r.rnd.IntN(4) == 0 {
		r.feed("refused", authInput{kind: authInRefused, call: call,
			err: fmt.Errorf("%w: 403", ErrDenied), isLast: r.rnd.IntN(2) == 0})
		return
	}
	r.open = true
	if call == nil {
		r.want = token
	}
	r.feed("opened", authInput{kind: authInOpened, token: token, call: call})
}

func (r *authRig) next() {
	switch r.rnd.IntN(16) {
	case 0, 1, 2:
		switch {
		case !r.open:
			r.connect()
		case r.s.phase == authOpened && r.rnd.IntN(5) == 0:
			r.mute("mute")
		case r.s.phase == authOpened:
			r.tell()
		}
	case 3:
		if r.open && r.rnd.IntN(2) == 0 {
			r.open, r.told = false, false
			r.feed("lost", authInput{kind: authInLost})
		}
	case 4, 5:
		k := &authCall{token: r.token()}
		k.waits = []*authWait{r.wait(k.token)}
		if r.s.phase == authMute {
			r.want, r.out = k.token, false
		}
		r.feed("authenticate", authInput{kind: authInCall, call: k})
	case 6:
		r.want, r.out = "", true
		r.feed("deauthenticate", authInput{kind: authInCall, call: &authCall{waits: []*authWait{r.wait("")}}})
	case 7:
		r.feed("wait", authInput{kind: authInWait, wait: r.wait("wait")})
	case 8, 9:
		if r.told {
			kind := authInNotice
			if r.rnd.IntN(3) == 0 {
				kind = authInExpired
			}
			r.feed("expiry", authInput{kind: kind})
		}
	case 10, 11:
		if r.send != nil {
			r.answer()
		}
	case 12, 13:
		if len(r.fetches) > 0 {
			n := r.fetches[0]
			r.fetches = r.fetches[1:]
			if n == r.current {
				r.current = 0
			}
			in := authInput{kind: authInFetched, fetch: n, token: r.token()}
			if r.rnd.IntN(3) == 0 {
				in.token, in.err = "", push.ErrTimeout
			}
			r.feed("fetched", in)
		}
	case 14:
		if r.armed {
			r.armed = false
			r.feed("retry", authInput{kind: authInRetry})
		}
	case 15:
		r.rare()
	}
}

// mute ends what the server tells. Calls that it cannot take are kept for later connections.
func (r *authRig) mute(name string) {
	r.told = false
	for _, k := range r.s.calls {
		if !k.offers {
			r.want, r.out = k.token, k.isLogout()
		}
	}
	r.feed(name, authInput{kind: authInMute})
}

func (r *authRig) tell() {
	g := r.grant(stateAuthenticated, stateAuthenticated, stateAnonymous, stateDenied, "from the future")
	r.told = g.State != stateDenied
	if r.told && r.s.dialed != nil && !r.leaving() {
		r.want, r.out = r.s.dialed.token, false
	}
	r.takes(g)
	r.feed("told "+g.State, authInput{kind: authInTold, grant: g})
}

func (r *authRig) answer() {
	k := r.send
	r.send = nil
	if r.rnd.IntN(3) == 0 {
		r.feed("refused token", authInput{kind: authInAnswer, err: fmt.Errorf("token: %w", errTokenDenied)})
		return
	}
	g := r.grant(stateAuthenticated)
	switch {
	case k.isLogout():
		g = &clientGrant{State: stateAnonymous}
	case !r.leaving():
		r.want, r.out = k.token, r.out && k.offers
	}
	r.takes(g)
	r.feed("accepted token", authInput{kind: authInAnswer, grant: g})
}

func (r *authRig) rare() {
	switch r.rnd.IntN(6) {
	case 0:
		if r.open {
			r.feed("denied", authInput{kind: authInDenied, err: deniedError("x")})
		}
	case 1:
		if r.open {
			r.mute("$socket ended")
		}
	case 2:
		if r.told {
			g := r.grant(stateAuthenticated, stateAnonymous)
			r.takes(g)
			r.feed("event", authInput{kind: authInEvent, grant: g})
		}
	case 3:
		if !r.open {
			r.feed("connect", authInput{kind: authInConnect})
		}
	case 4:
		if !r.open {
			r.feed("stop", authInput{kind: authInStop, err: ErrPaused})
			if len(r.waits) > 0 {
				r.fail("%d waits after the stop", len(r.waits))
			}
		}
	case 5:
		for w, what := range r.waits {
			if what == "wait" {
				delete(r.waits, w)
				r.feed("cancel", authInput{kind: authInCancel, wait: w})
				break
			}
		}
	}
}

// TestClientAuthRules feeds the rules with random inputs.
func TestClientAuthRules(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1000) {
		r := &authRig{
			t: t, rnd: rand.New(rand.NewPCG(seed, 2)), waits: map[*authWait]string{}, now: time.Unix(1_000_000, 0),
		}
		r.log = append(r.log, fmt.Sprint("seed ", seed))
		r.s.refreshes = seed%2 == 0
		if !r.s.refreshes {
			r.want = "fixed"
			r.s.token = r.want
		}
		for range 100 {
			r.next()
		}
		r.feed("closed", authInput{kind: authInStop, err: ErrClosed})
		if len(r.waits) > 0 {
			r.fail("waits are left: %v", r.values())
		}
	}
}
