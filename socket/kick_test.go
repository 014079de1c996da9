package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// kickRig is a handler with sessions in virtual time.
type kickRig struct {
	t    *testing.T
	h    *Handler
	log  *line
	gate chan struct{}
	ends chan error
}

func newKickRig(t *testing.T, ps *pubsub.PubSub) *kickRig {
	r := &kickRig{
		t: t, log: &line{t: t, log: new(strings.Builder)}, gate: make(chan struct{}), ends: make(chan error, 100),
	}
	logger := zerolog.New(r.log)
	r.h = NewHandler(Config{Channels: rooms(r.gate, r.ends), PubSub: ps, Logger: &logger})
	return r
}

// session opens a session of a user.
func (r *kickRig) session(id string, n int) *line {
	l := &line{t: r.t, h: r.h, log: new(strings.Builder)}
	l.s = r.h.open(l, serializer.V2(), identity{
		parent: context.Background(), id: r.h.watch(id),
		connection: fmt.Sprintf("connection-%d", n), client: fmt.Sprintf("client-of-%s-%04d", id, n),
	})
	return l
}

func (r *kickRig) end(lines ...*line) {
	for _, l := range lines {
		l.s.Closed(nil)
	}
	if err := r.h.Shutdown(context.Background()); err != nil {
		r.t.Error(err)
	}
}

func kickedFrame(topic, reason string) string {
	return fmt.Sprintf(`["1","1","%s","phx_close",{"reason":%q}]`, topic, reason)
}

// TestKick checks which members of a topic are removed, and what they and the server learn.
func TestKick(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		who     Member
		removed [4]bool // ann's two connections, bob's, and an anonymous one
	}{
		"everybody":              {Member{}, [4]bool{true, true, true, true}},
		"a user":                 {Member{ID: "ann"}, [4]bool{true, true, false, false}},
		"a connection":           {Member{ConnectionID: "connection-1"}, [4]bool{false, true, false, false}},
		"a client":               {Member{ClientID: "client-of-bob-0002"}, [4]bool{false, false, true, false}},
		"a connection of a user": {Member{ID: "ann", ConnectionID: "connection-0"}, [4]bool{true, false, false, false}},
		"another user's":         {Member{ID: "bob", ConnectionID: "connection-0"}, [4]bool{}},
		"nobody":                 {Member{ID: "eve"}, [4]bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newKickRig(t, nil)
				lines := []*line{r.session("ann", 0), r.session("ann", 1), r.session("bob", 2), r.session("", 3)}
				for _, l := range lines {
					l.send(join("1", "room:1"), `["1","1","room:2","phx_join",{}]`)
					l.want(accepted("1", "room:1"), accepted("1", "room:2"))
				}
				if err := r.h.Kick(t.Context(), "room:1", test.who, "be nice"); err != nil {
					t.Fatal(err)
				}
				n := 0
				for i, l := range lines {
					if !test.removed[i] {
						l.want()
						continue
					}
					n++
					l.want(kickedFrame("room:1", "be nice"))
					l.send(`["1","2","room:1","x",{}]`, join("3", "room:1"))
					l.want(`[null,"2","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
						accepted("3", "room:1"))
				}
				for i := range n {
					if err := <-r.ends; !errors.Is(err, channel.ErrStop) || !errors.Is(err, push.Reason("be nice")) {
						t.Errorf("end %d: %v", i, err)
					}
				}
				if len(r.ends) > 0 {
					t.Errorf("%d more channels ended", len(r.ends))
				}
				if got := r.h.Stats().Kicked; got != uint64(n) {
					t.Errorf("Stats counts %d of %d", got, n)
				}
				if got := r.log.logged("member kicked"); got != n {
					t.Errorf("%d lines in the log, want %d", got, n)
				}
				r.end(lines...)
			})
		})
	}
}

// TestKickHandlesEarlierMessages checks that a member that is removed handles what it has received,
// and that its client receives phx_close once, also if it joins again meanwhile.
func TestKickHandlesEarlierMessages(t *testing.T) {
	t.Parallel()
	for _, rejoins := range []bool{false, true} {
		t.Run(fmt.Sprint("rejoins: ", rejoins), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newKickRig(t, nil)
				l := r.session("ann", 0)
				l.send(join("1", "room:1"))
				l.want(accepted("1", "room:1"))
				l.send(`["1","2","room:1","hang",{}]`, `["1","3","room:1","hang",{}]`)
				if err := r.h.Kick(t.Context(), "room:1", Member{}, "late"); err != nil {
					t.Fatal(err)
				}
				l.want()
				if rejoins {
					go func() { _ = l.s.Receive(serializer.OpText, []byte(join("4", "room:1"))) }()
					synctest.Wait()
				}
				r.gate <- struct{}{}
				if rejoins {
					l.want(accepted("4", "room:1"), `["1","1","room:1","phx_close",{}]`)
				} else {
					l.want()
					r.gate <- struct{}{} // the second event
					l.want(kickedFrame("room:1", "late"))
				}
				if err := <-r.ends; !errors.Is(err, push.Reason("late")) {
					t.Errorf("ended with %v", err)
				}
				r.end(l)
			})
		})
	}
}

// TestKickSparesJoins checks that a join whose callback runs is not affected.
func TestKickSparesJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newKickRig(t, nil)
		l := r.session("ann", 0)
		l.send(hangingJoin("1", "room:1"))
		if err := r.h.Kick(t.Context(), "room:1", Member{}, "early"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // in virtual time
		close(r.gate)
		l.want(accepted("1", "room:1"))
		r.end(l)
	})
}

// TestKickIsNotForClients checks that no broadcast on a topic removes members, whatever its name.
func TestKickIsNotForClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		r := newKickRig(t, ps)
		l := r.session("ann", 0)
		l.send(join("1", "room:1"))
		l.want(accepted("1", "room:1"))
		body := kick{Topic: "room:1", Reason: "forged"}
		for _, topic := range []string{topicMembers, "\x00c" + topicMembers, "room:2"} {
			for _, event := range []string{eventKick, "$kick"} {
				if err := ps.Broadcast(t.Context(), topic, event, body); err != nil {
					t.Error(err)
				}
			}
		}
		l.want()
		control := ps.Control()
		for _, payload := range []any{nil, serializer.Binary([]byte{1}), []int{1}, map[string]int{"topic": 1}} {
			if err := control.Broadcast(t.Context(), topicMembers, eventKick, payload); err != nil {
				t.Error(err)
			}
		}
		if err := control.Broadcast(t.Context(), topicMembers, "of a later version", body); err != nil {
			t.Error(err)
		}
		l.want()
		r.end(l)
		if err := r.h.Kick(t.Context(), "room:1", Member{}, "x"); err != nil {
			t.Errorf("after Shutdown: %v", err)
		}
	})
}

// TestKickOfHandlers checks that Kick reaches the members of all handlers of a PubSub, once each.
func TestKickOfHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		a, b := newKickRig(t, ps), newKickRig(t, ps)
		x, y := a.session("ann", 0), b.session("bob", 1)
		for _, l := range []*line{x, y} {
			l.send(join("1", "room:1"))
			l.want(accepted("1", "room:1"))
		}
		if err := a.h.Kick(t.Context(), "room:1", Member{}, ""); err != nil {
			t.Fatal(err)
		}
		x.want(`["1","1","room:1","phx_close",{}]`)
		y.want(`["1","1","room:1","phx_close",{}]`)
		if n, m := a.h.Stats().Kicked, b.h.Stats().Kicked; n != 1 || m != 1 {
			t.Errorf("%d and %d members", n, m)
		}
		a.end(x)
		b.end(y)
	})
}
