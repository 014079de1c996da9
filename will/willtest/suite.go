package willtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/key"
	"bennu.example/serializer"
	"bennu.example/will"
)

// Config says how the suite gets the stores to test.
type Config struct {
	// New returns an empty database as two nodes see it, which may be the same Store. The suite calls
	// it in each test. Keep is how long the database keeps what nobody needs: see will.Keep.
	New func(t *testing.T, keep time.Duration) (a, b will.Store)
	// Reopen ends the use of the store that New returned last and opens its database again, as after a
	// restart. Nil means that the database does not outlive its Store.
	Reopen func(t *testing.T) will.Store
	// Local means that a database has no leases when it was opened: only one process uses it.
	Local bool
	// Faults makes the database of New's stores fail now and then, or stop for a moment, until stop
	// is called, which waits until it works. It must not lose stored wills. Nil means that it
	// cannot fail.
	Faults func(t *testing.T) (stop func())
	// Unit is a time in which the database certainly answers. Zero means 200 ms.
	Unit time.Duration
}

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	if cfg.Unit == 0 {
		cfg.Unit = 200 * time.Millisecond
	}
	for name, f := range map[string]func(*suite){
		"a will is due after its time":              (*suite).due,
		"a will is deleted":                         (*suite).deleted,
		"a claim ends":                              (*suite).claimEnds,
		"two nodes claim":                           (*suite).race,
		"a newer connection deletes wills":          (*suite).arrival,
		"the client orders its connections":         (*suite).order,
		"an older connection cannot set a will":     (*suite).fenced,
		"an arrival waits for a claim":              (*suite).arrivalDuringClaim,
		"an arrival waits for the end of a claim":   (*suite).arrivalAfterClaim,
		"subjects, clients and topics are separate": (*suite).separate,
		"the lease of a node ends":                  (*suite).leaseEnds,
		"a node gives its lease up":                 (*suite).leaseGivenUp,
		"a node that returns stores its wills":      (*suite).nodeReturns,
		"a will without a lease":                    (*suite).noLease,
		"old wills and arrivals are dropped":        (*suite).expiry,
		"many wills":                                (*suite).many,
		"payloads":                                  (*suite).payloads,
		"a restart":                                 (*suite).restart,
		"an outage of the caller":                   (*suite).canceled,
		"random":                                    (*suite).random,
		"random with faults":                        (*suite).faults,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, cfg: cfg, unit: cfg.Unit}
			s.open(will.Keep)
			f(s)
		})
	}
}

type suite struct {
	*testing.T

	cfg  Config
	unit time.Duration
	a, b will.Store
}

func (s *suite) open(keep time.Duration) { s.a, s.b = s.cfg.New(s.T, keep) }

// long is a time that does not pass in a test.
const long = time.Hour

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pause waits. The time of a database cannot be replaced, and its passing cannot be observed.
func (s *suite) pause(d time.Duration) { time.Sleep(d) }

func (s *suite) connection(subject, client string, order uint64) will.Connection {
	return will.Connection{ID: key.New(), Subject: subject, ClientID: client, Order: order}
}

// put stores a will and makes sure that its node has a lease.
func (s *suite) put(topic string, c will.Connection, after time.Duration) will.Will {
	s.Helper()
	w := will.Will{
		ID: key.New(), Topic: topic, Event: "gone", Payload: serializer.Value(map[string]string{"user": c.Subject}),
		Connection: c, Node: "a", After: after,
	}
	_, err := s.a.Lease(s.Context(), "a", long)
	s.ok(err)
	s.ok(s.a.Put(s.Context(), w))
	return w
}

func (s *suite) end(w will.Will) {
	s.Helper()
	s.ok(s.a.End(s.Context(), w.Topic, w.Connection, w.ID))
}

func (s *suite) delete(by will.Store, w will.Will) {
	s.Helper()
	s.ok(by.Delete(s.Context(), w.Topic, w.Connection, w.ID))
}

func (s *suite) arrive(topic string, c will.Connection) time.Duration {
	s.Helper()
	busy, err := s.b.Arrive(s.Context(), topic, c)
	s.ok(err)
	return busy
}

