package socket_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/testenv/race"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// authPlay is a random history of a client and a server with Config.Auth, and what a model knows
// about it: which users the client may be on its connection.
type authPlay struct {
	t       *testing.T
	rnd     *rand.Rand
	w       *authWorld
	c       *authClient
	began   time.Time
	mu      sync.Mutex // guards log
	log     []string
	refresh bool // the client has an AuthTokenFunc
	anon    bool // the server accepts anonymous clients

	source   atomic.Pointer[string] // the user whose tokens AuthTokenFunc returns
	fetching atomic.Int64
	faulty   atomic.Bool // AuthTokenFunc fails

	may     []string // users, of which "" is anonymous
	members *channel.Client
	open    *channel.Client
	room    *channel.Client
	sent    int
	got     []int
}

var authUsers = []string{"ann", "bob"}

func (p *authPlay) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, fmt.Sprintf("%8v ", time.Since(p.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (p *authPlay) fail(format string, args ...any) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.Errorf("%s\n%v %+v\n%s", fmt.Sprintf(format, args...), p.c.State(), p.c.Auth(), strings.Join(p.log, "\n"))
}

// fetch is the AuthTokenFunc.
func (p *authPlay) fetch(ctx context.Context) (string, error) {
	if p.fetching.Add(1) > 1 {
		p.t.Error("two calls of AuthTokenFunc at once")
	}
	defer p.fetching.Add(-1)
	select {
	case <-time.After(time.Duration(p.w.random(3000)) * time.Millisecond):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if p.faulty.Load() {
		return "", errors.New("cannot fetch a token")
	}
	return p.w.issue(*p.source.Load()), nil
}

// random returns a number below n that does not depend on the order of goroutines.
func (w *authWorld) random(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return (w.issued*7919 + w.dials*104_729) % n
}

func newAuthPlay(t *testing.T, seed uint64) *authPlay {
	rnd := rand.New(rand.NewPCG(seed, 14))
	p := &authPlay{t: t, rnd: rnd, began: time.Now(), refresh: rnd.IntN(4) > 0, anon: rnd.IntN(3) > 0}
	lives := []time.Duration{20 * time.Second, 2 * time.Minute, 15 * time.Minute}
	p.w = newAuthWorld(t, lives[rnd.IntN(len(lives))], func(cfg *socket.Config) {
		cfg.Auth.Anonymous = p.anon
		if rnd.IntN(4) == 0 {
			cfg.Auth.Grace = time.Duration(rnd.IntN(3)-1) * 5 * time.Second // none, 30 s, 5 s
		}
	})
	p.source.Store(&authUsers[0])
	cfg := socket.ClientConfig{}
	if rnd.IntN(4) == 0 {
		cfg.Transport = socket.TransportLongPoll
	}
	switch {
	case p.refresh:
		cfg.AuthTokenFunc = p.fetch
		p.may = []string{"ann"}
	case p.anon && rnd.IntN(2) == 0:
		p.may = []string{""}
	default:
		cfg.AuthToken = p.w.issue("ann")
		p.may = []string{"ann"}
	}
	p.c = p.w.client(cfg)
	p.members = p.c.Channel("members:1", nil).WaitForAuth()
	p.open = p.c.Channel("open:1", nil)
	p.room = p.c.Channel("room:1", nil).WaitForAuth()
	p.room.Resume(channel.ResumeConfig{OnReset: func(_ serializer.Payload, why string) {
		if why != "new" || len(p.got) > 0 {
			p.fail("the room was reset: %s", why)
		}
	}})
	p.room.On("n", func(got serializer.Payload) {
		var m struct{ N int }
		if err := got.Decode(&m); err != nil {
			t.Error(err)
		}
		p.got = append(p.got, m.N)
	})
	p.c.OnState(func(s socket.State) { p.note("state %v", s) })
	p.c.OnAuth(func(s socket.AuthState) { p.note("auth %v %v", s.Status, s.Err) })
	for _, ch := range []*channel.Client{p.members, p.open, p.room} {
		ch.Join()
	}
	p.c.Connect()
	return p
}

// is sets the users that the client may be.
func (p *authPlay) is(users ...string) {
	slices.Sort(users)
	p.may = slices.Compact(users)
}

// login calls Authenticate with a token of a user, or with garbage if it is empty.
func (p *authPlay) login(user string) {
	token := "garbage"
	if user != "" {
		token = p.w.issue(user)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 25*time.Second)
	defer cancel()
	err := p.c.Authenticate(ctx, token)
	p.note("login %q: %v", user, err)
	switch {
	case err == nil && user == "":
		p.fail("garbage was accepted")
	case err == nil:
		p.source.Store(&user)
		p.is(user)
	case user == "" || errors.Is(err, socket.ErrDenied) || errors.Is(err, push.Reason("identity changed")):
	default: // it may take effect later, and later connections have the tokens of the function
		p.is(append(p.may, user)...)
	}
}

func (p *authPlay) logout() {
	ctx, cancel := context.WithTimeout(p.t.Context(), 25*time.Second)
	defer cancel()
	err := p.c.Deauthenticate(ctx)
	p.note("logout: %v", err)
	if p.c.Token() != "" {
		p.fail("token %q after a logout", p.c.Token())
	}
	if err == nil {
		p.is("")
	} else {
		p.is(append(p.may, "")...)
	}
}

// who asks the server who the client is.
func (p *authPlay) who(ch *channel.Client) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	got, err := channel.Call[string](ctx, ch, "who", nil)
	p.note("who: %q %v", got, err)
	if err == nil && !slices.Contains(p.may, got) {
		p.fail("the client is %q, want one of %q", got, p.may)
	}
	if err == nil && got == "" && ch == p.members {
		p.fail("an anonymous client is a member")
	}
}

func (p *authPlay) step() {
	user := authUsers[p.rnd.IntN(len(authUsers))]
	switch p.rnd.IntN(16) {
	case 0, 1:
		p.login(user)
	case 2:
		p.login("")
	case 3:
		p.logout()
	case 4, 5:
		p.note("cut")
		p.w.cut()
	case 6:
		p.note("Verify fails")
		p.w.set(func() { p.w.verify = func(context.Context) error { return errors.New("Verify fails") } })
	case 7:
		p.note("Verify is slow")
		p.w.set(func() {
			p.w.verify = func(ctx context.Context) error {
				select {
				case <-time.After(9 * time.Second):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	case 8:
		p.note("AuthTokenFunc fails")
		p.faulty.Store(true)
	case 9, 10:
		p.mend()
	case 11:
		if p.rnd.IntN(3) == 0 {
			p.note("ban %s", user)
			p.w.set(func() { p.w.banned[user] = "banned" })
			if err := p.w.h.Revoke(p.t.Context(), user, "banned"); err != nil {
				p.t.Error(err)
			}
		}
	case 12:
		p.note("pause")
		p.c.Pause()
		time.Sleep(time.Duration(p.rnd.IntN(60)) * time.Second)
		p.note("connect")
		p.c.Connect()
	case 13:
		p.who(p.open)
	case 14:
		p.who(p.members)
	case 15:
		if err := p.w.h.Reauthorize(p.t.Context(), user); err != nil {
			p.t.Error(err)
		}
	}
	p.sent++
	if err := p.w.ps.Broadcast(p.t.Context(), "room:1", "n", map[string]int{"N": p.sent}); err != nil {
		p.t.Error(err)
	}
	pauses := []time.Duration{0, time.Second, time.Second, 5 * time.Second, p.w.life / 3, p.w.life}
	time.Sleep(time.Duration(p.rnd.Int64N(int64(pauses[p.rnd.IntN(len(pauses))]) + 1)))
}

// mend ends all faults and bans.
func (p *authPlay) mend() {
	p.note("no faults")
	p.faulty.Store(false)
	p.w.set(func() {
		p.w.verify = nil
		clear(p.w.banned)
	})
}

func (p *authPlay) isAuthenticated() bool {
	a := p.c.Auth()
	return p.c.State().Status == socket.StatusConnected &&
		(a.Status == socket.Authenticated || a.Status == socket.Expiring)
}

// settle ends the faults and checks that the client is where it must be.
func (p *authPlay) settle() {
	p.mend()
	time.Sleep(2 * time.Minute)
	synctest.Wait()
	if s := p.c.State(); s.Status == socket.StatusDenied && s.Until.IsZero() {
		if a := p.c.Auth(); a.Status != socket.AuthDenied || !errors.Is(a.Err, socket.ErrDenied) ||
			!errors.Is(s.Cause, socket.ErrDenied) {
			p.fail("denied without a reason")
		}
		p.w.set(func() { p.w.dials = 0 })
		time.Sleep(time.Hour)
		p.w.set(func() {
			if p.w.dials > 0 {
				p.fail("a client that was denied came back")
			}
		})
	}
	for _, user := range authUsers { // the connection may be that of one of them
		if !p.isAuthenticated() {
			p.login(user)
		}
	}
	if !p.isAuthenticated() {
		p.fail("not authenticated after a login")
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := p.c.WaitAuth(ctx); err != nil {
		p.fail("%v", err)
	}
	p.who(p.open)
	if s, err := p.members.State(); s != channel.StateClosed {
		if got, err := channel.Call[string](ctx, p.members, "who", nil); err != nil || !slices.Contains(p.may, got) {
			p.fail("members: %q %v, want %q", got, err, p.may)
		}
	} else if !errors.Is(err, push.Reason("banned")) {
		p.fail("members ended with %v", err)
	}
	if s, err := p.room.State(); s == channel.StateClosed {
		if !errors.Is(err, push.Reason("banned")) {
			p.fail("room ended with %v", err)
		}
	} else if err := p.room.CatchUp(ctx); err != nil {
		p.fail("catch up: %v", err)
	}
}

func (p *authPlay) end() {
	p.c.end()
	p.w.end()
	p.w.set(func() {
		if p.w.intruders > 0 {
			p.fail("%d joins of anonymous members", p.w.intruders)
		}
	})
	for i := 1; i < len(p.got); i++ {
		if p.got[i] != p.got[i-1]+1 {
			p.fail("message %d after %d", p.got[i], p.got[i-1])
			break
		}
	}
}

// TestClientAuthRandom runs random histories. BENNU_AUTH_SEEDS sets their number.
func TestClientAuthRandom(t *testing.T) {
	t.Parallel()
	seeds, first := race.Seeds(100), 0
	if n, err := strconv.Atoi(os.Getenv("BENNU_AUTH_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.Atoi(os.Getenv("BENNU_AUTH_FIRST")); err == nil {
		first = n
	}
	for seed := first; seed < first+seeds && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			p := newAuthPlay(t, uint64(seed))
			defer p.end()
			for range 2 {
				for range 12 {
					p.step()
				}
				p.settle()
			}
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}
