package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
	"bennu.example/transport/longpoll"
)

// testBus is a Peers for Servers in one process. It can lose messages.
type testBus struct {
	mu   sync.Mutex
	at   map[string]*mailbox.Mailbox[[]byte]
	sent int
	most int                         // the size of the longest message
	lose func(n int, to string) bool // reports whether the nth message is lost
}

func newTestBus() *testBus { return &testBus{at: make(map[string]*mailbox.Mailbox[[]byte])} }

func (b *testBus) Listen(address string, receive func([]byte)) (stop func()) {
	in := new(mailbox.Mailbox[[]byte])
	in.Init(1<<30, receive)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at[address] = in
	return func() {
		b.mu.Lock()
		delete(b.at, address)
		b.mu.Unlock()
		in.Close(false)
		in.Wait()
	}
}

func (b *testBus) Send(address string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	b.most = max(b.most, len(data))
	if in := b.at[address]; in != nil && (b.lose == nil || !b.lose(b.sent, address)) {
		return in.Enqueue(data, len(data))
	}
	return nil
}

// losing sets the function that selects the lost messages, which are counted from 1.
func (b *testBus) losing(lose func(n int, to string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent, b.lose = 0, lose
}

// count returns the number of messages sent since the last call of losing.
func (b *testBus) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}

// newTestNodes returns the Servers of n nodes of a cluster.
func newTestNodes(t *testing.T, n int, cfg longpoll.Config) (*testBus, []*testServer) {
	b := newTestBus()
	cfg.Secret, cfg.Peers = []byte("shared"), b
	nodes := make([]*testServer, n)
	for i := range nodes {
		nodes[i] = newTestServer(t, cfg)
	}
	return b, nodes
}

// withNodes runs f in virtual time, with n nodes of a cluster.
func withNodes(t *testing.T, n int, cfg longpoll.Config, f func(t *testing.T, n []*testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		_, nodes := newTestNodes(t, n, cfg)
		defer endNodes(nodes...)
		f(t, nodes)
	})
}

// endNodes ends the sessions and the Servers, as a shutdown does.
func endNodes(nodes ...*testServer) {
	for _, s := range nodes {
		s.end()
		s.Close()
	}
}

// Any node serves a session as its own node does.
func TestRemoteSession(t *testing.T) {
	t.Parallel()
	withNodes(t, 2, longpoll.Config{}, func(t *testing.T, n []*testServer) {
		near, far := n[0], n[1]
		token, session := near.open()
		session.receive = nil

		session.send(`["1"]`, `["2"]`)
		far.get(token).is(t, 200, `["1"]`, `["2"]`)
		session.send(`["3"]`)
		a := near.get(token)
		a.is(t, 200, `["3"]`)
		if a.Token != token {
			t.Errorf("the token changed")
		}

		// A poll waits until its window ends or a message arrives.
		start := time.Now()
		a = far.get(token)
		a.is(t, 204)
		if d := time.Since(start); d != 10*time.Second || a.Token != token {
			t.Errorf("after %v: %s", d, a.body)
		}
		go func() {
			time.Sleep(3 * time.Second)
			session.send(`["4"]`)
		}()
		start = time.Now()
		far.get(token).is(t, 200, `["4"]`)
		wantAfter(t, start, 3*time.Second)

		far.post(token, "[1]\n[2]\nAf8=").is(t, 200)
		near.post(token, "[3]").is(t, 200)
		far.post(token, "[4]").is(t, 200)
		session.wantReceived(t, "1:[1]", "1:[2]", "2:\x01\xff", "1:[3]", "1:[4]")
		if a := far.post(token, "no base64"); a.http != 500 {
			t.Errorf("got %d", a.http)
		}

		// A poll counts as activity, whichever node it reaches.
		for range 5 {
			far.get(token).is(t, 204)
		}
		time.Sleep(31 * time.Second)
		far.post(token, "[5]").is(t, 410)
		a = far.get(token)
		a.is(t, 410)
		if a.Token == token {
			t.Error("the old token")
		}
		near.get(a.Token).is(t, 204) // the new session is far's
	})
}

