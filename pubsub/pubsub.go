package pubsub

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"bennu.example/internal/listeners"
	"bennu.example/internal/prepare"
	"bennu.example/internal/safecall"
	"bennu.example/serializer"
)

// Subscriber receives the broadcasts of the topics that it subscribed to.
type Subscriber interface {
	// Deliver is called on the broadcaster's goroutine and under the topic's read lock, so it must not
	// block and must not call the PubSub. An error means that this subscriber cannot receive the
	// broadcast, because its serializer cannot encode the payload. The error is returned to the
	// broadcaster. A panic counts as an error: see PubSub.OnPanic.
	Deliver(b *Broadcast) error
}

// preparer and preparedSubscriber are implemented by package channel.
type (
	preparer           = prepare.Preparer[*Broadcast]
	preparedSubscriber = prepare.Subscriber[*Broadcast]
)

// shards is the number of locks for the maps of topics. On two cores, 64 shards measured no faster
// than one. They cost 4 kB.
const shards = 64

// PubSub connects the subscribers of a process and, through its adapter, those of a cluster. Its
// methods may be called from any goroutine.
type PubSub struct {
	adapter Adapter  // nil means this process only
	records *records // nil means that nothing is recorded
	seed    maphash.Seed
	shards  [shards]shard

	hooksMu sync.Mutex
	hooks   atomic.Pointer[[]*Hooks] // copied on write; nil if there are none
	onGap   listeners.List[error]
	onPanic listeners.List[*safecall.PanicError]
}

// shard guards a part of the topics. The lock order is: shard, topic, and then the locks that a
// subscriber's Deliver takes.
type shard struct {
	mu     sync.RWMutex
	topics map[string]*topic
	_      [24]byte // fills a cache line
}

type topic struct {
	key  string
	mu   sync.RWMutex
	subs []*Subscription
	prep []*preparation // copied on write: Broadcast reads it under no lock

	followed *followed // released with the topic. Nil means that it is not recorded
}

// preparation is a preparer of a topic.
type preparation struct {
	by    preparer
	users int // subscriptions that share it
}

// Subscription is a subscriber's membership of a topic.
type Subscription struct {
	ps    *PubSub
	topic *topic
	sub   Subscriber
	index int // in topic.subs; -1 after Cancel
	prep  *preparation
}

// New returns a PubSub. With a nil adapter it is limited to this process. Otherwise Run must be
// called to receive the broadcasts of other nodes.
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

// Subscribe subscribes s to a topic until the subscription is cancelled. A subscriber that
// subscribes twice receives every broadcast twice.
func (p *PubSub) Subscribe(name string, s Subscriber) *Subscription {
	key := topicKey(name)
	if p.records == nil {
		return p.subscribe(key, s)
	}
	f := p.records.acquire(name) // before the locks: see the lock order
	sub := p.subscribe(key, s)
	if f != nil && !sub.topic.keep(f) {
		f.Release()
	}
	return sub
}

// keep leaves a followed topic to t. It reports false if t has one already.
func (t *topic) keep(f *followed) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.followed != nil {
		return false
	}
	t.followed = f
	return true
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
		sub.prep = t.addPreparer(by)
	}
	return sub
}

