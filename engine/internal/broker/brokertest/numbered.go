package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// NumberedTopic is the topic of a Numbered cluster's broadcasts.
const NumberedTopic = "numbered"

// subscribed is the time that a subscription may take to reach all servers of an engine after one
// of them has acknowledged it.
const subscribed = 200 * time.Millisecond

// Numbered is a cluster in which every node continuously broadcasts numbers. It records what each
// node receives. Check finds numbers that a node missed without a gap after them. Its methods are
// called by the goroutine of the test.
type Numbered struct {
	t     testing.TB
	clock atomic.Int64 // ticks when a number is sent or something is received
	nodes []*NumberedNode
	made  int // number of nodes so far
}

// NumberedNode is a node of a Numbered cluster.
type NumberedNode struct {
	PubSub *pubsub.PubSub

	c    *Numbered
	name string
	end  func()

	mu    sync.Mutex
	ready int64                // the time of the subscription
	sent  []int64              // the time at which each number was sent
	got   map[string][]arrival // by sender
	gaps  []int64
}

type arrival struct {
	number int
	when   int64
}

// NewNumbered returns a cluster without nodes.
func NewNumbered(t testing.TB) *Numbered { return &Numbered{t: t} }

// Start starts a node and waits until it is subscribed.
func (c *Numbered) Start(a pubsub.Adapter) *NumberedNode {
	c.t.Helper()
	n := &NumberedNode{PubSub: pubsub.New(a), c: c, name: fmt.Sprintf("n%d", c.made), got: make(map[string][]arrival)}
	c.nodes, c.made = append(c.nodes, n), c.made+1
	n.PubSub.OnGap(func(error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, c.clock.Add(1))
	})
	n.PubSub.Subscribe(NumberedTopic, n)
	stop := pubsubtest.Start(c.t, n.PubSub)
	WaitUntil(c.t, "connected", func() bool { return n.PubSub.Health().Connected })
	since := time.Now()
	WaitUntil(c.t, "subscribed", func() bool { return time.Since(since) > subscribed })
	n.ready = c.clock.Add(1)

	quit, done := make(chan struct{}), make(chan struct{})
	go n.publish(quit, done)
	n.end = sync.OnceFunc(func() {
		close(quit)
		<-done
		stop()
	})
	c.t.Cleanup(n.end)
	return n
}

func (n *NumberedNode) publish(quit <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-quit:
			return
		}
		n.mu.Lock()
		number := len(n.sent)
		n.sent = append(n.sent, n.c.clock.Add(1))
		n.mu.Unlock()
		if n.PubSub.Broadcast(context.Background(), NumberedTopic, fmt.Sprint(n.name, "/", number), nil) != nil {
			n.mu.Lock()
			n.sent[number] = -1 // refused, which the publisher knows
			n.mu.Unlock()
		}
	}
}

// Deliver implements pubsub.Subscriber.
func (n *NumberedNode) Deliver(b *pubsub.Broadcast) error {
	from, text, _ := strings.Cut(b.Event, "/")
	a := arrival{when: n.c.clock.Add(1)}
	if _, err := fmt.Sscan(text, &a.number); err != nil {
		n.c.t.Errorf("%s received %q", n.name, b.Event)
	}
	if from == n.name {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got[from] = append(n.got[from], a)
	return nil
}

// Stop stops the node and removes it from the cluster.
func (n *NumberedNode) Stop() {
	n.end()
	n.c.nodes = slices.DeleteFunc(n.c.nodes, func(o *NumberedNode) bool { return o == n })
}

// Gaps returns the number of gaps that the node has received.
func (n *NumberedNode) Gaps() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gaps)
}

// WaitHealed waits until each node receives what each other node sends from now on.
func (c *Numbered) WaitHealed() {
	c.t.Helper()
	c.waitReceived(c.clock.Load())
}

func (c *Numbered) waitReceived(now int64) {
	c.t.Helper()
	for _, from := range c.nodes {
		from.mu.Lock()
		number := len(from.sent)
		from.mu.Unlock()
		for _, to := range c.nodes {
			if from == to {
				continue
			}
			WaitUntil(c.t, fmt.Sprintf("received by %s from %s", to.name, from.name), func() bool {
				to.mu.Lock()
				defer to.mu.Unlock()
				got := to.got[from.name]
				return len(got) > 0 && got[len(got)-1].number >= number && got[len(got)-1].when > now
			})
		}
	}
}

// Check waits until all nodes receive from each other and a gap has followed every missed number.
// It returns how many numbers all nodes together have missed.
func (c *Numbered) Check() (missed int) {
	c.t.Helper()
	c.WaitHealed()
	healed := c.clock.Load()
	WaitUntil(c.t, "every missed number followed by a gap", func() bool {
		missed = 0
		var bad string
		for _, to := range c.nodes {
			for _, from := range c.nodes {
				if from == to {
					continue
				}
				m, unannounced := to.missed(from, healed)
				missed += m
				if unannounced >= 0 {
					bad = fmt.Sprintf("%s missed number %d of %s without a gap", to.name, unannounced, from.name)
				}
			}
		}
		if bad != "" {
			c.t.Log(bad)
		}
		return bad == ""
	})
	return missed
}

// missed returns how many numbers of another node that were sent until healed did not arrive. It
// also returns one of them that no gap followed, or -1. Numbers must arrive in order.
func (n *NumberedNode) missed(from *NumberedNode, healed int64) (missed, unannounced int) {
	from.mu.Lock()
	sent := append([]int64(nil), from.sent...)
	from.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	gap := int64(0)
	if len(n.gaps) > 0 {
		gap = n.gaps[len(n.gaps)-1]
	}
	arrived, last := make(map[int]bool), -1
	for _, a := range n.got[from.name] {
		if a.number <= last {
			n.c.t.Fatalf("%s received number %d of %s after %d", n.name, a.number, from.name, last)
		}
		arrived[a.number], last = true, a.number
	}
	unannounced = -1
	for number, when := range sent {
		if when <= n.ready || when > healed || number > last || arrived[number] {
			continue
		}
		missed++
		if when > gap {
			unannounced = number
		}
	}
	return missed, unannounced
}

// WaitUntil waits for a condition.
func WaitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not ", what)
		}
	}
}
