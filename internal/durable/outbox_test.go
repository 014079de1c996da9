package durable_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/durable"
	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/internal/testenv/leak"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestMain(m *testing.M) { leak.Main(m) }

type task func()

func (t task) Run() { t() }

var errClosed = errors.New("closed")

// host is a client without a connection. Its loop runs the tasks of the outbox.
type host struct {
	*loop.Loop[loop.Task]

	log     zerolog.Logger
	running sync.WaitGroup

	// Owned by the loop.
	entries, ok, failed int
}

func newHost() *host {
	return &host{Loop: loop.New(func(t loop.Task) { t.Run() }, nil), log: zerolog.Nop()}
}

func (h *host) Closing() error                          { return errClosed }
func (h *host) Log() *zerolog.Logger                    { return &h.log }
func (h *host) Clock() (time.Time, time.Duration, bool) { return time.Now(), 0, true }
func (h *host) Call(f func())                           { h.Post(task(f)) }
func (h *host) Started()                                { h.running.Add(1) }
func (h *host) Stopped()                                { h.running.Done() }

func (h *host) BeginEntry(int) uint64 {
	h.entries++
	return uint64(h.entries)
}

func (h *host) EndEntry(_ uint64, _ int, ok bool) {
	if ok {
		h.ok++
	} else {
		h.failed++
	}
}

// do runs f on the loop and waits for it.
func (h *host) do(f func()) {
	done := make(chan struct{})
	if h.Post(task(func() { f(); close(done) })) {
		<-done
	}
}

// sending is one call of SendDurable.
type sending struct {
	n  string // the event
	at time.Duration
	a  *durable.Attempt
}

// room is the sender of a topic. It is used on the loop.
type room struct {
	w      *world
	answer func(times int) (r promise.Result, isCrash bool) // if it is nil, the attempts wait
	sent   []sending
	times  map[string]int
}

func (r *room) SendDurable(a *durable.Attempt) {
	r.sent = append(r.sent, sending{a.Event, time.Since(r.w.begun), a})
	r.times[a.ID]++
	if r.answer != nil {
		result, isCrash := r.answer(r.times[a.ID])
		a.Done(result, isCrash)
	}
}

// events returns the events that were sent, in order.
func (r *room) events() (list []string) {
	r.w.do(func() {
		for _, s := range r.sent {
			list = append(list, s.n)
		}
	})
	return list
}

// gaps returns the whole seconds between the sendings.
func (r *room) gaps() (list []int) {
	r.w.do(func() {
		for i := 1; i < len(r.sent); i++ {
			list = append(list, int((r.sent[i].at-r.sent[i-1].at).Round(time.Second)/time.Second))
		}
	})
	return list
}

// result answers the attempt that was sent as the i-th.
func (r *room) result(i int, result promise.Result) {
	r.w.do(func() { r.sent[i].a.Done(result, false) })
}

// world is an outbox and its store.
type world struct {
	*host

	t       *testing.T
	o       *durable.Outbox
	store   offline.Store
	begun   time.Time
	answers map[string]promise.Result // by event; owned by the loop
}

func newWorld(t *testing.T, store offline.Store, cfg offline.Config) *world {
	t.Helper()
	w := &world{host: newHost(), t: t, store: store, begun: time.Now(), answers: make(map[string]promise.Result)}
	cfg.Store = store
	w.o, _ = durable.New(cfg, w.host, "client", func() string { return "made" })
	return w
}

// close ends the outbox as the Close of a client does.
func (w *world) close() {
	w.do(func() { w.o.End(errClosed) })
	synctest.Wait()
	w.running.Wait()
	w.Stop()
	<-w.Done()
}

func (w *world) add(topic, event string) error {
	return w.o.Add(w.t.Context(), topic, event, nil, func(r promise.Result) {
		if _, again := w.answers[event]; again {
			w.t.Errorf("%s was answered twice", event)
		}
		w.answers[event] = r
	})
}

// mustAdd adds n entries, whose events are the topic and a number.
func (w *world) mustAdd(topic string, n int) {
	w.t.Helper()
	for i := range n {
		if err := w.add(topic, fmt.Sprint(topic, i)); err != nil {
			w.t.Fatal(err)
		}
	}
	synctest.Wait()
}

