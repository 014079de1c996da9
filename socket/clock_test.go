package socket

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// TestClockSteps checks that everything that determines when a grant ends is a time by the
// monotonic clock. Steps of the machine's clock do not change the difference of two such times (see
// package time), so they neither end nor prolong a grant.
//
// It does not use virtual time, which has no monotonic clock.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	l := newAuthLine(t, Auth{Grace: time.Hour}, "ann.3600", nil)
	defer l.end()
	a := l.s.auth
	check := func(stage string) {
		t.Helper()
		a.mu.Lock()
		defer a.mu.Unlock()
		for name, at := range map[string]time.Time{
			"the end of the grant": a.grant.expires, "the next stage": a.due, "the base of the heap": l.h.expiry.base,
		} {
			if at == at.Round(0) { // Round strips the reading of the monotonic clock
				t.Errorf("%s: %s is a time of the wall clock", stage, name)
			}
		}
	}
	// next makes the next stage due.
	next := func() {
		a.mu.Lock()
		a.due = time.Now()
		a.mu.Unlock()
		l.s.authDue()
	}
	check("at the beginning")
	l.send(join("1", "$socket"))
	for joined := false; !joined; runtime.Gosched() {
		a.mu.Lock()
		joined = a.own != nil
		a.mu.Unlock()
	}
	next()
	check("after the notice")
	next()
	check("after the expiry")
	v, err := newVerified(Grant{ID: "ann"}, time.Hour)
	if err == nil {
		err = l.s.apply(context.Background(), v, l.h.revocations.mark(), func() {})
	}
	if err != nil {
		t.Fatal(err)
	}
	check("after a refresh")
	l.s.revoke("gone")
	check("after a revocation")
}