// claim returns the IDs of the wills that are due.
func (s *suite) claim(by will.Store, hold time.Duration) []string {
	s.Helper()
	s.ok(by.Expire(s.Context()))
	wills, err := by.Claim(s.Context(), 100, hold)
	s.ok(err)
	ids := []string{}
	for _, w := range wills {
		ids = append(ids, w.ID)
	}
	return ids
}

// awaitClaim claims until a will is due. It returns the time that this took.
func (s *suite) awaitClaim(by will.Store, hold time.Duration, want ...string) time.Duration {
	s.Helper()
	begun := time.Now()
	var got []string
	for len(got) < len(want) {
		if time.Since(begun) > 100*s.unit {
			s.Fatalf("claimed %v, want %v", got, want)
		}
		got = append(got, s.claim(by, hold)...)
		s.pause(s.unit / 20)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Fatalf("claimed %v, want %v", got, want)
	}
	return time.Since(begun)
}

func (s *suite) nothing(by will.Store) {
	s.Helper()
	if got := s.claim(by, long); len(got) > 0 {
		s.Fatalf("claimed %v, want nothing", got)
	}
}

func (s *suite) due() {
	c := s.connection("ann", "client", 1)
	w := s.put("room", c, s.unit)
	s.nothing(s.b) // its connection lives
	s.end(w)
	if took := s.awaitClaim(s.b, long, w.ID); took < s.unit/2 {
		s.Errorf("the will was due after %v, want %v", took, s.unit)
	}
	s.nothing(s.a)
	s.delete(s.b, w)
	s.nothing(s.a)
}

func (s *suite) deleted() {
	c := s.connection("ann", "client", 1)
	first, second, third := s.put("room", c, 0), s.put("room", c, 0), s.put("room", c, 0)
	s.delete(s.b, first)
	s.end(second)
	s.end(third)
	s.delete(s.b, third)
	s.ok(s.a.Delete(s.Context(), "other", c, second.ID)) // not there
	s.ok(s.a.End(s.Context(), "room", s.connection("ann", "client", 1), second.ID))
	s.awaitClaim(s.b, long, second.ID)
}

func (s *suite) claimEnds() {
	w := s.put("room", s.connection("ann", "client", 1), 0)
	s.end(w)
	s.awaitClaim(s.a, s.unit, w.ID)
	if took := s.awaitClaim(s.b, long, w.ID); took < s.unit/4 {
		s.Errorf("the will was claimed again after %v, want %v", took, s.unit)
	}
}