// addPreparer adds a subscription to those of a preparer, and the preparer if it is new. The caller
// must hold mu.
func (t *topic) addPreparer(by preparer) *preparation {
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

// Cancel ends the subscription. When it returns, no Deliver is running for the subscription and
// none will be called. Further calls have no effect.
func (s *Subscription) Cancel() {
	if f := s.cancel(); f != nil {
		f.Release()
	}
}

// cancel is Cancel without the release of the followed topic, which it returns: no lock of the
// PubSub may be held then.
func (s *Subscription) cancel() *followed {
	t := s.topic
	sh := s.ps.shard(t.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.index < 0 {
		return nil
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
	if last > 0 {
		return nil
	}
	delete(sh.topics, t.key)
	if s.ps.adapter != nil {
		s.ps.adapter.Unsubscribe(t.key)
	}
	return t.followed
}

// Subscribers returns the number of subscriptions to a topic on this node.
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

// Broadcast sends an event to all subscribers of a topic on all nodes. It may be called from
// anywhere, for example from an HTTP handler or a job. The payload is a Go value or a
// serializer.Payload. Nil means an empty object.
//
// An error does not keep the broadcast from the subscribers that can receive it, unless the payload
// cannot be encoded at all. Such an error wraps serializer.ErrPayload, and so does the error of a
// subscriber whose serializer cannot encode the payload. Of several errors of subscribers,
// Broadcast returns the first. It also returns the adapter's error, for example if its queue is
// full.
//
// If a rule records the event (see NewRecorded), it is stored first. Then nil means that it is in
// the log, whoever can receive it, and an error means that it is not and that nobody receives it.
// Of the errors of subscribers, none is returned. The payload must be an object or binary, and no
// member of the object may begin with "$". The error wraps one of history's. LocalBroadcast and
// SendTo do not record.
//
// The event "disconnect" also closes the sockets whose id equals the topic, as Endpoint.broadcast
// does in Phoenix; see socket.Handler.Disconnect. So server code must not pass an event name chosen
// by a client to Broadcast, LocalBroadcast or SendTo. BroadcastFrom and the methods of
// channel.Channel never close sockets.
func (p *PubSub) Broadcast(ctx context.Context, topic, event string, payload any) error {
	err := p.BroadcastFrom(ctx, nil, topic, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.Control().Broadcast(ctx, disconnectPrefix+topic, event, nil))
	}
	return err
}

// BroadcastFrom is Broadcast to all subscribers except from, which is compared by ==. If from is
// not comparable, BroadcastFrom returns an error and delivers nothing. The event "disconnect" has
// no special meaning.
func (p *PubSub) BroadcastFrom(ctx context.Context, from Subscriber, topic, event string, payload any) error {
	if p.records != nil {
		if k := p.records.rule(topic, event); k != nil {
			_, err := p.record(ctx, from, topic, event, payload, "", k)
			return err
		}
	}
	return p.broadcast(ctx, from, address{topicKey(topic), topic}, event, payload)
}

// LocalBroadcast is Broadcast to the subscribers on this node only.
func (p *PubSub) LocalBroadcast(topic, event string, payload any) error {
	err := p.localBroadcast(address{topicKey(topic), topic}, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.localBroadcast(controlAddress(disconnectPrefix+topic), event, nil))
	}
	return err
}

// SendTo sends an event to the subscribers of a topic on one node, which may be this one. It is not
// an error if the node does not exist.
func (p *PubSub) SendTo(ctx context.Context, node, topic, event string, payload any) error {
	err := p.sendTo(ctx, node, address{topicKey(topic), topic}, event, payload)
	if event == eventDisconnect {
		err = errors.Join(err, p.Control().SendTo(ctx, node, disconnectPrefix+topic, event, nil))
	}
	return err
}

func (p *PubSub) broadcast(
	ctx context.Context, from Subscriber, to address, event string, payload any,
) (err error) {
	ctx, o := p.begin(ctx, to, event)
	if o != nil {
		defer func() { p.done(o, to, event, err) }()
	}
	if err := checkSender(from, to.name, event); err != nil {
		return err
	}
	b, err := newBroadcast(to.name, event, payload)
	if err != nil {
		return err
	}
	p.attach(o, b)
	err = p.deliver(to.key, b, from)
	if p.adapter != nil {
		err = errors.Join(err, p.adapter.Publish(ctx, "", p.following(to, b).addressed(to.key)))
	}
	return err
}

// checkSender returns an error if from cannot be compared.
func checkSender(from Subscriber, topic, event string) error {
	if from != nil && !reflect.ValueOf(from).Comparable() {
		return fmt.Errorf("pubsub: broadcast %s to %s: from: %T is not comparable", event, topic, from)
	}
	return nil
}

func (p *PubSub) localBroadcast(to address, event string, payload any) (err error) {
	_, o := p.begin(context.Background(), to, event)
	if o != nil {
		defer func() { p.done(o, to, event, err) }()
	}
	b, err := newBroadcast(to.name, event, payload)
	if err != nil {
		return err
	}
	p.attach(o, b)
	return p.deliver(to.key, b, nil)
}

func (p *PubSub) sendTo(ctx context.Context, node string, to address, event string, payload any) (err error) {
	ctx, o := p.begin(ctx, to, event)
	if o != nil {
		defer func() { p.done(o, to, event, err) }()
	}
	b, err := newBroadcast(to.name, event, payload)
	if err != nil {
		return err
	}
	p.attach(o, b)
	switch {
	case node == p.Node():
		return p.deliver(to.key, b, nil)
	case p.adapter == nil:
		return nil
	}
	return p.adapter.Publish(ctx, node, b.addressed(to.key))
}

// Node returns the name of this node in the cluster. It is empty without an adapter.
func (p *PubSub) Node() string {
	if p.adapter == nil {
		return ""
	}
	return p.adapter.Node()
}

// Health returns the state of the adapter. Without an adapter, Connected is true.
func (p *PubSub) Health() Health {
	if p.adapter == nil {
		return Health{Connected: true}
	}
	return p.adapter.Health()
}

// Run connects this node to the others, and to its log, until ctx ends, and then returns nil. Any
// other end is an error of the adapter or the log that retrying cannot cure, such as a second call
// of Run. Before Run is called, a broadcast reaches only this node's subscribers and returns an
// error. Without an adapter, and without a log or with an instant one, Run returns nil at once.
func (p *PubSub) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var runs []func() error
	if p.adapter != nil {
		runs = append(runs, func() error {
			return p.adapter.Run(ctx, Inbox{Deliver: p.receive, Gap: p.notifyGap, Changed: p.notifyHealth})
		})
	}
	if p.records != nil && !p.records.topics.Instant() {
		runs = append(runs, func() error { return p.records.topics.Run(ctx) })
	}
	results := make(chan error, len(runs))
	for _, run := range runs {
		go func() { results <- run() }()
	}
	var first error
	for range runs {
		if err := <-results; err != nil && first == nil {
			first = err
		}
		cancel() // the node is not complete without the other
	}
	return first
}

