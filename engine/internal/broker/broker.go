package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"bennu.example/internal/mailbox"
	"bennu.example/logging"
	"bennu.example/pubsub"
)

const (
	defaultQueue   = 8 << 20
	defaultTimeout = 5 * time.Second
	defaultPing    = 5 * time.Second

	// overhead is the estimated memory of a queued message in addition to its bytes.
	overhead = 64

	// frameOverhead is the estimated size of an encoded broadcast in addition to its texts and
	// payload.
	frameOverhead = 16
)

var (
	errNotRunning   = errors.New("not running")
	errNotConnected = errors.New("not connected yet")
	errFull         = errors.New("the queue to the engine is full")
	errTooLong      = errors.New("longer than the engine accepts")
	errRunTwice     = errors.New("run was called before")
)

// Config configures a Broker.
type Config struct {
	// Package is the name of the engine's package. It begins the texts of errors.
	Package string
	// Name begins the name of this node. Empty means "node".
	Name string
	// Queue limits the bytes that wait for the engine, and those that were received and wait for this
	// node, each. Zero means 8 MiB.
	Queue int
	// Timeout limits how long the engine may take to answer. Zero means 5 s.
	Timeout time.Duration
	// Ping is the longest time between two requests to the engine. Zero means 5 s.
	Ping time.Duration
	// Echo tells that the engine delivers the messages of this node to this node, too.
	Echo bool
	// Secrets are texts that no error, log message or Health may contain.
	Secrets []string
	// Logger receives what an operator should know. Nil means no logging.
	Logger *zerolog.Logger
}

// Broker is a node's membership in a cluster that is joined by an engine. It implements
// pubsub.Adapter. Except for Run, its methods do not block, and of the backend they only call
// Channel.
type Broker struct {
	cfg     Config
	backend Backend
	log     zerolog.Logger
	id      uuid.UUID
	node    string
	wake    chan struct{} // has room for one signal to the goroutine of Run

	mu      sync.Mutex
	began   bool                // Run was called
	open    bool                // messages are accepted: Run was called and has not ended
	want    map[string]struct{} // topics with subscribers on this node
	pending map[string]struct{} // topics whose changes were not sent yet; nil while not connected
	queue   []Message           // messages that wait to be sent
	used    int                 // bytes of queued messages and of those being sent
	longest int                 // the largest message that the engine accepts; 0 if unknown or unlimited
	health  pubsub.Health

	// These fields are owned by the goroutine of Run.
	epoch     uint32    // number of connections so far
	connected bool      // the engine has answered at least once
	lost      bool      // messages may have been lost, and the other nodes were not notified yet
	sending   []Message // messages taken from the queue
	sent      int       // how many of sending were sent

	// Received messages pass through a queue.
	in       mailbox.Mailbox[delivery]
	inbox    pubsub.Inbox
	missedMu sync.Mutex
	missed   error // a gap that did not fit into the queue

	probeMu sync.Mutex
	probe   probing

	// These fields are owned by the function of the queue of received messages.
	seen      map[uuid.UUID]connection // latest connections of nodes that had more than one
	malformed bool                     // a malformed message was logged
}

var _ pubsub.Adapter = (*Broker)(nil)

// New returns a Broker. It uses no resources that need a release unless Run is called.
func New(backend Backend, cfg Config) *Broker {
	cfg.Queue = cmp.Or(cfg.Queue, defaultQueue)
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.Ping = cmp.Or(cfg.Ping, defaultPing)
	id := uuid.New()
	b := &Broker{
		cfg:     cfg,
		backend: backend,
		id:      id,
		node:    cmp.Or(cfg.Name, "node") + "-" + id.String(),
		wake:    make(chan struct{}, 1),
		want:    make(map[string]struct{}),
		seen:    make(map[uuid.UUID]connection),
		health:  pubsub.Health{Err: errNotRunning},
		probe:   probing{peers: make(map[uuid.UUID]*peer)},
	}
	b.log = cmp.Or(cfg.Logger, logging.Default()).With().Str("node", b.node).Logger()
	b.in.Init(cfg.Queue, b.handle)
	return b
}

// Node returns the name of this node.
func (b *Broker) Node() string { return b.node }

// Publish queues a broadcast for the named node. If node is empty, it queues the broadcast for all
// other nodes that have subscribed to its topic.
func (b *Broker) Publish(_ context.Context, node string, m *pubsub.Broadcast) error {
	size := len(m.Topic) + len(m.Event) + len(m.Payload.Bytes()) + frameOverhead
	data, err := m.AppendBinary(newEnvelope(kindMessage, b.id, size))
	if err == nil {
		channel := b.backend.Channel(Topic, m.Topic)
		if node != "" {
			channel = b.backend.Channel(Node, node)
		}
		err = b.enqueue(Message{channel, data})
	}
	if err != nil {
		return fmt.Errorf("%s: publish %s to %s: %w", b.cfg.Package, m.Event, m.Topic, err)
	}
	return nil
}

func (b *Broker) enqueue(m Message) error {
	size := m.size()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return errNotRunning
	case !b.fits(m):
		b.health.Dropped++
		return fmt.Errorf("%d bytes: %w (%d)", len(m.Data), errTooLong, b.longest)
	case b.used+size > b.cfg.Queue:
		b.health.Dropped++
		return errFull
	}
	b.used += size
	b.queue = append(b.queue, m)
	b.signal()
	return nil
}

// fits reports whether the engine accepts a message of this size, as far as is known. The caller
// holds mu.
func (b *Broker) fits(m Message) bool { return b.longest <= 0 || len(m.Data) <= b.longest }

// Subscribe starts the delivery of broadcasts of a topic.
func (b *Broker) Subscribe(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.want[topic] = struct{}{}
	b.changeTopic(topic)
}

// Unsubscribe ends the delivery of broadcasts of a topic.
func (b *Broker) Unsubscribe(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.want, topic)
	b.changeTopic(topic)
}

// changeTopic schedules a topic's subscription or unsubscription to be sent. While not connected
// there is nothing to schedule, since all topics are sent on connecting. The caller holds mu.
func (b *Broker) changeTopic(topic string) {
	if b.pending != nil {
		b.pending[topic] = struct{}{}
		b.signal()
	}
}

// signal wakes the goroutine of Run.
func (b *Broker) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Health returns the current state.
func (b *Broker) Health() pubsub.Health {
	b.mu.Lock()
	h := b.health
	h.Queued = b.used
	b.mu.Unlock()
	if h.Connected && h.Err == nil {
		h.Err = b.silence()
	}
	return h
}

// setHealth records whether the engine answers, and if not, the reason.
func (b *Broker) setHealth(connected bool, reason error) {
	b.mu.Lock()
	changed := b.health.Connected != connected
	if changed {
		b.health.Connected, b.health.Since = connected, time.Now()
	}
	b.health.Err = reason
	notify := b.inbox.Changed
	b.mu.Unlock()
	if changed && notify != nil {
		notify()
	}
}
