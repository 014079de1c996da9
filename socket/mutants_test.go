package socket_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/mutant"
)

// mutants break the code that keeps the guarantees of grants, one at a time. One of quickTests or
// TestGrants must notice each of them. The first inEveryRun are also built in CI by day.
var mutants = []struct{ name, file, old, new string }{
	{
		"a new grant is seen early", "channel/server_grant.go",
		"func (d *driver) Regrant(g *channelhost.Regrant) {\n",
		"func (d *driver) Regrant(g *channelhost.Regrant) {\n	(*Channel)(d).setValues(g.Values)\n",
	},
	{
		"a channel that starts during a change keeps the old grant", "socket/session.go",
		"	handler := s.route(m.Topic)\n",
		"	stale := s.values()\n	time.Sleep(2 * time.Millisecond)\n" + // in virtual time, for a change to come
			"	defer func() {\n		s.mu.Lock()\n		defer s.mu.Unlock()\n" +
			"		if c := s.channels.get(m.Topic); c != nil && m.Topic != topicSocket {\n" +
			"			c.Regrant(&channelhost.Regrant{Values: stale})\n		}\n	}()\n	handler := s.route(m.Topic)\n",
	},
	{
		"the subscription to the subject comes after the grant is stored", "socket/auth_session.go",
		"		watch = s.h.watch(v.grant.ID)\n",
		"		late := &idWatch{id: v.grant.ID}\n		watch = late\n" +
			"		late.on = s.h.cfg.PubSub.Control().Subscribe(\"nothing\", late)\n" +
			"		time.AfterFunc(5*time.Millisecond, func() {\n" +
			"			late.on = s.h.cfg.PubSub.Control().Subscribe(disconnectPrefix+late.id, late)\n		})\n",
	},
	{
		"grants expire by the wall clock", "socket/auth.go",
		"		v.expires = time.Now().Add(life)\n",
		"		v.expires = time.Now().Add(life).Round(0)\n",
	},
	{
		"a revocation while a token is verified is forgotten", "socket/auth_session.go",
		"		if reason, err := s.h.revocations.since(mark, id); err != nil || reason != nil {",
		"		if reason, err := s.h.revocations.since(mark, id); false && reason != nil {",
	},
	{
		"a revocation during the handshake is forgotten", "socket/handler.go",
		"		if reason, err = h.revocations.since(mark, req.ID); reason != nil {",
		"		if reason, err = h.revocations.since(mark, req.ID); false {",
	},
	{
		"what the engine had not subscribed to is not revoked", "socket/kick.go",
		"	k.h.cfg.PubSub.Control().VisitControl(",
		"	k.h.cfg.PubSub.Control().Visit(",
	},
	{
		"messages that wait for a channel outlive a revocation", "socket/revoke.go",
		"	for _, c := range s.others() {\n		c.Revoke(reason)\n	}\n	if closed {",
		"	for _, c := range s.others() {\n		c.Close(errGone)\n	}\n	if closed {",
	},
	{
		"a join that waits outlives a revocation", "channel/server_state.go",
		"	case m.status == serverJoining:\n		m.status, m.givenUp = serverSilent, true\n		if m.watched {",
		"	case false:\n		if m.watched {",
	},
	{
		"a channel that is being left outlives a revocation", "channel/server_driver.go",
		"		(*driver)(p).Revoke(reason)\n",
		"		_ = p\n",
	},
	{
		"a client that has logged out keeps what waits", "socket/former.go",
		"				c.Revoke(closeReason(reason))\n",
		"				_ = closeReason(reason)\n",
	},
	{
		"a connection that has ended is not revoked", "socket/session.go",
		"	s.endAuth()\n",
		"	s.endAuth()\n	s.unwatch()\n",
	},
	{
		"a new grant revives a connection that was revoked", "socket/auth_session.go",
		"	if a.closed || a.in() >= phaseRefused {\n		return errGone\n	}\n	for",
		"	for",
	},
	{
		"an expired grant is served", "socket/auth_session.go",
		"{ a.phase.Store(uint32(next)) }",
		"{\n	if next != phaseExpired { // which one of two places makes known\n		a.phase.Store(uint32(next))\n	}\n}",
	},
}

const inEveryRun = 4

// quickTests run before TestGrants, which takes longer.
const quickTests = "^(TestClockSteps|TestRevokeAfterEnd)$"

// TestMutants builds these tests with the mutants and runs seeds with each until one fails.
func TestMutants(t *testing.T) {
	if os.Getenv("CI") != "true" || raceEnabled {
		t.Skip("SKIPPED: builds the tests with mutants; set CI=true to run it, without -race")
	}
	todo := mutants
	if os.Getenv("NIGHTLY") != "true" {
		todo = mutants[:inEveryRun]
	}
	changes := make([]mutant.Change, len(todo))
	for i, m := range todo {
		changes[i] = mutant.Change{File: m.file, Old: m.old, New: m.new}
	}
	program := mutant.Build(t, "socket", changes...)
	for i, m := range todo {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // of a busy machine
			defer cancel()
			run := func(args ...string) (string, error) {
				out, err := program.Command(ctx, i, args...).CombinedOutput()
				return string(out), err
			}
			out, err := run("-test.run", quickTests)
			if err == nil {
				out, err = run("-test.run", "^TestGrants$", "-grants", "600", "-test.timeout", "4m")
			}
			switch {
			case ctx.Err() != nil:
				t.Fatal("the tests did not end")
			case err == nil:
				t.Error("the tests noticed nothing")
			case !strings.Contains(out, "_test.go:") || strings.Contains(out, "panic: "):
				t.Errorf("the tests failed in another way: %v\n%s", err, out)
			default:
				first, _, _ := strings.Cut(out[strings.Index(out, "_test.go:"):], "\n")
				t.Log(first)
			}
		})
	}
}