func (w *world) join(topic string, window time.Duration) *room {
	r := &room{w: w, times: make(map[string]int)}
	w.do(func() { w.o.Joined(topic, r, window) })
	synctest.Wait() // the times of the first sending are stored
	return r
}

// result returns the answer of an entry.
func (w *world) result(event string) (r promise.Result, ok bool) {
	w.do(func() { r, ok = w.answers[event] })
	return r, ok
}

// stored returns the events in the store.
func stored(t *testing.T, s offline.Store, identity string) (list []string) {
	t.Helper()
	if err := s.Load(t.Context(), identity, func(e offline.Entry, m *offline.Mirror) error {
		if m == nil {
			list = append(list, e.Event)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func ok() promise.Result { return promise.Result{Status: push.StatusOK} }

func lost(err error) promise.Result { return promise.Result{Status: push.StatusFailed, Err: err} }

func refused(reason string) promise.Result {
	return promise.Result{
		Status: push.StatusError, Payload: serializer.Value(map[string]string{"reason": reason}),
	}
}

func numbered(topic string, from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(topic, i))
	}
	return list
}

// TestOrder checks that the entries of a topic are sent in order, 8 of them unanswered at most, and
// that topics do not wait for each other.
func TestOrder(t *testing.T) {
	t.Parallel()
	for ordered, most := range map[bool]int{false: 8, true: 1} {
		t.Run(fmt.Sprint("ordered: ", ordered), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, offline.NewMemory(), offline.Config{Ordered: ordered})
				defer w.close()
				w.mustAdd("a", 20)
				w.mustAdd("b", 2)
				a, b := w.join("a", 0), w.join("b", 0)
				if got := a.events(); !slices.Equal(got, numbered("a", 0, most)) {
					t.Fatalf("sent %q", got)
				}
				if got := b.events(); !slices.Equal(got, numbered("b", 0, min(most, 2))) {
					t.Fatalf("sent %q", got)
				}
				if most > 1 { // those behind an answered one move up
					a.result(3, ok())
					a.result(1, ok())
				} else {
					a.result(0, ok())
				}
				synctest.Wait()
				want := most + 1
				if most > 1 {
					want++
				}
				if got := a.events(); !slices.Equal(got, numbered("a", 0, want)) {
					t.Fatalf("sent %q", got)
				}
				for i := 0; ; i++ {
					if _, done := w.result(fmt.Sprint("a", 19)); done {
						break
					}
					if _, done := w.result(a.events()[i]); !done {
						a.result(i, ok())
						synctest.Wait()
					}
				}
				if got := a.events(); !slices.Equal(got, numbered("a", 0, 20)) {
					t.Fatalf("sent %q", got)
				}
				if left := stored(t, w.store, ""); !slices.Equal(left, numbered("b", 0, 2)) {
					t.Errorf("the store has %q", left)
				}
			})
		})
	}
}

// TestSchedule checks when an entry is sent again, and that those behind it wait.
func TestSchedule(t *testing.T) {
	t.Parallel()
	for name, result := range map[string]promise.Result{
		"timeout": lost(push.ErrTimeout), "lost": lost(push.ErrLost), "unavailable": refused("unavailable"),
		"too many ids": refused("too many ids"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, offline.NewMemory(), offline.Config{Ordered: true})
				defer w.close()
				r := w.join("a", 0)
				w.do(func() {
					r.answer = func(times int) (promise.Result, bool) {
						if times < 7 {
							return result, false
						}
						return ok(), false
					}
				})
				w.mustAdd("a", 2)
				time.Sleep(time.Minute) // virtual
				// The first entry is sent at 0, 1, 3, 8, 18, 28 and 38 s, and the second one after it.
				if got := r.gaps()[:7]; !slices.Equal(got, []int{1, 2, 5, 10, 10, 10, 0}) {
					t.Errorf("the gaps are %v s", got)
				}
				if got := r.events(); !slices.Equal(got[6:8], []string{"a0", "a1"}) {
					t.Errorf("sent %q", got)
				}
			})
		})
	}
}

