package presence_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// network connects nodes in one process, as an engine does. It can be changed at any time.
type network struct {
	mu    sync.Mutex
	nodes []*wire
	fate  func(from, to string) []time.Duration // the delay of each copy of a message; nil means one copy at once
	sent  []sent
}

// sent is a message that was handed to the network.
type sent struct {
	from, to string // to is empty if the message was sent to all
	kind     string
	size     int
	at       time.Time
}

// wire is one node's adapter.
type wire struct {
	net    *network
	name   string
	mu     sync.Mutex
	cut    bool // no messages are sent or received, and Publish fails
	deny   bool // Publish fails
	topics map[string]bool
	in     pubsub.Inbox
	queue  chan *pubsub.Broadcast
}

func (n *network) adapter(name string) *wire {
	w := &wire{net: n, name: name, topics: map[string]bool{}, queue: make(chan *pubsub.Broadcast, 1<<16)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, w)
	return w
}

func (w *wire) Node() string { return w.name }

func (w *wire) Run(ctx context.Context, in pubsub.Inbox) error {
	w.mu.Lock()
	w.in = in
	w.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-w.queue:
			in.Deliver(b)
		}
	}
}

func (w *wire) Health() pubsub.Health { return pubsub.Health{Connected: true} }

func (w *wire) Subscribe(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.topics[topic] = true
}

func (w *wire) Unsubscribe(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.topics, topic)
}

func (w *wire) takes(topic string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.topics[topic] && !w.cut
}

// setCut disconnects the node, or connects it again and reports the gap.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	w.cut = cut
	in := w.in
	w.mu.Unlock()
	if !cut && in.Gap != nil {
		in.Gap(errors.New("was cut off"))
	}
}

func (w *wire) refuse(deny bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deny = deny
}

func (w *wire) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	w.mu.Lock()
	cut := w.cut || w.deny
	w.mu.Unlock()
	if cut {
		return errors.New("cut off")
	}
	data, err := b.AppendBinary(nil)
	if err != nil {
		return err
	}
	n := w.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, sent{w.name, node, presence.KindOf(b.Payload.Bytes()), len(data), time.Now()})
	for _, to := range n.nodes {
		if to == w || node != "" && to.name != node || !to.takes(b.Topic) {
			continue
		}
		after := []time.Duration{0}
		if n.fate != nil {
			after = n.fate(w.name, to.name)
		}
		for _, d := range after {
			copied, err := pubsub.ParseBroadcast(slices.Clone(data))
			if err != nil {
				return err
			}
			if d == 0 {
				to.queue <- copied
				continue
			}
			time.AfterFunc(d, func() {
				if to.takes(copied.Topic) {
					to.queue <- copied
				}
			})
		}
	}
	return nil
}

// setFate sets the fate of messages that are sent from now on.
func (n *network) setFate(f func(from, to string) []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fate = f
}

// split drops all messages between the named nodes and the others.
func (n *network) split(names ...string) {
	n.setFate(func(from, to string) []time.Duration {
		if slices.Contains(names, from) != slices.Contains(names, to) {
			return nil
		}
		return []time.Duration{0}
	})
}

func (n *network) heal() { n.setFate(nil) }

// take returns the messages that were sent since the last call.
func (n *network) take() []sent {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.sent
	n.sent = nil
	return all
}

// noise returns a fate that drops, duplicates and delays messages.
func noise(r *rand.Rand) func(from, to string) []time.Duration {
	return func(string, string) (after []time.Duration) {
		for range []int{0, 1, 1, 1, 1, 2}[r.IntN(6)] {
			after = append(after, time.Duration(r.IntN(2000))*time.Millisecond)
		}
		return after
	}
}

// join adds a node to the network. The functions with modify its config.
func (n *network) join(t *testing.T, name string, with ...func(*presence.Config)) *node {
	t.Helper()
	var cfg presence.Config
	for _, f := range with {
		f(&cfg)
	}
	w := n.adapter(name)
	ps := pubsub.New(w)
	stop := pubsubtest.Start(t, ps)
	nd := &node{Presence: presence.New(ps, cfg), subscriber: new(subscriber), t: t, ps: ps, wire: w, stop: stop}
	ps.Subscribe(topic, nd.subscriber)
	t.Cleanup(func() { nd.Close(context.Background()) })
	return nd
}

// crash ends a node without a goodbye.
func (n *node) crash() {
	n.wire.setCut(true)
	n.Close(context.Background())
	n.stop()
}
