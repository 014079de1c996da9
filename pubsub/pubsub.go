package pubsub

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"sync"

	"bennu.example/internal/prepare"
	"bennu.example/serializer"
)

// Subscriber gets the broadcasts of the topics it subscribed to.
type Subscriber interface {
	// Deliver is called on the broadcaster's goroutine and under the topic's read lock: it must not block, nor call the PubSub. An error
	// says that this subscriber cannot have the broadcast, because its payload has no form in the subscriber's serializer; the
	// broadcaster gets it. A panic counts as an error: see PubSub.OnPanic.
	Deliver(b *Broadcast) error
}

// preparer and preparedSubscriber are implemented by package channel.
type (
	preparer           = prepare.Preparer[*Broadcast]
	preparedSubscriber = prepare.Subscriber[*Broadcast]
)

// shards is how many locks the topics are spread over. Two cores show no gain over one (architecture 2.2); it costs 4 kB.
const shards = 64

// PubSub connects the subscribers of a process, and through its adapter those of a cluster. Its methods may be called from any
// goroutine.
type PubSub struct {
	adapter Adapter // nil: this process only
	seed    maphash.Seed
	shards  [shards]shard

	onGap   hooks[func(error)]
	onPanic hooks[func(v any, stack []byte)]
}

// shard guards a part of the topics. Lock order: shard, topic, and then whatever a subscriber's Deliver takes.
type shard struct {
	mu     sync.RWMutex
	topics map[string]*topic
	_      [24]byte // a cache line each
}

type topic struct {
	key  string
	mu   sync.RWMutex
	subs []*Subscription
	prep []*preparation // copied on write: Broadcast reads it under no lock
}

// preparation is a preparer of a topic.
type preparation struct {
	by    preparer
	users int // subscriptions that share it
}

// Subscription is one subscriber's place at a topic.
type Subscription struct {
	ps    *PubSub
	topic *topic
	sub   Subscriber
	index int // in topic.subs, -1 once cancelled
	prep  *preparation
}

// New returns a PubSub. A nil adapter keeps it to this process; otherwise Run must be called for broadcasts of other nodes to come in.
func New(a Adapter) *PubSub {
	p := &PubSub{adapter: a, seed: maphash.MakeSeed()}
	for i := range p.shards {
		p.shards[i].topics = make(map[string]*topic)
	}
	return p
}

func (p *PubSub) shard(key string) *shard {
	return &p.shards[maphash.String(p.seed, key)%shards]
}

// Subscribe adds a subscriber. One that subscribes twice is delivered to twice. The subscription holds until it is cancelled.
func (p *PubSub) Subscribe(name string, s Subscriber) *Subscription {
	return p.subscribe(topicKey(name), s)
}

func (p *PubSub) subscribe(key string, s Subscriber) *Subscription {
	var by preparer
	if s, ok := s.(preparedSubscriber); ok {
		by = s.Preparer() // others' code, so before the locks
	}
	sh := p.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t, ok := sh.topics[key]
	if !ok {
		if p.adapter != nil {
			p.adapter.Subscribe(key)
		}
		t = &topic{key: key}
		sh.topics[key] = t
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	sub := &Subscription{ps: p, topic: t, sub: s, index: len(t.subs)}
	t.subs = append(t.subs, sub)
	if by != nil {
		sub.prep = t.prepare(by)
	}
	return sub
}

// prepare adds a subscription to those of a preparer. The caller must hold mu.
func (t *topic) prepare(by preparer) *preparation {
	if reflect.ValueOf(by).Comparable() {
		for _, prep := range t.prep {
			if prep.by == by {
				prep.users++
				return prep
			}
		}
	}
	prep := &preparation{by, 1}
	t.prep = append(slices.Clip(t.prep), prep)
	return prep
}

// Cancel ends the subscription: when it returns no Deliver is running for it and none will. Further calls do nothing.
func (s *Subscription) Cancel() {
	t := s.topic
	sh := s.ps.shard(t.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.index < 0 {
		return
	}
	last := len(t.subs) - 1
	t.subs[s.index] = t.subs[last]
	t.subs[s.index].index = s.index
	t.subs[last] = nil
	t.subs = t.subs[:last]
	s.index = -1
	if s.prep != nil {
		if s.prep.users--; s.prep.users == 0 {
			t.prep = slices.DeleteFunc(slices.Clone(t.prep), func(prep *preparation) bool { return prep == s.prep })
		}
	}
	if last == 0 {
		delete(sh.topics, t.key)
		if s.ps.adapter != nil {
			s.ps.adapter.Unsubscribe(t.key)
		}
	}
}

// Subscribers is how many subscriptions this node has for a topic.
func (p *PubSub) Subscribers(name string) int { return p.subscribers(topicKey(name)) }

func (p *PubSub) subscribers(key string) int {
	sh := p.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	t, ok := sh.topics[key]
	if !ok {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.subs)
}

// Broadcast sends an event to all subscribers of a topic on all nodes. It may be called from anywhere: an HTTP
// handler, a job. The payload is a Go value, or a serializer.Payload. Nil means an empty object.
//
// Every subscriber that can be reached is reached, even if Broadcast returns an error. The error is the first that
// occurred: the payload does not encode (wrapping serializer.ErrPayload), it has no form in the serializer of some
// subscriber (the same), or the adapter's queue is full.
//
// The event "disconnect" also closes the sockets whose id equals the topic, as Endpoint.broadcast does in Phoenix:
// see socket.Handler.Disconnect. So server code must not pass an event name chosen by a client to Broadcast,
// LocalBroadcast or SendTo. BroadcastFrom and the methods of channel.Channel never close sockets.
func (p *PubSub) Broadcast(ctx context.Context, topic, event string, payload any) error {
	err := p.BroadcastFrom(ctx, nil, topic, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.Control().Broadcast(ctx, disconnectPrefix+topic, event, nil))
	}
	return err
}

// BroadcastFrom is Broadcast to all but the subscriber from, which is compared by ==. If from is not comparable,
// BroadcastFrom returns an error and delivers nothing. Its event "disconnect" has no special meaning.
func (p *PubSub) BroadcastFrom(ctx context.Context, from Subscriber, topic, event string, payload any) error {
	return p.broadcast(ctx, from, address{topicKey(topic), topic}, event, payload)
}

// LocalBroadcast is Broadcast to the subscribers of this node only.
func (p *PubSub) LocalBroadcast(topic, event string, payload any) error {
	err := p.localBroadcast(address{topicKey(topic), topic}, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.localBroadcast(controlAddress(disconnectPrefix+topic), event, nil))
	}
	return err
}