// A POST through another node has the same status at the same time.
func TestRemotePostStatuses(t *testing.T) {
	t.Parallel()
	withNodes(t, 2, longpoll.Config{}, func(t *testing.T, n []*testServer) {
		for name, via := range map[string]*testServer{"its own": n[0], "another": n[1]} {
			token, session := n[0].open()
			session.receive = func(_ serializer.Op, data []byte) error {
				switch string(data) {
				case "[12]":
					time.Sleep(12 * time.Second)
				case "[6]":
					time.Sleep(6 * time.Second)
				case "[0]":
					return errors.New("no")
				}
				return nil
			}
			for _, test := range []struct {
				body   string
				status int
				after  time.Duration
			}{
				{"[6]\n[6]", 200, 12 * time.Second},
				{"[12]\n[1]", 408, 10 * time.Second},
				{"[2]", 200, 2*time.Second - time.Millisecond},
				{"[0]\n[1]", 408, 0},
				{"[1]", 410, 0},
			} {
				start := time.Now()
				via.post(token, test.body).is(t, test.status)
				if d := time.Since(start); d != test.after {
					t.Errorf("%s node, %q: after %v, want %v", name, test.body, d, test.after)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				via.getWith(ctx, token) // takes a millisecond, and keeps the session from being idle
				cancel()
			}
			session.wantReceived(t, "1:[6]", "1:[6]", "1:[12]", "1:[2]", "1:[0]")
		}
	})
}

// Large messages are sent between nodes in parts.
func TestRemoteSessionLargeMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, n := newTestNodes(t, 2, longpoll.Config{MaxMessage: 4 << 20, MaxQueue: 8 << 20})
		defer endNodes(n...)
		token, session := n[0].open()
		var texts []string
		for i := range 5 {
			texts = append(texts, fmt.Sprintf("[%d,%q]", i, strings.Repeat("x", i*300_000)))
		}
		session.send(texts...)
		n[1].get(token).is(t, 200, texts...)
		n[1].post(token, strings.Join(texts, "\n")).is(t, 200)
		for i, got := range session.received() {
			if got != "1:"+texts[i] {
				t.Errorf("message %d has %d bytes, want %d", i, len(got)-2, len(texts[i]))
			}
		}
		if got := len(session.received()); got != len(texts) {
			t.Errorf("received %d messages", got)
		}
		if bus.most > 256<<10+100 {
			t.Errorf("a message of %d bytes", bus.most)
		}
		if a := n[1].post(token, strings.Repeat("x", 8_000_001)); a.http != 400 {
			t.Errorf("got %d", a.http)
		}
	})
}

// Whichever message between the nodes is lost, every frame arrives once and in order, and every
// POST is handled at most once.
func TestLossOfOneMessageBetweenNodes(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 600_000)
	for lost := 1; lost <= 12; lost++ {
		synctest.Test(t, func(t *testing.T) {
			bus, n := newTestNodes(t, 2, longpoll.Config{})
			defer endNodes(n...)
			token, session := n[0].open()
			session.send(`["1"]`, large)
			bus.losing(func(i int, _ string) bool { return i == lost })
			var got []string
			for i := range 8 {
				a := n[1].get(token)
				if a.Status == 410 { // the session counts as gone, although it lives
					if a.Token == token {
						t.Error("410 with the same token")
					}
					continue
				}
				got = append(got, a.Messages...)
				if i == 0 {
					session.send(`["2"]`)
				}
				if len(got) == 3 {
					break
				}
			}
			if len(got) == 2 {
				session.send(`["2"]`)
				got = append(got, n[1].get(token).Messages...)
			}
			if len(got) != 3 || got[0] != `["1"]` || got[1] != large || got[2] != `["2"]` {
				t.Errorf("without message %d: got %d frames %.100q", lost, len(got), got)
			}

			bus.losing(func(i int, _ string) bool { return i == lost })
			body := "[1]\n[" + large + "]"
			a := n[1].post(token, body)
			bus.losing(nil)
			time.Sleep(3 * time.Second)
			handled := len(session.received())
			if handled > 2 || a.Status == 200 && handled != 2 || a.Status != 200 && a.Status != 410 {
				t.Errorf("without message %d: answered %s, received %d", lost, a.body, handled)
			}
		})
	}
}

// The sessions of a node that does not answer count as gone. Their frames stay there, and they are
// found again when the node can be reached.
func TestUnreachableNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, n := newTestNodes(t, 2, longpoll.Config{})
		defer endNodes(n...)
		token, session := n[0].open()
		session.send(`["1"]`)
		bus.losing(func(int, string) bool { return true })
		start := time.Now()
		a := n[1].get(token)
		a.is(t, 410)
		if d := time.Since(start); d != 2*time.Second || a.Token == token {
			t.Errorf("after %v: %s", d, a.body)
		}
		start = time.Now()
		n[1].post(token, "[1]").is(t, 410)
		wantAfter(t, start, 2*time.Second)
		bus.losing(nil)
		n[1].get(token).is(t, 200, `["1"]`)

		// A poll that is cut off waits until its window ends. The frames stay in the queue.
		go func() {
			time.Sleep(3 * time.Second)
			bus.losing(func(int, string) bool { return true })
			session.send(`["2"]`)
			time.Sleep(12 * time.Second)
			bus.losing(nil)
		}()
		start = time.Now()
		n[1].get(token).is(t, 204)
		if d := time.Since(start); d < 10*time.Second || d > 12*time.Second {
			t.Errorf("after %v", d)
		}
		time.Sleep(4 * time.Second)
		n[1].get(token).is(t, 200, `["2"]`)

		// If a node is gone for good, so are the frames that wait there. The client begins a new session.
		endNodes(n[0])
		n[1].get(token).is(t, 410)
	})
}

