package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"bennu.example/pubsub"
)

// A hub connects nodes in memory. It shows what an adapter must do. The adapters of package
// pubsubtest and of the engines also bound their queues in bytes and report all gaps.
type hub struct {
	mu    sync.Mutex
	nodes map[string]*spoke
}

// A spoke is the Adapter of one node.
type spoke struct {
	hub    *hub
	name   string
	queue  chan []byte     // from other nodes
	topics map[string]bool // under hub.mu
}

func (h *hub) adapter(name string) *spoke {
	return &spoke{hub: h, name: name, queue: make(chan []byte, 100), topics: make(map[string]bool)}
}

func (s *spoke) Node() string { return s.name }

// Run delivers what the node receives, until ctx ends.
func (s *spoke) Run(ctx context.Context, in pubsub.Inbox) error {
	s.hub.mu.Lock()
	s.hub.nodes[s.name] = s
	s.hub.mu.Unlock()
	defer func() {
		s.hub.mu.Lock()
		delete(s.hub.nodes, s.name)
		s.hub.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case data := <-s.queue:
			b, err := pubsub.ParseBroadcast(data)
			if err != nil {
				in.Gap(err)
				continue
			}
			in.Deliver(b)
		}
	}
}

// Publish never waits. It returns an error if a queue is full.
func (s *spoke) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	data, err := b.AppendBinary(nil)
	if err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, to := range s.hub.nodes {
		if to == s || node != "" && node != to.name || !to.topics[b.Topic] {
			continue
		}
		select {
		case to.queue <- data:
		default:
			err = errors.New("hub: " + to.name + ": queue full")
		}
	}
	return err
}

func (s *spoke) Subscribe(topic string)   { s.interest(topic, true) }
func (s *spoke) Unsubscribe(topic string) { s.interest(topic, false) }

func (s *spoke) interest(topic string, on bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.topics[topic] = on
}

func (s *spoke) Health() pubsub.Health {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return pubsub.Health{Connected: s.hub.nodes[s.name] != nil}
}

// waitFor waits until the nodes are running. It does not take long.
func waitFor(nodes ...*pubsub.PubSub) {
	for _, ps := range nodes {
		for !ps.Health().Connected {
			runtime.Gosched()
		}
	}
}

// An Adapter for another engine. Its test should call pubsubtest.Run.
func ExampleAdapter() {
	h := &hub{nodes: make(map[string]*spoke)}
	one, two := pubsub.New(h.adapter("one")), pubsub.New(h.adapter("two"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	for _, ps := range []*pubsub.PubSub{one, two} {
		go func() { done <- ps.Run(ctx) }()
	}
	waitFor(one, two)

	got := make(inbox, 1)
	two.Subscribe("room:lobby", got)
	fmt.Println(one.Broadcast(ctx, "room:lobby", "new_msg", map[string]string{"body": "hello"}))
	fmt.Println(string((<-got).Payload.Bytes()))

	stop()
	<-done
	<-done
	// Output:
	// <nil>
	// {"body":"hello"}
}
