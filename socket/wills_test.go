package socket

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/internal/willtimes"
	"bennu.example/key"
	"bennu.example/pubsub"
	"bennu.example/transport"
	"bennu.example/will"
)

const testAnn = "client-of-ann-0123456789"

// TestWillRuns checks when a will is broadcast after the end of a connection.
func TestWillRuns(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		more  string
		err   error
		after time.Duration // negative: never
	}{
		"by default":           {"", transport.ErrIdle, 15 * time.Second},
		"negative":             {`,"after_ms":-1`, nil, 15 * time.Second},
		"at once":              {`,"after_ms":0`, nil, 0},
		"later":                {`,"after_ms":2500.5`, nil, 2500 * time.Millisecond},
		"much later":           {`,"after_ms":1e300`, nil, will.Keep},
		"a clean end":          {"", &transport.CloseError{Code: 1000}, 15 * time.Second},
		"lost only, lost":      {`,"lost_only":true`, transport.ErrIdle, 15 * time.Second},
		"lost only, 1006":      {`,"lost_only":true`, &transport.CloseError{Code: 1006}, 15 * time.Second},
		"lost only, restart":   {`,"lost_only":true`, &transport.CloseError{Code: 1012}, 15 * time.Second},
		"lost only, left":      {`,"lost_only":true`, &transport.CloseError{Code: 1000}, -1},
		"lost only, page left": {`,"lost_only":true`, &transport.CloseError{Code: 1001}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
				other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
				l.setWill(test.more)
				sleepTo(time.Hour)
				other.wantKeys() // the connection lives
				r.lose(l, test.err)
				if len(r.ends) != 1 {
					t.Errorf("%d channels have ended", len(r.ends))
				}
				if test.after < 0 {
					sleepTo(2 * will.Keep)
					other.wantKeys()
					return
				}
				if test.after > 0 {
					sleepTo(test.after - 2*time.Millisecond)
					other.wantKeys()
				}
				sleepTo(10 * time.Millisecond)
				other.wantKeys(willRan)
				if n := r.h[0].Stats().Wills; n != 1 {
					t.Errorf("Stats counts %d wills", n)
				}
				sleepTo(2 * will.Keep)
				other.wantKeys()
				if n := r.h[0].wills.count; n != 0 {
					t.Errorf("%d wills are left", n)
				}
			})
		})
	}
}

// TestWillIsDeleted checks what deletes a will before the end of the connection.
func TestWillIsDeleted(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(r *willRig, l *line){
		"left":     func(_ *willRig, l *line) { l.send(`["2","3","room:1","phx_leave",{}]`) },
		"stopped":  func(_ *willRig, l *line) { l.send(`["2","3","room:1","stop",{}]`) },
		"crashed":  func(_ *willRig, l *line) { l.send(`["2","3","room:1","crash",{}]`) },
		"replaced": func(_ *willRig, l *line) { l.send(join("3", "room:1")) },
		"kicked": func(r *willRig, _ *line) {
			if err := r.h[0].Kick(r.t.Context(), "room:1", Member{ID: "ann"}, "be nice"); err != nil {
				r.t.Error(err)
			}
		},
		"revoked": func(r *willRig, _ *line) {
			if err := r.h[0].Revoke(r.t.Context(), "ann", "banned"); err != nil {
				r.t.Error(err)
			}
		},
		"no longer authorized": func(r *willRig, _ *line) {
			if err := r.h[0].Reauthorize(r.t.Context(), "ann"); err != nil {
				r.t.Error(err)
			}
		},
		"unwill": func(_ *willRig, l *line) {
			l.send(`["1","3","$socket","unwill",{}]`)
			l.wantKeys(socketReplied("1", "3", "ok", `{"count":1}`))
			l.send(`["1","4","$socket","unwill",{}]`)
			l.wantKeys(socketReplied("1", "4", "ok", `{"count":0}`))
		},
		"another connection joined": func(r *willRig, _ *line) { r.connect(0, "ann", testAnn, 2) },
		"a connection without order joined": func(r *willRig, l *line) {
			r.lose(l, nil)
			r.connect(0, "ann", testAnn, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
				other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
				l.setWill("")
				act(r, l)
				synctest.Wait()
				r.lose(l, nil)
				sleepTo(time.Minute)
				other.wantKeys()
				if n := r.h[0].wills.count; n != 0 {
					t.Errorf("%d wills are left", n)
				}
			})
		})
	}
}

