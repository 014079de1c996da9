package socket

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/internal/willtimes"
	"bennu.example/key"
	"bennu.example/will"
)

// slowStore is a store whose changes take long.
type slowStore struct {
	will.Store

	delay  atomic.Int64
	expire atomic.Bool // Expire takes too long
}

func (s *slowStore) wait() { time.Sleep(time.Duration(s.delay.Load())) } // in virtual time

func (s *slowStore) Put(ctx context.Context, w will.Will) error {
	s.wait()
	return s.Store.Put(ctx, w)
}

func (s *slowStore) End(ctx context.Context, topic string, c will.Connection, ids ...string) error {
	s.wait()
	return s.Store.End(ctx, topic, c, ids...)
}

// Expire makes the wills of dead nodes due, and does not find all of them in time.
func (s *slowStore) Expire(ctx context.Context) error {
	err := s.Store.Expire(ctx)
	if s.expire.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// TestManyWillsEnd checks that a node keeps its lease while the wills of very many connections end,
// so that no other node runs those of the others.
func TestManyWillsEnd(t *testing.T) {
	t.Parallel()
	store := &slowStore{Store: will.NewMemory()}
	inWillRig(t, 2, Config{Wills: store}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill("")
		store.delay.Store(int64(500 * time.Millisecond))
		const many = 1000 // in a minute
		for i := range many {
			w := will.Will{ID: key.New(), Topic: "room:2", Event: "gone", Node: r.h[0].wills.node}
			w.Connection = will.Connection{ID: fmt.Sprint(i), ClientID: fmt.Sprint(i)}
			if !r.h[0].wills.reserve() {
				t.Fatal("not reserved")
			}
			r.h[0].wills.end(w)
		}
		sleepTo(5 * time.Minute)
		other.wantKeys()
		if n := r.h[0].wills.count; n != 1 {
			t.Errorf("%d wills are left", n)
		}
		store.delay.Store(0)
		r.lose(l, nil)
		sleepTo(time.Minute)
		other.wantKeys(willRan)
	})
}

// TestManyWillsStoredAgain checks that a node that has lost its lease once, and has very many
// wills, stores them again without losing the next lease.
func TestManyWillsStoredAgain(t *testing.T) {
	t.Parallel()
	store := &slowStore{Store: will.NewMemory()}
	inWillRig(t, 2, Config{Wills: store}, func(t *testing.T, r *willRig) {
		other := r.observe()
		const connections = 40 // with maxWills each
		for i := range connections {
			l := r.connect(0, "ann", fmt.Sprintf("client-of-ann-%010d", i), 1)
			for range maxWills {
				l.setWill(`,"after_ms":0`)
			}
		}
		ran := false
		for i := 0; i < 20 && !ran; i++ { // the node may see that it has no lease before the other node does
			if _, err := store.Lease(t.Context(), r.h[0].wills.node, 0); err != nil {
				t.Fatal(err)
			}
			sleepTo(2 * willtimes.Default().Poll)
			ran = len(other.taken()) > 0
		}
		if !ran {
			t.Fatal("no will ran without a lease, so the test would test nothing")
		}
		store.delay.Store(int64(500 * time.Millisecond))
		sleepTo(5 * time.Minute)
		other.taken()
		sleepTo(10 * time.Minute)
		other.wantKeys()
		store.delay.Store(0)
	})
}

// TestClaimAfterPollFails checks that a node runs the wills that it has found, although it could
// not find all wills of dead nodes in time.
func TestClaimAfterPollFails(t *testing.T) {
	t.Parallel()
	store := &slowStore{Store: will.NewMemory()}
	inWillRig(t, 2, Config{Wills: store}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill(`,"after_ms":0`)
		store.expire.Store(true)
		sleepTo(2 * willtimes.Default().Poll)
		r.lose(l, nil)
		sleepTo(time.Minute)
		other.wantKeys(willRan)
	})
}