func (s *suite) race() {
	const n = 50
	var want []string
	for i := range n {
		w := s.put("room", s.connection("ann", fmt.Sprint("client", i), 1), 0)
		s.end(w)
		want = append(want, w.ID)
	}
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for i := range 4 {
		by := []will.Store{s.a, s.b}[i%2]
		wg.Go(func() {
			for {
				wills, err := by.Claim(s.Context(), 7, long)
				if err != nil {
					s.Error(err)
				}
				mu.Lock()
				for _, w := range wills {
					got = append(got, w.ID)
				}
				mu.Unlock()
				if err != nil || len(wills) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("claimed %d wills, %d of them different, want each of %d once", len(got), len(slices.Compact(got)), n)
	}
}

func (s *suite) arrival() {
	first, second := s.connection("ann", "client", 0), s.connection("ann", "client", 0)
	ended, living := s.put("room", first, 0), s.put("room", first, 0)
	s.end(ended)
	if busy := s.arrive("room", second); busy > 0 {
		s.Errorf("busy for %v", busy)
	}
	s.nothing(s.a)
	s.end(living)
	s.nothing(s.a)
	w := s.put("room", second, 0)
	s.arrive("room", second) // again, which has no effect
	s.end(w)
	s.awaitClaim(s.a, long, w.ID)
}

func (s *suite) order() {
	older, newer := s.connection("ann", "client", 1), s.connection("ann", "client", 2)
	w := s.put("room", newer, 0)
	s.arrive("room", older)
	s.end(w)
	s.awaitClaim(s.b, s.unit, w.ID)
	s.arrive("room", s.connection("ann", "client", 0)) // without a number, the later is the newer
	s.pause(2 * s.unit)
	s.nothing(s.a)
	w = s.put("other", older, 0)
	s.arrive("other", s.connection("ann", "client", 1)) // with the same number, too
	s.end(w)
	s.nothing(s.a)
}

func (s *suite) fenced() {
	older, newer := s.connection("ann", "client", 1), s.connection("ann", "client", 2)
	s.arrive("room", older)
	s.arrive("room", newer)
	w := will.Will{ID: key.New(), Topic: "room", Event: "gone", Connection: older, Node: "a"}
	if err := s.a.Put(s.Context(), w); !errors.Is(err, will.ErrFenced) {
		s.Errorf("Put of the older connection: %v", err)
	}
	s.arrive("room", older)
	if err := s.a.Put(s.Context(), w); !errors.Is(err, will.ErrFenced) {
		s.Errorf("Put of the older connection that arrived again: %v", err)
	}
	w.Connection = newer
	s.ok(s.a.Put(s.Context(), w))
}

func (s *suite) arrivalDuringClaim() {
	first, second := s.connection("ann", "client", 1), s.connection("ann", "client", 2)
	w := s.put("room", first, 0)
	s.end(w)
	s.awaitClaim(s.a, long, w.ID)
	if busy := s.arrive("room", second); busy < long/2 || busy > long {
		s.Errorf("the will is claimed for %v, want %v", busy, long)
	}
	if err := s.a.Put(s.Context(), w); !errors.Is(err, will.ErrFenced) {
		s.Errorf("Put by the older connection: %v", err)
	}
	s.delete(s.a, w)
	if busy := s.arrive("room", second); busy != 0 {
		s.Errorf("busy for %v after the will was deleted", busy)
	}
}

func (s *suite) arrivalAfterClaim() {
	first, second := s.connection("ann", "client", 1), s.connection("ann", "client", 2)
	w := s.put("room", first, 0)
	s.end(w)
	s.awaitClaim(s.a, s.unit, w.ID)
	begun := time.Now()
	for {
		busy := s.arrive("room", second)
		if busy == 0 {
			break
		}
		if busy > s.unit || time.Since(begun) > 20*s.unit {
			s.Fatalf("busy for %v after %v", busy, time.Since(begun))
		}
		s.pause(busy)
	}
	s.pause(s.unit)
	s.nothing(s.a)
}

func (s *suite) separate() {
	c := s.connection("ann", "client", 1)
	w := s.put("room", c, 0)
	s.arrive("other", s.connection("ann", "client", 2))
	s.arrive("room", s.connection("bob", "client", 2))
	s.arrive("room", s.connection("", "client", 2))
	s.arrive("room", s.connection("ann", "clien", 2))
	s.arrive("room", s.connection("ann1:", "client", 2))
	s.arrive("annroom", s.connection("", "client", 2))
	s.end(w)
	s.awaitClaim(s.b, long, w.ID)
}

func (s *suite) leaseEnds() {
	w := s.put("room", s.connection("ann", "client", 1), s.unit)
	kept, err := s.a.Lease(s.Context(), "a", 2*s.unit)
	s.ok(err)
	if !kept {
		s.Error("the lease was lost")
	}
	s.nothing(s.b)
	if took := s.awaitClaim(s.b, long, w.ID); took < 2*s.unit {
		s.Errorf("the will was due after %v, want %v", took, 3*s.unit)
	}
}

func (s *suite) leaseGivenUp() {
	w := s.put("room", s.connection("ann", "client", 1), 0)
	kept, err := s.a.Lease(s.Context(), "a", 0)
	s.ok(err)
	if !kept {
		s.Error("the lease was lost")
	}
	s.awaitClaim(s.b, long, w.ID)
	kept, err = s.a.Lease(s.Context(), "a", long)
	s.ok(err)
	if kept {
		s.Error("a lease that was given up was kept")
	}
}

func (s *suite) nodeReturns() {
	c := s.connection("ann", "client", 1)
	w := s.put("room", c, 0)
	_, err := s.a.Lease(s.Context(), "a", s.unit)
	s.ok(err)
	s.awaitClaim(s.b, s.unit, w.ID)
	kept, err := s.a.Lease(s.Context(), "a", long)
	s.ok(err)
	if kept {
		s.Error("the lease was kept")
	}
	if err := s.a.Put(s.Context(), w); !errors.Is(err, will.ErrRunning) {
		s.Errorf("Put of a will that is claimed: %v", err)
	}
	s.delete(s.b, w)
	s.ok(s.a.Put(s.Context(), w))
	s.pause(2 * s.unit)
	s.nothing(s.b)
	s.end(w)
	s.awaitClaim(s.b, long, w.ID)
}

func (s *suite) noLease() {
	c := s.connection("ann", "client", 1)
	w := will.Will{ID: key.New(), Topic: "room", Event: "gone", Connection: c, Node: "x"}
	s.ok(s.a.Put(s.Context(), w))
	s.awaitClaim(s.b, long, w.ID)
}

func (s *suite) expiry() {
	s.open(2 * s.unit)
	first, second := s.connection("ann", "client", 1), s.connection("ann", "client", 2)
	s.arrive("room", second)
	dropped := s.put("other", first, 0)
	living := s.put("third", first, 0)
	s.end(dropped)
	s.pause(3 * s.unit) // nobody claims it
	s.nothing(s.b)
	s.nothing(s.b)
	s.put("room", first, 0) // which a newer connection had fenced
	s.end(living)
	s.awaitClaim(s.b, long, living.ID)
}

func (s *suite) many() {
	const n = 300 // more than are read at once
	var want []string
	for i := range n {
		w := s.put("room", s.connection("ann", fmt.Sprint("client", i), 1), 0)
		want = append(want, w.ID)
	}
	kept, err := s.a.Lease(s.Context(), "a", 0)
	s.ok(err)
	if !kept {
		s.Error("the lease was lost")
	}
	s.awaitClaim(s.b, long, want...)
}

func (s *suite) payloads() {
	c := s.connection("änn\x00\" ", "client", 1)
	w := will.Will{
		ID: key.New(), Topic: "room:\x00*.> é", Event: "gone away", Connection: c, Node: "nöde \x00",
		After: time.Millisecond,
	}
	for i := range 6 {
		bad := w
		*[]*string{&bad.Topic, &bad.Event, &bad.Node, &bad.Connection.ID, &bad.Connection.Subject, &bad.ID}[i] = "\xff"
		if s.a.Put(s.Context(), bad) == nil {
			s.Errorf("a text that is not UTF-8 was stored: %d", i)
		}
	}
	s.ok(w.Payload.UnmarshalJSON([]byte(`{"text":"` + strings.Repeat("é", 2000) + `","n":12345678901234567890}`)))
	s.ok(s.a.Put(s.Context(), w))
	s.end(w)
	for begun := time.Now(); ; s.pause(s.unit / 20) {
		wills, err := s.b.Claim(s.Context(), 1, long)
		s.ok(err)
		if len(wills) == 0 && time.Since(begun) < 100*s.unit {
			continue
		}
		if len(wills) != 1 {
			s.Fatalf("%d wills", len(wills))
		}
		got := wills[0]
		if string(got.Payload.Bytes()) != string(w.Payload.Bytes()) {
			s.Errorf("payload %.80s", got.Payload.Bytes())
		}
		got.Payload, w.Payload = serializer.Payload{}, serializer.Payload{}
		if fmt.Sprint(got) != fmt.Sprint(w) {
			s.Errorf("got  %q\nwant %q", fmt.Sprint(got), fmt.Sprint(w))
		}
		return
	}
}

func (s *suite) restart() {
	if s.cfg.Reopen == nil {
		s.Skip("the database does not outlive its Store")
	}
	c := s.connection("ann", "client", 1)
	ended, living := s.put("room", c, 0), s.put("room", c, s.unit)
	deleted := s.put("room", c, 0)
	s.delete(s.a, deleted)
	s.end(ended)
	s.a = s.cfg.Reopen(s.T)
	s.b = s.a
	if s.cfg.Local {
		s.awaitClaim(s.a, long, ended.ID, living.ID)
		return
	}
	s.awaitClaim(s.a, long, ended.ID)
	s.end(living)
	s.awaitClaim(s.a, long, living.ID)
}

func (s *suite) canceled() {
	c := s.connection("ann", "client", 1)
	w := s.put("room", c, 0)
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_ = s.a.End(ctx, w.Topic, c, w.ID) // it may have an effect, or none
	_, _ = s.a.Claim(ctx, 1, s.unit)
	_, _ = s.a.Lease(ctx, "a", s.unit)
	_ = s.a.Expire(ctx)
	_, err := s.a.Lease(s.Context(), "a", long)
	s.ok(err)
	s.end(w)
	s.awaitClaim(s.b, long, w.ID)
}