// TestUnwillOne checks that one will is deleted, and the other runs.
func TestUnwillOne(t *testing.T) {
	t.Parallel()
	inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.send(willPush("9", "room:1", "count", ""), willPush("10", "room:1", "count", ""))
		synctest.Wait()
		first := anyKey.FindString(l.frames[0])
		l.taken()
		l.send(fmt.Sprintf(`["1","3","$socket","unwill",{"will":%q}]`, first))
		l.wantKeys(socketReplied("1", "3", "ok", `{"count":1}`))
		l.send(fmt.Sprintf(`["1","4","$socket","unwill",{"will":%q}]`, first))
		l.wantKeys(socketReplied("1", "4", "ok", `{"count":0}`))
		r.lose(l, nil)
		sleepTo(time.Minute)
		other.wantKeys(`[null,null,"room:1","count",{"$id":"KEY","n":2}]`)
	})
}

// TestWillSurvivesOthers checks that the will stays if the client of another subject joins, or an
// older connection does so late.
func TestWillSurvivesOthers(t *testing.T) {
	t.Parallel()
	inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 2)
		l.setWill("")
		r.lose(l, nil)
		r.connect(0, "eve", testAnn, 3)
		r.connect(0, "", testAnn, 3)
		older := r.connect(0, "ann", testAnn, 1)
		older.send(willPush("9", "room:1", "gone", ""))
		older.wantKeys(socketReplied("1", "9", "error", `{"reason":"fenced"}`))
		sleepTo(time.Minute)
		other.wantKeys(willRan)
	})
}

func TestWillErrors(t *testing.T) {
	t.Parallel()
	long := `,"payload":{"text":"` + strings.Repeat("x", maxWillPayload) + `"}`
	for name, test := range map[string]struct{ topic, event, more, reason string }{
		"not joined":        {"room:2", "gone", "", "unmatched topic"},
		"no topic":          {"", "gone", "", "unmatched topic"},
		"$socket":           {"$socket", "gone", "", "unmatched topic"},
		"no AllowWill":      {"plain:1", "gone", "", "forbidden"},
		"refused":           {"room:1", "refused", "", "not you"},
		"reserved":          {"room:1", "phx_close", "", "forbidden"},
		"reserved member":   {"room:1", "gone", `,"payload":{"$id":"x"}`, "invalid payload"},
		"no event":          {"room:1", "", "", "invalid payload"},
		"a long event":      {"room:1", strings.Repeat("e", 2000), "", "invalid payload"},
		"a text":            {"room:1", "gone", `,"payload":"text"`, "invalid payload"},
		"null":              {"room:1", "gone", `,"payload":null`, "invalid payload"},
		"after is a text":   {"room:1", "gone", `,"after_ms":"1"`, "invalid payload"},
		"too large":         {"room:1", "gone", long, "too large"},
		"made too large":    {"room:1", "long", "", "too large"},
		"made a text":       {"room:1", "text", "", "invalid payload"},
		"AllowWill crashes": {"room:1", "broken", "", "forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
				l := r.connect(0, "ann", testAnn, 1)
				l.send(join("3", "plain:1"))
				l.wantKeys(accepted("3", "plain:1"))
				l.send(willPush("9", test.topic, test.event, test.more))
				if test.event == "broken" {
					l.wantKeys(socketReplied("1", "9", "error", `{"reason":"forbidden"}`),
						`["2","2","room:1","phx_error",{"reason":"channel_crash"}]`)
				} else {
					l.wantKeys(socketReplied("1", "9", "error", fmt.Sprintf(`{"reason":%q}`, test.reason)))
				}
				if n := r.h[0].wills.count; n != 0 {
					t.Errorf("%d wills are counted", n)
				}
			})
		})
	}
}