// receive delivers a broadcast of another node. Errors are dropped, because the broadcaster is not
// here.
func (p *PubSub) receive(b *Broadcast) {
	key := b.Topic
	name, ok := nameOf(key)
	if !ok {
		return
	}
	if len(name) != len(key) {
		b = &Broadcast{Topic: name, Event: b.Event, Payload: b.Payload, after: b.after, origin: b.origin}
	}
	if p.hooks.Load() != nil && !strings.HasPrefix(key, controlPrefix) {
		b = &Broadcast{Topic: name, Event: b.Event, Payload: b.Payload, after: b.after, origin: b.origin}
		p.accept(b)
	}
	if b.after != nil && p.records != nil && p.records.deliverAfter(b) {
		return
	}
	_ = p.deliver(key, b, nil)
}

// deliver delivers b to the subscribers of a key on this node and returns the first error.
func (p *PubSub) deliver(key string, b *Broadcast, from Subscriber) error {
	t := p.lock(key)
	if t == nil {
		return nil
	}
	d := delivery{b: b, from: from}
	if preps := t.prep; len(preps) > 0 {
		t.mu.RUnlock() // preparers are others' code
		d.prepared, d.first = p.prepare(preps, b)
		t.mu.RLock()
	}
	d.deliverTo(t)
	for _, err := range d.panics {
		p.report(err)
	}
	p.notifyDelivered(&d)
	return d.first
}

// lock returns a topic with its read lock held, or nil if it has no subscribers.
func (p *PubSub) lock(key string) *topic {
	sh := p.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	t := sh.topics[key]
	if t != nil {
		t.mu.RLock()
	}
	return t
}

// newBroadcast encodes the payload. That may call a user's MarshalJSON, so no lock may be held.
func newBroadcast(topic, event string, payload any) (*Broadcast, error) {
	body, err := serializer.Value(payload).Encoded()
	if err != nil {
		return nil, fmt.Errorf("pubsub: broadcast %s to %s: %w", event, topic, err)
	}
	return &Broadcast{Topic: topic, Event: event, Payload: body}, nil
}
