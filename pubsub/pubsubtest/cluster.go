package pubsubtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
)

// ErrDown is the error of Publish while the cluster is stopped, and the reason of the gap after it.
var ErrDown = errors.New("pubsubtest: the cluster is down")

// errFull is the reason of a gap at a node that did not keep up.
var errFull = errors.New("pubsubtest: the node's queue was full")

// maxQueue bounds what waits for one node, in bytes.
const maxQueue = 16 << 20

// Cluster joins the nodes of one process, for tests of what happens between nodes: an engine that takes no time, and that can be cut and
// stopped. Its methods may be called from any goroutine.
type Cluster struct {
	mu    sync.Mutex
	nodes map[string]*Node
	made  int
	cut   map[[2]string]bool
	down  bool
}

// NewCluster returns a cluster without nodes.
func NewCluster() *Cluster {
	return &Cluster{nodes: make(map[string]*Node), cut: make(map[[2]string]bool)}
}

// Node makes a node. Its name is name and a number, as a node that starts again is another.
func (c *Cluster) Node(name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	n := &Node{c: c, name: fmt.Sprintf("%s-%d", name, c.made), topics: make(map[string]bool)}
	n.in.Init(maxQueue, n.receive)
	return n
}

// Cut keeps two nodes from each other. Neither is told: to an adapter the engine is there.
func (c *Cluster) Cut(a, b *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]string{a.name, b.name}] = true
	c.cut[[2]string{b.name, a.name}] = true
}

// Heal ends all cuts.
func (c *Cluster) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
}

// Stop stops the engine; what is under way still arrives.
func (c *Cluster) Stop() { c.set(true) }

// Start starts it again. Every node is told of a gap.
func (c *Cluster) Start() { c.set(false) }

func (c *Cluster) set(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == down {
		return
	}
	c.down = down
	for _, n := range c.nodes {
		n.health.Connected, n.health.Since = !down, time.Now()
		n.health.Err = nil
		if down {
			n.health.Err = ErrDown
			continue
		}
		n.tell(delivery{gap: ErrDown})
	}
}

// Node is a node's adapter.
type Node struct {
	c      *Cluster
	name   string
	in     mailbox.Mailbox[delivery]
	inbox  pubsub.Inbox
	topics map[string]bool // under c.mu, as what follows
	full   bool            // deliveries were dropped, which it was not told yet
	health pubsub.Health
}

// delivery is an encoded broadcast on its way to a node, or a gap.
type delivery struct {
	data []byte
	gap  error
}

// Node is part of pubsub.Adapter.
func (n *Node) Node() string { return n.name }

// Run is part of pubsub.Adapter.
func (n *Node) Run(ctx context.Context, in pubsub.Inbox) error {
	n.c.mu.Lock()
	n.inbox = in
	n.c.nodes[n.name] = n
	n.health.Connected, n.health.Since = !n.c.down, time.Now()
	n.c.mu.Unlock()
	<-ctx.Done()
	n.c.mu.Lock()
	delete(n.c.nodes, n.name)
	n.health.Connected, n.health.Since, n.health.Err = false, time.Now(), ctx.Err()
	n.c.mu.Unlock()
	n.in.Close(false)
	n.in.Wait()
	return nil
}

// Publish is part of pubsub.Adapter.
func (n *Node) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	data, err := b.AppendBinary(nil)
	if err != nil {
		return err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.c.down || n.c.nodes[n.name] == nil {
		n.health.Dropped++
		return ErrDown
	}
	for _, to := range n.c.nodes {
		if to != n && (node == "" || node == to.name) && to.topics[b.Topic] && !n.c.cut[[2]string{n.name, to.name}] {
			to.tell(delivery{data: data})
		}
	}
	return nil
}

// tell queues d for the node. The caller holds c.mu.
func (n *Node) tell(d delivery) {
	size := len(d.data)
	if n.full && n.in.Used() < maxQueue/2 { // there is room again: what was missed is told first
		n.full = n.in.Enqueue(delivery{gap: errFull}, 0) != nil
	}
	if n.full {
		return
	}
	n.full = errors.Is(n.in.Enqueue(d, size), mailbox.ErrFull)
}

func (n *Node) receive(d delivery) {
	if d.gap != nil {
		n.c.mu.Lock()
		n.health.Gaps++
		n.c.mu.Unlock()
		n.inbox.Gap(d.gap)
		return
	}
	b, err := pubsub.ParseBroadcast(d.data)
	if err != nil {
		panic(err) // it comes from AppendBinary
	}
	n.inbox.Deliver(b)
}

// Subscribe is part of pubsub.Adapter.
func (n *Node) Subscribe(topic string) { n.interest(topic, true) }

// Unsubscribe is part of pubsub.Adapter.
func (n *Node) Unsubscribe(topic string) { n.interest(topic, false) }

func (n *Node) interest(topic string, on bool) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if on {
		n.topics[topic] = true
	} else {
		delete(n.topics, topic)
	}
}

// Health is part of pubsub.Adapter.
func (n *Node) Health() pubsub.Health {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	h := n.health
	h.Queued = n.in.Used()
	return h
}
