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

// ErrDown is the error of Publish while the cluster is stopped, and the reason of the gap that
// follows.
var ErrDown = errors.New("pubsubtest: the cluster is down")

// errFull is the reason of a gap at a node that did not keep up.
var errFull = errors.New("pubsubtest: the node's queue was full")

// maxQueue bounds the broadcasts that wait for one node, in bytes.
const maxQueue = 16 << 20

// Cluster connects nodes in one process, for tests. It is an engine without latency. Tests can stop
// it and cut the connections between nodes. Its methods may be called from any goroutine.
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

// Node creates a node. Its name is name with a number appended, because the names of nodes differ
// after each start.
func (c *Cluster) Node(name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	n := &Node{c: c, name: fmt.Sprintf("%s-%d", name, c.made), topics: make(map[string]bool)}
	n.in.Init(maxQueue, n.receive)
	return n
}

// Cut drops all broadcasts between two nodes. The nodes are not notified, because each is still
// connected to the engine.
func (c *Cluster) Cut(a, b *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]string{a.name, b.name}] = true
	c.cut[[2]string{b.name, a.name}] = true
}

// Heal undoes all cuts.
func (c *Cluster) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
}

// Stop stops the engine. Broadcasts that were published before still arrive.
func (c *Cluster) Stop() { c.set(true) }

// Start starts the engine again. Every node receives a gap.
func (c *Cluster) Start() { c.set(false) }

func (c *Cluster) set(down bool) {
	for _, n := range c.setLocked(down) {
		n.changed()
	}
}

// setLocked returns the nodes whose health has changed.
func (c *Cluster) setLocked(down bool) (changed []*Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == down {
		return nil
	}
	c.down = down
	for _, n := range c.nodes {
		changed = append(changed, n)
		n.health.Connected, n.health.Since = !down, time.Now()
		n.health.Err = nil
		if down {
			n.health.Err = ErrDown
			continue
		}
		n.enqueue(delivery{gap: ErrDown})
	}
	return changed
}

// Node is the pubsub.Adapter of a node.
type Node struct {
	c      *Cluster
	name   string
	in     mailbox.Mailbox[delivery]
	inbox  pubsub.Inbox
	topics map[string]bool // c.mu guards this and the following fields
	full   bool            // deliveries were dropped, and the gap is not enqueued yet
	health pubsub.Health
}

// delivery is an encoded broadcast for a node, or a gap.
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
	n.changed()
	<-ctx.Done()
	n.c.mu.Lock()
	delete(n.c.nodes, n.name)
	n.health.Connected, n.health.Since, n.health.Err = false, time.Now(), ctx.Err()
	n.c.mu.Unlock()
	n.in.Close(false)
	n.in.Wait()
	n.changed()
	return nil
}

// changed notifies the PubSub that the health has changed. The caller must not hold c.mu.
func (n *Node) changed() {
	if n.inbox.Changed != nil {
		n.inbox.Changed()
	}
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
			to.enqueue(delivery{data: data})
		}
	}
	return nil
}

// enqueue adds d to the queue of the node. The caller must hold c.mu.
func (n *Node) enqueue(d delivery) {
	size := len(d.data)
	if n.full && n.in.Used() < maxQueue/2 { // there is room again: report the gap first
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
		panic(err) // AppendBinary encoded it
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
