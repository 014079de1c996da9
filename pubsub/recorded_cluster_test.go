package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/internal/fakelog"
	"bennu.example/internal/follow"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// cluster is several nodes with one log, in a synctest bubble.
type cluster struct {
	t     *testing.T
	store *fakelog.Store
	nodes []*pubsub.PubSub
	stop  func()
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, store: fakelog.NewStore(1)}
	adapters := pubsubtest.NewCluster()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range n {
		name := fmt.Sprint("node", i)
		ps := pubsub.NewRecorded(adapters.Node(name), c.store.Log(name), rules)
		c.nodes = append(c.nodes, ps)
		wg.Go(func() {
			if err := ps.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	c.stop = func() {
		cancel()
		wg.Wait()
	}
	synctest.Wait()
	return c
}

// subscriber is a live subscriber that checks the order of what it receives.
type subscriber struct {
	t  *testing.T
	id string

	mu   sync.Mutex
	got  []string
	last history.Position
	lost int
}

func (s *subscriber) Deliver(b *pubsub.Broadcast) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, b.Event)
	if r := b.Record(); r != nil {
		if s.lost == 0 && !s.last.IsZero() && r.Position.Offset() <= s.last.Offset() {
			s.t.Errorf("%s: %v follows %v", s.id, r.Position, s.last)
		}
		s.last = r.Position
	}
	return nil
}

func (s *subscriber) ClientID() string       { return s.id }
func (s *subscriber) Skip(*pubsub.Broadcast) {}
func (s *subscriber) Lost(time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost++
}

func (s *subscriber) losses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

func (s *subscriber) events() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (c *cluster) subscribe(node int, topic string) *subscriber {
	c.t.Helper()
	s := &subscriber{t: c.t, id: fmt.Sprintf("client %d", node)}
	c.nodes[node].Subscribe(topic, s)
	synctest.Wait()
	return s
}

func (c *cluster) broadcast(node int, topic, event string) {
	c.t.Helper()
	if err := c.nodes[node].Broadcast(c.t.Context(), topic, event, nil); err != nil {
		c.t.Fatalf("%s: %v", event, err)
	}
}

// bubble runs a test on a cluster in virtual time.
func bubble(t *testing.T, nodes int, f func(t *testing.T, c *cluster)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nodes)
		defer c.stop()
		f(t, c)
	})
}

func want(t *testing.T, s *subscriber, events ...string) {
	t.Helper()
	if got := s.events(); !slices.Equal(got, events) {
		t.Errorf("%s got %v, want %v", s.id, got, events)
	}
}

func TestNodesDeliverInOneOrder(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		here, there := c.subscribe(0, "room:1"), c.subscribe(1, "room:1")
		c.store.Set(fakelog.Faults{Latency: time.Millisecond, Delay: 10 * time.Millisecond})
		for i := range 5 {
			c.broadcast(0, "room:1", fmt.Sprint("a", i))
			if got := here.events(); got[len(got)-1] != fmt.Sprint("a", i) {
				t.Errorf("the broadcast returned before it was delivered here: %v", got)
			}
			c.broadcast(1, "room:1", fmt.Sprint("b", i))
		}
		time.Sleep(time.Second)
		all := []string{"a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"}
		want(t, here, all...)
		want(t, there, all...)
	})
}

// TestSenderIsLeftOutOfTheFeed checks that the sender of a BroadcastFrom does not receive it, even
// if the feed is faster than the answer of the append, or the answer is lost.
func TestSenderIsLeftOutOfTheFeed(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		here, other, there := c.subscribe(0, "room:1"), c.subscribe(0, "room:1"), c.subscribe(1, "room:1")
		for i, f := range []fakelog.Faults{
			{}, {AppendHidesPrev: true}, {Latency: 100 * time.Millisecond}, {NoAnswer: 1}, {Lose: 1, AppendHidesPrev: true},
		} {
			c.store.Set(f)
			event := fmt.Sprint(i)
			err := c.nodes[0].BroadcastFrom(t.Context(), here, "room:1", event, nil)
			if err != nil && !errors.Is(err, history.ErrUncertain) {
				t.Error(err)
			}
			c.store.Set(fakelog.Faults{})
			time.Sleep(time.Minute)
			delivered := slices.Contains(there.events(), event)
			if !delivered && err == nil || slices.Contains(other.events(), event) != delivered {
				t.Errorf("%+v: here %v, there %v", f, other.events(), there.events())
			}
		}
		want(t, here)
	})
}