// TestWillBounds checks the bounds of a connection, of a handler and of the rate.
func TestWillBounds(t *testing.T) {
	t.Parallel()
	inWillRig(t, 1, Config{}, func(t *testing.T, r *willRig) {
		l := r.connect(0, "ann", testAnn, 1)
		for range maxWills {
			l.setWill("")
		}
		l.send(willPush("9", "room:1", "gone", ""))
		l.wantKeys(socketReplied("1", "9", "error", `{"reason":"too many"}`))
		for range 32 - maxWills - 1 {
			l.send(`["1","8","$socket","unwill",{"will":"x"}]`)
		}
		synctest.Wait()
		l.taken()
		l.send(`["1","8","$socket","unwill",{}]`, willPush("9", "room:1", "gone", ""))
		l.wantKeys(socketReplied("1", "8", "error", `{"reason":"rate"}`),
			socketReplied("1", "9", "error", `{"reason":"rate"}`))
		r.h[0].wills.count = maxNodeWills
		other := r.connect(0, "bob", "client-of-bob-0123456789", 1)
		other.send(willPush("9", "room:1", "gone", ""))
		other.wantKeys(socketReplied("1", "9", "error", `{"reason":"too many"}`))
		r.h[0].wills.count = maxWills
	})
}

// TestWillOfDeadNode checks that another node runs the wills of one that cannot reach the store,
// and that this node stores them again when it returns.
func TestWillOfDeadNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := will.NewMemory()
		first, second := &willStore{Store: shared}, &willStore{Store: shared}
		r := newWillRig(t, 1, Config{Wills: first})
		r.h = append(r.h, newWillRig(t, 1, Config{Wills: second, PubSub: r.ps}).h...)
		defer r.end()
		times := willtimes.Default()
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill("")
		sleepTo(10 * time.Minute)
		other.wantKeys()
		first.away.Store(true)
		sleepTo(times.Lease - times.Renew + 15*time.Second - 1) // if the lease was renewed just then
		other.wantKeys()
		sleepTo(times.Renew + 3*times.Poll/2 + time.Second)
		other.wantKeys(willRan)
		first.away.Store(false)
		sleepTo(time.Minute)
		other.wantKeys()
		r.lose(l, nil)
		sleepTo(15*time.Second + 10*time.Millisecond)
		other.wantKeys(willRan)
		if a, b := r.h[0].Stats().Wills, r.h[1].Stats().Wills; a != 1 || b != 1 {
			t.Errorf("the nodes ran %d and %d wills", a, b)
		}
	})
}

// TestWillOutage checks that nothing is set or joined while the store is away, and that wills run
// when it returns.
func TestWillOutage(t *testing.T) {
	t.Parallel()
	store := newWillStore()
	inWillRig(t, 1, Config{Wills: store}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill("")
		store.away.Store(true)
		l.send(willPush("8", "room:1", "gone", ""))
		l.wantKeys(socketReplied("1", "8", "error", `{"reason":"unavailable"}`))
		l.send(`["1","8","$socket","unwill",{"will":"x"}]`)
		l.wantKeys(socketReplied("1", "8", "ok", `{"count":0}`))
		r.lose(l, nil)
		newer := r.open(0, "ann", testAnn, 2)
		newer.send(join("1", "room:1"))
		newer.wantKeys(refusedFor("1", "room:1", "unavailable"))
		newer.send(join("2", "plain:1"))
		newer.wantKeys(accepted("2", "plain:1"))
		stock := r.open(0, "ann", "", 0) // without $client it has no older connection
		stock.send(join("1", "room:1"))
		stock.wantKeys(accepted("1", "room:1"))
		sleepTo(time.Minute)
		other.wantKeys()
		store.away.Store(false)
		sleepTo(17 * time.Second)
		other.wantKeys(willRan)
		if n := r.log.logged("store of last wills failed"); n == 0 || n > 5 {
			t.Errorf("%d lines in the log", n)
		}
	})
}