// The latest poll receives the messages, whichever nodes the polls reach.
func TestTwoPollsAtTwoNodes(t *testing.T) {
	t.Parallel()
	for _, order := range [][2]int{{0, 1}, {1, 0}, {1, 1}, {1, 2}} {
		withNodes(t, 3, longpoll.Config{}, func(t *testing.T, n []*testServer) {
			token, session := n[0].open()
			start := time.Now()
			var first testAnswer
			done := make(chan struct{})
			go func() {
				defer close(done)
				first = n[order[0]].get(token)
				if d := time.Since(start); d != 10*time.Second {
					t.Errorf("%v: the earlier poll waited %v", order, d)
				}
			}()
			time.Sleep(time.Second)
			go func() {
				time.Sleep(time.Second)
				session.send(`["1"]`)
			}()
			n[order[1]].get(token).is(t, 200, `["1"]`)
			<-done
			first.is(t, 204)
		})
	}
}

// A poll that its client cancels at another node takes no messages.
func TestCancelledRemotePoll(t *testing.T) {
	t.Parallel()
	withNodes(t, 2, longpoll.Config{}, func(t *testing.T, n []*testServer) {
		token, session := n[0].open()
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			n[1].getWith(ctx, token)
			cancel()
			session.send(fmt.Sprintf("[%d]", i))
			n[1].get(token).is(t, 200, fmt.Sprintf("[%d]", i))
		}

		// The same holds for an answer that cannot be written.
		session.send("[3]")
		n[1].getBroken(token)
		n[1].get(token).is(t, 200, "[3]")
	})
}

// Close answers the polls that wait here for sessions of other nodes.
func TestCloseAnswersRemotePolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, n := newTestNodes(t, 2, longpoll.Config{})
		token, session := n[0].open()
		done := make(chan struct{})
		go func() {
			defer close(done)
			start := time.Now()
			n[1].get(token).is(t, 204)
			wantAfter(t, start, time.Second)
		}()
		time.Sleep(time.Second)
		endNodes(n[1])
		<-done
		session.send(`["1"]`)
		n[0].get(token).is(t, 200, `["1"]`)
		n[1].post(token, "[1]").is(t, 410)

		// A session that ends sends its last messages to a poll that waits at another node.
		_, n2 := newTestNodes(t, 2, longpoll.Config{})
		token, session = n2[0].open()
		done = make(chan struct{})
		go func() {
			defer close(done)
			n2[1].get(token).is(t, 200, `["last"]`)
		}()
		synctest.Wait()
		session.send(`["last"]`)
		endNodes(n2[0])
		<-done
		endNodes(n[0], n2[1])
	})
}

// Whatever is lost between three nodes and whichever node serves, frames arrive in order and at
// most once, and POSTs are handled in order and at most once.
func TestRandomLossBetweenNodes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random, losses := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
			bus, n := newTestNodes(t, 3, longpoll.Config{})
			defer endNodes(n...)
			token, session := n[0].open()
			bus.losing(func(int, string) bool { return losses.IntN(10) == 0 })
			var got []string
			ok := 0
			for i := range 60 {
				session.send(fmt.Sprintf("[%03d]", i))
				if a := n[random.IntN(3)].get(token); a.Token == token {
					got = append(got, a.Messages...)
				}
				if a := n[random.IntN(3)].post(token, fmt.Sprintf("[%03d]", i)); a.Status == 200 {
					ok++
				}
			}
			bus.losing(nil)
			session.send("[end]")
			for range 3 {
				got = append(got, n[1].get(token).Messages...)
				if got[len(got)-1] == "[end]" {
					break
				}
			}
			check := func(what string, list []string) {
				if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
					t.Errorf("seed %d: %s out of order or twice: %q", seed, what, list)
				}
			}
			check("frames", got)
			check("posts", session.received())
			if len(got) < 55 || got[len(got)-1] != "[end]" || len(session.received()) < ok {
				t.Errorf("seed %d: %d frames; %d messages, %d POSTs were answered with 200",
					seed, len(got), len(session.received()), ok)
			}
		})
	}
}

// Without a Secret or without Peers, a Server sends no messages to other nodes.
func TestWithoutPeers(t *testing.T) {
	t.Parallel()
	bus := newTestBus()
	for _, cfg := range []longpoll.Config{{Secret: []byte("shared")}, {Peers: bus}} {
		a, b := newTestServer(t, cfg), newTestServer(t, cfg)
		token, _ := a.open()
		b.post(token, "[1]").is(t, 410)
		b.get(token).is(t, 410)
		a.post(token, "[1]").is(t, 200)
		endNodes(a, b)
	}
	if n := bus.count(); n != 0 || len(bus.at) != 0 {
		t.Errorf("%d messages were sent, %d addresses are listened to", n, len(bus.at))
	}
}
