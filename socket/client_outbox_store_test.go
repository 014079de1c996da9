package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestOutboxAge checks that an entry over Age ends, by the server's clock if that is known: the
// machine's may have been set back by an hour, or forward by three days, between two processes.
func TestOutboxAge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		made    time.Duration // before the second process, by the clock of the first one
		server  time.Duration // by which the server's clock is ahead of the machine's of the second one
		known   bool          // the server has $socket
		expires bool
		after   time.Duration // the start of the second process
	}{
		{"young", 47 * time.Hour, 0, true, false, 0},
		{"old", 49 * time.Hour, 0, true, true, 0},
		{"clock set back by an hour", -30 * time.Minute, time.Hour, true, false, 0},
		{"clock set back, old", 48 * time.Hour, time.Hour, true, true, 0},
		{"clock three days ahead", 73 * time.Hour, -72 * time.Hour, true, false, 0},
		{"clock three days ahead, server without time", 73 * time.Hour, 0, false, true, time.Minute},
		{"three days ahead at the first process", -72 * time.Hour, 0, true, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := offline.NewMemory()
				made := time.Now().Add(-test.made)
				if err := store.Apply(t.Context(), "ann", []offline.Op{{Put: &offline.Entry{
					Seq: 3, ID: "id", Topic: "room:1", Event: "msg", Payload: []byte(`{"n":"1"}`), Made: made,
				}}}); err != nil {
					t.Fatal(err)
				}
				p := newOutboxPeer()
				p.extends = test.known
				p.clock = func() time.Time { return time.Now().Add(test.server) }
				p.peer.join = func(_ *peerConn, m *serializer.Message) (string, any) {
					if m.Topic != topicSocket {
						return "ok", nil
					}
					return "ok", map[string]any{"id": "connection", "now": p.clock().UnixMilli()}
				}
				c, d := outboxClient(p, store, nil)
				defer closeClient(t, c)
				time.Sleep(test.after)
				connected(t, c)
				ch := c.Channel("room:1", nil)
				mustReply(t, ch.Join())
				synctest.Wait()
				list, errs := d.get()
				if len(list) != 1 || errors.Is(errs[0], offline.ErrExpired) != test.expires || (errs[0] != nil) != test.expires {
					t.Fatalf("OnDelivered: %v, %v", list, errs)
				}
				if sent := len(p.list("room:1")) > 0; sent == test.expires {
					t.Errorf("sent: %t", sent)
				}
				if test.expires && errors.Is(errs[0], push.ErrLost) {
					t.Error("an entry that was never sent is not lost")
				}
			})
		})
	}
}

// TestOutboxAgeWithoutJoin checks that entries of a topic that is never joined end, too.
func TestOutboxAgeWithoutJoin(t *testing.T) {
	t.Parallel()
	change := func(cfg *offline.Config, _ *ClientConfig) { cfg.Age = time.Hour }
	outboxBubble(t, change, func(t *testing.T, _ *outboxPeer, c *Client, d *deliveries) {
		first := pushDurable(t, c.Channel("room:1", nil), "1")
		time.Sleep(30 * time.Minute)
		second := pushDurable(t, c.Channel("room:1", nil), "2")
		start := time.Now()
		mustFail(t, first, offline.ErrExpired)
		if got := time.Since(start).Round(time.Minute); got != 30*time.Minute {
			t.Errorf("expired after %v more", got)
		}
		mustFail(t, second, offline.ErrExpired)
		if got := time.Since(start).Round(time.Minute); got != time.Hour {
			t.Errorf("the second expired after %v more", got)
		}
		synctest.Wait()
		if list, _ := d.get(); !slices.Equal(list, []string{"1 error", "2 error"}) {
			t.Errorf("OnDelivered: %v", list)
		}
	})
}