// TestWillShutdown checks what becomes of wills when a handler shuts down.
func TestWillShutdown(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]will.Store{"its own memory": nil, "a shared store": will.NewMemory()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWillRig(t, 2, Config{Wills: store}, func(t *testing.T, r *willRig) {
				other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
				back := r.connect(0, "bob", "client-of-bob-0123456789", 1)
				l.setWill("")
				back.setWill("")
				r.lose(l, &transport.CloseError{Code: transport.CodeRestart})
				r.lose(back, &transport.CloseError{Code: transport.CodeRestart})
				if err := r.h[0].Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				back = r.connect(1, "bob", "client-of-bob-0123456789", 2)
				sleepTo(15*time.Second + 3*willtimes.Default().Poll/2)
				if store == nil {
					other.wantKeys()
					back.wantKeys()
				} else {
					other.wantKeys(willRan)
					back.wantKeys(willRan)
				}
			})
		})
	}
}

// TestWillOnRecordedTopic checks that a will is recorded, and that a repeat has no effect.
func TestWillOnRecordedTopic(t *testing.T) {
	t.Parallel()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
	inWillRig(t, 1, Config{PubSub: ps}, func(t *testing.T, r *willRig) {
		other, l := r.observe(), r.connect(0, "ann", testAnn, 1)
		l.setWill("")
		r.lose(l, nil)
		sleepTo(time.Minute)
		const recorded = `[null,null,"room:1","gone",{"user":"ann"}]`
		other.wantKeys(recorded)
		b, err := ps.Before(t.Context(), "room:1", history.Position{}, 10)
		if err != nil || len(b.Records) != 1 || !anyKey.MatchString(b.Records[0].ID) {
			t.Fatalf("%d records, %v", len(b.Records), err)
		}
		again := will.Will{ID: b.Records[0].ID, Topic: "room:1", Event: "gone", Payload: b.Records[0].Payload}
		if !r.h[0].wills.runOne(t.Context(), &again, time.Now()) {
			t.Error("the repeat failed")
		}
		other.wantKeys()
	})
}

// TestJoinWaitsForWill checks that a newer connection's join is answered only after a will that is
// claimed has run.
func TestJoinWaitsForWill(t *testing.T) {
	t.Parallel()
	store, hold := newWillStore(), willtimes.Default().Hold
	inWillRig(t, 1, Config{Wills: store}, func(t *testing.T, r *willRig) {
		l := r.connect(0, "ann", testAnn, 1)
		l.setWill(`,"after_ms":3600000`)
		w := l.s.wills.list[0].Will
		r.lose(l, nil)
		synctest.Wait()
		claimed := w
		claimed.ID, claimed.After = key.New(), 0
		for _, err := range []error{
			store.Put(t.Context(), claimed), store.End(t.Context(), w.Topic, w.Connection, claimed.ID),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if got, err := store.Claim(t.Context(), 1, hold); err != nil || len(got) != 1 { // by another node
			t.Fatal(got, err)
		}
		newer := r.open(0, "ann", testAnn, 2)
		newer.send(join("1", "room:1"), join("2", "plain:1"))
		newer.wantKeys(accepted("2", "plain:1"))
		sleepTo(hold / 2)
		newer.wantKeys()
		if err := store.Delete(t.Context(), w.Topic, w.Connection, claimed.ID); err != nil {
			t.Fatal(err)
		}
		sleepTo(arrivePause)
		newer.wantKeys(accepted("1", "room:1"))
	})
}