// TestCrashes checks that the fifth crash is final, and that entries come one at a time meanwhile.
func TestCrashes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, offline.NewMemory(), offline.Config{})
		defer w.close()
		w.mustAdd("a", 3)
		r := w.join("a", 0)
		w.do(func() {
			for _, s := range slices.Clone(r.sent) {
				s.a.Done(lost(push.ErrLost), true)
			}
			first := r.sent[0].a.ID
			r.answer = func(int) (promise.Result, bool) {
				if r.sent[len(r.sent)-1].a.ID == first {
					return lost(push.ErrLost), true
				}
				return ok(), false
			}
		})
		time.Sleep(time.Minute) // virtual
		if got := r.events(); !slices.Equal(got, []string{"a0", "a1", "a2", "a0", "a0", "a0", "a0", "a1", "a2"}) {
			t.Errorf("sent %q", got)
		}
		if got, _ := w.result("a0"); got.Err == nil || !errors.Is(got.Err, push.ErrLost) {
			t.Errorf("answered %+v", got)
		}
		w.do(func() {
			if w.entries != 3 || w.ok != 2 || w.failed != 1 {
				t.Errorf("%d entries began, %d are ok, %d failed", w.entries, w.ok, w.failed)
			}
		})
	})
}

// TestAge checks that an entry ends when it is too old, although its topic is not joined, and that
// it counts as failed for Flush.
func TestAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, offline.NewMemory(), offline.Config{Age: time.Hour})
		defer w.close()
		w.mustAdd("a", 1)
		time.Sleep(59 * time.Minute) // virtual
		if _, done := w.result("a0"); done {
			t.Fatal("it ended early")
		}
		time.Sleep(2 * time.Minute) // virtual
		if got, _ := w.result("a0"); !errors.Is(got.Err, offline.ErrExpired) || errors.Is(got.Err, push.ErrLost) {
			t.Fatalf("answered %+v", got)
		}
		if r := w.join("a", 0); len(r.events()) != 0 {
			t.Errorf("sent %q", r.events())
		}
		w.do(func() {
			if w.entries != 1 || w.failed != 1 {
				t.Errorf("%d entries began, %d failed", w.entries, w.failed)
			}
		})
		if left := stored(t, w.store, ""); len(left) != 0 {
			t.Errorf("the store has %q", left)
		}
	})
}

// TestWindow checks that an entry which the server may have handled and forgotten is not sent
// again, unless Resend is set.
func TestWindow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		window, away time.Duration
		resend       bool
		want         int // sendings
	}{
		"within the window":        {10 * time.Minute, 9 * time.Minute, false, 2},
		"on the way it ends":       {10 * time.Minute, 10*time.Minute - 5*time.Second, false, 1},
		"after the window":         {10 * time.Minute, 11 * time.Minute, false, 1},
		"after it, with Resend":    {10 * time.Minute, 11 * time.Minute, true, 2},
		"a server without Once":    {0, time.Hour, false, 2},
		"a short window":           {8 * time.Second, 6 * time.Second, false, 2},
		"an eighth is for the way": {8 * time.Second, 7500 * time.Millisecond, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, offline.NewMemory(), offline.Config{Resend: test.resend})
				defer w.close()
				w.mustAdd("a", 1)
				first := w.join("a", test.window)
				w.do(func() {
					w.o.Left("a", first)
					first.sent[0].a.Done(lost(push.ErrLost), false)
				})
				time.Sleep(test.away) // virtual
				again := w.join("a", test.window)
				if n := len(first.events()) + len(again.events()); n != test.want {
					t.Fatalf("sent %d times", n)
				}
				got, done := w.result("a0")
				isLost := errors.Is(got.Err, offline.ErrExpired) && errors.Is(got.Err, push.ErrLost)
				if isLost != (test.want == 1) || done != isLost {
					t.Errorf("answered %t: %+v", done, got)
				}
			})
		})
	}
}