// TestOutboxWindow checks that an entry that the server may have handled is not sent again after
// the window of its Once.
func TestOutboxWindow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		window time.Duration
		away   time.Duration
		resend bool
		sent   bool // the server may have received it before
		again  bool
	}{
		{"within", 10 * time.Minute, 9 * time.Minute, false, true, true},
		{"beyond", 10 * time.Minute, 10 * time.Minute, false, true, false},
		{"beyond with Resend", 10 * time.Minute, 10 * time.Minute, true, true, true},
		{"without Once", 0, 10 * time.Hour, false, true, true},
		{"never sent", 10 * time.Minute, 10 * time.Hour, false, false, true},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", test.name, restart), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p, store := newOutboxPeer(), offline.NewMemory()
					p.window = int(test.window / time.Millisecond)
					p.answer = func(_ outboxSent, times int) (string, any) {
						if times == 1 && test.sent {
							return "cut", nil
						}
						return "ok", nil
					}
					change := func(cfg *offline.Config, _ *ClientConfig) { cfg.Resend = test.resend }
					c, d := outboxClient(p, store, change)
					ch := c.Channel("room:1", nil)
					if test.sent {
						connected(t, c)
						mustReply(t, ch.Join())
					}
					durable := pushDurable(t, ch, "1")
					synctest.Wait()
					c.Pause()
					time.Sleep(test.away)
					if restart {
						closeClient(t, c)
						c, d = outboxClient(p, store, change)
						ch = c.Channel("room:1", nil)
					}
					defer closeClient(t, c)
					connected(t, c)
					ch.Join()
					time.Sleep(5 * time.Second)
					list, errs := d.get()
					if len(list) != 1 || (errs[0] == nil) != test.again {
						t.Fatalf("OnDelivered: %v, %v", list, errs)
					}
					if !test.again && (!errors.Is(errs[0], offline.ErrExpired) || !errors.Is(errs[0], push.ErrLost)) {
						t.Error(errs[0])
					}
					if !restart {
						if _, err := durable.Wait(t.Context()); (err == nil) != test.again {
							t.Error(err)
						}
					}
				})
			})
		}
	}
}

// TestOutboxIdentity checks that another identity removes the entries and the $client of the first
// one, unless KeepOthers is set.
func TestOutboxIdentity(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("KeepOthers %t", keep), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, store := newOutboxPeer(), offline.NewMemory()
				var ids []string
				var left []int
				for _, who := range []string{"ann", "bob", "ann"} {
					c, _ := outboxClient(p, store, func(cfg *offline.Config, _ *ClientConfig) {
						cfg.Identity, cfg.KeepOthers = who, keep
					})
					ids, left = append(ids, c.Info().ClientID), append(left, len(c.Undelivered()))
					pushDurable(t, c.Channel("room:1", nil), who)
					closeClient(t, c)
				}
				if ids[0] == ids[1] || (ids[0] == ids[2]) != keep {
					t.Errorf("$client is %v", ids)
				}
				if want := map[bool][]int{false: {0, 0, 0}, true: {0, 0, 1}}[keep]; !slices.Equal(left, want) {
					t.Errorf("undelivered: %v, want %v", left, want)
				}
			})
		})
	}
}

// faultyStore is a store whose calls of Apply fail.
type faultyStore struct {
	offline.Store
	mu    sync.Mutex
	calls int
	apply func(call int, ops []offline.Op) (before, after error) // which errors a call has
	load  error
}

var errDisk = errors.New("disk is full")

func (s *faultyStore) Apply(ctx context.Context, identity string, ops []offline.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	before, after := s.apply(s.calls, ops)
	if before != nil {
		return before
	}
	if err := s.Store.Apply(ctx, identity, ops); err != nil {
		return err
	}
	return after
}

func (s *faultyStore) Load(
	ctx context.Context, identity string, each func(offline.Entry, *offline.Mirror) error,
) error {
	if s.load != nil {
		return s.load
	}
	return s.Store.Load(ctx, identity, each)
}