// SendTo sends an event to a topic's subscribers on one node only, which may be this one. It is no error if there is
// no such node.
func (p *PubSub) SendTo(ctx context.Context, node, topic, event string, payload any) error {
	err := p.sendTo(ctx, node, address{topicKey(topic), topic}, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.Control().SendTo(ctx, node, disconnectPrefix+topic, event, nil))
	}
	return err
}

func (p *PubSub) broadcast(ctx context.Context, from Subscriber, to address, event string, payload any) error {
	if from != nil && !reflect.ValueOf(from).Comparable() {
		return fmt.Errorf("pubsub: broadcast %s to %s: %T cannot be compared and so cannot be left out", event, to.name, from)
	}
	b, err := newBroadcast(to.name, event, payload)
	if err != nil {
		return err
	}
	err = p.deliver(to.key, b, from)
	if p.adapter != nil {
		err = errors.Join(err, p.adapter.Publish(ctx, "", b.addressed(to.key)))
	}
	return err
}

func (p *PubSub) localBroadcast(to address, event string, payload any) error {
	b, err := newBroadcast(to.name, event, payload)
	if err != nil {
		return err
	}
	return p.deliver(to.key, b, nil)
}

func (p *PubSub) sendTo(ctx context.Context, node string, to address, event string, payload any) error {
	b, err := newBroadcast(to.name, event, payload)
	switch {
	case err != nil:
		return err
	case node == p.Node():
		return p.deliver(to.key, b, nil)
	case p.adapter == nil:
		return nil
	}
	return p.adapter.Publish(ctx, node, b.addressed(to.key))
}

// Node is this node's name in the cluster; "" without an adapter.
func (p *PubSub) Node() string {
	if p.adapter == nil {
		return ""
	}
	return p.adapter.Node()
}

// Health is the adapter's; without one, always well.
func (p *PubSub) Health() Health {
	if p.adapter == nil {
		return Health{Connected: true}
	}
	return p.adapter.Health()
}

// Run connects this node to the others until ctx ends, and then returns nil. Any other end is an error of
// the adapter that retrying cannot cure, such as a second call of Run. Before Run is called, a broadcast
// reaches only this node's subscribers and returns an error. Without an adapter Run returns nil at once.
func (p *PubSub) Run(ctx context.Context) error {
	if p.adapter == nil {
		return nil
	}
	return p.adapter.Run(ctx, Inbox{
		Deliver: p.receive,
		Gap:     p.gap,
	})
}

// receive delivers a broadcast of another node. An error is not reported: the broadcaster is on that node.
func (p *PubSub) receive(b *Broadcast) {
	key := b.Topic
	name, ok := nameOf(key)
	if !ok {
		return
	}
	if len(name) != len(key) {
		b = &Broadcast{Topic: name, Event: b.Event, Payload: b.Payload}
	}
	_ = p.deliver(key, b, nil)
}

// deliver hands b to this node's subscribers under a key and returns the first error.
func (p *PubSub) deliver(key string, b *Broadcast, from Subscriber) error {
	sh := p.shard(key)
	sh.mu.RLock()
	t, ok := sh.topics[key]
	if !ok {
		sh.mu.RUnlock()
		return nil
	}
	t.mu.RLock()
	sh.mu.RUnlock()
	d := deliveries{b: b, from: from}
	if preps := t.prep; len(preps) > 0 {
		t.mu.RUnlock() // preparers are others' code
		d.prepared, d.first = p.prepare(preps, b)
		t.mu.RLock()
	}
	d.left = t.subs
	func() {
		defer t.mu.RUnlock() // also if a subscriber ends its goroutine
		d.run()
	}()
	for _, e := range d.panics {
		p.report(e)
	}
	return d.first
}

func newBroadcast(topic, event string, payload any) (*Broadcast, error) {
	// Encoding may call the user's MarshalJSON: here, not under the topic's lock.
	body, err := serializer.Value(payload).Encoded()
	if err != nil {
		return nil, fmt.Errorf("pubsub: broadcast %s to %s: %w", event, topic, err)
	}
	return &Broadcast{Topic: topic, Event: event, Payload: body}, nil
}
