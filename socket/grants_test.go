package socket

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/testenv/race"
)

var (
	grantSeeds = flag.Int("grants", race.Seeds(60), "how many seeds TestGrants runs")
	grantFirst = flag.Uint64("first-grant", 0, "the first of these seeds")
)

// TestGrants runs random schedules of two nodes and checks from their histories that no callback
// runs under an identity that was revoked before its message left the mailbox, and the other
// guarantees of grants: see grantWorld.check.
func TestGrants(t *testing.T) {
	t.Parallel()
	for n := range uint64(*grantSeeds) {
		seed := *grantFirst + n
		synctest.Test(t, func(t *testing.T) {
			wrong := runGrants(t, seed)
			for _, text := range wrong[:min(len(wrong), 5)] {
				t.Errorf("seed %d: %s", seed, text)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// check returns what was wrong.
func (w *grantWorld) check() (wrong []string) {
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	latest := map[int]int{}       // the index in told of the newest grant that a channel has seen
	joined := map[int]time.Time{} // when a channel was joined at the latest
	for _, c := range w.calls {
		g, s := w.grants[c.grant], w.sessions[c.session]
		if g.n != 0 && w.revokedBefore(g, c.at) {
			late := c.at.Sub(w.revoked[g.user][g.generation])
			report("%v under grant %d of %q, %v after it was revoked; the client was told %v", c, g.n, g.user, late, s.told)
		}
		first := latest[c.channel] // the oldest grant that it may have
		if m := w.messages[c.message]; m != nil {
			if g.n != 0 && m.end != 0 && m.end < g.begun {
				report("%v has grant %d, which began after the message", c, g.n)
			}
			if g.n != 0 && m.at.After(g.expires.Add(expiryUnit)) {
				report("%v, whose grant had expired %v before", c, m.at.Sub(g.expires))
			}
			for i, t := range s.told {
				if t.seq < m.begin {
					first = max(first, i)
				}
			}
		}
		if w.kickedBefore(c, joined[c.channel]) {
			report("%v after its member was kicked", c)
		}
		if c.what != "join" && joined[c.channel].IsZero() {
			joined[c.channel] = c.at
		}
		at, known := -1, false
		for i, t := range s.told {
			known = known || t.n == c.grant
			if t.n == c.grant && i >= first && at < 0 {
				at = i
			}
		}
		switch {
		case at >= 0:
			latest[c.channel] = at
		case known:
			report("%v has grant %d after a newer one was told: %v from %d on", c, c.grant, s.told, first)
		}
	}
	for id, s := range w.sessions {
		for i, t := range s.told[1:] {
			old := w.grants[s.told[i].n]
			before, after := old.user, w.grants[t.n].user
			if old.n != 0 && w.revokedBefore(old, t.at) && !s.told[i].at.After(w.revoked[old.user][old.generation]) {
				report("%s of %q got grant %d although it was revoked", id, before, t.n)
			}
			if before != "" && after != "" && before != after {
				report("the user of %s changed from %q to %q", id, before, after)
			}
		}
		last := w.grants[s.told[len(s.told)-1].n]
		if last.n == 0 || last.generation >= len(w.revoked[last.user]) {
			continue
		}
		if at := w.revoked[last.user][last.generation]; s.closed.Sub(at) > deniedWait+expiryUnit {
			report("%s of %q was open for %v after Revoke", id, last.user, s.closed.Sub(at))
		}
	}
	return wrong
}

// kickedBefore reports whether a call is for a message that was received after the member had been
// kicked. It knows this only of connections whose user never changes.
func (w *grantWorld) kickedBefore(c grantCall, joined time.Time) bool {
	m := w.messages[c.message]
	if m == nil || joined.IsZero() {
		return false
	}
	for _, k := range w.kicks {
		if k.topic != c.topic || !joined.Before(k.at) || !k.at.Before(m.at) {
			continue
		}
		always := func(t toldGrant) bool { return w.grants[t.n].user != k.user }
		if !slices.ContainsFunc(w.sessions[c.session].told, always) {
			return true
		}
	}
	return false
}

func (w *grantWorld) revokedBefore(g *madeGrant, at time.Time) bool {
	return g.generation < len(w.revoked[g.user]) && at.After(w.revoked[g.user][g.generation])
}