func TestWhatTheFeedLostIsRead(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		s := c.subscribe(1, "room:1")
		c.broadcast(0, "room:1", "a")
		synctest.Wait()
		c.store.Set(fakelog.Faults{Lose: 1}, "node1")
		c.broadcast(0, "room:1", "b")
		c.broadcast(0, "room:1", "c")
		synctest.Wait()
		want(t, s, "a")
		c.store.Set(fakelog.Faults{})
		c.broadcast(0, "room:1", "d") // its predecessor is missing
		time.Sleep(time.Second)
		want(t, s, "a", "b", "c", "d")
		// Nothing follows: the top of the log shows it.
		c.store.Set(fakelog.Faults{Lose: 1}, "node1")
		c.broadcast(0, "room:1", "e")
		time.Sleep(time.Minute + 5*time.Second)
		want(t, s, "a", "b", "c", "d", "e")
		// The log reports it.
		c.store.Set(fakelog.Faults{Gap: 1}, "node1")
		c.broadcast(0, "room:1", "f")
		time.Sleep(10 * time.Millisecond)
		want(t, s, "a", "b", "c", "d", "e", "f")
		if s.losses() != 0 {
			t.Error("the log was reported as lost")
		}
	})
}

func TestLogThatDoesNotAnswer(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		s := c.subscribe(1, "room:1")
		c.broadcast(0, "room:1", "a")
		c.store.Freeze()
		start := time.Now()
		err := c.nodes[0].Broadcast(t.Context(), "room:1", "b", nil)
		if !errors.Is(err, history.ErrUncertain) && !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != 2*time.Second {
			t.Errorf("it waited for %v", waited)
		}
		var r follow.Reader[*pubsub.Broadcast]
		if _, err := c.nodes[0].Recorded().Open(t.Context(), &r, "room:2", follow.Start{}); !errors.Is(err,
			history.ErrUnavailable) {
			t.Errorf("opened a reader: %v", err)
		}
		c.store.Thaw()
		time.Sleep(time.Minute)
		c.broadcast(0, "room:1", "c")
		time.Sleep(time.Second)
		switch got := s.events(); {
		case errors.Is(err, history.ErrUnavailable):
			want(t, s, "a", "c")
		case len(got) == 3:
			want(t, s, "a", "b", "c")
		default:
			want(t, s, "a", "c")
		}
	})
}

func TestReconnectedNodeReadsWhatItMissed(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		s := c.subscribe(1, "room:1")
		c.broadcast(0, "room:1", "a")
		synctest.Wait()
		c.store.Disconnect("node1")
		for i := range 3 {
			c.broadcast(0, "room:1", fmt.Sprint("b", i))
		}
		time.Sleep(30 * time.Minute)
		want(t, s, "a")
		c.store.Connect("node1")
		time.Sleep(6 * time.Second)
		want(t, s, "a", "b0", "b1", "b2")
	})
}

// TestLostTailIsReported checks that the readers are notified before a later record is delivered,
// if the log has lost records that were delivered.
func TestLostTailIsReported(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprint("quiet=", quiet), func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, c *cluster) {
				s := c.subscribe(1, "room:1")
				for i := range 5 {
					c.broadcast(0, "room:1", fmt.Sprint(i))
				}
				synctest.Wait()
				c.store.Rollback("room:1", 2)
				if !quiet {
					if err := c.nodes[0].Broadcast(t.Context(), "room:1", "new", nil); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(61 * time.Second)
				if s.losses() != 1 {
					t.Errorf("reported %d times", s.losses())
				}
				c.broadcast(0, "room:1", "later")
				time.Sleep(time.Second)
				if got := s.events(); got[len(got)-1] != "later" || s.losses() != 1 {
					t.Errorf("got %v, reported %d times", got, s.losses())
				}
			})
		})
	}
}

func TestForgetOnAnotherNode(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		here, there := c.subscribe(0, "room:1"), c.subscribe(1, "room:1")
		c.broadcast(0, "room:1", "a")
		if err := c.nodes[0].Forget(t.Context(), "room:1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if here.losses() != 1 || there.losses() != 1 {
			t.Errorf("reported %d and %d times", here.losses(), there.losses())
		}
		c.broadcast(1, "room:1", "b")
		time.Sleep(time.Second)
		want(t, here, "a", "b")
		want(t, there, "a", "b")
		if here.losses() != 1 || there.losses() != 1 {
			t.Errorf("reported %d and %d times", here.losses(), there.losses())
		}
	})
}

// TestNothingOvertakesARecordOfAnotherNode checks that an unrecorded event waits for the record
// that its node had delivered or appended before, but not for long.
func TestNothingOvertakesARecordOfAnotherNode(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		c.subscribe(0, "some:used")
		for _, topic := range []string{"some:used", "some:unused"} {
			s := c.subscribe(1, topic)
			c.store.Set(fakelog.Faults{Delay: 50 * time.Millisecond}, "node1")
			for i := range 5 {
				c.broadcast(0, topic, "kept")
				c.broadcast(0, topic, fmt.Sprint(i))
			}
			time.Sleep(time.Second)
			want(t, s, "kept", "0", "kept", "1", "kept", "2", "kept", "3", "kept", "4")
			// The record does not come: the log is frozen for this node.
			c.store.Set(fakelog.Faults{Lose: 1, Latency: time.Hour}, "node1")
			before := len(s.events())
			c.broadcast(0, topic, "kept")
			for i := range 300 {
				c.broadcast(0, topic, fmt.Sprint("late", i))
			}
			synctest.Wait()
			if got := s.events()[before:]; len(got) != 44 || got[43] != "late43" {
				t.Errorf("%s: at once %v", topic, got)
			}
			time.Sleep(time.Second + time.Millisecond)
			if got := s.events()[before:]; len(got) != 300 || got[299] != "late299" {
				t.Errorf("%s: after 1 s %v", topic, got)
			}
			c.store.Set(fakelog.Faults{})
			time.Sleep(time.Minute)
			if got := s.events()[before:]; len(got) != 301 || got[300] != "kept" {
				t.Errorf("%s: later %v", topic, got)
			}
		}
	})
}

