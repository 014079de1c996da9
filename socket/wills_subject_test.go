package socket

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/willtimes"
	"bennu.example/push"
	"bennu.example/will"
)

// willAuth accepts every token as the subject, and anonymous clients.
func willAuth() *Auth {
	return &Auth{Anonymous: true, Verify: func(_ context.Context, token string, _ *Request) (Grant, error) {
		return Grant{ID: token}, nil
	}}
}

// guest opens an anonymous connection of ann's client, which has joined $socket and room:1.
func (r *willRig) guest(order uint64) *line {
	l := r.open(0, "", testAnn, order)
	l.s.auth = newSessionAuth(&identity{grant: &verified{Context: context.Background()}})
	l.send(join("1", "$socket"), join("2", "room:1"))
	synctest.Wait()
	l.taken()
	return l
}

// logIns are the ways to get a subject. They push with the reference 3.
var logIns = map[string]func(l *line, subject string){
	"by a token": func(l *line, subject string) {
		l.send(fmt.Sprintf(`["1","3","$socket","token",{"token":%q}]`, subject))
	},
	"by the server": func(l *line, subject string) {
		l.send(fmt.Sprintf(`["2","3","room:1","become",{"subject":%q}]`, subject))
	},
}

// becomeSubject is an event of the rooms, by which the server logs the client in or out.
func becomeSubject(
	_ *willRoom, ctx context.Context, _ *channel.Channel, in struct{ Subject string },
) (push.Reply, error) {
	return push.OK(nil), Authenticate(ctx, Grant{ID: in.Subject})
}

// TestLoginFencesWills checks that a login and a logout delete the wills of the connection, and
// those of the older connections of the new subject on the joined topics.
func TestLoginFencesWills(t *testing.T) {
	t.Parallel()
	for name, logIn := range logIns {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 1, Config{Auth: willAuth()}, func(t *testing.T, r *willRig) {
				other := r.observe()
				older := r.connect(0, "ann", testAnn, 1)
				older.setWill("")
				r.lose(older, nil)
				l := r.guest(2)
				l.setWill("")
				logIn(l, "ann")
				synctest.Wait()
				if got := fmt.Sprint(l.taken()); !strings.Contains(got, `"3"`) || strings.Contains(got, `"error"`) {
					t.Errorf("login: %s", got)
				}
				sleepTo(time.Minute)
				other.wantKeys()

				guest := r.open(0, "", testAnn, 1) // an older connection
				guest.send(join("1", "$socket"), join("2", "room:1"), willPush("9", "room:1", "gone", ""))
				synctest.Wait()
				if got := fmt.Sprint(guest.taken()); !strings.Contains(got, "fenced") {
					t.Errorf("a will of the older connection: %s", got)
				}
				r.lose(guest, nil)
				r.lose(l, nil)
				sleepTo(time.Minute)
				other.wantKeys()
			})
		})
	}
}

// TestOtherSubjectFencesNothing checks that a token of another user, which is refused, does not
// delete that user's wills.
func TestOtherSubjectFencesNothing(t *testing.T) {
	t.Parallel()
	for name, logIn := range logIns {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 1, Config{Auth: willAuth()}, func(t *testing.T, r *willRig) {
				other := r.observe()
				older := r.connect(0, "ann", testAnn, 1)
				older.setWill("")
				r.lose(older, nil)
				l := r.open(0, "bob", testAnn, 2)
				l.s.auth = newSessionAuth(&identity{grant: &verified{Context: context.Background(), grant: Grant{ID: "bob"}}})
				l.send(join("1", "$socket"), join("2", "room:1"))
				synctest.Wait()
				l.taken()
				logIn(l, "ann")
				synctest.Wait()
				if got := fmt.Sprint(l.taken()); !strings.Contains(got, "identity changed") {
					t.Errorf("login: %s", got)
				}
				sleepTo(time.Minute)
				other.wantKeys(willRan)
			})
		})
	}
}