// TestIdentity checks what another identity does to the entries, and that they are sent when the
// first one returns.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("KeepOthers: ", keep), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := offline.NewMemory()
				ann := newWorld(t, store, offline.Config{Identity: "ann", KeepOthers: keep})
				ann.mustAdd("a", 3)
				ann.close()
				if got, _ := ann.answers["a1"]; !errors.Is(got.Err, errClosed) {
					t.Errorf("answered %+v by Close", got)
				}
				bob := newWorld(t, store, offline.Config{Identity: "bob", KeepOthers: keep})
				r := bob.join("a", 0)
				if len(r.events()) != 0 {
					t.Errorf("bob sends %q", r.events())
				}
				bob.mustAdd("b", 1)
				bob.close()
				ann = newWorld(t, store, offline.Config{Identity: "ann", KeepOthers: keep})
				defer ann.close()
				want := 0
				if keep {
					want = 3
				}
				if got := ann.join("a", 0).events(); !slices.Equal(got, numbered("a", 0, want)) {
					t.Errorf("ann sends %q", got)
				}
				if left := stored(t, store, "bob"); (len(left) == 1) != keep {
					t.Errorf("of bob there is %q", left)
				}
			})
		})
	}
}

var errDisk = errors.New("no space left on device")

// faulty is a store that fails before it applies operations, or after that.
type faulty struct {
	offline.Store

	mu    sync.Mutex
	fails func(ops []offline.Op) (before, after error)
}

func (f *faulty) Apply(ctx context.Context, identity string, ops []offline.Op) error {
	f.mu.Lock()
	fails := f.fails
	f.mu.Unlock()
	var before, after error
	if fails != nil {
		before, after = fails(ops)
	}
	if before != nil {
		return before
	}
	return errors.Join(f.Store.Apply(ctx, identity, ops), after)
}

func (f *faulty) set(fails func(ops []offline.Op) (before, after error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

// TestStoreFails checks that an entry whose commit has failed is not sent, now or later, even if
// the disk has it.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func([]offline.Op) (before, after error){
		"before the commit": func([]offline.Op) (before, after error) { return errDisk, nil },
		"after the commit":  func([]offline.Op) (before, after error) { return nil, errDisk },
		"in a commit of several": func(ops []offline.Op) (before, after error) {
			if len(ops) > 1 {
				return errDisk, nil // each of them succeeds alone
			}
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &faulty{Store: offline.NewMemory()}
				w := newWorld(t, store, offline.Config{})
				defer w.close()
				alone := name == "in a commit of several"
				store.set(fails)
				var adding sync.WaitGroup
				for i := range 20 {
					adding.Go(func() {
						err := w.add("a", fmt.Sprint("a", i))
						if alone != (err == nil) || err != nil && !errors.Is(err, offline.ErrStore) {
							t.Errorf("a%d: %v", i, err)
						}
					})
				}
				adding.Wait()
				store.set(nil)
				time.Sleep(time.Minute) // virtual: failed removals are made again
				want := 0
				if alone {
					want = 20
				}
				if left := stored(t, store, ""); len(left) != want {
					t.Errorf("the store has %q", left)
				}
				if n := len(w.o.Undelivered()); n != want {
					t.Errorf("%d entries wait", n)
				}
				w.mustAdd("b", 1)
				a, b := w.join("a", 0), w.join("b", 0)
				if len(a.events()) != min(want, 8) || len(b.events()) != 1 {
					t.Errorf("sent %q and %q", a.events(), b.events())
				}
			})
		})
	}
}

// TestSentIsStoredFirst checks that an entry is not sent before the store has the time of that: a
// later process would not know that the server may have handled it.
func TestSentIsStoredFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: offline.NewMemory()}
		w := newWorld(t, store, offline.Config{})
		defer w.close()
		w.mustAdd("a", 1)
		store.set(func([]offline.Op) (before, after error) { return errDisk, nil })
		r := w.join("a", 0)
		time.Sleep(20 * time.Second) // virtual
		if got := r.events(); len(got) != 0 {
			t.Fatalf("sent %q", got)
		}
		store.set(nil)
		time.Sleep(20 * time.Second) // virtual
		if got := r.events(); !slices.Equal(got, []string{"a0"}) {
			t.Fatalf("sent %q", got)
		}
		if sent := w.o.Undelivered()[0].Sent; sent.IsZero() || time.Since(sent) > 20*time.Second {
			t.Errorf("sent at %v", sent)
		}
	})
}