// TestClientIsAheadOfItsNode checks that a client that comes from a faster node is continued.
func TestClientIsAheadOfItsNode(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		c.subscribe(1, "room:1")
		c.broadcast(0, "room:1", "a")
		synctest.Wait()
		c.store.Set(fakelog.Faults{Lose: 1}, "node1")
		since, err := c.nodes[0].Append(t.Context(), "room:1", "b", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.broadcast(0, "room:1", "c")
		var r follow.Reader[*pubsub.Broadcast]
		mark, err := c.nodes[1].Recorded().Open(t.Context(), &r, "room:1", follow.Start{Since: since})
		if err != nil || mark.Why != "" || mark.Position != since {
			t.Fatalf("got %+v, %v", mark, err)
		}
		items, err := r.Next(t.Context(), 10, nil)
		if err != nil || len(items) != 1 || items[0].Item.Event != "c" {
			t.Errorf("got %v, %v", items, err)
		}
		// The top of the log is awaited.
		pos, err := c.nodes[0].Append(t.Context(), "room:1", "d", nil)
		if err != nil {
			t.Fatal(err)
		}
		if top, err := r.Top(t.Context()); top != pos || err != nil {
			t.Errorf("the top is %v, %v, want %v", top, err, pos)
		}
		r.Close()
	})
}

func TestLogBeforeRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, fakelog.NewStore(1).Log("a"), rules)
		if err := ps.Broadcast(t.Context(), "room:1", "e", nil); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		var r follow.Reader[*pubsub.Broadcast]
		if _, err := ps.Recorded().Open(t.Context(), &r, "room:1", follow.Start{}); !errors.Is(err,
			history.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRandomFaults checks that live subscribers of all nodes receive everything in one order,
// whatever the feed loses, repeats, delays and swaps.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { randomFaults(t, seed) }) })
	}
}

func randomFaults(t *testing.T, seed uint64) {
	c := newCluster(t, 3)
	defer c.stop()
	rnd := rand.New(rand.NewPCG(seed, 7))
	if seed%3 == 0 {
		c.store.UseHoles()
	}
	var all []*subscriber
	for i := range 6 {
		all = append(all, c.subscribe(i%3, "room:1"))
	}
	faults := func() fakelog.Faults {
		p := func() float64 { return max(0, rnd.Float64()-0.5) }
		return fakelog.Faults{
			Latency: time.Duration(rnd.IntN(20)) * time.Millisecond, Delay: time.Duration(rnd.IntN(200)) * time.Millisecond,
			Lose: p(), Gap: p(), Repeat: p(), Swap: p(), NoAnswer: p() / 4, Refuse: p(),
			AppendHidesPrev: seed%2 == 0, FeedHidesTag: seed%2 == 0, ReadHidesPrev: seed%4 == 0,
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := map[string]bool{} // false: perhaps
	for i, ps := range c.nodes {
		wait := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for n := range 30 {
				event := fmt.Sprintf("%d-%d", i, n)
				err := ps.Broadcast(t.Context(), "room:1", event, map[string]int{"n": n})
				mu.Lock()
				switch {
				case err == nil:
					stored[event] = true
				case errors.Is(err, history.ErrUncertain):
					stored[event] = false
				case !errors.Is(err, history.ErrUnavailable):
					t.Errorf("%s: %v", event, err)
				}
				mu.Unlock()
				time.Sleep(time.Duration(wait.IntN(300)) * time.Millisecond)
			}
		})
	}
	for range 12 {
		node := fmt.Sprint("node", rnd.IntN(3))
		c.store.Set(faults(), node)
		if rnd.IntN(3) == 0 {
			c.store.Disconnect(node)
		}
		time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		c.store.Connect(node)
	}
	wg.Wait()
	c.store.Set(fakelog.Faults{})
	time.Sleep(2 * time.Minute)
	first := all[0].events()
	for _, s := range all {
		if got := s.events(); !slices.Equal(got, first) || s.losses() != 0 {
			t.Errorf("seed %d: %s got %v, another %v, reported %d times", seed, s.id, got, first, s.losses())
		}
	}
	for event, certain := range stored {
		if certain && !slices.Contains(first, event) {
			t.Errorf("seed %d: %s was stored and not delivered", seed, event)
		}
	}
	for _, event := range first {
		if _, ok := stored[event]; !ok {
			t.Errorf("seed %d: %s was delivered, although its broadcast failed", seed, event)
		}
	}
}
