//go:build !race

package socket

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"bennu.example/channel"
	"bennu.example/internal/cputime"
	"bennu.example/serializer"
)

// grantedSession opens a session whose grant ends after that time; zero means never.
func grantedSession(tb testing.TB, h *Handler, life time.Duration) *session {
	g := Grant{ID: "ann"}
	if life > 0 {
		g.Expires = time.Now().Add(life)
	}
	v, err := newVerified(g, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return h.open(discardConn{}, serializer.V2(), identity{
		parent: context.Background(), connection: testConnection, client: testClient, grant: v,
	})
}

func shutDown(tb testing.TB, h *Handler, sessions ...*session) {
	for _, s := range sessions {
		s.Closed(nil)
	}
	if err := h.Shutdown(context.Background()); err != nil {
		tb.Error(err)
	}
}

// TestGrantMemory checks what a connection with a grant costs more than one without Auth.
func TestGrantMemory(t *testing.T) { // not parallel: it measures the memory in use
	const (
		n = 5000
		// maxGrant is the state of a grant, and the grant itself with the values for callbacks.
		maxGrant = 384
		// maxEntry is an entry in the heap of expiries.
		maxEntry = 24
	)
	if size := unsafe.Sizeof(expiryEntry{}); size > maxEntry {
		t.Errorf("an entry in the heap of expiries has %d bytes, budget %d", size, maxEntry)
	}
	measure := func(auth *Auth, life time.Duration) int {
		h := NewHandler(Config{Channels: rooms(nil, make(chan error, n)), Auth: auth})
		if auth != nil { // so that the heap's growth is not measured
			h.expiry.heap = make(expiryHeap, 0, n)
		}
		sessions := make([]*session, n)
		before := heapInUse()
		for i := range sessions {
			if auth == nil {
				sessions[i] = h.open(discardConn{}, serializer.V2(), identity{
					parent: context.Background(), connection: testConnection, client: testClient,
				})
			} else {
				sessions[i] = grantedSession(t, h, life)
			}
		}
		per := (heapInUse() - before) / n
		shutDown(t, h, sessions...)
		return per
	}
	auth := &Auth{Verify: func(context.Context, string, *Request) (Grant, error) { return Grant{}, nil }}
	without, with, expires := measure(nil, 0), measure(auth, 0), measure(auth, time.Hour)
	t.Logf("%d bytes for a session without Auth, %d with a grant, %d if it expires", without, with, expires)
	if with-without > maxGrant || expires-with > maxEntry {
		t.Errorf("%d bytes for a grant, budget %d; %d for its expiry, budget %d",
			with-without, maxGrant, expires-with, maxEntry)
	}
}

// TestExpiryBudget lets 100,000 grants of 15 min expire and checks that this takes one timer, no
// goroutine, and at most 2 % of one core.
func TestExpiryBudget(t *testing.T) { // not parallel: it measures the processor time of the process
	const (
		n    = 100_000
		life = 15 * time.Minute
	)
	synctest.Test(t, func(t *testing.T) {
		h := NewHandler(Config{
			Channels: rooms(nil, make(chan error, 1)),
			Auth:     &Auth{Verify: func(context.Context, string, *Request) (Grant, error) { return Grant{}, nil }},
		})
		goroutines := runtime.NumGoroutine()
		sessions := make([]*session, n)
		for i := range sessions {
			sessions[i] = grantedSession(t, h, life)
		}
		before := cputime.Used()
		time.Sleep(life + n/expiryBatch*expiryPause) // in virtual time
		synctest.Wait()
		used := cputime.Used() - before
		if now := runtime.NumGoroutine(); now > goroutines+4 { // others of the test program come and go
			t.Errorf("%d goroutines for %d grants", now-goroutines, n)
		}
		if expired := h.Stats().Expired; expired != n {
			t.Errorf("%d grants have expired", expired)
		}
		const budget = life / 50
		if t.Logf("%v for %d grants, budget %v", used, n, budget); used > budget {
			t.Errorf("%v for %d grants, budget %v", used, n, budget)
		}
		shutDown(t, h, sessions...)
	})
}

// refresher is a session with so many channels whose grant can be refreshed.
func refresher(tb testing.TB, channels int) (h *Handler, s *session, refresh func()) {
	h = NewHandler(Config{
		Channels: channel.Routes{"room:*": whoRoom()},
		Auth:     &Auth{Verify: func(context.Context, string, *Request) (Grant, error) { return Grant{}, nil }},
	})
	s = grantedSession(tb, h, time.Hour)
	for i := range channels {
		if err := s.Receive(serializer.OpText, []byte(join("1", fmt.Sprint("room:", i)))); err != nil {
			tb.Fatal(err)
		}
	}
	h.workers.Wait()
	v, err := newVerified(Grant{ID: "ann", Expires: time.Now().Add(time.Hour)}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return h, s, func() {
		next := *v
		if err := s.apply(context.Background(), &next, h.revocations.mark(), func() {}); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestRefreshBudget checks what a refresh takes without Verify, for a session with 10 channels,
// until all of them have handled it.
func TestRefreshBudget(t *testing.T) { // not parallel: it measures the processor time of the process
	const (
		n      = 2000
		budget = 20 * time.Microsecond
	)
	h, s, refresh := refresher(t, 10)
	defer shutDown(t, h, s)
	least := time.Duration(1<<63 - 1)
	// The least counts: a collection of garbage may be under way, or the machine may be busy.
	for i := 0; i < 5 || i < 100 && least > budget; i++ {
		before := cputime.Used()
		for range n {
			refresh()
		}
		h.workers.Wait()
		least = min(least, (cputime.Used()-before)/n)
	}
	if t.Logf("%v for a refresh, budget %v", least, budget); least > budget {
		t.Errorf("%v for a refresh, budget %v", least, budget)
	}
}

// TestPhaseAllocations checks that Auth adds no allocation to a message.
func TestPhaseAllocations(t *testing.T) { // not parallel: it counts the allocations of the process
	h, s, _ := refresher(t, 1)
	defer shutDown(t, h, s)
	m := serializer.Message{Topic: "room:0", Event: "who"}
	if n := testing.AllocsPerRun(1000, func() {
		if s.phase().refuses(&m) {
			t.Error("a message was refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations for a message", n)
	}
}

func BenchmarkRefresh(b *testing.B) {
	h, s, refresh := refresher(b, 10)
	defer shutDown(b, h, s)
	b.ReportAllocs()
	for b.Loop() {
		refresh()
	}
	h.workers.Wait()
}