// TestLoginNeedsStore checks that nobody logs in while the older wills cannot be deleted.
func TestLoginNeedsStore(t *testing.T) {
	t.Parallel()
	for name, logIn := range logIns {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newWillStore()
			inWillRig(t, 1, Config{Auth: willAuth(), Wills: store}, func(t *testing.T, r *willRig) {
				l := r.guest(1)
				store.away.Store(true)
				logIn(l, "ann")
				synctest.Wait()
				if got := fmt.Sprint(l.taken()); !strings.Contains(got, `"unavailable"`) || l.s.subject() != "" {
					t.Errorf("login: %s", got)
				}
				store.away.Store(false)
				sleepTo(time.Minute)
				logIn(l, "ann")
				synctest.Wait()
				if l.taken(); l.s.subject() != "ann" {
					t.Errorf("the subject is %q", l.s.subject())
				}
			})
		})
	}
}

// joiningStore lets a client join a topic while it logs in.
type joiningStore struct {
	will.Store

	join    func()
	arrived atomic.Int64 // as ann on room:2
}

func (s *joiningStore) Arrive(ctx context.Context, topic string, c will.Connection) (time.Duration, error) {
	busy, err := s.Store.Arrive(ctx, topic, c)
	if c.Subject == "ann" && topic == "room:2" {
		s.arrived.Add(1)
	}
	if c.Subject == "ann" && s.join != nil {
		join := s.join
		s.join = nil
		join()
	}
	return busy, err
}

// TestJoinDuringLogin checks that a client that joins a topic while it logs in arrives there as
// what it becomes.
func TestJoinDuringLogin(t *testing.T) {
	t.Parallel()
	store := &joiningStore{Store: will.NewMemory()}
	inWillRig(t, 1, Config{Auth: willAuth(), Wills: store}, func(t *testing.T, r *willRig) {
		l := r.guest(1)
		store.join = func() { l.send(join("4", "room:2")) }
		l.send(`["1","3","$socket","token",{"token":"ann"}]`)
		synctest.Wait()
		if got := fmt.Sprint(l.taken()); !strings.Contains(got, accepted("4", "room:2")) || l.s.subject() != "ann" {
			t.Errorf("login: %s", got)
		}
		if store.arrived.Load() == 0 {
			t.Error("ann did not arrive")
		}
	})
}

// pausingStore stops a Put when it is armed.
type pausingStore struct {
	will.Store

	armed   atomic.Bool
	stopped chan struct{}
	goOn    chan struct{}
}

func (s *pausingStore) Put(ctx context.Context, w will.Will) error {
	if s.armed.CompareAndSwap(true, false) {
		close(s.stopped)
		<-s.goOn
	}
	return s.Store.Put(ctx, w)
}

// TestUnwillDuringReturn checks that a will that its client deletes stays deleted if the node
// stores its wills again at that moment, because it had lost its lease.
func TestUnwillDuringReturn(t *testing.T) {
	t.Parallel()
	store := &pausingStore{Store: will.NewMemory()}
	inWillRig(t, 2, Config{Wills: store}, func(t *testing.T, r *willRig) {
		store.stopped, store.goOn = make(chan struct{}), make(chan struct{})
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill(`,"after_ms":0`)
		node := r.h[0].wills.node
		store.armed.Store(true)
		if _, err := store.Lease(t.Context(), node, 0); err != nil { // it renews the lease only later
			t.Fatal(err)
		}
		sleepTo(willtimes.Default().Renew)
		<-store.stopped
		l.taken() // the other node may have run it meanwhile
		l.send(`["1","3","$socket","unwill",{}]`)
		l.wantKeys(socketReplied("1", "3", "ok", `{"count":1}`))
		close(store.goOn)
		synctest.Wait()
		other.taken()
		if _, err := store.Lease(t.Context(), node, 0); err != nil {
			t.Fatal(err)
		}
		sleepTo(time.Minute)
		other.wantKeys()
	})
}