func (s *faultyStore) set(apply func(call int, ops []offline.Op) (before, after error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply = apply
}

func works(int, []offline.Op) (before, after error) { return nil, nil }

// entries returns the texts of the entries in the store.
func (s *faultyStore) entries(t *testing.T) (list []string) {
	t.Helper()
	err := s.Store.Load(t.Context(), "ann", func(e offline.Entry, m *offline.Mirror) error {
		if m == nil {
			list = append(list, string(e.Payload))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestOutboxStoreFails checks that nothing is kept when the store fails, and that the outbox works
// again when the store does.
func TestOutboxStoreFails(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before the commit", "after the commit"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, store := newOutboxPeer(), &faultyStore{Store: offline.NewMemory(), apply: works}
				c, d := outboxClient(p, store, nil)
				defer closeClient(t, c)
				connected(t, c)
				ch := joined(t, c, "room:1")
				fails := func(_ int, ops []offline.Op) (before, after error) {
					switch {
					case ops[0].Put == nil && when == "after the commit":
						return errDisk, nil
					case when == "after the commit":
						return nil, errDisk
					}
					return errDisk, nil
				}
				store.set(fails)
				for range 3 {
					if _, err := ch.PushDurable(t.Context(), "msg", map[string]string{"n": "1"}); !errors.Is(err, offline.ErrStore) ||
						!errors.Is(err, errDisk) {
						t.Fatal(err)
					}
				}
				if left := c.Undelivered(); len(left) != 0 {
					t.Fatalf("undelivered: %v", left)
				}
				store.set(works)
				time.Sleep(time.Minute)
				if left := store.entries(t); len(left) != 0 {
					t.Errorf("the store kept %v", left)
				}
				mustReply(t, pushDurable(t, ch, "2"))
				store.set(fails) // for Sent, and for the removal
				time.Sleep(time.Second)
				store.set(works)
				third := pushDurable(t, ch, "3")
				store.set(fails)
				time.Sleep(20 * time.Second)
				store.set(works)
				mustReply(t, third)
				time.Sleep(time.Minute)
				if left := store.entries(t); len(left) != 0 {
					t.Errorf("the store kept %v", left)
				}
				if got := p.list("room:1"); !slices.Equal(got, []string{"2", "3"}) {
					t.Errorf("sent %v", got)
				}
				if list, _ := d.get(); len(list) != 2 {
					t.Errorf("OnDelivered: %v", list)
				}
			})
		})
	}
}

// TestOutboxStoreFailsAtStart checks that a client whose store cannot be read works without
// outbox.
func TestOutboxStoreFailsAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newOutboxPeer()
		c, _ := outboxClient(p, &faultyStore{Store: offline.NewMemory(), apply: works, load: errDisk}, nil)
		defer closeClient(t, c)
		connected(t, c)
		ch := joined(t, c, "room:1")
		if _, err := ch.PushDurable(t.Context(), "msg", nil); !errors.Is(err, offline.ErrStore) || !errors.Is(err, errDisk) {
			t.Error(err)
		}
		if len(c.Info().ClientID) < 16 {
			t.Error("the client has no id")
		}
		mustReply(t, ch.Push("msg", map[string]string{"n": "1"}))
	})
}

// TestOutboxOneBadEntryFailsAlone checks that an entry that the store refuses does not fail those
// that are in the same commit.
func TestOutboxOneBadEntryFailsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		store := &faultyStore{Store: offline.NewMemory(), apply: works}
		p := newOutboxPeer()
		c, _ := outboxClient(p, store, nil)
		defer closeClient(t, c)
		ch := c.Channel("room:1", nil)
		store.set(func(_ int, ops []offline.Op) (before, after error) {
			if string(ops[0].Put.Payload) == `{"n":"0"}` {
				<-gate
			}
			for _, op := range ops {
				if op.Put != nil && string(op.Put.Payload) == `{"n":"2"}` {
					return errDisk, nil
				}
			}
			return nil, nil
		})
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = ch.PushDurable(t.Context(), "msg", map[string]string{"n": fmt.Sprint(i)})
			})
			synctest.Wait()
		}
		close(gate)
		wg.Wait()
		for i, err := range errs {
			if (err != nil) != (i == 2) {
				t.Errorf("entry %d: %v", i, err)
			}
		}
		if got := strings.Join(store.entries(t), ""); got != `{"n":"0"}{"n":"1"}{"n":"3"}` {
			t.Errorf("the store has %s", got)
		}
		store.set(works)
	})
}
